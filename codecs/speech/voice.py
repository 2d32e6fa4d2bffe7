"""A synthetic voice, for want of a recording: a source and formant filters after Klatt (JASA 67, 1980), much simplified.

It has pitch, vowels, fricatives and pauses, and no words. It sounds like a machine, and speech codecs are made for people:
quality on it says little about quality on recordings.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.signal import lfilter

from .header import SAMPLE_RATE

VOWELS = {
    "a": (730, 1090, 2440), "e": (530, 1840, 2480), "i": (270, 2290, 3010), "o": (570, 840, 2410), "u": (300, 870, 2240),
}  # fmt: skip
"""Formants in Hz, of men (Peterson and Barney, JASA 24, 1952)."""
BANDWIDTHS = (60, 90, 150)
NOISES = {"s": (5200, 1400), "x": (2800, 900)}
"""Centre and bandwidth of fricatives in Hz."""
SYLLABLES = "sa e xi . o su xa . e so i xe . a"
"""A vowel each, after a fricative or none; a dot is a pause."""
GLIDE_S = 0.06
"""Seconds in which formants go from one vowel to the next."""


def synthetic_voice(seed: int = 0) -> np.ndarray:
    """Some four seconds of it, float32 (n,) at 16 kHz, the same every time."""
    rng = np.random.default_rng(seed)
    parts, position = [], 0.0
    for syllable in SYLLABLES.split():
        if syllable == ".":
            parts.append(np.zeros(int(0.22 * SAMPLE_RATE)))
            continue
        before, vowel = syllable[:-1], syllable[-1]
        parts += [_noise(NOISES[one], rng) for one in before]
        pitch = 128 - 22 * position + 10 * math.sin(7 * position)
        parts.append(_vowel(VOWELS[vowel], pitch, rng))
        position += 0.1
    voice = np.concatenate(parts) + 1e-4 * rng.standard_normal(sum(map(len, parts)))  # a room is never quite still
    return (0.5 * voice / np.abs(voice).max()).astype(np.float32)


def _vowel(formants: tuple[int, ...], pitch: float, rng: np.random.Generator) -> np.ndarray:
    """Pulses of a falling pitch through three resonators, which glide from a neutral vowel."""
    count = int(0.26 * SAMPLE_RATE)
    time = np.arange(count) / SAMPLE_RATE
    phase = np.cumsum(pitch * (1.06 - 0.4 * time) * (1 + 0.004 * rng.standard_normal(count))) / SAMPLE_RATE
    source = np.diff(np.floor(phase), prepend=0.0) + 0.004 * rng.standard_normal(count)
    source = lfilter([1.0], [1.0, -1.6, 0.64], source)  # the spectrum of a glottis falls by 12 dB an octave
    glide = np.minimum(1, time / GLIDE_S)
    out, block = source, SAMPLE_RATE // 200
    for target, neutral, width in zip(formants, (500, 1500, 2500), BANDWIDTHS, strict=True):
        frequency = neutral + (target - neutral) * glide
        state, pieces = np.zeros(2), []
        for start in range(0, count, block):
            piece, state = lfilter(*_resonator(float(frequency[start]), width), out[start : start + block], zi=state)
            pieces.append(piece)
        out = np.concatenate(pieces)
    radiated = np.diff(out, prepend=0.0)
    return radiated / np.abs(radiated).max() * _fade(count)


def _noise(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A fricative."""
    count = int(0.11 * SAMPLE_RATE)
    noise = lfilter(*_resonator(*shape), rng.standard_normal(count))
    return 0.22 * noise / np.abs(noise).max() * _fade(count)


def _resonator(frequency: float, width: float) -> tuple[list[float], list[float]]:
    """Coefficients of a two-pole resonator."""
    radius = math.exp(-math.pi * width / SAMPLE_RATE)
    b, c = 2 * radius * math.cos(2 * math.pi * frequency / SAMPLE_RATE), -(radius**2)
    return [1 - b - c], [1.0, -b, -c]


def _fade(count: int) -> np.ndarray:
    """Rising for 20 ms and falling for 40."""
    time = np.arange(count) / SAMPLE_RATE
    return np.minimum(1, np.minimum(time / 0.02, (time[-1] - time) / 0.04))
