"""What a coding pass may ask of the coder of a chunk, whichever it is, and the three of a kind by name.

`rows` says what the verbs mean. ``value`` and ``values`` are what to write; a reader ignores them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np


class RowCoder(Protocol):
    """The verbs that `rows.ReadGroup` has as well, so that passes of these alone can read several chunks as one."""

    def number(self, value: Any, kind: str) -> Any:
        """An int; int32 of shape (chunks,) where a group's chunks differ."""

    def vector(self, values: Any, count: int) -> np.ndarray:
        """A few integers, int32, shape (count,)."""

    def rows(self, values: np.ndarray, level: np.ndarray) -> np.ndarray:
        """Integers of shape (rows, columns); only the shape of ``values`` counts for a reader."""

    def finish(self) -> None:
        """End the chunk."""


class ChunkCoder(RowCoder, Protocol):
    """All verbs of a chunk."""

    def raw(self, values: Any, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        """Little-endian numbers."""

    def symbols(self, values: Any, shape: tuple[int, ...]) -> np.ndarray:
        """Bytes, uint8."""


class ChunkWriter(ChunkCoder, Protocol):
    """Builds a chunk."""

    def chunk(self) -> bytes:
        """The finished bytes."""


class ChunkReader(ChunkCoder, Protocol):
    """Reads a chunk."""

    def peek(self, form: struct.Struct) -> tuple[int, ...]:
        """The next numbers, which stay there."""


class ChunkMeter(ChunkCoder, Protocol):
    """Counts a chunk's ideal bits."""

    bits: np.ndarray
    """Shape (1,)."""


class RowCoders(NamedTuple):
    """The coders of one kind of chunk."""

    write: Callable[[], ChunkWriter]
    read: Callable[[bytes], ChunkReader]
    measure: Callable[[], ChunkMeter]
