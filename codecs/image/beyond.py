"""What the contexts of a tile see beyond it, where the image goes on in another tile.

Tiles are coded on their own, so a neighbour's symbols are not known. Zeros in their place look like the end of the image,
where predictions are others: smooth skies got a line along every border. The tile's own mirror image looks like more of
the same.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Margins = tuple[int, int, int, int]
"""Rows above, columns left, rows below and columns right."""
NOTHING: Margins = 0, 0, 0, 0


def mirrored(x: Tensor, beyond: Margins) -> Tensor:
    """``x``, (batch, rows, columns, channels), with its mirror image around it; the outermost positions are not repeated, so
    that even positions go on as even ones."""
    top, left, bottom, right = beyond
    return _taken(_taken(x, 1, top, bottom, _reflected), 2, left, right, _reflected)


def repeated(x: Tensor, beyond: Margins) -> Tensor:
    """``x`` with its outermost positions repeated around it."""
    top, left, bottom, right = beyond
    return _taken(_taken(x, 1, top, bottom, _clamped), 2, left, right, _clamped)


def _taken(x: Tensor, axis: int, before: int, after: int, index_of: Callable[[Tensor, int], Tensor]) -> Tensor:
    if not before and not after:
        return x
    return x.index_select(axis, index_of(torch.arange(-before, x.shape[axis] + after, device=x.device), x.shape[axis]))


def _reflected(at: Tensor, size: int) -> Tensor:
    period = max(2 * (size - 1), 1)
    at = at.remainder(period)
    return torch.minimum(at, period - at)


def _clamped(at: Tensor, size: int) -> Tensor:
    return at.clamp(0, size - 1)
