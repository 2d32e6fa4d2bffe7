"""Rotary position embedding, undone before keys are quantised and applied again after (RoFormer, 2104.09864, 3.2).

A key channel without RoPE keeps its mean and scale along a block; with it, pairs of channels turn into each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ....entropy_models.errors import Corrupt, InputError

FREQUENCIES_MAX = 512


@dataclass(frozen=True)
class Rope:
    """Angles per token: ``frequencies`` float32, shape (rotary_dim / 2,), radians; halves pair up as in Llama."""

    frequencies: np.ndarray

    def __post_init__(self) -> None:
        f = self.frequencies
        if f.ndim != 1 or not 1 <= len(f) <= FREQUENCIES_MAX or not np.isfinite(f).all():
            raise InputError(f"RoPE frequencies of shape {f.shape}; need 1..{FREQUENCIES_MAX} finite numbers")

    def turns_as(self, other: Rope) -> bool:
        """Whether keys are turned by the same angles, but for float32's last digits, in which devices differ."""
        mine, theirs = self.frequencies, other.frequencies
        return len(mine) == len(theirs) and np.allclose(mine, theirs, rtol=1e-5, atol=0)

    def turned(self, x: Tensor, start: int, sign: float) -> Tensor:
        """Rotate the first ``2 * len(frequencies)`` channels of each token by ``sign`` times its angle.

        Args:
            x: float32, shape (heads, head_dim, tokens).
            start: position of the first token.
            sign: 1.0 applies RoPE, -1.0 undoes it.
        """
        half = len(self.frequencies)
        cos, sin = _cos_sin(self.frequencies.tobytes(), start, x.shape[2], str(x.device))
        out = torch.empty_like(x)
        a, b = x[:, :half], x[:, half : 2 * half]
        torch.mul(a, cos, out=out[:, :half]).addcmul_(b, sin, value=-sign)
        torch.mul(b, cos, out=out[:, half : 2 * half]).addcmul_(a, sin, value=sign)
        if 2 * half < x.shape[1]:
            out[:, 2 * half :] = x[:, 2 * half :]
        return out


def rope_in(body: bytes, key_dim: int) -> Rope | None:
    """The RoPE that a block's chunk holds, None for an empty one.

    Raises:
        Corrupt: not frequencies of keys of that width.
    """
    if not body:
        return None
    frequencies = np.frombuffer(body[: len(body) // 4 * 4], "<f4")
    if len(body) % 4 or len(frequencies) > min(FREQUENCIES_MAX, key_dim // 2) or not np.isfinite(frequencies).all():
        raise Corrupt(f"RoPE frequencies of {len(body)} bytes for keys of width {key_dim}")
    return Rope(frequencies)


@lru_cache(maxsize=8)
def _cos_sin(frequencies: bytes, start: int, tokens: int, device: str) -> tuple[Tensor, Tensor]:
    """Shape (rotary_dim / 2, tokens), float32; the last few are kept, as every layer asks for the same."""
    position = np.arange(start, start + tokens, dtype=np.float64)
    # reduced in float64: float32 angles lose a thousandth of a turn at a position of 100,000
    angle = torch.from_numpy(np.outer(np.frombuffer(frequencies, np.float32), position)).to(device)
    return angle.cos().float(), angle.sin().float()
