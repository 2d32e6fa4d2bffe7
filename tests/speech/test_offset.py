"""A constant in a sound is told of where it is most of it."""

from __future__ import annotations

import numpy as np
import pytest
from rdcodec.codecs.speech.offset import OffsetMeter
from voices import voice


def offset(samples: np.ndarray, block: int = 999) -> float:
    meter = OffsetMeter()
    rows = np.atleast_2d(samples).astype(np.float32)
    for start in range(0, rows.shape[1], block):
        meter.push(rows[:, start : start + block])
    return meter.offset


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        (np.full(5000, 0.5), 0.5),
        (voice(1.0) - 0.4, -0.4),
        (np.stack([voice(1.0), np.full(16000, -0.25)]), -0.25),
        (np.stack([np.full(5000, 0.5), np.full(5000, -0.5)]), 0.5),
        (voice(1.0) + 0.01, 0.0),
        (np.full(5000, 1 / 32768), 0.0),
        (np.zeros(5000), 0.0),
        (np.zeros(0), 0.0),
        (np.full(1, 0.5), 0.0),
    ],
)
def test_the_constant_that_is_most_of_a_channel(samples, expected):
    assert offset(samples) == pytest.approx(expected, abs=0.01)
