"""Tables from real symbols: at each level, what the trained codec's residuals look like, not what a Gaussian says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sized
from typing import Any, TypeVar

import numpy as np
import torch

from ..entropy_models.coder import Measure
from ..entropy_models.tables import LEVELS, TOTAL, Tables, integer_counts

B = TypeVar("B", bound=Sized)
PRIOR_SYMBOLS = 2000.0
"""Weight of the Gaussian table, in symbols: rare entries keep its shape."""


class Histogram(Measure):
    """A `Measure` that also counts how often each entry of each level occurs."""

    def __init__(self, tables: Tables, batch: int) -> None:
        super().__init__(tables, batch)
        self.counts = [np.zeros(len(table)) for table in tables.counts]

    def tally(self, level: int, entries: np.ndarray) -> None:
        self.counts[level] += np.bincount(entries, minlength=len(self.counts[level]))


def calibrated(start: Tables, batches: Iterable[B], code: Callable[[Measure, B], Any]) -> Tables:
    """Tables refitted to the symbols of training signals.

    Args:
        start: the tables the network was trained for; they set reach and skip level.
        batches: of training signals only.
        code: a coding pass of the frozen network over a batch.
    """
    sums = [np.zeros(len(table)) for table in start.counts]
    with torch.inference_mode():
        for batch in batches:
            coder = Histogram(start, len(batch))
            code(coder, batch)
            for total, counts in zip(sums, coder.counts, strict=True):
                total += counts
    return Tables([_blend(sums[level], start.counts[level]) for level in range(LEVELS)], start.skip_level)


def _blend(seen: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """Counts of both signs averaged, plus the prior's shape."""
    body = (seen[:-1] + seen[-2::-1]) / 2
    return integer_counts(np.append(body, seen[-1]) + prior / TOTAL * PRIOR_SYMBOLS)
