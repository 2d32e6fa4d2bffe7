"""A constant in a sound, which the codec does not keep: it lies below what is heard, and below what the model was shown."""

from __future__ import annotations

import numpy as np

LEAST = 1e-3
"""Offsets up to this, -60 dB, are those of any converter."""
FRAMES_LEAST = 1000
"""Of a shorter sound nothing can be said."""


class OffsetMeter:
    """Mean of each channel of a sound, which comes by blocks, beside what varies."""

    def __init__(self) -> None:
        self._frames, self._sum, self._squares = 0, np.zeros(1), np.zeros(1)

    def push(self, block: np.ndarray) -> None:
        """Take in float32 (channels, n)."""
        self._frames += block.shape[1]
        self._sum = self._sum + block.sum(axis=1, dtype=np.float64)
        self._squares = self._squares + np.einsum("cn,cn->c", block, block, dtype=np.float64)

    @property
    def offset(self) -> float:
        """The largest mean of a channel with more power than what varies in it; 0.0: there is none."""
        if self._frames < FRAMES_LEAST:
            return 0.0
        means = self._sum / self._frames
        varying = self._squares / self._frames - np.square(means)
        found = means[(np.abs(means) > LEAST) & (np.square(means) > varying)]
        return float(found[np.abs(found).argmax()]) if found.size else 0.0
