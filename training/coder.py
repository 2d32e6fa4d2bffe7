"""`Train`: the coder that adds up differentiable bits (DESIGN: one coding pass, four coders).

Symbols are those an encoder will write, dead zone and all, with the gradient of the residual (straight-through rounding,
Minnen & Singh, ICIP 2020). Bits pass two gradients: levels learn from the symbols themselves, residuals from uniform
noise in place of rounding. Noise for both, without a dead zone, ended half a per cent of the loss higher in a trial of 500
steps; linear interpolation between the bits of neighbouring integers for residuals, 3 per cent.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from ..entropy_models.tables import LEVELS, SCALE_MIN, Tables, gaussian_tables, scale_ratio
from .quantisation import lower_bound, straight_through

PROBABILITY_MIN = 1e-9
SKIP_LEVEL = 3
"""Scales below 0.134 are not coded: such a symbol is zero in 9,998 of 10,000 cases."""
LAGRANGIAN = 0.06
"""Of the encoder's dead zone; about 2 % of rate on the validation images, where 0.05 and 0.07 are within 0.1 % of it."""


class Charged(NamedTuple):
    """What bits are charged for; each (batch, rows, columns, channels)."""

    residual: Tensor
    symbols: Tensor
    level: Tensor


class Train:
    """Sums bits per image: `bits` of everything coded, `side_bits` of the first call (the hyper-latent)."""

    def __init__(self) -> None:
        self._side: Charged | None = None
        self._steps: list[Charged] = []

    def code(self, residual: Tensor, level: Tensor, active: Tensor | None = None) -> Tensor:
        """Symbols with the residual's gradient; notes down what to charge under a Gaussian of the level's scale."""
        fixed, pull = residual.detach(), deadzone(residual.device)[level.detach().clamp(0, LEVELS - 1).long()]
        symbols = (fixed - fixed.clamp(-pull, pull)).round()
        if active is None:
            self._side = Charged(residual, symbols, level)
        else:
            self._steps.append(Charged(residual * active, symbols * active, level * active))
        return straight_through(symbols, residual)

    def side_bits(self) -> Tensor:
        """Bits of the hyper-latent, shape (batch,)."""
        assert self._side is not None
        return expected_bits(*self._side)

    def bits(self) -> Tensor:
        """Bits of the latent, shape (batch,). Its steps are disjoint, so they add up to one tensor of each kind."""
        return expected_bits(*(sum(parts) for parts in zip(*self._steps, strict=True)))  # type: ignore[arg-type]


@lru_cache(maxsize=2)
@torch.inference_mode(False)
def deadzone(device: torch.device) -> Tensor:
    """How far an encoder pulls a residual of each level towards zero, float32 (LEVELS,); kept, not to be written to.

    Finite even where an encoder codes nothing: a level that is too low learns so from symbols alone.
    """
    return torch.from_numpy(start_tables().deadzone).to(device)


def start_tables() -> Tables:
    """What training charges for symbols, and what `calibrate` starts from."""
    return gaussian_tables(SKIP_LEVEL).with_deadzone(LAGRANGIAN)


def expected_bits(residual: Tensor, symbols: Tensor, level: Tensor) -> Tensor:
    """Bits per image of the symbols. Their gradient goes to the levels; the residual gets that of its noisy bits."""
    noisy = gaussian_bits(residual + torch.rand_like(residual) - 0.5, level.detach())
    return (gaussian_bits(symbols, level) + noisy - noisy.detach()).sum((1, 2, 3))


def gaussian_bits(residual: Tensor, level: Tensor) -> Tensor:
    """Bits of integers under a zero-mean Gaussian integrated over unit bins; ``level`` rounds straight through."""
    level = straight_through(level.round(), level)
    inverse = torch.exp(-level * scale_ratio()) / SCALE_MIN
    magnitude = residual.abs()
    upper = torch.special.ndtr((0.5 - magnitude) * inverse)
    lower = torch.special.ndtr((-0.5 - magnitude) * inverse)
    return -torch.log2(lower_bound(upper - lower, PROBABILITY_MIN))
