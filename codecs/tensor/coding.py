"""The codings table: how a piece of a tensor becomes a chunk. Each is one pass for writing, reading and measuring.

A pass is ``code(coder, piece, given)``: `Piece` is what both sides know, ``given`` what the writer alone has (None for a
reader). It returns the words that a reader gets. The number of the coding stands first in the chunk.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...entropy_models.errors import Corrupt
from ...entropy_models.row_coders import ChunkCoder
from . import exact

EXACT = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """What both sides know of a piece."""

    dtype: str
    count: int
    """Words."""
    row_words: int
    """Words of a row of the tensor; the piece is whole rows if it has a multiple of them."""
    base: Callable[[], np.ndarray] | None = None
    """Gives the same words of the base."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What the writer of a piece has."""

    words: np.ndarray
    """Not to be written to."""


def _exact(coder: ChunkCoder, piece: Piece, given: Given | None) -> np.ndarray:
    return exact.code(coder, given.words if given else None, piece.dtype, piece.count)


CODINGS: dict[int, Callable[[ChunkCoder, Piece, Any], np.ndarray]] = {EXACT: _exact}
"""Coding pass of each number in files. Numbers are pinned for ever."""


def code(coder: ChunkCoder, number: int, piece: Piece, given: Given | None) -> np.ndarray:
    """The coding pass of a chunk, from the number on; a reader ignores ``number``."""
    number = coder.number(number, "B")
    if number not in CODINGS:
        raise Corrupt(f"coding {number}; there are {', '.join(map(str, CODINGS))}")
    return CODINGS[number](coder, piece, given)
