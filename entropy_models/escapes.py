"""Escapes: symbols beyond the reach of their table, as Elias' gamma code of their excess over it (1 or more), with a sign.

Of all escapes of a call, in the order of their symbols: the exponents, floor(log2(excess)), under one table; then the
signs, 1 for minus; then, by rising exponent e, the mantissas of those that have it: excess - 2^e, e bits each.
An excess lies in 1..`EXCESS_MAX`, as far as float32 counts exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import constriction
import numpy as np

from .tables import TOTAL, Model, categorical

EXPONENTS = 24
EXCESS_MAX = 2**EXPONENTS - 1


def exponent_counts() -> np.ndarray:
    """Counts of the exponents' table, int64 (EXPONENTS,): halves, as in Elias' gamma code, and the rest for the last."""
    counts = np.maximum(TOTAL >> np.arange(1, EXPONENTS + 1), 1)
    counts[-1] += TOTAL - counts.sum()
    return counts


_EXPONENT = categorical(exponent_counts())
_EXPONENT_BITS = np.append(np.arange(1, EXPONENTS), EXPONENTS - 1)
_SIGN = constriction.stream.model.Uniform(2)
_MANTISSA = {e: constriction.stream.model.Uniform(1 << e) for e in range(1, EXPONENTS)}


def calls(excess: np.ndarray, sign: np.ndarray) -> Iterator[tuple[np.ndarray, Model, np.ndarray | int]]:
    """What an encoder codes, call by call: entries (int32), their model, ideal bits of each of its entries, or of all alike.

    Args:
        excess: int32 (escapes,), at least one, 1..`EXCESS_MAX`.
        sign: int32 (escapes,), 1 for minus.
    """
    exponent = (np.frexp(excess.astype(np.float64))[1] - 1).astype(np.int32)
    yield exponent, _EXPONENT, _EXPONENT_BITS
    yield sign, _SIGN, 1
    for e in _with_mantissa(exponent):
        yield excess[exponent == e] - np.int32(1 << e), _MANTISSA[e], e


def read(decode: Callable[[Model, int], np.ndarray], reach: np.ndarray) -> np.ndarray:
    """The symbols beyond the reach of their tables, int32 (escapes,); inverse of `calls`.

    Args:
        decode: model and count to so many entries, int32.
        reach: of each symbol's table, int32 (escapes,), at least one.
    """
    exponent, sign = decode(_EXPONENT, len(reach)), decode(_SIGN, len(reach))
    excess = np.left_shift(np.int32(1), exponent, dtype=np.int32)
    for e in _with_mantissa(exponent):
        where = exponent == e
        excess[where] += decode(_MANTISSA[e], int(np.count_nonzero(where)))
    return (reach + excess) * (1 - 2 * sign)


def ideal_bits(entries: np.ndarray, bits: np.ndarray | int) -> float:
    """Bits of entries in all, from the bits of each of a model's entries, or of all alike."""
    return float(bits[entries].sum() if isinstance(bits, np.ndarray) else bits * len(entries))


def _with_mantissa(exponent: np.ndarray) -> list[int]:
    """The exponents there are, rising, but for 0, whose only excess is 1."""
    return (np.bincount(exponent)[1:].nonzero()[0] + 1).tolist()
