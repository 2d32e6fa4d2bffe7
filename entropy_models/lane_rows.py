"""Rows for a decoder of many lanes: the bytes of `fast_rows`, one symbol or two in each, under fixed tables by `lanes`.

Only ``rows`` differs from the coders of `fast_rows`. In place of the zstd frame the raw part has, for a body of at least one
byte: the binary logarithm of the number of lanes (1 byte), the number of words (4 bytes), the states (uint32), the words
(uint16). A body of no bytes is not there. Symbols that their level's table lacks are zero in it, and told as those are that
do not fit.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from . import lanes
from .errors import Corrupt
from .fast_rows import PAIRED_MAX, FastWriter, ReadFast, without
from .row_coders import RowCoders
from .rows import MeasureRows
from .tables import LEVELS


@cache
def _reach() -> np.ndarray:
    """Largest symbol in the table of each level, int32; zero of level 0."""
    reach = [lanes.reach_of(level, level <= PAIRED_MAX) for level in range(1, LEVELS)]
    return np.array([0, *reach], np.int32)


class _LaneWriter(FastWriter):
    """`rows` of the writers."""

    def fitting(self, values: np.ndarray, level: np.ndarray, largest: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """int8 with zeros for what its row's table lacks; flat indices of those; those."""
        return without(values, np.abs(values) > _reach()[level][:, None])

    def body(self, body: bytes, level: np.ndarray, paired: np.ndarray, single: np.ndarray, columns: int) -> None:
        """Write the bytes of rows in pairs and in bytes, end to end."""
        if body:
            coded = lanes.encode(np.frombuffer(body, np.uint8), table_of(level, paired, single, columns))
            self.number(len(coded.states).bit_length() - 1, "B")
            self.number(len(coded.words), "I")
            self.raw(coded.states, coded.states.shape, "<u4")
            self.raw(coded.words, coded.words.shape, "<u2")


class WriteLanes(_LaneWriter):
    """Builds one chunk."""


class MeasureLanes(_LaneWriter, MeasureRows):
    """Counts the bits of one chunk."""


class ReadLanes(ReadFast):
    """Reads one chunk."""

    def body(self, level: np.ndarray, paired: np.ndarray, single: np.ndarray, columns: int) -> np.ndarray:
        """The bytes of rows in pairs and in bytes, end to end."""
        tables_of = table_of(level, paired, single, columns)
        return lanes.decode(self.lanes(len(tables_of)), tables_of) if len(tables_of) else np.zeros(0, np.uint8)

    def lanes(self, count: int) -> lanes.Lanes:
        """The next body of ``count`` bytes, not decoded."""
        lanes_log2, words = self.number(None, "B"), self.number(None, "I")
        if not lanes.LANES_MIN <= 1 << lanes_log2 <= lanes.LANES_MAX or words > count:
            raise Corrupt(f"2^{lanes_log2} lanes and {words} words for {count} bytes")
        return lanes.Lanes(self.raw(None, (1 << lanes_log2,), "<u4"), self.raw(None, (words,), "<u2"))


def table_of(level: np.ndarray, paired: np.ndarray, single: np.ndarray, columns: int) -> np.ndarray:
    """The level of each byte of a body, uint8: of rows in pairs, then of rows in bytes."""
    return np.concatenate([np.repeat(level[paired], (columns + 1) // 2), np.repeat(level[single], columns)]).astype(np.uint8)


LANE_ROW_CODERS = RowCoders(WriteLanes, ReadLanes, MeasureLanes)
