"""Drawn pictures that several tests use. No tests here."""

from __future__ import annotations

import numpy as np


def make_scene(height: int, width: int, channels: int = 3, seed: int = 7) -> np.ndarray:
    """A ramp with edges and seeded grain, uint8 (height, width, channels)."""
    y, x = np.mgrid[:height, :width]
    rng = np.random.default_rng(seed)
    planes = [
        np.clip(3 * x * (c + 1) / 2 + 2 * y + 60 * (x > width // 2) - 40 * (y > x) + rng.normal(0, 5, x.shape), 0, 255)
        for c in range(channels)
    ]
    return np.stack(planes, axis=-1).astype(np.uint8)
