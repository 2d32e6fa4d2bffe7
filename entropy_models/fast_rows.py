"""Rows for a fast decoder: one byte holds one or two symbols, and the Huffman stage of zstd codes the bytes.

constriction's ANS takes some 14 ns a symbol to decode, three quarters of all that decoding a cache costs; zstd's Huffman
decoder takes half of one. The price is rate: code words have whole bits, eleven at most, several levels share a table, and
each table, of some 60 bytes, is in the stream. Two symbols in a byte halve the loss to whole bits, and the time.
zstd at its usual levels would look for repetitions first; there are none.

Only ``rows`` differs from the coders of `rows`. It puts into the raw part, rows sorted by level (stable):

- length of a zstd frame (4 bytes), the frame, which says how long its content is: the rows of levels 1..`PAIRED_MAX`, then
  those up to `SINGLE_MAX`. Of the first kind, column j of the first half (the longer one) is the high and column j of the
  second half the low nibble of a byte, both in two's complement; of the second kind, a symbol is a byte;
- number of the symbols that do not fit -8..7 or -128..127 and are zero there (4 bytes); where they are (uint32, rising,
  an index into the rows of both kinds end to end); what they are (int32).

Rows of higher levels, whose symbols would often not fit, go to the ANS coder. Where zstd begins a new table is the
writer's choice.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from . import literals
from .errors import Corrupt
from .row_coders import RowCoders
from .rows import MeasureRows, ReadRows, WriteRows
from .tables import LEVELS

PAIRED_MAX = 29
"""Highest level coded in pairs: a scale of 2.06, where one symbol in 6,500 does not fit a nibble."""
SINGLE_MAX = 55
"""Highest level coded in bytes: a scale of 28.5, where one symbol in 140,000 does not fit a byte."""
_SPAN = 4
"""Levels that share a table, at most: their scales differ by a factor of 1.35, or 0.01 bits a symbol."""
_TABLE_WORTH = 1 << 13
"""Bytes that justify a table of their own, of some 60 bytes."""


def kinds_of(level: np.ndarray, chunks: int = 1) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Kinds of rows in each of several chunks: indices of rows in pairs, in bytes, of higher levels; sorted by level."""
    base = np.arange(chunks, dtype=np.uint16)[:, None] * np.uint16(LEVELS)
    key = (level.reshape(chunks, -1) + base).ravel() if chunks > 1 else level
    order = key.argsort(kind="stable")
    ends = key[order].searchsorted(base + np.array([0, PAIRED_MAX, SINGLE_MAX], np.uint16), "right").tolist()
    each = len(level) // chunks
    return [(order[a:b], order[b:c], order[c : each * (i + 1)]) for i, (a, b, c) in enumerate(ends)]


def _cuts(levels: np.ndarray, pairs: int, sizes: tuple[int, int]) -> list[int]:
    """Offsets in bytes where a new table begins: ``levels`` of the rows, of which ``pairs`` have the first size."""
    rows = len(levels)
    at = np.minimum(np.arange(rows + 1), pairs) * sizes[0] + np.maximum(np.arange(rows + 1) - pairs, 0) * sizes[1]
    cuts, first = [0], 0
    for i in (np.flatnonzero(np.diff(levels)) + 1).tolist():
        end = pairs if i <= pairs else rows  # of this kind
        worth = min(at[i] - cuts[-1], at[end] - at[i]) >= _TABLE_WORTH
        if i == pairs or (worth and levels[i] >= levels[first] + _SPAN):
            cuts.append(int(at[i]))
            first = i
    return [*cuts, int(at[-1])]


