"""Lengths and blocks of resampling."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rdcodec.codecs.speech.resampling import resampled, resampled_blocks, resampled_frames, span_for

INNER = 16000
RATES = (1000, 8000, 11025, 12000, 15999, 16000, 16001, 22050, 24000, 32000, 44100, 48000, 96000, 192000, 768000)


def noise(frames: int, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(frames).standard_normal((channels, frames)).astype(np.float32) * 0.1


@pytest.mark.parametrize("rate", RATES)
def test_a_sound_comes_back_with_its_length(rate):
    for frames in (*range(1, 50), 999, 1000, 12345):
        there = resampled(noise(frames, 2), rate, INNER)
        assert there.shape == (2, resampled_frames(frames, rate, INNER)) and there.dtype == np.float32
        assert resampled(there, INNER, rate, frames).shape == (2, frames)


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 3000), st.integers(1000, 200_000), st.lists(st.integers(0, 900), max_size=8))
def test_samples_do_not_depend_on_blocks(frames, rate, sizes):
    samples = noise(frames)
    edges = np.minimum(np.cumsum(sizes), frames).astype(int)
    blocks = resampled_blocks(np.split(samples, edges, axis=1), rate, INNER, 1)
    np.testing.assert_array_equal(np.concatenate(list(blocks), axis=1), resampled(samples, rate, INNER))


@pytest.mark.parametrize("rate", RATES)
def test_a_part_is_what_the_whole_has_there(rate):
    inner = noise(2 * INNER)
    whole = resampled(inner, INNER, rate)
    for start, stop in ((0, 10), (rate // 3, rate + 7), (2 * rate - 9, 2 * rate)):
        span = span_for(start, stop, rate, INNER)
        part = resampled(inner[:, span.start : span.stop], INNER, rate)[:, span.skip : span.skip + stop - start]
        np.testing.assert_allclose(part, whole[:, start:stop], atol=1e-5)


def test_a_tone_stays_where_it_is():
    tone = np.sin(2 * np.pi * 440 * np.arange(44100) / 44100).astype(np.float32)[None]
    there = resampled(tone, 44100, INNER)
    np.testing.assert_allclose(there[0, 500:-500], np.sin(2 * np.pi * 440 * np.arange(500, 15500) / INNER), atol=1e-4)
    np.testing.assert_allclose(resampled(there, INNER, 44100, 44100)[0, 2000:-2000], tone[0, 2000:-2000], atol=1e-4)
