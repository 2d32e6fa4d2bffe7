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

from ..entropy_models.relaxed import gaussian_bits, straight_through
from ..entropy_models.tables import LEVELS, Tables, gaussian_tables

SKIP_LEVEL = 3
"""Scales below 0.134 are not coded: such a symbol is zero in 9,998 of 10,000 cases."""
LAGRANGIAN = 0.06
"""Weight of bits in the dead zone; worth about 2 % of rate on the validation images, 0.05 and 0.07 within 0.1 % of it."""


class Charge(NamedTuple):
    """Charge of one evaluation: what it counts bits of, each (batch, ...); zero where not active."""

    residual: Tensor
    symbols: Tensor
    level: Tensor
    active: Tensor | None
    """Bool, of a shape that broadcasts to the others'; None: everywhere."""
    side: bool


class Train:
    """Sums bits per image of whatever a pass codes: `side_bits` of its side information, `latent_bits` of the rest.

    They are the bits that `Measure` counts under `start_tables`, but for the tables' rounding: a symbol whose count is c out
    of 2^24 is up to 2 / c bits off. The rarest of a table, with a count of one, cost 24 bits there and up to 30 here; one
    beyond its reach costs 30 bits however far it lies, where `Measure` counts an escape of 25 and more. Below the skip level
    an encoder codes nothing and decodes zero: here such a symbol is charged like any other and returned as it is, so that a
    level that is too low learns to rise; a zero there costs less than 0.0003 bits.

    Args:
        honest: charge symbols as if there were no dead zone, so that levels learn the residuals' true scale, and return what
            a decoder will know, zeros below the skip level among it. A lower level has a wider dead zone, which makes more
            zeros, for which a still lower level is best: where no distortion holds against it, as in the video codec's
            training, levels sink until nothing is coded.
    """

    def __init__(self, *, honest: bool = False) -> None:
        self._charges: list[Charge] = []
        self._honest = honest

    def code(self, residual: Tensor, level: Tensor, active: Tensor | None = None, *, side: bool = False) -> Tensor:
        """Symbols with the residual's gradient, of any shape (batch, ...), as `Coder.code` says.

        Notes down what to charge under a Gaussian of the level's scale.
        """
        level = level.expand(residual.shape)
        if active is not None:
            mask = active.expand(residual.shape)
            residual, level = residual * mask, level * mask
        fixed, pull = residual.detach(), deadzone(residual.device)[level.detach().clamp(0, LEVELS - 1).long()]
        symbols = (fixed - fixed.clamp(-pull, pull)).round()
        self._charges.append(Charge(residual, fixed.round() if self._honest else symbols, level, active, side))
        return straight_through(symbols * (level.detach() >= SKIP_LEVEL) if self._honest else symbols, residual)

    def side_bits(self) -> Tensor:
        """Bits of what was coded as side information, shape (batch,); zero if nothing was."""
        return self._sum(side=True)

    def latent_bits(self) -> Tensor:
        """Bits of everything else, shape (batch,)."""
        return self._sum(side=False)

    def bits(self) -> Tensor:
        """Bits of everything, shape (batch,)."""
        return self.side_bits() + self.latent_bits()

    def _sum(self, *, side: bool) -> Tensor:
        assert self._charges, "nothing was coded"
        total = self._charges[0].residual.new_zeros(len(self._charges[0].residual), dtype=torch.float32)
        for charge in merged([charge for charge in self._charges if charge.side == side]):
            total = total + expected_bits(charge)
        return total


def merged(charges: list[Charge]) -> list[Charge]:
    """Charges merged, for the same bits in fewer evaluations: steps of one latent, of disjoint masks, become one."""
    groups: list[Charge] = []
    for charge in charges:
        for i, group in enumerate(groups):
            if (union := united(group, charge)) is not None:
                groups[i] = union
                break
        else:
            groups.append(charge)
    return groups


def united(a: Charge, b: Charge) -> Charge | None:
    """Two charges as one; None unless they are of one shape and no entry is active in both."""
    if a.active is None or b.active is None or a.residual.shape != b.residual.shape or (a.active & b.active).any():
        return None
    return Charge(a.residual + b.residual, a.symbols + b.symbols, a.level + b.level, a.active | b.active, a.side)


@lru_cache(maxsize=2)
@torch.inference_mode(False)
def deadzone(device: torch.device) -> Tensor:
    """Pull of an encoder on a residual of each level, towards zero, float32 (LEVELS,); kept, not to be written to.

    Finite even where an encoder codes nothing: a level that is too low learns so from symbols alone.
    """
    return torch.from_numpy(start_tables().deadzone).to(device)


def start_tables() -> Tables:
    """Tables that training charges by, and that `calibrated` starts from."""
    return gaussian_tables(SKIP_LEVEL).with_deadzone(LAGRANGIAN)


def expected_bits(charge: Charge) -> Tensor:
    """Bits per image, shape (batch,). Their gradient goes to the levels; the residual gets that of its noisy bits."""
    residual, symbols, level, active, _ = charge
    noisy = gaussian_bits(residual + torch.rand_like(residual) - 0.5, level.detach())
    bits = gaussian_bits(symbols, level) + (noisy - noisy.detach())
    return (bits if active is None else bits * active).flatten(1).sum(1)