class FastWriter(WriteRows):
    """`rows` of the writers."""

    def rows(self, values: np.ndarray, level: np.ndarray) -> np.ndarray:
        """Code rows as `WriteRows.rows` does."""
        paired_rows, single_rows, loud = kinds_of(level)[0]
        paired, at, far = self.fitting(values[paired_rows], level[paired_rows], 7)
        single, at_single, far_single = self.fitting(values[single_rows], level[single_rows], 127)
        self.body(packed_pairs(paired).tobytes() + single.tobytes(), level, paired_rows, single_rows, values.shape[1])
        count = self.number(len(far) + len(far_single), "I")
        if count:
            self.raw(np.concatenate([at, at_single + paired.size]), (count,), "<u4")
            self.raw(np.concatenate([far, far_single]), (count,), "<i4")
        if len(loud):
            super().rows(values[loud], level[loud])
        return values

    def fitting(self, values: np.ndarray, level: np.ndarray, largest: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """int8 with zeros for what does not fit; flat indices of those; those."""
        if not values.size or (values.min() >= ~largest and values.max() <= largest):
            return values.astype(np.int8), np.zeros(0, np.int64), values.reshape(-1)[:0]
        return without(values, (values < ~largest) | (values > largest))

    def body(self, body: bytes, level: np.ndarray, paired: np.ndarray, single: np.ndarray, columns: int) -> None:
        """Write the bytes of rows in pairs and in bytes, end to end."""
        cuts = _cuts(level[np.concatenate([paired, single])], len(paired), ((columns + 1) // 2, columns))
        frame = literals.compress(body, cuts)
        self.raw(np.frombuffer(frame, np.uint8), (self.number(len(frame), "I"),), "u1")


class WriteFast(FastWriter):
    """Builds one chunk."""


class MeasureFast(FastWriter, MeasureRows):
    """Counts the bits of one chunk."""


class ReadFast(ReadRows):
    """Reads one chunk."""

    def rows(self, values: np.ndarray, level: np.ndarray) -> np.ndarray:
        """Rows as `ReadRows.rows` gives them, but int8 where that is enough."""
        return self.rows_of([self], values, level)

    @staticmethod
    def rows_of(readers: list[ReadFast], values: np.ndarray, level: np.ndarray) -> np.ndarray:
        """Rows as `ReadRows.rows_of` gives them, unpacked in one go."""
        if level.size and int(level.max()) >= LEVELS:
            raise Corrupt(f"level {level.max()}; at most {LEVELS - 1}")
        kinds, columns = kinds_of(level, len(readers)), values.shape[1]
        half = (columns + 1) // 2
        pairs, singles, far, loud, before = [], [], [], [], 0
        for reader, (paired, single, others) in zip(readers, kinds, strict=True):
            split, body = len(paired) * half, reader.body(level, paired, single, columns)
            pairs.append(body[:split])
            singles.append(body[split:])
            rows = len(paired) + len(single)
            if count := reader.number(None, "I"):
                at, symbols = reader.far(count, rows * columns)
                far.append((at + before * columns, symbols))
            before += rows
            if len(others):
                loud.append((others, reader.loud(len(others), columns, level[others])))
        out = np.empty(values.shape, np.int8)
        paired = _joined([paired for paired, _, _ in kinds])
        _unpack(_joined(pairs).reshape(-1, half), out, paired)
        if any(len(single) for single in singles):
            out[_joined([single for _, single, _ in kinds])] = _joined(singles).view(np.int8).reshape(-1, columns)
        if far:
            at, symbols = (_joined(parts) for parts in zip(*far, strict=True))
            row, column = np.divmod(at, columns)
            if symbols.min() < -128 or symbols.max() > 127:
                out = out.astype(np.float32)
            out[_joined([rows for kind in kinds for rows in kind[:2]])[row], column] = symbols
        if loud:
            out = out.astype(np.float32, copy=False)
        for others, symbols in loud:
            out[others] = symbols
        return out

    def body(self, level: np.ndarray, paired: np.ndarray, single: np.ndarray, columns: int) -> np.ndarray:
        """The bytes of rows in pairs and in bytes, end to end."""
        size = len(paired) * ((columns + 1) // 2) + len(single) * columns
        return literals.decompress(self.span(self.number(None, "I")), size)

    def loud(self, count: int, columns: int, level: np.ndarray) -> np.ndarray:
        """Rows of the levels that `fast_rows` leaves to the ANS coder."""
        return ReadRows.rows(self, np.empty((count, columns), np.int8), level)

    def far(self, count: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Where, among ``size`` symbols, those are that bytes cannot hold (int64), and what they are (int32)."""
        at, symbols = self.raw(None, (count,), "<u4"), self.raw(None, (count,), "<i4")
        if at[-1] >= size or (at[1:] <= at[:-1]).any():
            raise Corrupt(f"far symbols at {at.min()}..{at.max()} of {size}, or not in order")
        return at.astype(np.int64), symbols


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def without(values: np.ndarray, far: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """int8 with zeros where ``far``; flat indices of those; those."""
    at = np.flatnonzero(far)
    return np.where(far, 0, values).astype(np.int8), at, values.reshape(-1)[at]


def packed_pairs(paired: np.ndarray) -> np.ndarray:
    """int8 rows within a nibble to bytes."""
    half = (paired.shape[1] + 1) // 2
    packed = paired[:, :half].view(np.uint8) << 4
    packed[:, : paired.shape[1] - half] |= paired[:, half:].view(np.uint8) & 15
    return packed


def _unpack(packed: np.ndarray, out: np.ndarray, rows: np.ndarray) -> None:
    """Inverse of `packed_pairs`, into these ``rows`` of int8 ``out``; zeros into the others."""
    half = packed.shape[1]
    whole = np.zeros((len(out), half), np.uint8)
    whole[rows] = packed
    whole ^= 0x88  # a nibble in two's complement is now 8 too large; shifting signed bytes takes four times as long
    np.subtract(whole >> 4, 8, out=out[:, :half].view(np.uint8))
    whole &= 15
    np.subtract(whole[:, : out.shape[1] - half], 8, out=out[:, half:].view(np.uint8))


FAST_ROW_CODERS = RowCoders(WriteFast, ReadFast, MeasureFast)
