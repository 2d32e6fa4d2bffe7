"""`Train`: the coder that adds up differentiable bits (DESIGN: one coding pass, four coders).

Rate on residuals with uniform noise, reconstruction by straight-through rounding (Minnen & Singh, ICIP 2020).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..entropy_models.tables import SCALE_MIN, scale_ratio
from .quantisation import lower_bound, straight_through

PROBABILITY_MIN = 1e-9


class Train:
    """Sums bits per image: `bits` of everything coded, `side_bits` of the first call (the hyper-latent)."""

    def __init__(self) -> None:
        self._side: tuple[Tensor, Tensor] | None = None
        self._residual: Tensor | float = 0.0
        self._level: Tensor | float = 0.0

    def code(self, residual: Tensor, level: Tensor, active: Tensor | None = None) -> Tensor:
        """Straight-through rounded residual; notes it down to be charged under a Gaussian of the level's scale.

        Steps of one latent are disjoint, so their residuals and levels add up to one tensor each.
        """
        if active is None:
            self._side = residual, level
        else:
            self._residual = self._residual + residual * active
            self._level = self._level + level * active
        return straight_through(residual.round(), residual)

    def side_bits(self) -> Tensor:
        """Bits of the hyper-latent, shape (batch,)."""
        assert self._side is not None
        return noisy_bits(*self._side)

    def bits(self) -> Tensor:
        """Bits of the latent, shape (batch,)."""
        assert isinstance(self._residual, Tensor) and isinstance(self._level, Tensor)
        return noisy_bits(self._residual, self._level)


def noisy_bits(residual: Tensor, level: Tensor) -> Tensor:
    """Bits per image of a residual with uniform noise in place of rounding."""
    noisy = residual + torch.rand_like(residual) - 0.5
    return gaussian_bits(noisy, level).sum((1, 2, 3))


def gaussian_bits(residual: Tensor, level: Tensor) -> Tensor:
    """Bits of integers under a zero-mean Gaussian integrated over unit bins; ``level`` rounds straight through."""
    level = straight_through(level.round(), level)
    inverse = torch.exp(-level * scale_ratio()) / SCALE_MIN
    magnitude = residual.abs()
    upper = torch.special.ndtr((0.5 - magnitude) * inverse)
    lower = torch.special.ndtr((-0.5 - magnitude) * inverse)
    return -torch.log2(lower_bound(upper - lower, PROBABILITY_MIN))
