"""Gradients through what an encoder rounds: straight-through rounding, bounds that let go, and bits as a smooth function."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .tables import SCALE_MIN, scale_ratio

PROBABILITY_MIN = 1e-9


def straight_through(rounded: Tensor, x: Tensor) -> Tensor:
    """Value of ``rounded``, gradient of ``x``. The value is exact for integers that ``x`` is nearest to."""
    return x + (rounded - x).detach()


def lower_bound(x: Tensor, bound: float) -> Tensor:
    """Maximum of ``x`` and ``bound``; below it, gradients pass that raise ``x``."""
    return _LowerBound.apply(x, bound)


class _LowerBound(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bound: float) -> Tensor:
        ctx.save_for_backward(x >= bound)
        return x.clamp_min(bound)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (inside,) = ctx.saved_tensors
        return gradient * (inside | (gradient < 0)), None


def gaussian_bits(residual: Tensor, level: Tensor) -> Tensor:
    """Bits of integers under a zero-mean Gaussian integrated over unit bins; ``level`` rounds straight through."""
    level = straight_through(level.round(), level)
    inverse = torch.exp(-level * scale_ratio()) / SCALE_MIN
    magnitude = residual.abs()
    upper = torch.special.ndtr((0.5 - magnitude) * inverse)
    lower = torch.special.ndtr((-0.5 - magnitude) * inverse)
    return -torch.log2(lower_bound(upper - lower, PROBABILITY_MIN))
