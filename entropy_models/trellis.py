"""Trellis-coded integers (entropy-coded TCQ; Fischer and Wang 1992, Marcellin 1994): a quantiser chosen by what came before.

Even integers and odd integers are two quantisers of twice the step. Which one the next number uses is the last bit of a
state of three bits (Ungerboeck's code of 8 states, parity polynomials 13 and 04 octal), which moves on with each number:

    quantiser = state & 1,   integer = 2 index + quantiser,   state = NEXT[state, index & 1]

A reader follows with a table; a writer looks for the best of all paths. The pairs of quantisers act like a code in many
dimensions, and come within half a decibel of the rate-distortion bound of a Gaussian at every rate, where scalar quantisers
with the same entropy coder stay 1.53 dB away.

Numbers of a block lie in lanes, each with a state that begins at 0: number i is step i // lanes of lane i % lanes. A step is
coded at once: first the lanes of quantiser 0, then those of quantiser 1. After all steps come the escapes.

Both quantisers have their table from the same weights, one for each magnitude 0..reach and one for what lies beyond it;
a weight is stored in a byte, ``(16 + (b & 15)) << (b >> 4)``. Entries of a table are its integers within the reach, rising,
then those beyond whose index is even, then odd; how far beyond, and the sign, is an escape (`escapes`).
"""

from __future__ import annotations

import numpy as np

from . import escapes
from .errors import Corrupt
from .row_coders import RowCoders
from .rows import MeasureRows, ReadRows, WriteRows
from .tables import TOTAL, Model, categorical

STATES = 8
NEXT = np.array([[0, 2], [5, 7], [1, 3], [4, 6], [2, 0], [7, 5], [3, 1], [6, 4]], np.uint8)
"""Next state by state and parity of the index."""
REACH_MAX = 1 << 11
STEPS = 256
"""Numbers of a lane."""
_BEYOND_PART = 2.0**-11
"""Share of numbers that may lie beyond the reach that a writer chooses."""


