"""Diagonal scaling: the steps of rows and columns over their tensor's, by spread or by the energy that columns meet.

One step for a tensor gives the least squared error for its bits, whatever its rows are like. A row or column with a step of
its own spreads the error as its factor says: with factors by spread, every row (and every column) is as exact as the others
relative to itself, so that large ones, outliers, take the error off the small ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...entropy_models.errors import InputError
from .header import Entry
from .sources import Source
from .torch_types import floats_of

SCALINGS = ("tensor", "channel", "balanced")
"""One step for a tensor; for each row (output channel); for each row and column."""
_LOW = 2.0**-6
"""Lowest factor over the mean: what is next to nothing is not worth bits."""
_ROUNDS = 4
"""Of balancing, after which spreads differ by some per cent (Sinkhorn and Knopp 1967)."""
_ENERGY_LOW = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Factors:
    """Factors of a tensor's step, float64; None: all are 1."""

    rows: np.ndarray | None = None
    columns: np.ndarray | None = None

    def normalised(self, to_error: bool) -> Factors:
        """The same, whose mean keeps the tensor's bits, or its squared error."""

        def mean(factors: np.ndarray) -> float:
            return float(np.sqrt(np.square(factors).mean()) if to_error else np.exp(np.log(factors).mean()))

        rows, columns = (None if f is None else f / mean(f) for f in (self.rows, self.columns))
        return Factors(rows=rows, columns=columns)


def factors_of(source: Source, entry: Entry, scaling: str, energy: np.ndarray | None) -> Factors:
    """Factors of the step of a tensor's rows and columns.

    Args:
        scaling: of `SCALINGS`. A tensor whose rows are longer than a piece has one step.
        energy: mean squares of the columns' inputs; columns then follow it, and ``scaling`` is not ``balanced``.

    Raises:
        InputError: energies that are not those of the columns.
    """
    columns = None if energy is None else _by_energy(np.asarray(energy, np.float64).reshape(-1), entry)
    whole = entry.piece_words % entry.row_words == 0
    if scaling == "tensor" or not whole:
        return Factors(columns=columns)
    rows = np.ones(entry.words // entry.row_words)
    for _ in range(_ROUNDS if scaling == "balanced" else 0):
        columns = _floored(_spread(source, entry, rows, columns=np.ones(entry.row_words), axis=0))
        rows = _floored(_spread(source, entry, np.ones(len(rows)), columns, axis=1))
    if scaling == "channel":
        rows = _floored(_spread(source, entry, rows, np.ones(entry.row_words), axis=1))
    return Factors(rows=rows, columns=columns)


def _spread(source: Source, entry: Entry, rows: np.ndarray, columns: np.ndarray, axis: int) -> np.ndarray:
    """Root mean squares along an axis of a tensor over these factors."""
    sums, width = list[np.ndarray](), entry.row_words
    for index in range(entry.pieces):
        span = entry.piece(index)
        values = floats_of(source.words(entry, span), entry.dtype).reshape(-1, width)
        scaled = values / rows[span.start // width : span.stop // width, None].astype(np.float32)
        scaled /= columns.astype(np.float32)
        sums.append(np.square(scaled, out=scaled).sum(axis, dtype=np.float64))
    total = np.concatenate(sums) / width if axis else np.sum(sums, axis=0) / len(rows)
    return np.sqrt(total)


def _floored(spread: np.ndarray) -> np.ndarray:
    return np.maximum(spread, _LOW * spread.mean() + 1e-30)


def _by_energy(energy: np.ndarray, entry: Entry) -> np.ndarray:
    if len(energy) != entry.row_words or not np.isfinite(energy).all() or energy.min() < 0:
        raise InputError(f"{len(energy)} energies of inputs for {entry.row_words} columns, or some below zero")
    return 1 / np.sqrt(np.maximum(energy, _ENERGY_LOW * energy.mean() + 1e-30))
