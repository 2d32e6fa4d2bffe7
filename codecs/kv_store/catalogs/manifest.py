"""A manifest: lines of blocks in one object that is written once, in pages, so that few of them answer a question.

======  ====  ===============================================================
offset  size  field
======  ====  ===============================================================
0       4     "KVLN"
4       1     version 2
5       4     D, bytes of the directory
9       D     directory, compressed by zlib
9 + D         pages, one after the other, each compressed by zlib: packed lines (`lines`), sorted by place
======  ====  ===============================================================

Directory, little-endian: most tokens of a block, number of blocks removed r, number of pages p, bytes of separators (4 bytes
each); r ids of 16 bytes; p sizes of pages in bytes (4 each); p lengths of separators (2 each); the separators.

The place of a block is its parent's id and then its key: sorted bytes. A separator is the shortest beginning of a page's
first place that comes after every place of the page before. What is removed is removed from older manifests.
"""

from __future__ import annotations

import struct
import zlib
from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import accumulate, pairwise

import numpy as np

from ..trie import TOKEN_BYTES
from .lines import CatalogError, Line, unpacked

MAGIC, VERSION = b"KVLN", 2
HEAD_BYTES = 1 << 17
"""Read at first: a directory of some hundred thousand blocks, or all of a manifest of a few hundred."""
PAGE_LINES = 16
_HEAD = struct.Struct("<4sBI")
_COUNTS = struct.Struct("<IIII")
_ID_BYTES = 16
_DIRECTORY_BYTES_MAX, _PAGE_BYTES_MAX = 1 << 28, 1 << 23

Page = tuple[list[bytes], list[Line]]
"""Places and lines."""


def place_of(line: Line) -> bytes:
    """What lines are sorted by."""
    return line.parent_id + line.key


