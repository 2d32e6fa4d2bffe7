"""Per tile, a correction of the synthesis transform's last layer: solved by the encoder, coded after the latent.

    W' = W + down diag(mix n / gain) up        n: the coded integers

A decoder trained on many pictures fits none of them best. How its last layer should change for one tile is a linear
least-squares problem; of the solution's 37,000 numbers the stream holds some two hundred, most of them zero, along
directions learnt from training images (`training.image.correction`). It costs 40 to 100 bytes (drawings up to 700) and a
product of small matrices a tile, nothing per pixel; the encoder, one synthesis of the tile. It takes one to two per cent off
the squared error, more off that of drawings.
(The encoder's Wiener solution in the stream: VVC's adaptive loop filter, Karczewicz et al., IEEE TCSVT 2021. Changes of a
decoder in the stream: van Rozendaal et al., ICLR 2021.)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ...entropy_models.coder import Coder, Measure
from ...entropy_models.layers import QualityGain
from ...entropy_models.tables import Tables, scale

STEP = 2.5
"""Step of a coefficient, in units of which one, squared, is worth a bit on a tile of `REFERENCE` patches. At high rate
sqrt(6 / ln 2) = 2.9 is best; from 2 to 4 the gain is the same within a twentieth (validation images)."""
REFERENCE = 6144
"""Patches of 768x512 pixels."""
RANGE = -0.5, 0.5
"""Range of pixels: black and white."""
COEFFICIENT_MAX = 1000.0
"""Photographs stay below 100."""
FLAG_LEVEL = 18
"""Level of the symbol that says whether a tile has a correction: scale 0.68, so 0 costs one bit and 1 two to three."""
FLAG_BITS = 2
"""What the 1 costs more than the 0, about."""
HARM_MAX, HARM_FREE = 1.1, (0.5 / 255) ** 2
"""A correction may raise the squared error of no tenth of the patches, from easy to hard, by more than a tenth and so much
for each value: half a grey level. Beside a drawing that it mends, it must not spoil a sky."""


def prior(deviation: Tensor) -> Tensor:
    """What coefficients of these deviations cost in bits, as a quadratic form: a Gaussian's bits grow with the square."""
    return torch.diag(0.5 / math.log(2) / deviation**2)


def as_grey(patches: Tensor) -> Tensor:
    """Each pixel's three channels, neighbours in a patch, replaced by their mean."""
    return patches.unflatten(-1, (-1, 3)).mean(-1, keepdim=True).expand(*patches.shape[:-1], -1, 3).flatten(-2)


class Correction(nn.Module):
    """Directions, coefficients' tables, and the encoder's solution.

    Args:
        inputs: features of the last layer.
        outputs: of the last layer.
        count: coefficients in the stream.
        knots: qualities that own a step; the others interpolate.
    """

    level: Tensor

    def __init__(self, inputs: int, outputs: int, count: int, knots: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.zeros(inputs + 1, count))  # the last row acts on the bias
        self.mix = nn.Parameter(torch.eye(count))
        self.up = nn.Parameter(torch.zeros(count, outputs))
        self.gain = QualityGain(1, knots)
        self.register_buffer("level", torch.full((count,), FLAG_LEVEL, dtype=torch.uint8))

    def none(self, tiles: int = 1) -> Tensor:
        """What a reader passes to `code`, and an encoder that wants no correction. Float (tiles, 1 + count)."""
        return self.mix.new_zeros(tiles, 1 + len(self.mix))

    def code(self, coder: Coder, solution: Tensor) -> Tensor:
        """Code what `solve` returned, of a batch of tiles. Integers (tiles, count), zero where there is no correction."""
        used = coder.code(solution[:, :1], torch.full_like(solution[:, :1], FLAG_LEVEL)) != 0
        return coder.code(solution[:, 1:], self.level, used)

    def change(self, symbols: Tensor, knot_weights: Tensor) -> Tensor:
        """Change of the last layer's matrix (inputs, outputs) and, in one row more, its bias; for one tile.

        ``knot_weights``: of the quality, as `QualityGain` takes them.
        """
        return (self.down * (symbols @ self._steps(knot_weights).T)) @ self.up

    def _steps(self, knot_weights: Tensor) -> Tensor:
        """Strengths of the directions for one of each coefficient, (count, count)."""
        return self.mix / self.gain(knot_weights).view(())

    def solve(
        self, features: Tensor, given: Tensor, target: Tensor, knot_weights: Tensor, tables: Tables, *, grey: bool = False
    ) -> Tensor:
        """The coefficients that take most off a tile's squared error for their bits, in steps, after a 1; or `none`.

        Args:
            features: (..., inputs), what the last layer gets.
            given: (..., outputs), what it makes of that; pixels beyond white and black are as good as white and black.
            target: (..., outputs), -0.5..0.5, what it should make of it.
            knot_weights: of the quality.
            tables: for the cost in bits.
            grey: only the mean of each pixel's three channels will be seen.
        """
        features, given, target = (part.reshape(-1, part.shape[-1]) for part in (features, given, target))
        shown = as_grey if grey else torch.positive
        up, given = shown(self.up), shown(given)
        error = target - given.clamp(*RANGE)
        seen, missing = features @ self.down[:-1] + self.down[-1], error @ up.T
        steps = self._steps(knot_weights).double()
        bits_per_error = float(self.gain(knot_weights)) ** 2 * STEP**2 / REFERENCE
        normal = bits_per_error * steps.T @ ((seen.T @ seen).double() * (up @ up.T).double()) @ steps
        slope = bits_per_error * steps.T @ (seen * missing).sum(0).double()
        scales = torch.tensor([scale(int(level)) for level in self.level], dtype=torch.float64, device=slope.device)
        best = torch.linalg.solve(normal + prior(scales), slope)[None].to(self.mix.dtype)
        if not best.isfinite().all():
            return self.none()
        best = best.clamp(-COEFFICIENT_MAX, COEFFICIENT_MAX)
        measure = Measure(tables)
        change = self.change(measure.code(best, self.level[None]), knot_weights)
        added = features @ change[:-1] + change[-1]
        left = target - (given + shown(added)).clamp(*RANGE)
        before, after = error.square().sum(1), left.square().sum(1)
        tenths = before.argsort().chunk(10)  # from the easiest patches to the hardest
        limit = HARM_MAX * before + HARM_FREE * error.shape[1]
        harm = any(after[tenth].sum() > limit[tenth].sum() for tenth in tenths)
        if harm or bits_per_error * float((before - after).sum()) <= measure.bits[0] + FLAG_BITS:
            return self.none()
        return torch.cat([torch.ones_like(best[:, :1]), best], dim=1)
