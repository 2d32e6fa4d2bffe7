"""What a decoded frame and its moved references say together: in the loop, after the synthesis.

Each frame is coded with errors of its own. Where motion was found, the references are a second observation of the same
scene, and a small network weighs both for each pixel.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...entropy_models.layers import GatedBlock, Linear, QualityGain, depth_to_space, space_to_depth
from ..image.tiles import LATENT_STRIDE

UNIT = 4
"""Side of the squares of pixels that are a position of the network."""
DIFFERENCE_GAIN = 8.0
"""What brings differences of two pictures, small numbers, to the size of pictures; beyond that they saturate."""
STRIP_PIXELS = 1 << 19
"""Pixels of a large picture that are fused at once, some 800 bytes each."""
REST_MAX = 0.05
"""Farthest from between both pictures. What training never showed, as where something drawn appears, must not run away."""
START_SHARE_LOGIT = -1.0
PLANES = 3


class Fusion(nn.Module):
    """Two observations of a frame to one.

    Args:
        width: channels.
        blocks: each sees one square of `UNIT` pixels further.
        knots: qualities, evenly spaced, that own a gain vector.
    """

    def __init__(self, width: int, blocks: int, knots: int) -> None:
        super().__init__()
        self.first = Linear(2 * PLANES * UNIT**2 + 2, width)
        self.gain = QualityGain(width, knots)
        self.blocks = nn.Sequential(*(GatedBlock(width) for _ in range(blocks)))
        self.last = Linear(width, (1 + PLANES) * UNIT**2)
        with torch.no_grad():
            self.last.weight *= 0.1
            self.last.bias[: UNIT**2] = START_SHARE_LOGIT

    def forward(self, coded: Tensor, moved: Tensor, activity: Tensor, knot_weights: Tensor) -> Tensor:
        """A better picture than either, (B, height, width, 3).

        Args:
            coded: what the synthesis makes of the frame's latent, -0.5..0.5.
            moved: the decoded references, after motion.
            activity: `activity_of` the frame.
            knot_weights: of the quality, (B, knots).
        """
        height, width = coded.shape[1:3]
        rows = max(1, STRIP_PIXELS // (width * LATENT_STRIDE)) * LATENT_STRIDE
        if torch.is_grad_enabled() or height <= rows:
            return self._fused(coded, moved, activity, knot_weights)
        around = -(-len(self.blocks) * UNIT // LATENT_STRIDE) * LATENT_STRIDE  # as far as blocks see
        strips = []
        for top in range(0, height, rows):
            first, last = max(0, top - around), min(height, top + rows + around)
            activity_there = activity[:, first // LATENT_STRIDE : last // LATENT_STRIDE]
            strip = self._fused(coded[:, first:last], moved[:, first:last], activity_there, knot_weights)
            strips.append(strip[:, top - first : top - first + rows])
        return torch.cat(strips, dim=1)

    def _fused(self, coded: Tensor, moved: Tensor, activity: Tensor, knot_weights: Tensor) -> Tensor:
        apart = moved - coded
        near = activity.repeat_interleave(LATENT_STRIDE // UNIT, 1).repeat_interleave(LATENT_STRIDE // UNIT, 2)
        seen = [space_to_depth(coded, UNIT), space_to_depth(torch.tanh(apart * DIFFERENCE_GAIN), UNIT), near]
        h = self.last(self.blocks(self.first(torch.cat(seen, dim=-1)) * self.gain(knot_weights)))
        share = torch.sigmoid(depth_to_space(h[..., : UNIT**2], UNIT))
        return coded + share * apart + torch.tanh(depth_to_space(h[..., UNIT**2 :], UNIT) * 2) * REST_MAX


def activity_of(symbols: Tensor, levels: Tensor) -> Tensor:
    """How much was said of each position of a latent, float (B, rows, columns, 2).

    Args:
        symbols, levels: of the frame's coding pass, (B, rows, columns, latent).
    """
    said = (symbols != 0).sum(-1).to(torch.float32)
    return torch.stack([torch.log1p(said) / 4, torch.log1p(levels.sum(-1).to(torch.float32)) / 8], dim=-1)
