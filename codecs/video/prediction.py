"""What is expected of a frame: its references after block motion, one or a blend of two.

A frame between two references has vectors into both, and each of its blocks tells whether it is made of either or of their
mean, which errors of both share. Motion is expected to be even: along the way from one reference to the other.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ...entropy_models.coder import Coder
from .copies import around_each, chessboard, softened
from .motion import AFTER_ONE, BETWEEN_TWO, BLOCK, Field, FieldLevels, code_field
from .motion_search import bit_price
from .order import Place

FIRST_LEVEL = 12
"""Level of a block's share that is told first, when nothing around it is known."""
LATER_LEVELS = 10, 14, 18, 19, 20
"""Of the others, by how far the four neighbours' shares are from being one, 0..4; counted on videos."""
SHARE_BITS = 1.5
"""About what a block pays for not being the mean of both."""


class Motion(NamedTuple):
    """How a frame is made of its references."""

    before: Field
    """Vectors into the reference that is shown before it."""
    after: Field | None = None
    """Into the one that is shown after it; None: there is none."""
    shares: Tensor | None = None
    """Of each block, (1, rows, columns): -1 before alone, 1 after alone, 0 the mean of both."""


def code_motion(coder: Coder, motion: Motion | None, expected: Field, place: Place) -> Motion:
    """Code a frame's motion and return it. The only description of its bitstream.

    Args:
        motion: None: for a reader.
        expected: vectors into the reference before, as they are expected.
        place: of the frame.
    """
    levels = AFTER_ONE if place.after is None else BETWEEN_TWO
    before = _coded_field(coder, motion and motion.before, expected, levels)
    if place.after is None:
        return Motion(before)
    after = _coded_field(coder, motion and motion.after, onward(before, place), levels)
    shares = torch.zeros_like(expected[..., 0]) if motion is None or motion.shares is None else motion.shares
    return Motion(before, after, code_shares(coder, shares))


def _coded_field(coder: Coder, field: Field | None, expected: Field, levels: FieldLevels) -> Field:
    """Code vectors, as changes of what is expected where an encoder finds that likely to pay; None: for a reader."""
    changes = field is not None and changes_pay(field, expected)
    return code_field(
        coder, torch.zeros_like(expected) if field is None else field, expected, changes=changes, levels=levels
    )


def changes_pay(field: Field, expected: Field) -> bool:
    """Whether vectors as changes of what is expected are likely to take fewer bits."""
    if not expected.any():
        return False
    costs = []
    for vectors in (field, field - expected):
        across = [vectors.diff(dim=axis).abs() for axis in (1, 2)]
        costs.append(sum(float(torch.log2(1 + difference).sum()) for difference in across))
    return costs[1] < costs[0]


def code_shares(coder: Coder, shares: Tensor) -> Tensor:
    """Code what each block is made of and return it, as on a chessboard: half of them, then the rest with their neighbours.

    Args:
        shares: as `Motion` has them.
    """
    first = chessboard(shares)
    level = torch.full_like(shares, FIRST_LEVEL)
    told = coder.code(shares * first, level, first).to(shares.dtype).clamp(-1, 1) * first
    around = around_each(told)
    expected = (around / 4).round()
    level = level.new_tensor(LATER_LEVELS)[(around - 4 * expected).abs().long().clamp_max(4)]
    coded = coder.code((shares - expected) * ~first, level, ~first).to(shares.dtype)
    return told + (expected + coded).clamp(-1, 1) * ~first


def onward(field: Field, place: Place) -> Field:
    """Vectors into the reference after, if motion goes on as from the one before."""
    assert place.before is not None and place.after is not None
    return scaled(field, place.number - place.after, place.number - place.before)


def scaled(field: Field, part: int, whole: int) -> Field:
    """Vectors times part / whole, in integers."""
    return torch.div(2 * part * field.long() + whole, 2 * whole, rounding_mode="floor").to(field.dtype)


def blended(before: Tensor, after: Tensor, shares: Tensor) -> Tensor:
    """The moved references (1, height, width, 3) as one picture, by the blocks' shares."""
    return before + softened((1 + shares) / 2) * (after - before)


def searched_shares(frame: Tensor, before: Tensor, after: Tensor, quality: int) -> Tensor:
    """The encoder's choice of what blocks are made of, of moved references and the frame, (1, height, width, channels)."""
    price = bit_price(quality) * SHARE_BITS
    costs = []
    for share, picture in ((-1, before), (0, (before + after) / 2), (1, after)):
        error = (picture - frame).abs().mean(-1)
        costs.append(F.avg_pool2d(error[:, None], BLOCK)[:, 0] + price * abs(share))
    return torch.stack(costs).argmin(0).to(frame.dtype) - 1