def lanes_of(count: int) -> int:
    """Number of lanes of a block of so many numbers."""
    return -(-count // STEPS)


class _Tables:
    """Both quantisers' tables from the weights' bytes: magnitudes 0..reach, then what lies beyond."""

    def __init__(self, stored: np.ndarray) -> None:
        code = stored.astype(np.int64)
        weight = (16 + (code & 15)) << (code >> 4)
        self.reach = len(stored) - 2
        self.values, self.models, self.bits = list[np.ndarray](), list[Model](), list[np.ndarray]()
        for quantiser in (0, 1):
            inside = np.arange(-self.reach, self.reach + 1)
            inside = inside[(inside & 1) == quantiser]
            share = np.append(weight[np.abs(inside)], [weight[-1], weight[-1]])
            counts = np.maximum(share * TOTAL // share.sum(), 1)
            counts[np.argmax(counts)] += TOTAL - counts.sum()
            self.values.append(inside.astype(np.int32))
            self.models.append(categorical(counts))
            self.bits.append(-np.log2(counts / TOTAL))

    def lengths(self) -> np.ndarray:
        """Bits of each magnitude within the reach, float64."""
        return np.array([self.bits[m & 1][np.searchsorted(self.values[m & 1], m)] for m in range(self.reach + 1)])

    def far(self, quantiser: int) -> int:
        """The highest magnitude of a quantiser within the reach."""
        return self.reach - (self.reach - quantiser) % 2


def stored_weights(magnitudes: np.ndarray) -> np.ndarray:
    """Bytes of the weights that fit numbers of these magnitudes, uint8. What lies beyond `REACH_MAX` is left to escapes."""
    histogram = np.bincount(np.minimum(magnitudes, REACH_MAX + 1), minlength=2)
    above = len(magnitudes) - np.cumsum(histogram)
    reach = min(max(int(np.argmax(above <= _BEYOND_PART * len(magnitudes))), 1), REACH_MAX)
    frequency = np.append(histogram[: reach + 1].astype(np.float64), above[reach] / 2)
    frequency[1:-1] /= 2  # of both signs
    scaled = np.maximum(frequency * (2.0**19 / max(frequency.max(), 1)), 16)
    exponent = np.floor(np.log2(scaled)).astype(np.int64) - 4
    mantissa = np.rint(scaled / 2.0**exponent).astype(np.int64) - 16
    return (exponent * 16 + mantissa).astype(np.uint8)


def lengths(stored: np.ndarray) -> np.ndarray:
    """Bits of each magnitude within the reach of these weights, float64."""
    return _Tables(stored).lengths()


class WriteTrellis(WriteRows):
    """Builds one chunk."""

    def trellis(self, values: np.ndarray, count: int) -> np.ndarray:
        """A block of integers, int32 (count,), that a path of states can give."""
        stored = stored_weights(np.abs(values))
        self.number(len(stored), "h")
        self.raw(stored, (len(stored),), "u1")
        tables, lanes = _Tables(stored), lanes_of(count)
        beyond = np.abs(values) > tables.reach
        quantiser = (values & 1).astype(np.uint8)
        parity = (values - quantiser >> 1) & 1
        low = np.array([part[0] for part in tables.values], np.int32)
        size = np.array([len(part) for part in tables.values], np.int32)
        entries = np.where(beyond, size[quantiser] + parity, values - low[quantiser] >> 1).astype(np.int32)
        for start in range(0, count, lanes):
            step = slice(start, start + lanes)
            odd = quantiser[step].view(bool)
            for which, mask in ((0, ~odd), (1, odd)):
                if len(part := entries[step][mask]):
                    self._encode(part, tables.models[which], tables.bits[which])
        if beyond.any():
            far = np.array([tables.far(0), tables.far(1)])[quantiser[beyond]]
            excess = (np.abs(values[beyond]) - far + 2 >> 2).astype(np.int32)  # 2 and 4 beyond differ in parity
            for call in escapes.calls(excess, (values[beyond] < 0).astype(np.int32)):
                self._encode(*call)
        return values


class MeasureTrellis(WriteTrellis, MeasureRows):
    """Counts the bits of one chunk."""


class ReadTrellis(ReadRows):
    """Reads one chunk."""

    def trellis(self, values: np.ndarray | None, count: int) -> np.ndarray:
        """Inverse of `WriteTrellis.trellis`."""
        size = self.number(None, "h")
        if not 3 <= size <= REACH_MAX + 2:
            raise Corrupt(f"{size} weights of a trellis' table; need 3 to {REACH_MAX + 2}")
        stored = self.raw(None, (size,), "u1")
        tables, lanes = _Tables(stored), lanes_of(count)
        found = []
        for which in (0, 1):  # the last two stand for escapes: integers beyond the reach whose index is even, then odd
            first = tables.far(which) + 2
            index_is_odd = (first - which) // 2 % 2
            found.append(np.append(tables.values[which], [first + 2 * index_is_odd, first + 2 - 2 * index_is_odd]))
        out, state = np.empty(count, np.int32), np.zeros(lanes, np.uint8)
        following = NEXT.reshape(-1)
        for start in range(0, count, lanes):
            part = out[start : start + lanes]
            state = state[: len(part)]
            odd = (state & 1).view(bool)
            ones = int(np.count_nonzero(odd))
            if ones < len(part):
                part[~odd] = found[0][self._decode(tables.models[0], len(part) - ones)]
            if ones:
                part[odd] = found[1][self._decode(tables.models[1], ones)]
            state = following[state << 1 | (part >> 1 & 1).astype(np.uint8)]
        self._fill_in(out, tables)
        return out

    def _fill_in(self, out: np.ndarray, tables: _Tables) -> None:
        """Read the escapes of a block, where ``out`` has integers beyond the reach."""
        at = np.flatnonzero(out > tables.reach)
        if not len(at):
            return
        signed = escapes.read(self._decode, np.zeros(len(at), np.int32))
        quantiser = out[at] & 1
        far = np.array([tables.far(0), tables.far(1)], np.int32)[quantiser]
        nearer = np.sign(signed) * (far + 4 * np.abs(signed) - 2)
        same = (nearer >> 1 & 1) == (out[at] >> 1 & 1)
        out[at] = np.where(same, nearer, nearer + 2 * np.sign(signed))


TRELLIS_CODERS = RowCoders(WriteTrellis, ReadTrellis, MeasureTrellis)
