"""Measures of quality that tasks of several kinds of signal share."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def psnr_db(original: np.ndarray, decoded: np.ndarray, peak: float = 255.0) -> float:
    """Peak signal-to-noise ratio of two arrays of one shape, over all their elements; 100 for equal ones."""
    import numpy as np

    mse = float(np.mean((original.astype(np.float64) - decoded) ** 2))
    return 10 * math.log10(peak**2 / mse) if mse else 100.0


def similarity_db(value: float) -> float:
    """A similarity of at most 1, like MS-SSIM, in decibels as the field plots it; 100 for equal signals."""
    return -10 * math.log10(max(1 - value, 1e-10))
