"""The coders of one chunk: `Write`, `Read` and `Measure` with three more verbs, made for speed on rows.

A chunk holds an entropy-coded part and a raw part, and a mode's coding pass is written once for all three coders:

- ``raw(values, shape, dtype)``: little-endian numbers, as they are;
- ``symbols(values, shape)``: bytes under an order-0 table that is itself in the raw part;
- ``rows(values, level)``: integers of shape (rows, columns), every row under the Gaussian table of its level;
- ``vector(values, count)``: a few integers (side information): an offset, a level, then one row.

Each returns what the decoder knows; ``values`` is ignored by `Read`. A row costs one gather instead of a sort of
its symbols, which is what lets a cache be coded at 100 MB/s and more on one core.

Layout of a chunk, little-endian: number of 32-bit words of the entropy-coded part (4 bytes), those words, raw part.
"""

from __future__ import annotations

import struct
from functools import cache
from pathlib import Path

import constriction
import numpy as np
from safetensors.numpy import load

from ...entropy_models.errors import Corrupt, Truncated
from ...entropy_models.tables import (
    ESCAPE_EXPONENTS,
    LEVELS,
    SCALE_MIN,
    TOTAL,
    Tables,
    categorical,
    escape_counts,
    scale_ratio,
)
from .pairs import pairs_of

TABLES_FILE = Path(__file__).with_name("gaussian.safetensors")
SYMBOL_TOTAL = 1 << 16
"""Counts of an order-0 table, as stored, add up to this."""
_WORDS = struct.Struct("<I")
_EXPONENT = categorical(escape_counts())
_EXPONENT_BITS = np.append(np.arange(1, ESCAPE_EXPONENTS), ESCAPE_EXPONENTS - 1)
_SIGN = constriction.stream.model.Uniform(2)


@cache
def tables() -> Tables:
    """Gaussian tables of the 64 levels, integers read from the package; level 0 is not coded."""
    stored = load(TABLES_FILE.read_bytes())
    ends = np.cumsum(2 * stored["reach"].astype(np.int64) + 2)
    return Tables(np.split(stored["counts"].astype(np.int64), ends[:-1]), int(stored["skip_level"][0]))


def level_of(deviation: np.ndarray) -> np.ndarray:
    """Nearest odd level of a standard deviation in steps, uint8, 1..63: half the calls, for 0.003 bits a symbol."""
    position = np.log(np.maximum(deviation, 1e-9) / SCALE_MIN) / scale_ratio()
    return np.clip(2 * np.rint((position - 1) / 2) + 1, 1, LEVELS - 1).astype(np.uint8)


def _runs(level: np.ndarray) -> tuple[np.ndarray, list[tuple[int, slice]]]:
    """Rows sorted by level, and the slice of each coded level among them."""
    counts = np.bincount(level, minlength=LEVELS)
    ends = np.cumsum(counts)
    return np.argsort(level, kind="stable"), [
        (int(i), slice(int(ends[i] - counts[i]), int(ends[i]))) for i in np.flatnonzero(counts) if i
    ]


