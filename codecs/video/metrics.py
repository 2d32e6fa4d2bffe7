"""Measures of coded video: PSNR of RGB and of YUV, MS-SSIM, flicker. No numpy and no torch before something is measured.

Each is a mean over frames, as the field reports it: not the value of the mean error, which bad frames would rule.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ..evaluation.metrics import psnr_db
from ..image import evaluation as image
from .footage import Footage, luma_of, split

if TYPE_CHECKING:
    import numpy as np

STILL_BLOCK = 8
"""Pixels a side of the blocks that are still or not."""
STILL_CHANGE = 2.0
"""Grey levels that a still block's luma changes by at most from one frame to the next, mean over its pixels."""


def psnr_rgb_db(original: Footage, decoded: Footage) -> float:
    """PSNR over the pixels of a frame, mean over frames."""
    return _mean([psnr_db(a, b) for a, b in zip(original.rgb, decoded.rgb, strict=True)])


def psnr_yuv_db(original: Footage, decoded: Footage) -> float:
    """PSNR of the 4:2:0 planes at 8 bits, Y, U and V weighted 6:1:1, mean over frames.

    A codec of RGB pixels is measured after the conversion to planes by the original's matrix.
    """
    values = []
    pairs = zip(split(original.planes()), split(decoded.planes()), strict=True)
    for (a, b), weight in zip(pairs, (6, 1, 1), strict=True):
        values.append(weight / 8 * _mean([psnr_db(x, y) for x, y in zip(a, b, strict=True)]))
    return sum(values)


def ms_ssim(original: Footage, decoded: Footage) -> float:
    """Multi-scale SSIM of RGB as of images, mean over frames; nan below 161 pixels a side."""
    return _mean([image.ms_ssim(a, b) for a, b in zip(original.rgb, decoded.rgb, strict=True)])


def flicker(original: Footage, decoded: Footage) -> float:
    """Flicker in still areas, in grey levels: how differently from the original's a pixel's luma changes between frames.

    It is the mean absolute value of (b' - b) - (a' - a), where a and a' are the luma of a pixel of the original in one frame
    and the next, b and b' the decoded's: 0 where every change is the original's, and also where an error stays as it is.
    Areas are still where a block of 8x8 pixels of the original changes by at most 2 levels on average; nan without any.
    """
    import numpy as np

    total, count = 0.0, 0
    for first in range(len(original.rgb) - 1):
        a, b = (_change(footage, first, original) for footage in (original, decoded))
        blocks = _blocks(np.abs(a))
        still = blocks <= STILL_CHANGE
        total += float(_blocks(np.abs(b - a))[still].sum(dtype=np.float64))
        count += int(still.sum())
    return total / count if count else math.nan


def _change(footage: Footage, first: int, original: Footage) -> np.ndarray:
    """Luma of a frame less that of the one before."""
    before, after = luma_of(footage.rgb[first : first + 2], original.colours)
    return after - before


def _blocks(values: np.ndarray) -> np.ndarray:
    """Means of whole blocks."""
    rows, columns = (side // STILL_BLOCK for side in values.shape)
    whole = values[: rows * STILL_BLOCK, : columns * STILL_BLOCK]
    return whole.reshape(rows, STILL_BLOCK, columns, STILL_BLOCK).mean((1, 3))


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)
