"""Block motion: one vector in quarter pixels for each block of 16x16 pixels, which is a latent position.

A frame is predicted from the decoded frame before it by overlapped blocks: where blocks meet, their predictions fade into
each other (Orchard & Sullivan, IEEE TIP 1994). Vectors are coded from coarse to fine, each as the difference from the
vector of the larger block around it, on their own or as changes since the frame before.
"""

from __future__ import annotations

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
ACTIVITIES = 4
"""Classes of the larger block's own difference: none, small, middle, large."""
ACTIVITY_BOUNDS = (1, 4, 16)
START_LEVELS = (34, 34, 34, 34, 9, 23, 21, 13, 7, 13, 14, 14)
"""Levels of differences for each scale and activity before they are counted."""
CHANGE_LEVEL = 18
"""Level of the symbol that says whether vectors are changes since the frame before."""

Field = Tensor
"""Vectors (batch, rows, columns, 2), down and right, whole numbers as float."""


def code_field(coder: Coder, field: Field, before: Field, levels: Tensor, *, changes: bool = False) -> Field:
    """Code a frame's vectors and return them. The only description of their bitstream.

    Args:
        field: (batch, rows, columns, 2); a reader passes zeros of that shape.
        before: vectors of the frame before, of the same shape; zeros if it has none.
        levels: (SCALES, ACTIVITIES), of the differences.
        changes: code them as changes since the frame before; a reader reads that.
    """
    batch, rows, columns, _ = field.shape
    told = field.new_full((batch, 1), -1.0 if changes else 0.0)
    start = before * (coder.code(told, told.new_full((1, 1), CHANGE_LEVEL)) != 0).to(field.dtype)[..., None, None]
    coarse: list[Tensor] = [padded(field - start)]
    for _ in range(SCALES - 1):
        coarse.append(middle(coarse[-1]))
    parent = torch.zeros_like(coarse[-1])
    activity = torch.zeros_like(parent)
    for scale in range(SCALES):
        wanted = coarse[SCALES - 1 - scale]
        level = levels[scale].to(field.device)[activity.long()]
        difference = coder.code(wanted - parent, level.to(field.dtype)).to(field.dtype)
        known = (parent + difference).clamp(-2 * VECTOR_MAX, 2 * VECTOR_MAX)
        if scale + 1 < SCALES:
            size = difference.abs().amax(-1, keepdim=True).expand_as(difference)
            activity = enlarged(
                torch.bucketize(size.contiguous(), size.new_tensor(ACTIVITY_BOUNDS), right=True).to(field.dtype)
            )
            parent = enlarged(known)
    return (known[:, :rows, :columns] + start).clamp(-VECTOR_MAX, VECTOR_MAX)


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
            vectors = field[:, row][:, :, column]
            total += sampled(planes, vectors, "bicubic") * (row_share[:, None] * column_share)
    return total.permute(0, 2, 3, 1)


def _neighbours(size: int, device: torch.device) -> list[tuple[Tensor, Tensor]]:
    """For each pixel of a side: the block before and the block after it, by their centres, and the shares of both."""
    place = (torch.arange(size, device=device) + 0.5) / BLOCK - 0.5
    first = place.floor()
    share = place - first
    last = size // BLOCK - 1
    return [(first.clamp(0, last).long(), 1 - share), ((first + 1).clamp(0, last).long(), share)]


def sampled(planes: Tensor, vectors: Tensor, mode: str) -> Tensor:
    """Planes (1, channels, height, width) where each pixel's vector (1, height, width, 2) points to."""
    height, width = planes.shape[2:]
    size = torch.tensor([height, width], device=planes.device)
    down, right = torch.arange(height, device=planes.device), torch.arange(width, device=planes.device)
    place = torch.stack(torch.meshgrid(down, right, indexing="ij"), dim=-1) + vectors / UNIT
    place = (2 * place + 1) / size - 1
    return F.grid_sample(planes, place.flip(-1), mode=mode, padding_mode="border", align_corners=False)
