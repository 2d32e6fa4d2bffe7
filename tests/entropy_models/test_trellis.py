"""Trellis-coded numbers: the integers come back, at the length that the tables say, half a decibel from the bound."""

from __future__ import annotations

import math

import numpy as np
import pytest
from rdcodec.codecs.tensor.trellis import quantised
from rdcodec.entropy_models.errors import BitstreamError, Corrupt
from rdcodec.entropy_models.trellis import NEXT, MeasureTrellis, ReadTrellis, WriteTrellis, lanes_of

RANDOM = np.random.default_rng(7)


def written(integers: np.ndarray) -> bytes:
    coder = WriteTrellis()
    coder.trellis(integers, len(integers))
    return coder.chunk()


def read(chunk: bytes, count: int) -> np.ndarray:
    coder = ReadTrellis(chunk)
    found = coder.trellis(None, count)
    coder.finish()
    return found


@pytest.mark.parametrize("count", [1, 2, 255, 257, 4000, 70_000])
@pytest.mark.parametrize("step", [0.03, 0.3, 2.0, 9.0])
def test_integers_come_back_whatever_their_tails(count, step):
    scaled = (RANDOM.standard_normal(count) ** 3 / step).astype(np.float32)
    integers = quantised(scaled)
    assert np.array_equal(read(written(integers), count), integers)
    assert np.abs(integers - scaled).max() <= 4


def test_every_path_follows_the_states():
    integers = quantised((3 * RANDOM.standard_normal(5000)).astype(np.float32))
    state = np.zeros(lanes_of(5000), np.uint8)
    for start in range(0, 5000, len(state)):
        part = integers[start : start + len(state)]
        state = state[: len(part)]
        assert np.array_equal(part & 1, state & 1)
        state = NEXT[state, part >> 1 & 1]


@pytest.mark.parametrize("step", [0.06, 0.125, 0.25, 0.5])
def test_gaussian_numbers_are_half_a_decibel_from_the_bound(step):
    scaled = (RANDOM.standard_normal(1 << 17) / step).astype(np.float32)
    integers = quantised(scaled)
    bits = 8 * len(written(integers)) / len(scaled)
    snr_db = 10 * math.log10(np.square(scaled).mean() / np.square(scaled - integers).mean())
    assert 0.4 < 20 * math.log10(2) * bits - snr_db < 0.6
    meter = MeasureTrellis()
    meter.trellis(integers, len(integers))
    meter.finish()
    assert meter.bits[0] <= 8 * len(written(integers)) <= 1.002 * meter.bits[0] + 128


def test_forged_tables_are_refused():
    chunk = written(quantised((2 * RANDOM.standard_normal(3000)).astype(np.float32)))
    words = 4 + 4 * int.from_bytes(chunk[:4], "little")
    for size in (0, 2, 5000, 0xFFFF):
        forged = chunk[:words] + size.to_bytes(2, "little") + chunk[words + 2 :]
        with pytest.raises(BitstreamError):
            read(forged, 3000)
    with pytest.raises(Corrupt):
        read(chunk, 2999)
