"""Footage that the tests share: a texture that slides below a still one."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from rdcodec.codecs.video.footage import Colours, Footage


def texture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Smooth noise in colour, float (height, width, 3), 40 to 215."""
    coarse = rng.uniform(40, 215, (height // 8 + 2, width // 8 + 2, 3))
    rows, columns = np.arange(height) / 8, np.arange(width) / 8
    top, left = rows.astype(int), columns.astype(int)
    down, right = (rows - top)[:, None, None], (columns - left)[None, :, None]
    upper, lower = (coarse[top + i][:, left] * (1 - right) + coarse[top + i][:, left + 1] * right for i in range(2))
    return upper * (1 - down) + lower * down


@pytest.fixture(scope="session")
def moving() -> Footage:
    """40 frames of 192x176 at 30 a second: the upper half is still, the lower slides by two pixels a frame; BT.709."""
    rng = np.random.default_rng(17)
    still, wide = texture(rng, 88, 192), texture(rng, 88, 192 + 80)
    frames = [np.concatenate([still, wide[:, 2 * i : 2 * i + 192]]) for i in range(40)]
    return Footage(np.rint(np.stack(frames)).astype(np.uint8), Fraction(30), Colours(1))
