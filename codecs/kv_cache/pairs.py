"""Two symbols in one step of the entropy coder, for the tables of small levels.

Decoding costs some 3 ns a call of the coder's inner loop plus 5 ns a bit (branches that cannot be predicted); pairs
halve the first. The counts of a pair are the product of its symbols' counts, in integers,
so both sides make the same table.
"""

from __future__ import annotations

from functools import cache, cached_property

import numpy as np

from ...entropy_models.tables import TOTAL, Tables, categorical

REACH_MAX = 15
"""Largest reach of a table that is coded in pairs: (2 * 15 + 1)^2 = 961 entries."""
_ESCAPE_COUNT = 16
"""Of a pair that holds a symbol beyond reach: 20 bits."""


class Pairs:
    """The pair table of one level.

    Args:
        counts: of a single symbol's table: -reach..reach, then the escape.
    """

    def __init__(self, counts: np.ndarray) -> None:
        self.reach = len(counts) // 2 - 1
        self.width = 2 * self.reach + 1
        single = np.asarray(counts[: self.width], np.int64)
        product = np.maximum(np.outer(single, single) // TOTAL, 1).reshape(-1)
        self.counts = np.append(product, _ESCAPE_COUNT)
        self.counts[np.argmax(self.counts)] += TOTAL - self.counts.sum()
        self.model = categorical(self.counts)
        symbol = np.arange(-self.reach, self.reach + 1, dtype=np.int32)
        table = np.stack(np.broadcast_arrays(symbol[:, None], symbol[None]), 2).reshape(-1, 2)
        self.symbols = np.ascontiguousarray(np.append(table, np.zeros((1, 2), np.int32), 0)).view(np.int64)[:, 0]

    @property
    def escape(self) -> int:
        """The entry of a pair beyond reach."""
        return self.width**2

    @cached_property
    def bits(self) -> np.ndarray:
        """Ideal length of each entry."""
        return -np.log2(self.counts / TOTAL)

    def split(self, symbols: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Entries of all whole pairs, int32, and the symbols that are coded singly after them, int32."""
        even = symbols[: len(symbols) // 2 * 2].reshape(-1, 2)
        entries = (even[:, 0] + np.int32(self.reach)) * np.int32(self.width) + even[:, 1] + np.int32(self.reach)
        single = symbols[len(even) * 2 :]
        if symbols.size and (symbols.min() < -self.reach or symbols.max() > self.reach):
            beyond = (np.abs(even) > self.reach).any(axis=1)
            entries[beyond] = self.escape
            single = np.concatenate([even[beyond].reshape(-1), single])
        return entries, single

    def single_count(self, entries: np.ndarray, count: int) -> int:
        """How many symbols follow singly, of ``count`` in all."""
        return 2 * int(np.count_nonzero(entries == self.escape)) + count % 2

    def join(self, entries: np.ndarray, single: np.ndarray, count: int) -> np.ndarray:
        """Inverse of `split`: int32, shape (count,)."""
        out = np.empty(count, np.int32)
        out[: len(entries) * 2] = self.symbols[entries].view(np.int32)
        if len(single):
            at = np.flatnonzero(entries == self.escape)
            out[: len(entries) * 2].reshape(-1, 2)[at] = single[: 2 * len(at)].reshape(-1, 2)
            out[len(entries) * 2 :] = single[2 * len(at) :]
        return out


@cache
def pairs_of(tables: Tables, level: int) -> Pairs | None:
    """The pair table of a level, None where the level is too wide for one."""
    return Pairs(tables.counts[level]) if tables.reach[level] <= REACH_MAX else None
