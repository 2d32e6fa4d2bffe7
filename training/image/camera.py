"""Softness of a camera's own files: softer than pictures scaled down, with colour at half the resolution."""

from __future__ import annotations

import numpy as np
from PIL import Image

ENLARGEMENT_MAX = 1.8
"""Pixels of a sensor are interpolated from one colour each, through a lens; scaled down by so much they are sharp."""
_SHARE = 0.6
"""Share of the crops that are enlarged, and of those whose colour loses resolution."""


def with_camera_softness(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A crop, uint8 (rows, columns, 3), with a part of it enlarged to its size, or 4:2:0 chroma, or both, or neither."""
    size = image.shape[1], image.shape[0]
    picture = Image.fromarray(image)
    if rng.random() < _SHARE:
        part = 1 / rng.uniform(1, ENLARGEMENT_MAX)
        picture = picture.resize(size, Image.Resampling.BICUBIC, box=(0, 0, size[0] * part, size[1] * part))
    if rng.random() < _SHARE:
        luma, *chroma = picture.convert("YCbCr").split()
        chroma = [plane.reduce(2).resize(size, Image.Resampling.BICUBIC) for plane in chroma]
        picture = Image.merge("YCbCr", (luma, *chroma)).convert("RGB")
    return np.array(picture)
