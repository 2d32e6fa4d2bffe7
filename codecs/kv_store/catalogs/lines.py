"""The lines of a catalog, one a block, and what every catalog can do.

A line is packed little-endian:

======  ====  ===============================================================
offset  size  field
======  ====  ===============================================================
0       16    id
16      16    parent id
32      8     position of the first token
40      8     bytes of the block
48      1     mode (`kv_cache.modes.table.MODES`)
49      4     n, bytes of the key
53      n     key: the tokens, four big-endian bytes each
======  ====  ===============================================================
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from ...kv_cache.modes.table import MODES, mode_of
from ..trie import TOKEN_BYTES, common_tokens

_FIXED = struct.Struct("<16s16sQQBI")
KEY_BYTES_MAX = TOKEN_BYTES << 16


class CatalogError(Exception):
    """A catalog that cannot be read: it is given up, and made anew."""


@dataclass(frozen=True, slots=True)
class Line:
    """Place, size and mode of one block; fields as `trie.Node` has them."""

    id: bytes
    parent_id: bytes
    key: bytes
    start: int
    size_bytes: int
    mode: str

    def packed(self) -> bytes:
        """The line's bytes."""
        head = self.id, self.parent_id, self.start, self.size_bytes, MODES[self.mode].number, len(self.key)
        return _FIXED.pack(*head) + self.key


def unpacked(data: bytes) -> Iterator[Line]:
    """Lines one after the other.

    Raises:
        CatalogError: they are no lines.
    """
    at = 0
    while at < len(data):
        if at + _FIXED.size > len(data):
            raise CatalogError("a line that ends early")
        block, parent, start, size, number, count = _FIXED.unpack_from(data, at)
        at += _FIXED.size
        key, mode = data[at : at + count], mode_of(number)
        if len(key) != count or count % TOKEN_BYTES or count > KEY_BYTES_MAX or mode is None:
            raise CatalogError(f"a line of mode {number}, with a key of {count} bytes")
        at += count
        yield Line(block, parent, key, start, size, mode)


class Catalog(Protocol):
    """The interface. `CatalogError` where it cannot be read; what cannot be written is forgotten, and found anew."""

    far: bool
    """Whether each question is a round trip, so that one had better ask many at once."""

    @property
    def longest(self) -> int:
        """Most tokens of a block; 0: there are no lines."""

    def outdated(self) -> list[str]:
        """First two digits of the ids where lines and blocks may differ; ``""``: everywhere."""

    def compared(self, part: str) -> None:
        """Take note that the lines of a part of `outdated` agree with the blocks again."""

    def writing(self, block: bytes) -> AbstractContextManager[None]:
        """Around a put or a removal of a block whose line is written or removed afterwards."""

    def sizes(self, part: str) -> dict[bytes, int]:
        """Id and bytes of the blocks whose id begins with these digits."""

    def around(self, places: list[tuple[bytes, bytes]]) -> list[list[Line]]:
        """For each (parent id, key of what follows): its children whose tokens begin the key, and its nearest ones."""

    def lines(self) -> Iterator[Line]:
        """Every line."""

    def write(self, added: Iterable[Line], removed: Iterable[bytes]) -> None:
        """Add and replace lines, and remove those of these ids."""

    def close(self) -> None:
        """Let go of open files; the next question opens them again."""

    def reset(self) -> None:
        """Throw the catalog away."""


Ask = Callable[[list[tuple[bytes, bytes, bool]]], list[Line | None]]
"""Answers (parent id, key, after?): the child before or at the key in sorted order, or the next one after it."""


def around(ask: Ask, places: list[tuple[bytes, bytes]]) -> list[list[Line]]:
    """`Catalog.around`, in rounds of questions: one for all places, another for the shorter blocks, and so on.

    A child whose tokens begin the key sorts before it or is it; so does the next shorter one, seen from that, and what lies
    between the two begins with the shorter one.
    """
    asked = [(i, key) for i, (_, key) in enumerate(places)]
    first = ask([(parent, key, after) for after in (True, False) for parent, key in places])
    found = [[line] if line is not None else [] for line in first[: len(places)]]
    answers = first[len(places) :]
    while asked:
        again = []
        for (i, _), line in zip(asked, answers, strict=True):
            shared = common_tokens(line.key, places[i][1]) * TOKEN_BYTES if line else 0
            if line and shared:
                found[i].append(line)
                shorter = shared - TOKEN_BYTES if shared == len(line.key) else shared
                again += [(i, places[i][1][:shorter])] if shorter else []
        asked = again
        answers = ask([(places[i][0], key, False) for i, key in asked]) if asked else []
    return found
