"""e4m3 with one scale per group (what inference engines use in memory), exponents entropy-coded.

The scale maps the largest magnitude of each group to 448. Sign and mantissa (4 bits) are
near random and stored as they are; the 4-bit exponent goes under an order-0 table.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ...entropy_models.row_coders import ChunkCoder
from .spec import TensorSpec, finite, in_type

E4M3_MAX = 448.0


def code(coder: ChunkCoder, x: Tensor | None, spec: TensorSpec) -> Tensor:
    """The coding pass of one tensor of `TensorSpec.shape`; ``x`` is None for the reader."""
    scale = exponent = rest = None
    if x is not None:
        y = finite(x, spec)
        scale = (y.abs().amax((1, 2)) / E4M3_MAX).clamp_min(1e-30).cpu().numpy()
        scaled = y / torch.from_numpy(scale).to(y.device)[:, None, None]
        u = scaled.clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn).contiguous().view(torch.uint8).cpu().numpy().ravel()
        exponent, rest = u >> 3 & 15, (u >> 4 & 8) | (u & 7)
        rest = np.append(rest, np.zeros(len(rest) % 2, np.uint8))
        rest = rest[::2] << 4 | rest[1::2]
    scale = coder.raw(scale, (spec.groups,), "<f4")
    exponent = coder.symbols(exponent, (spec.size,))
    packed = coder.raw(rest, ((spec.size + 1) // 2,), "u1")
    nibbles = np.stack([packed >> 4, packed & 15], axis=1).reshape(-1)[: spec.size]
    u = (nibbles & 8) << 4 | (exponent & 15) << 3 | (nibbles & 7)
    y = torch.from_numpy(u).view(torch.float8_e4m3fn).to(torch.float32).view(spec.shape)
    return in_type(y * torch.from_numpy(scale.astype(np.float32))[:, None, None], spec.dtype)
