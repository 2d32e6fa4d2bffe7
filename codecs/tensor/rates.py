"""Steps for a rate or an error: found on a part of every tensor, without a stream."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from ...entropy_models.trellis import TRELLIS_CODERS, lengths, stored_weights
from . import trellis
from .coding import EXACT, LOSSY, Given, Piece, code
from .header import Entry
from .sources import Source
from .torch_types import floats_of

ELEMENTS_MIN = 1024
"""Elements of the smallest tensor that is quantised."""
_QUALITY_STEP = 0.125
"""Step over a tensor's root mean square at quality 60: 4 bits a weight, 24 dB. Ten points are a bit."""
_SAMPLE, _RUN = 1 << 14, 1 << 8
_ROUNDS = 5
_BITS_SEEN = 7.0
"""Bits up to which a sample shows the entropy of all: finer numbers are too many to come up in it."""
_STEP_MIN, _STEP_MAX = 2.0**-14, 4.0
_SPREAD_MIN, _SPREAD_MAX = 1e-30, 1e30
"""Root mean squares that float32 has steps and sums for."""
_BIT_DB = 20 * math.log10(2)


Measure = Callable[[np.ndarray, np.ndarray, float], float]


def is_quantised(entry: Entry) -> bool:
    """Whether lossy modes quantise a tensor: matrices and the like; norms and biases stay exact, they weigh nothing."""
    return entry.dtype in LOSSY and len(entry.shape) > 1 and entry.elements >= ELEMENTS_MIN


def step_of_quality(quality: int) -> float:
    """Step over the root mean square."""
    return _QUALITY_STEP * 2 ** ((60 - quality) / 10)


def spreads_of(source: Source) -> tuple[dict[str, float], tuple[str, ...]]:
    """Root mean squares of the tensors to quantise, by name; notices of those that stay exact instead, or if there are none.

    All are read. A tensor of zeros alone needs no quantiser, and is in neither.
    """
    spreads, notices = dict[str, float](), list[str]()
    matrices = [entry for entry in source.index.entries if is_quantised(entry)]
    if not matrices:
        notices.append(f"no matrix of {ELEMENTS_MIN} floating-point numbers or more; all is stored bit for bit")
    for entry in matrices:
        found = _root_mean_square(source, entry)
        if _SPREAD_MIN < found < _SPREAD_MAX:
            spreads[entry.name] = found
        elif found:
            why = (
                f"of some {found:.0e}, which float32 has no steps for"
                if math.isfinite(found)
                else "not finite, or beyond float32"
            )
            notices.append(f"{entry.name}: numbers {why}; stored bit for bit")
    return spreads, tuple(notices)


def _root_mean_square(source: Source, entry: Entry) -> float:
    """Of all numbers of a tensor; not finite where one is not."""
    energy = 0.0
    for index in range(entry.pieces):
        energy += float(np.square(floats_of(source.words(entry, entry.piece(index)), entry.dtype), dtype=np.float64).sum())
    return math.sqrt(energy / entry.elements)


def step_of_bits(source: Source, spreads: Mapping[str, float], bits: float) -> float:
    """Step over the root mean square that makes so many bits a quantised weight, by the entropy on samples."""
    return _found(source, spreads, min(bits, _BITS_SEEN), _bits, lambda mean: mean) * 2 ** min(_BITS_SEEN - bits, 0)


def step_of_snr(source: Source, spreads: Mapping[str, float], snr_db: float) -> float:
    """Step over the root mean square that makes so many decibels: squared errors over mean squares."""
    return _found(source, spreads, snr_db / _BIT_DB, _relative_error, lambda mean: -math.log2(max(mean, 1e-30)) / 2)


def cheaper_exact(source: Source, spreads: Mapping[str, float], step: float) -> set[str]:
    """Names of the tensors that take no more bits exact than in steps, like masks and constants; by samples."""
    found = set()
    for entry in source.index.entries:
        if entry.name in spreads:
            words = _sampled_words(source, entry)
            coder = TRELLIS_CODERS.write()
            code(coder, EXACT, Piece(dtype=entry.dtype, count=len(words), columns=len(words)), Given(words=words))
            scaled = floats_of(words, entry.dtype) / np.float32(spreads[entry.name] * step)
            if 8 * len(coder.chunk()) <= len(words) * _bits(scaled, trellis.quantised(scaled), step):
                found.add(entry.name)
    return found


def _bits(scaled: np.ndarray, integers: np.ndarray, step: float) -> float:
    magnitudes = np.abs(integers)
    cost = lengths(stored_weights(magnitudes))
    return float(cost[np.minimum(magnitudes, len(cost) - 1)].mean())


def _relative_error(scaled: np.ndarray, integers: np.ndarray, step: float) -> float:
    return float(np.square(scaled - integers).mean()) * step * step


def _found(
    source: Source, spreads: Mapping[str, float], wanted: float, measure: Measure, in_bits: Callable[[float], float]
) -> float:
    """Search: a halved step makes a bit more, so that each round starts from the error of the last."""
    entries = [entry for entry in source.index.entries if entry.name in spreads]
    samples = [(entry.elements, _sample(source, entry, spreads[entry.name])) for entry in entries]
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


def _sample(source: Source, entry: Entry, spread: float) -> np.ndarray:
    """Numbers from all over a tensor, over its root mean square; float32."""
    return floats_of(_sampled_words(source, entry), entry.dtype) / np.float32(spread)


def _sampled_words(source: Source, entry: Entry) -> np.ndarray:
    """Runs of words from all over a tensor, none twice."""
    if entry.words <= _SAMPLE:
        return source.words(entry, range(entry.words))
    starts = np.linspace(0, entry.words - _RUN, _SAMPLE // _RUN).astype(np.int64)
    return np.concatenate([source.words(entry, range(start, start + _RUN)) for start in starts.tolist()])
