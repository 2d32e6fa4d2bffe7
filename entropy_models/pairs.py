"""Two symbols in one step of the entropy coder, for the tables of small levels.

Decoding costs some 3 ns a call of the coder's inner loop plus 5 ns a bit (branches that cannot be predicted); pairs
halve the first. The counts of a pair are the product of its symbols' counts, in integers,
so both sides make the same table.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, cached_property
from typing import Any

import numpy as np

from .tables import LEVELS, TOTAL, Tables, categorical

REACH_MAX = 15
"""Largest reach of a table that is coded in pairs: (2 * 15 + 1)^2 = 961 entries."""
_ESCAPE_COUNT = 16
"""Count of a pair that holds a symbol beyond reach: 20 bits."""


class Pairs:
    """The pair table of one level.

    Args:
        counts: of a single symbol's table: -reach..reach, then the escape.
    """

    def __init__(self, counts: np.ndarray) -> None:
        self.width = len(counts) - 1
        single = np.asarray(counts[: self.width], np.int64)
        product = np.maximum(np.outer(single, single) // TOTAL, 1).reshape(-1)
        self.counts = np.append(product, _ESCAPE_COUNT)
        self.counts[np.argmax(self.counts)] += TOTAL - self.counts.sum()
        self.model = categorical(self.counts)

    @cached_property
    def bits(self) -> np.ndarray:
        """Ideal length of each entry."""
        return -np.log2(self.counts / TOTAL)


@cache
def pairs_of(tables: Tables, level: int) -> Pairs:
    """The pair table of a level below `first_wide_level`."""
    return Pairs(tables.counts[level])


@cache
def first_wide_level(tables: Tables) -> int:
    """The first level whose table is too wide for pairs; reach grows with the level."""
    return int(np.searchsorted(tables.reach, REACH_MAX, side="right"))


class Order:
    """Order in which the rows of a call are coded: both sides make it from the levels.

    ``rows``: indices of the coded rows, sorted by level (stable); rows of level 0 are zero and not among them.
    ``pairs`` and ``wide``: (level, slice of ``rows``) of the levels with and without a pair table. ``paired``: how many of
    ``rows`` are of the first kind. In such a row, column j of the first half and column j of the second make one entry,
    ``(first + reach) * width + second + reach``; the escape entry is ``width**2``.
    """

    def __init__(self, level: np.ndarray, tables: Tables) -> None:
        counts = np.bincount(level, minlength=LEVELS)
        ends = counts.cumsum().tolist()
        zeros, first_wide = ends[0], first_wide_level(tables)
        self.rows = level.argsort(kind="stable")[zeros:]
        runs = [(i, slice(ends[i - 1] - zeros, ends[i] - zeros)) for i in counts.nonzero()[0].tolist() if i]
        self.pairs = [run for run in runs if run[0] < first_wide]
        self.wide = runs[len(self.pairs) :]
        self.paired = self.pairs[-1][1].stop if self.pairs else 0
        self.reach = tables.reach[level[self.rows[: self.paired]]].astype(np.int32)[:, None]

    def split(self, ordered: np.ndarray) -> tuple[np.ndarray, list[tuple[int, np.ndarray]]]:
        """Entries of the paired rows, int32 (paired, columns // 2), and what is coded singly, by level.

        ``ordered``: int32 (len(rows), columns), of which the paired rows are given up.
        """
        half, reach = ordered.shape[1] // 2, self.reach
        shifted = ordered[: self.paired]
        shifted += reach  # as unsigned, what lies below zero lies far above
        loud = shifted.view(np.uint32).max(1, initial=0) > 2 * reach[:, 0]
        first, second = shifted[:, :half], shifted[:, half : 2 * half]
        entries = first * (2 * reach + 1)
        entries += second
        singles = []
        odd = ordered.shape[1] % 2 == 1
        for index, run in self.pairs if odd or loud.any() else ():
            limit = reach[run.start, 0]
            parts = [shifted[run, 2 * half :].reshape(-1)]
            if loud[run].any():
                a, b = first[run], second[run]
                beyond = np.maximum(a.view(np.uint32), b.view(np.uint32)) > 2 * limit
                entries[run][beyond] = (2 * limit + 1) ** 2
                parts += [a[beyond], b[beyond]]
            singles.append((index, np.concatenate(parts) - limit))
        singles += [(index, ordered[run].reshape(-1)) for index, run in self.wide]
        return entries, [single for single in singles if single[1].size]

    def join(self, entries: np.ndarray, ordered: np.ndarray) -> Iterator[tuple[int, Any]]:
        """Inverse of `split`: fill the pairs into ``ordered``, then name (level, index into it) of what comes singly."""
        half, width = ordered.shape[1] // 2, (2 * self.reach + 1).astype(np.float32)
        number = entries.astype(np.float32)  # up to 961: quotients by a reciprocal are safe, and integers are slower
        first = np.floor((number + 0.5) * (1 / width))
        ordered[: self.paired, :half] = first - self.reach
        ordered[: self.paired, half : 2 * half] = number - first * width - self.reach
        escaped = entries == (2 * self.reach + 1) ** 2
        odd, loud = ordered.shape[1] % 2 == 1, escaped.any(1)
        for index, run in self.pairs if odd or loud.any() else ():
            rows = [np.arange(run.start, run.stop)] if odd else []
            columns = [np.full(run.stop - run.start, 2 * half)] if odd else []
            if loud[run].any():
                row, column = escaped[run].nonzero()
                rows += [row + run.start, row + run.start]
                columns += [column, column + half]
            if rows:
                yield index, (np.concatenate(rows), np.concatenate(columns))
        yield from self.wide
