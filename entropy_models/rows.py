"""The coders of one chunk: `Write`, `Read` and `Measure` with three more verbs, made for speed on rows.

A chunk holds an entropy-coded part and a raw part, and a mode's coding pass is written once for all three coders:

- ``number(value, kind)``: one integer, as `struct` packs it; ``raw(values, shape, dtype)``: little-endian numbers;
- ``symbols(values, shape)``: bytes under an order-0 table that is itself in the raw part;
- ``rows(values, level)``: integers of shape (rows, columns), every row under the Gaussian table of its level;
- ``vector(values, count)``: a few integers (side information): an offset, a level, then one row.

Each returns what the decoder knows; ``values`` is ignored by `Read`. ``finish`` ends the chunk. A row costs one gather
instead of a sort of its symbols, which is what lets a cache be coded at 100 MB/s and more on one core.

The entropy coder is constriction's ANS: its decoder takes four fifths of the range decoder's time at the same length.
It is a stack, so the writer notes its calls down and makes them backwards at the end.

Order of ``rows``: sorted by level (stable; rows of level 0 are zero and not coded). Levels with a pair table come first:
in each row, column j of the first half and column j of the second half make one entry. Then, by level: the last columns of
rows of odd length, the symbols of pairs that reach beyond their table, and the rows of levels without a pair table.

Layout of a chunk, little-endian: number of 32-bit words of the entropy-coded part (4 bytes), those words, raw part.
"""

from __future__ import annotations

import math
import struct
from typing import Any

import constriction
import numpy as np

from . import escapes
from .errors import Corrupt, InputError, Truncated
from .gaussian import coarse_level, tables
from .pairs import Order, pairs_of
from .row_coders import RowCoders
from .tables import LEVELS, TOTAL, Model, categorical

