"""Sounds for tests that are a little like speech: a buzz of gliding pitch through formants, hiss, pauses. No tests here."""

from __future__ import annotations

import numpy as np

RATE = 16000
VOWELS = ((730, 1090, 2440), (270, 2290, 3010), (300, 870, 2240), (530, 1840, 2480))
"""Formants in Hz: father, heed, who'd, head (Peterson & Barney, 1952)."""


def voice(duration_s: float, rate: int = RATE, seed: int = 0, pitch_hz: float = 120.0) -> np.ndarray:
    """Vowels of 0.3 s and hisses and pauses of 0.1 s in turn, float32 (n,), peak 0.3."""
    random, count = np.random.default_rng(seed), max(1, round(duration_s * rate))
    time = np.arange(count) / rate
    pitch = pitch_hz * (1 + 0.2 * np.sin(2 * np.pi * 1.3 * time + seed))
    phase = np.cumsum(pitch) / rate
    sound = np.zeros(count)
    place = time % 0.5
    for index, formants in enumerate(VOWELS):
        here = (np.floor(time / 0.5).astype(int) + seed) % len(VOWELS) == index
        vowel = np.zeros(count)
        for harmonic in range(1, int(3500 / pitch_hz)):
            hertz = harmonic * pitch
            gain = sum(1 / (1 + ((hertz - f) / (60 + f / 20)) ** 2) for f in formants)
            vowel += gain * np.sin(2 * np.pi * harmonic * phase)
        sound += here * vowel * (place < 0.3) * np.sin(np.pi * np.clip(place / 0.3, 0, 1))
    hiss = np.diff(random.standard_normal(count + 1))
    sound += 0.15 * hiss * ((place >= 0.32) & (place < 0.42))
    sound += 0.002 * random.standard_normal(count)
    return (0.3 * sound / max(1e-9, np.abs(sound).max())).astype(np.float32)


def drawn_by_integers(count: int, seed: int = 1) -> np.ndarray:
    """int16 (count,): a sawtooth and a square wave that swell, and noise, by integers alone: the same on every machine."""
    n = np.arange(count, dtype=np.int64)
    saw = (n * (seed + 1) * 97) % 16384 - 8192
    square = np.where((n * 211) % 16384 < 8192, 2000, -2000)
    noise = (n * n * 7919 + seed * 104729) % 997 - 498
    swell = np.minimum(n % 6400, 6400 - n % 6400)
    return ((saw + square) * swell // 6400 + noise).astype(np.int16)
