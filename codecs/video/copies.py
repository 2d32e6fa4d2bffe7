"""Blocks that are copied: shown as the moved references have them, at no bits, instead of being coded anew.

What a decoded frame shows can only lose by one more analysis and synthesis. Where motion tells all that is worth telling, a
block is therefore better kept as it is, and holds its quality for as long as it is copied.
"""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor
from torch.nn import functional as F

from ...entropy_models.coder import Coder
from .motion import BLOCK

FIRST_LEVELS, LATER_LEVELS = (11, 13, 16, 17, 16, 13, 8), (9, 13, 17, 14, 9, 7)
"""Levels of a block that is not as expected, by how many votes there are that it is copied; counted on videos."""
FADE = 8
"""Pixels over which blocks of different kinds fade into each other."""


def worth_copying(residual: Tensor) -> Tensor:
    """Blocks that are better copied than coded, float (B, rows, columns) of zeros and ones.

    A fit to what coding a block saves, net of its bits, in units of a bit: errors and bits of blocks coded both ways.
    Deciding by it costs under a hundredth more than deciding by trial.

    Args:
        residual: what the moved frame's latent leaves of the frame's, in steps of the quantiser, (B, rows, columns, latent).
    """
    squared = residual.square()
    saved = 7.7 * squared + 12.2 * (residual.abs() - 0.5).clamp(min=0)
    return (saved - 9.4 * torch.log2(1 + squared)).sum(-1).le(0).to(residual.dtype)


def code_copies(coder: Coder, copies: Tensor, before: Tensor) -> Tensor:
    """Code which blocks are copied and return it. The only description of its bitstream.

    Half of the blocks, as on a chessboard, are told with the nearest reference as what is expected, the rest with their four
    neighbours, too.

    Args:
        copies: (batch, rows, columns), 1 where copied; a reader passes zeros of that shape.
        before: the same of the nearest reference.
    """
    first = chessboard(copies)
    told = _told(coder, copies, around_each(before) + 2 * before, FIRST_LEVELS, first)
    return told + _told(coder, copies, around_each(told) + before, LATER_LEVELS, ~first)


def _told(coder: Coder, copies: Tensor, votes: Tensor, levels: tuple[int, ...], active: Tensor) -> Tensor:
    """The active blocks, by votes for their being copied."""
    expected = (2 * votes >= len(levels) - 1).to(copies.dtype)
    level = votes.new_tensor(levels)[votes.long()]
    return (expected + coder.code((copies - expected) * active, level, active).to(copies.dtype)).clamp(0, 1) * active


def chessboard(blocks: Tensor) -> Tensor:
    """Half of some blocks, (batch, rows, columns): those that are told before their neighbours, bool (1, rows, columns)."""
    row, column = (torch.arange(size, device=blocks.device) for size in blocks.shape[1:])
    return ((row[:, None] + column) % 2 == 0)[None]


def around_each(blocks: Tensor) -> Tensor:
    """The sum of the four neighbours of each block; those beyond a border count as the block beside them."""
    wide = F.pad(blocks[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    return wide[:, :-2, 1:-1] + wide[:, 2:, 1:-1] + wide[:, 1:-1, :-2] + wide[:, 1:-1, 2:]


def with_copies(coded: Tensor, moved: Tensor, copies: Tensor) -> Tensor:
    """A picture (B, height, width, 3) that is ``moved`` where blocks are copied, with soft edges.

    Args:
        copies: (B, rows, columns).
    """
    return coded + softened(copies) * (moved - coded)


def softened(blocks: Tensor) -> Tensor:
    """A value for each block as one for each pixel, (B, height, width, 1), with soft edges.

    Args:
        blocks: (B, rows, columns), whole numbers of halves, whose sums are exact in any order.
    """
    pixels = blocks.repeat_interleave(BLOCK, 1).repeat_interleave(BLOCK, 2)[:, None]
    wide = F.pad(pixels, (FADE // 2,) * 4, mode="replicate")
    side = FADE + 1
    for axis in (2, 3):  # the mean of a square, in a fifth of the time that pooling takes
        wide = reduce(torch.add, wide.unfold(axis, side, 1).unbind(-1))
    return wide[:, 0, ..., None] / side**2