SYMBOL_TOTAL = 1 << 16
"""Counts of an order-0 table, as stored, add up to this."""
_WORDS = struct.Struct("<I")
_VECTOR_HEAD = struct.Struct("<iB")
"""Offset and level."""
_NUMBERS = {kind: struct.Struct("<" + kind) for kind in "BhiI"}
WORD_BYTES = 4


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

    def __init__(self) -> None:
        self.tables = tables()
        self._calls: list[tuple[np.ndarray, Model]] = []
        self._raw: list[bytes] = []
        self._words = b""

    def number(self, value: int, kind: str) -> int:
        """One integer as `struct` packs it, little-endian."""
        self._raw.append(_NUMBERS[kind].pack(value))
        return value

    def raw(self, values: np.ndarray, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        """Numbers of a little-endian numpy ``dtype``; returned as they will be read."""
        stored = np.ascontiguousarray(values, dtype).reshape(shape)
        self._raw.append(stored.tobytes())
        return stored

    def symbols(self, values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Bytes (uint8) under their own order-0 table."""
        low, counts = symbol_counts(values)
        self.number(low, "B")
        self.number(low + len(counts) - 1, "B")
        if len(counts) > 1:
            self.raw(counts, (len(counts),), "<u2")
            entries = values.ravel().astype(np.int32) - np.int32(low)
            bits = -np.log2(counts / SYMBOL_TOTAL)
            self._encode(entries, categorical(counts * (TOTAL // SYMBOL_TOTAL)), bits)
        return values.reshape(shape)

    def rows(self, values: np.ndarray, level: np.ndarray) -> np.ndarray:
        """int32 of shape (rows, columns); rows of level 0 must be zero."""
        order = Order(level, self.tables)
        entries, singles = order.split(values[order.rows])
        for index, run in order.pairs:
            pairs = pairs_of(self.tables, index)
            self._encode(entries[run].reshape(-1), pairs.model, pairs.bits)
        for index, part in singles:
            self._singly(part, index)
        return values

    def _singly(self, part: np.ndarray, index: int) -> None:
        """Symbols of one level, int32, one by one."""
        entries, excess, sign = self._escaped(part, index)
        self._encode(entries, self.tables.models[index], self.tables.bits[index])
        if len(excess):
            for call in escapes.calls(excess, sign):
                self._encode(*call)

    def _escaped(self, part: np.ndarray, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Table entries; excess over the table's reach and sign of the symbols beyond it. All int32."""
        reach = self.tables.reach[index]
        entries = part + reach
        # as unsigned, what lies below zero lies far above; `max` as a method takes twice as long
        if np.maximum.reduce(entries.view(np.uint32)) <= 2 * reach:
            return entries, part[:0], part[:0]
        at = entries.view(np.uint32) > 2 * reach
        entries[at] = 2 * reach + 1
        beyond = part[at]
        excess = np.abs(beyond) - reach
        if excess.max() > escapes.EXCESS_MAX:
            raise InputError(f"a number of {excess.max()} steps beyond its table; at most {escapes.EXCESS_MAX}")
        return entries, excess, (beyond < 0).astype(np.int32)

    def vector(self, values: np.ndarray, count: int) -> np.ndarray:
        """A few integers, int32, as offset + row."""
        centred, offset, level = _vector_head(values)
        self.number(offset, "i")
        self.number(level, "B")
        if level:
            self._singly(centred, level)
        return values

    def _encode(self, entries: np.ndarray, model: Model, bits: np.ndarray | int) -> None:
        """``bits``: ideal length of each entry of the model, or of all alike; what `MeasureRows` wants."""
        self._calls.append((entries, model))

    def finish(self) -> None:
        """Run the entropy coder over all that was noted down, which frees it."""
        coder = constriction.stream.stack.AnsCoder()
        for entries, model in reversed(self._calls):
            coder.encode_reverse(entries, model)
        self._calls.clear()
        self._words = coder.get_compressed().astype("<u4").tobytes()

    def chunk(self) -> bytes:
        """The finished bytes."""
        if self._calls:
            self.finish()
        return b"".join([_WORDS.pack(len(self._words) // WORD_BYTES), self._words, *self._raw])


class ReadRows:
    """Reads one chunk; raises BitstreamError for bytes that are not one."""

    def __init__(self, data: bytes) -> None:
        if len(data) < _WORDS.size:
            raise Truncated(f"a chunk of {len(data)} bytes; at least {_WORDS.size}")
        end = _WORDS.size + WORD_BYTES * _WORDS.unpack_from(data)[0]
        if end > len(data):
            raise Truncated(f"a chunk of {len(data)} bytes whose entropy-coded part ends at {end}")
        self.tables = tables()
        words = np.frombuffer(data[_WORDS.size : end], "<u4").astype(np.uint32)
        try:
            self._decoder = constriction.stream.stack.AnsCoder(words)
        except ValueError as error:  # constriction: the last word of a stack is never zero
            raise Corrupt(f"entropy decoder: {error}") from None
        self._data, self._at = data, end

    def number(self, value: int | None, kind: str) -> int:
        """Next number of the raw part."""
        return self.numbers(_NUMBERS[kind])[0]

    def numbers(self, form: struct.Struct) -> tuple[int, ...]:
        """Next numbers of the raw part."""
        try:
            found = form.unpack_from(self._data, self._at)
        except struct.error:
            self._take(form.size)  # raises
            raise
        self._at += form.size
        return found

    def peek(self, form: struct.Struct) -> tuple[int, ...]:
        """The next numbers of the raw part, which stay there."""
        if self._at + form.size > len(self._data):
            self._take(form.size)  # raises
        return form.unpack_from(self._data, self._at)

    def raw(self, values: np.ndarray | None, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        """Next numbers of the raw part."""
        count, kind = math.prod(shape), np.dtype(dtype)
        return np.frombuffer(self._data, kind, count, self._take(count * kind.itemsize)).reshape(shape)

    def span(self, count: int) -> memoryview:
        """Next bytes of the raw part."""
        start = self._take(count)
        return memoryview(self._data)[start : start + count]

    def _take(self, size: int) -> int:
        """Offset of the next ``size`` bytes of the raw part."""
        start, end = self._at, self._at + size
        if end > len(self._data):
            raise Truncated(f"a chunk of {len(self._data)} bytes; its raw part needs {end}")
        self._at = end
        return start

    def symbols(self, values: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:
        """Inverse of `WriteRows.symbols`."""
        low, high = self.number(None, "B"), self.number(None, "B")
        if low > high:
            raise Corrupt(f"symbol range {low}..{high}")
        if low == high:
            return np.full(shape, low, np.uint8)
        counts = self.raw(None, (high - low + 1,), "<u2").astype(np.int64)
        if counts.min() < 1 or counts.sum() != SYMBOL_TOTAL:
            raise Corrupt(f"order-0 table from {counts.min()}, sum {counts.sum()}; need 1 and {SYMBOL_TOTAL}")
        entries = self._decode(categorical(counts * (TOTAL // SYMBOL_TOTAL)), math.prod(shape))
        return (entries + low).astype(np.uint8).reshape(shape)

    def rows(self, values: np.ndarray, level: np.ndarray) -> np.ndarray:
        """Inverse of `WriteRows.rows`, float32; only the shape of ``values`` counts."""
        if level.size and int(level.max()) >= LEVELS:
            raise Corrupt(f"level {level.max()}; at most {LEVELS - 1}")
        order, columns = Order(level, self.tables), values.shape[1]
        entries = np.empty((order.paired, columns // 2), np.int32)
        for index, run in order.pairs:
            part = entries[run]
            part[...] = self._decode(pairs_of(self.tables, index).model, part.size).reshape(part.shape)
        ordered = np.empty((len(order.rows), columns), np.float32)
        for index, where in order.join(entries, ordered):
            ordered[where] = self._singly(ordered[where].size, index).reshape(ordered[where].shape)
        out = np.zeros(values.shape, np.float32)
        out[order.rows] = ordered
        return out

    @staticmethod
    def rows_of(readers: list[Any], values: np.ndarray, level: np.ndarray) -> np.ndarray:
        """`rows` of several chunks, which have equal parts of ``values`` and ``level``."""
        parts = zip(readers, np.split(values, len(readers)), np.split(level, len(readers)), strict=True)
        return np.concatenate([reader.rows(*part) for reader, *part in parts])

    def _singly(self, count: int, index: int) -> np.ndarray:
        reach = int(self.tables.reach[index])
        part = self._decode(self.tables.models[index], count)
        if np.maximum.reduce(part) <= 2 * reach:
            part -= np.int32(reach)
            return part
        at = np.flatnonzero(part > 2 * reach)
        part -= np.int32(reach)
        part[at] = escapes.read(self._decode, np.full(len(at), reach, np.int32))
        return part

    def vector(self, values: np.ndarray | None, count: int) -> np.ndarray:
        """Inverse of `WriteRows.vector`."""
        return self.vectors_of([self], count)

    @staticmethod
    def vectors_of(readers: list[Any], count: int) -> np.ndarray:
        """`vector` of several chunks, ``count`` integers from each, end to end; int32."""
        heads, entries = [], np.zeros((len(readers), count), np.int32)
        for part, reader in zip(entries, readers, strict=True):
            head = reader.numbers(_VECTOR_HEAD)
            heads.append(head)
            if level := head[1]:
                if level >= LEVELS:
                    raise Corrupt(f"level {level}; at most {LEVELS - 1}")
                part[:] = reader._decode(reader.tables.models[level], count)
        shift, level = (np.array(column)[:, None] for column in zip(*heads, strict=True))
        reach = np.where(level, readers[0].tables.reach[level], 0)
        beyond = entries > 2 * reach
        entries += (shift - reach).astype(np.int32)
        if beyond.any():
            for i in np.flatnonzero(beyond.any(1)):
                limits = np.full(np.count_nonzero(beyond[i]), reach[i, 0], np.int32)
                entries[i, beyond[i]] = escapes.read(readers[i]._decode, limits) + shift[i].astype(np.int32)
        return entries.reshape(-1)

    def finish(self) -> None:
        """Raise Corrupt if anything is left over."""
        if not self._decoder.is_empty():
            raise Corrupt("words are left over after a chunk's last symbol")
        if self._at != len(self._data):
            raise Corrupt(f"{len(self._data) - self._at} bytes are left over after a chunk's raw part")

    def _decode(self, model: Model, count: int) -> np.ndarray:
        try:
            return self._decoder.decode(model, count)
        except AssertionError as error:  # constriction: "tried to decode from invalid compressed data"
            raise Corrupt(f"entropy decoder: {error}") from None


class ReadGroup:
    """Reads chunks of equal shape as if they were one: a few calls on large arrays instead of many on small ones.

    What a call returns is that of the first chunk, then that of the second, and so on.
    """

    def __init__(self, readers: list[Any]) -> None:
        self.readers = readers

    def number(self, value: int | None, kind: str) -> int | np.ndarray:
        """One integer of each chunk, as `ReadRows.number`; int32 of shape (chunks,) where chunks differ."""
        found = [reader.number(None, kind) for reader in self.readers]
        return found[0] if found.count(found[0]) == len(found) else np.array(found, np.int32)

    def vector(self, values: np.ndarray | None, count: int) -> np.ndarray:
        """A few integers of each chunk, as `ReadRows.vector`; ``count`` is that of all chunks."""
        return self.readers[0].vectors_of(self.readers, count // len(self.readers))

    def rows(self, values: np.ndarray, level: np.ndarray) -> np.ndarray:
        """Rows of all chunks, as `ReadRows.rows`."""
        return self.readers[0].rows_of(self.readers, values, level)

    def finish(self) -> None:
        """End all chunks, as `ReadRows.finish`."""
        for reader in self.readers:
            reader.finish()


class MeasureRows(WriteRows):
    """Counts the ideal bits of one chunk in ``bits[0]``: `WriteRows` whose calls are added up instead of coded."""

    def __init__(self) -> None:
        super().__init__()
        self.bits = np.zeros(1)

    def _encode(self, entries: np.ndarray, model: Model, bits: np.ndarray | int) -> None:
        self.bits[0] += escapes.ideal_bits(entries, bits)

    def finish(self) -> None:
        """Add the raw part up."""
        self.bits[0] += 8 * sum(map(len, self._raw))
        self._raw.clear()


def _vector_head(values: np.ndarray) -> tuple[np.ndarray, int, int]:
    """Centred vector (int32), offset and level of a short vector; level 0 only for a constant one."""
    offset = round(int(values.sum(dtype=np.int64)) / len(values))
    centred = values.astype(np.int64) - offset
    energy = int(centred @ centred)
    level = 2 * coarse_level(energy / len(values)) - 1 if energy else 0
    return centred.astype(np.int32), offset, level


ROW_CODERS = RowCoders(WriteRows, ReadRows, MeasureRows)
