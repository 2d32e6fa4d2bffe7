"""Steps for a rate or an error: found on a part of every tensor, without a stream."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ...entropy_models.errors import InputError
from ...entropy_models.trellis import lengths, stored_weights
from . import trellis
from .coding import LOSSY
from .header import Entry
from .sources import Source
from .torch_types import floats_of

ELEMENTS_MIN = 1024
"""Elements of the smallest tensor that is quantised."""
_QUALITY_STEP = 0.125
"""Step over a tensor's root mean square at quality 60: 4 bits a weight, 24 dB. Ten points are a bit."""
_SAMPLE, _RUN = 1 << 14, 1 << 8
_ROUNDS = 5
_STEP_MIN, _STEP_MAX = 2.0**-14, 4.0
_BIT_DB = 20 * math.log10(2)


Measure = Callable[[np.ndarray, np.ndarray, float], float]


def is_quantised(entry: Entry) -> bool:
    """Whether lossy modes quantise a tensor: matrices and the like; norms and biases stay exact, they weigh nothing."""
    return entry.dtype in LOSSY and len(entry.shape) > 1 and entry.elements >= ELEMENTS_MIN


def step_of_quality(quality: int) -> float:
    """Step over the root mean square."""
    return _QUALITY_STEP * 2 ** ((60 - quality) / 10)


def root_mean_square(source: Source, entry: Entry) -> float:
    """Of all numbers of a tensor.

    Raises:
        InputError: one is not finite.
    """
    energy = 0.0
    for index in range(entry.pieces):
        energy += float(np.square(floats_of(source.words(entry, entry.piece(index)), entry.dtype), dtype=np.float64).sum())
    if not math.isfinite(energy):
        raise InputError(f"{entry.name}: numbers that are not finite; mode lossless takes them")
    return math.sqrt(energy / entry.elements)


def step_of_bits(source: Source, bits: float) -> float:
    """Step over the root mean square that makes so many bits a quantised weight, by the entropy on samples."""
    return _found(source, bits, _bits, lambda mean: mean)


def step_of_snr(source: Source, snr_db: float) -> float:
    """Step over the root mean square that makes so many decibels: squared errors over mean squares."""
    return _found(source, snr_db / _BIT_DB, _relative_error, lambda mean: -math.log2(max(mean, 1e-30)) / 2)


def _bits(scaled: np.ndarray, integers: np.ndarray, step: float) -> float:
    magnitudes = np.abs(integers)
    cost = lengths(stored_weights(magnitudes))
    return float(cost[np.minimum(magnitudes, len(cost) - 1)].mean())


def _relative_error(scaled: np.ndarray, integers: np.ndarray, step: float) -> float:
    return float(np.square(scaled - integers).mean()) * step * step


def _found(source: Source, wanted: float, measure: Measure, in_bits: Callable[[float], float]) -> float:
    """Search: a halved step makes a bit more, so that each round starts from the error of the last."""
    samples = [(entry.elements, _sample(source, entry)) for entry in source.index.entries if is_quantised(entry)]
    samples = [(size, sample) for size, sample in samples if sample.any()]
    if not samples:
        return _QUALITY_STEP
    step, whole = _QUALITY_STEP * 2.0 ** (4 - wanted), sum(size for size, _ in samples)
    for _ in range(_ROUNDS):
        step = min(max(step, _STEP_MIN), _STEP_MAX)
        total = 0.0
        for size, sample in samples:
            scaled = sample / np.float32(step)
            total += size * measure(scaled, trellis.quantised(scaled), step)
        found = in_bits(total / whole)
        if abs(found - wanted) < 0.003:
            break
        step *= 2.0 ** (found - wanted)
    return step


def _sample(source: Source, entry: Entry) -> np.ndarray:
    """Runs of numbers from all over a tensor, over its root mean square; float32."""
    starts = np.linspace(0, max(entry.words - _RUN, 0), _SAMPLE // _RUN).astype(np.int64)
    runs = [source.words(entry, range(start, min(start + _RUN, entry.words))) for start in np.unique(starts).tolist()]
    sample = floats_of(np.concatenate(runs), entry.dtype)
    return sample / np.float32(max(root_mean_square(source, entry), 1e-30))
