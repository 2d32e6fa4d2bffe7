"""Block motion: one vector in quarter pixels for each block of 16x16 pixels, which is a latent position.

A frame is predicted from a decoded reference by overlapped blocks: where blocks meet, their predictions fade into
each other (Orchard & Sullivan, IEEE TIP 1994). Vectors are coded from coarse to fine, each as the difference from the
vector of the larger block around it, on their own or as changes of what is expected.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ...entropy_models.coder import Coder

BLOCK = 16
"""Pixels of a block's side."""
UNIT = 4
"""Steps of a vector per pixel."""
VECTOR_MAX = 2047
"""Bound of a vector's parts, in steps."""
SCALES = 3
"""Sizes of blocks in the coding: 64, 32 and 16 pixels."""
LARGEST = 2 ** (SCALES - 1)
"""Blocks in the side of the largest."""
ACTIVITY_BOUNDS = (1, 4, 16)
"""Between the activities: the larger block's own difference is none, small, middle or large."""


class FieldLevels(NamedTuple):
    """Levels of differences of vectors, for each scale and activity; counted on videos."""

    down: tuple[tuple[int, ...], ...]
    """Of signs of differences downwards."""
    right: tuple[tuple[tuple[int, ...], ...], ...]
    """To the right, where there is none downwards, and where there is one."""
    size: tuple[tuple[int, ...], ...]
    """Of sizes beyond one."""


AFTER_ONE = FieldLevels(
    ((17, 17, 17, 17), (10, 15, 15, 14), (9, 13, 13, 14)),
    (((15, 15, 15, 15), (10, 16, 15, 13), (9, 13, 13, 12)), ((20, 20, 20, 20), (17, 17, 18, 17), (16, 17, 18, 19))),
    ((36, 36, 36, 36), (33, 27, 34, 31), (31, 27, 36, 44)),
)
"""Of a frame that is made of one before it."""
BETWEEN_TWO = FieldLevels(
    ((18, 18, 18, 18), (10, 14, 15, 17), (9, 12, 14, 17)),
    (((12, 12, 12, 12), (9, 13, 13, 16), (8, 11, 13, 14)), ((20, 20, 20, 20), (16, 17, 19, 20), (16, 17, 19, 20))),
    ((40, 40, 40, 40), (24, 24, 32, 50), (30, 30, 50, 54)),
)
"""Of a frame between two references, whose vectors are told as changes of what is expected."""
CHANGE_LEVEL = 18
"""Level of the symbol that says whether vectors are changes of what is expected."""

Field = Tensor
"""Vectors (batch, rows, columns, 2), down and right, whole numbers as float."""


def code_field(
    coder: Coder, field: Field, expected: Field, *, changes: bool = False, levels: FieldLevels = AFTER_ONE
) -> Field:
    """Code a frame's vectors and return them. The only description of their bitstream.

    Args:
        field: (batch, rows, columns, 2); a reader passes zeros of that shape.
        expected: vectors of the same shape.
        changes: code them as changes of what is expected; a reader reads that.
    """
    batch, rows, columns, _ = field.shape
    told = field.new_full((batch, 1), -1.0 if changes else 0.0)
    start = expected * (coder.code(told, told.new_full((1, 1), CHANGE_LEVEL)) != 0).to(field.dtype)[..., None, None]
    coarse: list[Tensor] = [padded(field - start)]
    for _ in range(SCALES - 1):
        coarse.append(middle(coarse[-1]))
    parent = torch.zeros_like(coarse[-1])
    activity = torch.zeros_like(parent[..., :1])
    for scale in range(SCALES):
        wanted = coarse[SCALES - 1 - scale]
        difference = _code_difference(coder, wanted - parent, activity[..., 0].long(), scale, levels)
        known = (parent + difference).clamp(-2 * VECTOR_MAX, 2 * VECTOR_MAX)
        if scale + 1 < SCALES:
            size = difference.abs().amax(-1, keepdim=True)
            activity = enlarged(torch.bucketize(size, size.new_tensor(ACTIVITY_BOUNDS), right=True).to(field.dtype))
            parent = enlarged(known)
    return (known[:, :rows, :columns] + start).clamp(-VECTOR_MAX, VECTOR_MAX)


