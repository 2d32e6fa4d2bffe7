"""What both sides know of a tensor before its chunk is read, and the way to float32 and back."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ...entropy_models.errors import InputError

FLOAT16_MAX = 65504.0


@dataclass(slots=True, kw_only=True)
class TensorSpec:
    """A tensor of shape (groups, vectors, width): groups, like attention heads, of vectors of one width."""

    name: str
    """Name of its numbers in messages, plural: ``keys of layer 3``."""
    groups: int
    vectors: int
    width: int
    dtype: torch.dtype
    """bfloat16, float16 or float32."""
    bits: int = 4
    """Bits of a TurboQuant code, 1..5."""
    finer_first: int = 0
    """Vectors at the beginning that `quantized` gives finer steps."""
    finer_last: int = 0
    """Vectors at the end that get finer steps; both together are at most ``vectors``."""
    wanted: bool = True
    """Whether anyone will look at the reconstruction."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(groups, vectors, width)."""
        return self.groups, self.vectors, self.width

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.groups * self.vectors * self.width


def finite(x: Tensor, spec: TensorSpec) -> Tensor:
    """float32 of a tensor.

    Raises:
        InputError: a number is not finite.
    """
    y = x.to(torch.float32)
    # a sum is finite only if all its terms are
    if not math.isfinite(float(y.sum())) and not bool(torch.isfinite(y).all()):
        raise InputError(f"{spec.name} are not all finite; mode lossless takes them")
    return y


def in_type(x: Tensor, dtype: torch.dtype) -> Tensor:
    """A float32 tensor in its own type; what float16 cannot hold becomes its largest number."""
    return (x.clamp(-FLOAT16_MAX, FLOAT16_MAX) if dtype == torch.float16 else x).to(dtype)