def packed(lines: Iterable[Line], removed: Collection[bytes] = ()) -> bytes:
    """The object's bytes; ``lines`` sorted by place, ``removed`` looked at after them."""
    pages, separators, waiting, longest = [], [], b"", 0
    count, before = 0, b""
    for line in lines:
        place = place_of(line)
        if count % PAGE_LINES == 0:
            pages += [zlib.compress(waiting, 1)] if waiting else []
            separators.append(place[: _common_bytes(before, place) + 1])
            waiting = b""
        waiting, before, count = waiting + line.packed(), place, count + 1
        longest = max(longest, len(line.key) // TOKEN_BYTES)
    pages += [zlib.compress(waiting, 1)] if waiting else []
    names = b"".join(separators)
    sizes = np.array([len(page) for page in pages], "<u4").tobytes()
    lengths = np.array([len(separator) for separator in separators], "<u2").tobytes()
    counts = _COUNTS.pack(longest, len(removed), len(pages), len(names))
    directory = zlib.compress(b"".join([counts, *removed, sizes, lengths, names]), 1)
    return b"".join([_HEAD.pack(MAGIC, VERSION, len(directory)), directory, *pages])


def _common_bytes(a: bytes, b: bytes) -> int:
    count = min(len(a), len(b))
    differ = np.flatnonzero(np.frombuffer(a, np.uint8, count) != np.frombuffer(b, np.uint8, count))
    return int(differ[0]) if len(differ) else count


def directory_bytes(head: bytes) -> int:
    """Bytes of a manifest up to its first page, by its first bytes.

    Raises:
        CatalogError: it is no manifest of this version.
    """
    if len(head) < _HEAD.size:
        raise CatalogError("a manifest that ends early")
    magic, version, size = _HEAD.unpack_from(head)
    if (magic, version) != (MAGIC, VERSION):
        raise CatalogError(f"no manifest, or one of version {version}; this program knows {VERSION}")
    return _HEAD.size + int(size)


class Manifest:
    """A manifest of which pages are read as they are asked for."""

    def __init__(self, key: str, head: bytes) -> None:
        """``key`` of the object; ``head``: its bytes up to the first page or, of a small one, all.

        Raises:
            CatalogError: it is damaged, or of another version.
        """
        first = directory_bytes(head)
        data = _inflated(head[_HEAD.size : first], _DIRECTORY_BYTES_MAX)
        try:
            self.longest, removed, pages, names = _COUNTS.unpack_from(data)
            at = _COUNTS.size + removed * _ID_BYTES
            ids = data[_COUNTS.size : at]
            sizes = np.frombuffer(data, "<u4", pages, at)
            lengths = np.frombuffer(data, "<u2", pages, at + 4 * pages)
        except (struct.error, ValueError) as error:
            raise CatalogError(f"a directory that ends early: {error}") from error
        text = data[at + 6 * pages :]
        if len(text) != names or lengths.sum() != names:
            raise CatalogError(f"separators of {len(text)} bytes, need {names}")
        self.key = key
        self.removed = {ids[i : i + _ID_BYTES] for i in range(0, len(ids), _ID_BYTES)}
        self._separators = [text[a:b] for a, b in pairwise(accumulate(lengths.tolist(), initial=0))]
        self._ends = list(accumulate(sizes.tolist(), initial=first))
        self.pages: dict[int, Page] = {}
        """Those that were read."""
        self._whole = head if len(head) == self.size_bytes else None

    @property
    def size_bytes(self) -> int:
        """Bytes of the object."""
        return self._ends[-1]

    def range_of(self, page: int) -> tuple[int, int]:
        """First byte of a page, and the one after its last."""
        return self._ends[page], self._ends[page + 1]

    def put_page(self, page: int, data: bytes) -> None:
        """Take in a page that was read.

        Raises:
            CatalogError: it is damaged.
        """
        lines = list(unpacked(_inflated(data, _PAGE_BYTES_MAX)))
        places = [place_of(line) for line in lines]
        around = [*self._separators[page : page + 1], *places, *self._separators[page + 1 : page + 2]]
        if not places or any(first > second for first, second in pairwise(around)):
            raise CatalogError("a page that is empty, or not sorted")
        self.pages[page] = places, lines

    def lines(self, data: bytes | None) -> Iterator[Line]:
        """All lines, sorted by place; ``data``: the object, where it is not held."""
        whole = self._whole or data or b""
        if len(whole) != self.size_bytes:
            raise CatalogError(f"a manifest of {len(whole)} bytes, need {self.size_bytes}")
        for first, last in pairwise(self._ends):
            yield from unpacked(_inflated(whole[first:last], _PAGE_BYTES_MAX))

    @property
    def held(self) -> bool:
        """Whether all of it is in memory."""
        return self._whole is not None

    def neighbour(self, place: bytes, *, after: bool, void: Sequence[set[bytes]], missing: set[int]) -> Line | None:
        """The line at a place or before it, or the next one after it, of the same parent; not of a block in ``void``.

        None as well where a page has to be read first, whose number goes into ``missing``.
        """
        page = max(bisect_right(self._separators, place) - 1, 0)
        while 0 <= page < len(self._separators):
            found = self._page(page)
            if found is None:
                missing.add(page)
                return None
            places, lines = found
            at = bisect_right(places, place)
            for line in lines[at:] if after else reversed(lines[:at]):
                if line.parent_id != place[:_ID_BYTES]:
                    return None
                if not any(line.id in removed for removed in void):
                    return line
            page += 1 if after else -1
        return None

    def _page(self, page: int) -> Page | None:
        if page not in self.pages and self._whole is not None:
            self.put_page(page, self._whole[slice(*self.range_of(page))])
        return self.pages.get(page)


def _inflated(data: bytes, limit: int) -> bytes:
    try:
        inflater = zlib.decompressobj()
        body = inflater.decompress(data, limit)
    except zlib.error as error:
        raise CatalogError(str(error)) from error
    if not inflater.eof:
        raise CatalogError("a manifest that is cut short, or larger than any")
    return body