def _code_difference(coder: Coder, wanted: Field, activity: Tensor, scale: int, levels: FieldLevels) -> Field:
    """Code differences of vectors: signs first, for most are none, then sizes of those that have one.

    Args:
        activity: classes of the larger blocks' own differences, (batch, rows, columns).
    """
    down, right = wanted.sign().unbind(-1)
    down = coder.code(down, wanted.new_tensor(levels.down[scale])[activity])
    right = coder.code(right, wanted.new_tensor([each[scale] for each in levels.right])[(down != 0).long(), activity])
    signs = torch.stack([down, right], dim=-1).to(wanted.dtype)
    beyond = (wanted.abs() - 1).clamp(min=0)
    odd = beyond % 2 == 1  # 0, 1, 2, 3, 4 as 0, 1, -1, 2, -2: tables have both signs
    level = wanted.new_tensor(levels.size[scale])[activity][..., None]
    coded = coder.code(torch.where(odd, beyond + 1, -beyond) / 2, level, signs != 0).to(wanted.dtype)
    return signs * (torch.where(coded > 0, 2 * coded - 1, -2 * coded) + 1)


def padded(field: Field) -> Field:
    """A field with whole blocks of 64 pixels; the last vectors repeat."""
    _, rows, columns, _ = field.shape
    down = torch.arange(rows + -rows % LARGEST, device=field.device).clamp_max(rows - 1)
    right = torch.arange(columns + -columns % LARGEST, device=field.device).clamp_max(columns - 1)
    return field[:, down][:, :, right]


def middle(field: Field) -> Field:
    """Vectors of blocks twice as large: the second smallest of four, each way."""
    batch, rows, columns, _ = field.shape
    fours = field.view(batch, rows // 2, 2, columns // 2, 2, 2).permute(0, 1, 3, 5, 2, 4).flatten(-2)
    return fours.sort(-1).values[..., 1]


def enlarged(field: Tensor) -> Tensor:
    """Each position four times."""
    return field.repeat_interleave(2, 1).repeat_interleave(2, 2)


def moved(picture: Tensor, field: Field) -> Tensor:
    """A picture after motion, by overlapped blocks and cubic interpolation; beyond its border it repeats itself.

    Args:
        picture: float (1, height, width, channels), sides multiples of `BLOCK`.
        field: (1, rows, columns, 2).
    """
    _, height, width, _ = picture.shape
    planes = picture.permute(0, 3, 1, 2)
    if not field.any():
        return picture
    rows, columns = (_neighbours(size, picture.device) for size in (height, width))
    total = torch.zeros_like(planes)
    for row, row_share in rows:
        for column, column_share in columns:
            places = _places(field, row, column)
            part = F.grid_sample(planes, places, mode="bicubic", padding_mode="border", align_corners=False)
            total += part.mul_(row_share[:, None] * column_share)
    return total.permute(0, 2, 3, 1)


def _neighbours(size: int, device: torch.device) -> list[tuple[Tensor, Tensor]]:
    """For each pixel of a side: the block before and the block after it, by their centres, and the shares of both."""
    place = (torch.arange(size, device=device) + 0.5) / BLOCK - 0.5
    first = place.floor()
    share = place - first
    last = size // BLOCK - 1
    return [(first.clamp(0, last).long(), 1 - share), ((first + 1).clamp(0, last).long(), share)]


def _places(field: Field, row: Tensor, column: Tensor) -> Tensor:
    """Where each pixel's vector points to, (1, height, width, 2), right and down as `F.grid_sample` counts: one plane after
    the other in memory, most of whose rows are alike.

    Args:
        row, column: blocks whose vectors pixels take, (height,) and (width,).
    """
    height, width = len(row), len(column)
    along, across = (torch.arange(size, device=field.device) for size in (height, width))
    down, right = field[0].unbind(-1)
    places = field.new_empty(1, 2, height, width)
    of_rows = (2 * (across + right[:, column] / UNIT) + 1) / width - 1
    of_columns = (2 * (along[:, None] + down[row] / UNIT) + 1) / height - 1
    torch.index_select(of_rows, 0, row, out=places[0, 0])
    torch.index_select(of_columns, 1, column, out=places[0, 1])
    return places.permute(0, 2, 3, 1)
