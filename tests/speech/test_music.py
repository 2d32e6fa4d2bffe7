"""Music is told from speech; on recordings of speech see docs/speech.md."""

from __future__ import annotations

import numpy as np
import pytest
from rdcodec.codecs.speech.music import RATE, SHARE, MusicMeter
from rdcodec.codecs.speech.resampling import resampled
from voices import voice

TIME = np.arange(6 * RATE) / RATE


def share(samples: np.ndarray, block: int = 3001) -> float:
    meter = MusicMeter()
    for start in range(0, len(samples), block):
        meter.push(samples[start : start + block].astype(np.float32))
    return meter.share


def melody(note_s: float, seed: int = 0) -> np.ndarray:
    """Six seconds of plucked notes of six harmonics, two octaves."""
    random, parts = np.random.default_rng(seed), []
    time = np.arange(int(note_s * RATE)) / RATE
    for _ in range(int(6 / note_s)):
        hertz = 220 * 2 ** (random.integers(24) / 12)
        parts.append(sum(np.sin(2 * np.pi * n * hertz * time) / n for n in range(1, 7)) * np.exp(-2 * time))
    return np.concatenate(parts)


@pytest.mark.parametrize(
    "samples",
    [
        np.sin(2 * np.pi * 440 * TIME),
        sum(np.sin(2 * np.pi * hertz * TIME) for hertz in (262, 330, 392)),
        melody(0.3),
        melody(0.8) + 0.02 * np.random.default_rng(0).standard_normal(len(melody(0.8))),
    ],
    ids=["tone", "chord", "melody", "slow melody in noise"],
)
def test_tones_that_stay_are_music(samples):
    assert share(samples) > SHARE * 1.1


@pytest.mark.parametrize("pitch_hz", [90, 120, 220])
def test_voices_are_not(pitch_hz):
    assert share(resampled(voice(6.0, seed=1, pitch_hz=pitch_hz)[None], 16000, RATE)[0]) < SHARE / 1.5


def test_a_synthetic_voice_noise_and_silence_are_not(voice):
    noise = np.random.default_rng(0).standard_normal(6 * RATE)
    assert max(share(resampled(voice[None], 16000, RATE)[0]), share(noise), share(np.zeros(6 * RATE))) < SHARE / 1.5


@pytest.mark.parametrize("constant", [0.5, -1.0, 0.1])
def test_a_constant_is_not(constant):
    """The window leaves something of it in every spectrum, always the same."""
    assert share(np.full(6 * RATE, constant)) == 0
    hum = 1e-5 * np.sin(2 * np.pi * 440 * TIME)
    assert share(constant + hum) == 0 and share(constant + 1e4 * hum) > SHARE


def test_the_measure_does_not_depend_on_blocks_much_and_needs_a_second_and_a_half():
    notes = melody(0.4)
    assert share(notes, 100) == pytest.approx(share(notes, 10_000), abs=0.02)
    assert share(np.sin(2 * np.pi * 440 * TIME[: 7 * RATE // 5])) == 0