def symbol_counts(values: np.ndarray) -> tuple[int, np.ndarray]:
    """Lowest symbol present and 16-bit counts of it and those above: positive, summing to `SYMBOL_TOTAL`."""
    histogram = np.bincount(values.ravel(), minlength=1)
    low = int(np.flatnonzero(histogram)[0])
    share = histogram[low:].astype(np.int64)
    counts = np.maximum(share * SYMBOL_TOTAL // share.sum(), 1)
    counts[np.argmax(counts)] += SYMBOL_TOTAL - counts.sum()
    return low, counts


class WriteRows:
    """Builds one chunk."""

    writing = True

    def __init__(self) -> None:
        self.tables = tables()
        self._encoder = constriction.stream.queue.RangeEncoder()
        self._raw: list[bytes] = []

    def raw(self, values: np.ndarray, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        """Numbers of a little-endian numpy ``dtype``; returned as they will be read."""
        stored = np.ascontiguousarray(values, dtype).reshape(shape)
        self._raw.append(stored.tobytes())
        return stored

    def symbols(self, values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Bytes (uint8) under their own order-0 table."""
        low, counts = symbol_counts(values)
        self.raw(np.array([low, low + len(counts) - 1]), (2,), "u1")
        if len(counts) > 1:
            self.raw(counts, (len(counts),), "<u2")
            entries = values.ravel().astype(np.int32) - np.int32(low)
            self._encoder.encode(entries, categorical(counts * (TOTAL // SYMBOL_TOTAL)))
        return values.reshape(shape)

    def rows(self, values: np.ndarray, level: np.ndarray) -> np.ndarray:
        """int32 of shape (rows, columns); rows of level 0 must be zero."""
        order, runs = _runs(level)
        for index, run in runs:
            part = values[order[run]].reshape(-1)
            pairs = pairs_of(self.tables, index)
            if pairs is not None:
                entries, part = pairs.split(part)
                self._encoder.encode(entries, pairs.model)
            if len(part):
                self._singly(part, index)
        return values

    def _singly(self, part: np.ndarray, index: int) -> None:
        reach = int(self.tables.reach[index])
        beyond = part[np.abs(part) > reach] if part.min() < -reach or part.max() > reach else part[:0]
        if len(beyond):
            part = np.where(np.abs(part) > reach, np.int32(reach + 1), part)
        self._encoder.encode(part + np.int32(reach), self.tables.models[index])
        if len(beyond):
            self._escapes(np.abs(beyond) - np.int32(reach), (beyond < 0).astype(np.int32))

    def _escapes(self, excess: np.ndarray, sign: np.ndarray) -> None:
        """Elias' gamma code of the excess over reach: exponents, then signs, then mantissas by exponent."""
        exponent = _exponent(excess)
        if exponent.max() >= ESCAPE_EXPONENTS:
            raise ValueError(f"a number of {excess.max()} steps beyond its table; at most {2**ESCAPE_EXPONENTS - 1}")
        self._encoder.encode(exponent, _EXPONENT)
        self._encoder.encode(sign, _SIGN)
        for e in np.unique(exponent[exponent > 0]):
            mantissa = excess[exponent == e] - np.int32(1 << int(e))
            self._encoder.encode(mantissa, constriction.stream.model.Uniform(1 << int(e)))

    def vector(self, values: np.ndarray, count: int) -> np.ndarray:
        """A few integers, int32, as offset + row."""
        offset, level = _vector_head(values)
        self.raw(np.array([offset]), (1,), "<i4")
        self.raw(np.array([level]), (1,), "u1")
        self.rows((values - offset).astype(np.int32)[None], np.array([level], np.uint8))
        return values

    def chunk(self) -> bytes:
        """The finished bytes."""
        words = self._encoder.get_compressed().astype("<u4").tobytes()
        return b"".join([_WORDS.pack(len(words) // 4), words, *self._raw])


class ReadRows:
    """Reads one chunk; raises BitstreamError for bytes that are not one."""

    writing = False

    def __init__(self, data: bytes) -> None:
        if len(data) < _WORDS.size:
            raise Truncated(f"a chunk of {len(data)} bytes; at least {_WORDS.size}")
        end = _WORDS.size + 4 * _WORDS.unpack_from(data)[0]
        if end > len(data):
            raise Truncated(f"a chunk of {len(data)} bytes whose entropy-coded part ends at {end}")
        self.tables = tables()
        words = np.frombuffer(data[_WORDS.size : end], "<u4").astype(np.uint32)
        self._decoder = constriction.stream.queue.RangeDecoder(words)
        self._data, self._at = data, end

    def raw(self, values: np.ndarray | None, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        """Next numbers of the raw part."""
        count, kind = int(np.prod(shape, dtype=np.int64)), np.dtype(dtype)
        end = self._at + count * kind.itemsize
        if end > len(self._data):
            raise Truncated(f"a chunk of {len(self._data)} bytes; its raw part needs {end}")
        found = np.frombuffer(self._data, kind, count, self._at).reshape(shape)
        self._at = end
        return found

    def symbols(self, values: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:
        """Inverse of `WriteRows.symbols`."""
        low, high = (int(x) for x in self.raw(None, (2,), "u1"))
        if low > high:
            raise Corrupt(f"symbol range {low}..{high}")
        if low == high:
            return np.full(shape, low, np.uint8)
        counts = self.raw(None, (high - low + 1,), "<u2").astype(np.int64)
        if counts.min() < 1 or counts.sum() != SYMBOL_TOTAL:
            raise Corrupt(f"order-0 table from {counts.min()}, sum {counts.sum()}; need 1 and {SYMBOL_TOTAL}")
        entries = self._decode(categorical(counts * (TOTAL // SYMBOL_TOTAL)), int(np.prod(shape)))
        return (entries + low).astype(np.uint8).reshape(shape)

    def rows(self, values: np.ndarray, level: np.ndarray) -> np.ndarray:
        """Inverse of `WriteRows.rows`; only the shape of ``values`` counts."""
        if level.size and int(level.max()) >= LEVELS:
            raise Corrupt(f"level {level.max()}; at most {LEVELS - 1}")
        order, runs = _runs(level)
        columns = values.shape[1]
        out = np.zeros(values.shape, np.int32)
        for index, run in runs:
            count = (run.stop - run.start) * columns
            pairs = pairs_of(self.tables, index)
            if pairs is None:
                part = self._singly(count, index)
            else:
                entries = self._decode(pairs.model, count // 2)
                single = pairs.single_count(entries, count)
                part = pairs.join(entries, self._singly(single, index) if single else entries[:0], count)
            out[order[run]] = part.reshape(-1, columns)
        return out

    def _singly(self, count: int, index: int) -> np.ndarray:
        reach = int(self.tables.reach[index])
        part = self._decode(self.tables.models[index], count)
        at = np.flatnonzero(part > 2 * reach) if part.max() > 2 * reach else part[:0]
        part -= np.int32(reach)
        if len(at):
            part[at] = self._escapes(len(at), reach)
        return part

    def _escapes(self, count: int, reach: int) -> np.ndarray:
        exponent = self._decode(_EXPONENT, count)
        sign = self._decode(_SIGN, count)
        excess = np.left_shift(np.int32(1), exponent, dtype=np.int32)
        for e in np.unique(exponent[exponent > 0]):
            where = exponent == e
            excess[where] += self._decode(constriction.stream.model.Uniform(1 << int(e)), int(where.sum()))
        return (np.int32(reach) + excess) * (1 - 2 * sign)

    def vector(self, values: np.ndarray | None, count: int) -> np.ndarray:
        """Inverse of `WriteRows.vector`."""
        offset = int(self.raw(None, (1,), "<i4")[0])
        level = self.raw(None, (1,), "u1")
        return self.rows(np.empty((1, count), np.int32), level)[0] + np.int32(offset)

    def finish(self) -> None:
        """Raise Corrupt if anything is left over."""
        if not self._decoder.maybe_exhausted():
            raise Corrupt("words are left over after a chunk's last symbol")
        if self._at != len(self._data):
            raise Corrupt(f"{len(self._data) - self._at} bytes are left over after a chunk's raw part")

    def _decode(self, model, count: int) -> np.ndarray:
        try:
            return self._decoder.decode(model, count)
        except AssertionError as error:  # constriction: "tried to decode from invalid compressed data"
            raise Corrupt(f"entropy decoder: {error}") from None


class MeasureRows:
    """Counts the ideal bits of one chunk in ``bits[0]``."""

    writing = True

    def __init__(self) -> None:
        self.tables = tables()
        self.bits = np.zeros(1)

    def raw(self, values: np.ndarray, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        """As `WriteRows.raw`."""
        stored = np.ascontiguousarray(values, dtype).reshape(shape)
        self.bits[0] += 8 * stored.nbytes
        return stored

    def symbols(self, values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """As `WriteRows.symbols`."""
        low, counts = symbol_counts(values)
        self.bits[0] += 16 + 16 * len(counts) * (len(counts) > 1)
        histogram = np.bincount(values.ravel(), minlength=low + len(counts))[low:]
        self.bits[0] -= (histogram * np.log2(counts / SYMBOL_TOTAL)).sum()
        return values.reshape(shape)

    def rows(self, values: np.ndarray, level: np.ndarray) -> np.ndarray:
        """As `WriteRows.rows`."""
        order, runs = _runs(level)
        for index, run in runs:
            part = values[order[run]].reshape(-1)
            pairs = pairs_of(self.tables, index)
            if pairs is not None:
                entries, part = pairs.split(part)
                self.bits[0] += pairs.bits[entries].sum()
            magnitude, reach = np.abs(part.astype(np.int64)), int(self.tables.reach[index])
            entries = np.where(magnitude > reach, 2 * reach + 1, part + reach)
            self.bits[0] += self.tables.bits[index][entries].sum()
            exponent = _exponent(magnitude[magnitude > reach] - reach)
            self.bits[0] += (_EXPONENT_BITS[exponent] + 1 + exponent).sum()
        return values

    def vector(self, values: np.ndarray, count: int) -> np.ndarray:
        """As `WriteRows.vector`."""
        offset, level = _vector_head(values)
        self.bits[0] += 40
        self.rows((values - offset).astype(np.int32)[None], np.array([level], np.uint8))
        return values


def _vector_head(values: np.ndarray) -> tuple[int, int]:
    """Offset and level of a short vector; level 0 only for a constant one."""
    offset = int(np.median(values))
    spread = values.astype(np.float64) - offset
    return offset, int(level_of(np.sqrt(np.mean(spread**2)))) if spread.any() else 0


def _exponent(excess: np.ndarray) -> np.ndarray:
    """floor(log2(excess)), int32, exact for 1..2^31 - 1."""
    return (np.frexp(excess.astype(np.float64))[1] - 1).astype(np.int32)
