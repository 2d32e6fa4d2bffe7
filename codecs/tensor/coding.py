"""The codings table: how a piece of a tensor becomes a chunk. Each is one pass for writing, reading and measuring.

The number of the coding stands first in a chunk, then what the coding's module describes. A reader gets words of `exact` and
`delta`, or float32 of `steps`; of a piece with chunks in several sections, the sum of their float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ...entropy_models.errors import Corrupt, Unsupported
from . import delta, exact, steps
from .header import Entry

if TYPE_CHECKING:
    from .base import Base

EXACT, DELTA, STEPS = 0, 1, 2
LOSSY = frozenset({"BF16", "F16", "F32", "F64"})
"""Types that `STEPS` takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """What both sides know of a piece."""

    dtype: str
    count: int
    """Words."""
    columns: int
    """Words of a row, if the piece is whole rows; else all."""
    base: np.ndarray | None = None
    """Words of the base's piece, of mode delta, not to be written to."""
    base_wanted: str = ""
    """What the base is, for the message where it is not there."""

    @classmethod
    def of(cls, entry: Entry, index: int, base: Base | None = None, base_wanted: str = "") -> Piece:
        """The piece of a tensor."""
        span, row = entry.piece(index), entry.row_words
        count = len(span)
        known = base.words(entry, span) if base else None
        return cls(
            dtype=entry.dtype, count=count, columns=count if count % row else row, base=known, base_wanted=base_wanted
        )

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.count // self.columns, self.columns


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What the writer of a chunk has: words, not to be written to, or numbers and their steps."""

    words: np.ndarray | None = None
    how: int = delta.DIFFERENCE
    """In which way words differ from the base's."""
    values: np.ndarray | None = None
    """float32, shape of the piece."""
    steps: steps.Steps | None = None


def _exact(coder: Any, piece: Piece, given: Given | None) -> np.ndarray:
    return exact.code(coder, given.words if given else None, piece.dtype, piece.count)


def _delta(coder: Any, piece: Piece, given: Given | None) -> np.ndarray:
    if piece.base is None:
        raise Unsupported(f"its numbers are differences from a base that is not given (--base): {piece.base_wanted}")
    how = given.how if given else delta.DIFFERENCE
    return delta.code(coder, given.words if given else None, piece.base, piece.dtype, how)


def _steps(coder: Any, piece: Piece, given: Given | None) -> np.ndarray:
    if piece.dtype not in LOSSY:
        raise Corrupt(f"numbers of type {piece.dtype} in steps")
    return steps.code(coder, given.values if given else None, given.steps if given else None, piece.shape)


CODINGS: dict[int, Callable[[Any, Piece, Given | None], np.ndarray]] = {
    EXACT: _exact, DELTA: _delta, STEPS: _steps,
}  # fmt: skip
"""Coding pass of each number in files. Numbers are pinned for ever."""


def code(coder: Any, number: int, piece: Piece, given: Given | None) -> np.ndarray:
    """The coding pass of a chunk, from the number on; a reader ignores ``number``.

    Returns:
        words, or float32 of the piece's shape.
    """
    number = coder.number(number, "B")
    if number not in CODINGS:
        raise Corrupt(f"coding {number}; there are {', '.join(map(str, CODINGS))}")
    return CODINGS[number](coder, piece, given)
