"""The catalog of an object store: manifests, each written once.

    index/<namespace>/<time in ns, 16 hexadecimal digits>-<random>.lines        `manifest` has the layout

The first one is of all blocks. Each put adds one; where there are many, one takes the place of the newest, and of older ones
that are not much larger: so there are few, and each line is written again only a few times. A reader lists them (one
request), fetches their beginnings all at once, and later the pages that it needs, all at once again.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from heapq import merge
from operator import itemgetter
from typing import Any

from .lines import CatalogError, Line, around
from .manifest import HEAD_BYTES, Manifest, directory_bytes, packed, place_of

MANIFESTS_MAX = 8
"""Where there are more, the newest become one."""
FOLDED_MIN = 5
"""Manifests that become one, at least."""
LARGER = 2
"""An older manifest stays as it is where it has more than so many times the bytes of all newer ones."""
PAGES_MAX = 512
"""Pages kept from question to question: some 20 MB."""
TRIES = 4
"""Times that manifests are listed where others replace them meanwhile."""


Void = tuple[set[bytes], ...]


class _Replaced(Exception):
    """A manifest that is there no longer."""


class ObjectCatalog:
    """Manifests on a backend that has get_many, get_ranges, put, delete and list."""

    far = True

    def __init__(self, backend: Any, namespace: str) -> None:
        self._backend, self._folder = backend, f"index/{namespace}/"
        self._manifests: list[Manifest] = []
        """Newest first."""
        self._complete = False
        self._added: dict[bytes, Line] = {}
        self._removed: set[bytes] = set()
        self._own: Manifest | None = None
        """What was not written yet."""

    @property
    def longest(self) -> int:
        """Most tokens of a block that is or was there."""
        return max((manifest.longest for manifest in self._all()), default=0)

    def outdated(self) -> list[str]:
        """Take in the manifests of others; everything, where there are none."""
        for _ in range(TRIES):
            try:
                self._list()
                break
            except _Replaced:
                continue
        self._complete = bool(self._manifests)
        return [] if self._complete else [""]

    def _list(self) -> None:
        known = {manifest.key: manifest for manifest in self._manifests}
        keys = sorted((entry.key for entry in self._backend.list(self._folder)), reverse=True)
        new = [key for key in keys if key not in known]
        for key, head in zip(new, self._backend.get_many(new, HEAD_BYTES), strict=True):
            if head is None:
                raise _Replaced  # by one that the next listing shows
            size = directory_bytes(head)
            if size > len(head):
                (head,) = self._backend.get_ranges([(key, 0, size)])
            known[key] = Manifest(key, head or b"")
        self._manifests = [known[key] for key in keys]

    def compared(self, part: str) -> None:
        """All blocks are known: the first manifest may be written."""
        self._complete = True

    def writing(self, block: bytes) -> AbstractContextManager[None]:
        """Nothing is watched."""
        return nullcontext()

    def sizes(self, part: str) -> dict[bytes, int]:
        """Id and bytes of all blocks."""
        return {line.id: line.size_bytes for line in self.lines()}

    def lines(self) -> Iterator[Line]:
        """Every line."""
        yield from self._merged(self._all())

    def _all(self) -> list[Manifest]:
        return [self._own, *self._manifests] if self._own else self._manifests

    def _merged(self, manifests: list[Manifest]) -> Iterator[Line]:
        """Lines sorted by place: of each block the newest, unless it was removed later. ``manifests``: newest first."""
        far = [manifest for manifest in manifests if not manifest.held]
        data = dict(zip(far, self._backend.get_many([manifest.key for manifest in far]), strict=True))
        if None in data.values():
            raise CatalogError("a manifest was replaced while all were read")

        def numbered(age: int, manifest: Manifest, void: Void) -> Iterator[tuple[bytes, int, Line]]:
            for line in manifest.lines(data.get(manifest)):
                if not any(line.id in removed for removed in void):
                    yield place_of(line), age, line

        rows = [numbered(age, manifest, void) for age, (manifest, void) in enumerate(_void(manifests))]
        last = None
        for _, _, line in merge(*rows, key=itemgetter(0, 1)):
            if line.id != last:
                yield line
            last = line.id

    def around(self, places: list[tuple[bytes, bytes]]) -> list[list[Line]]:
        """See `Catalog`."""
        for _ in range(TRIES):
            try:
                return around(self._ask, places)
            except _Replaced:
                self.outdated()
        raise CatalogError(f"manifests that are gone each of {TRIES} times")

    def _ask(self, questions: list[tuple[bytes, bytes, bool]]) -> list[Line | None]:
        """Pages that are not held are fetched all at once, and again where the neighbour is on the next page."""
        self._make_room()
        manifests = _void(self._all())
        while True:
            missing: dict[Manifest, set[int]] = {manifest: set() for manifest, _ in manifests}
            answers = []
            for parent, key, after in questions:
                found = (m.neighbour(parent + key, after=after, void=void, missing=missing[m]) for m, void in manifests)
                lines = [line for line in found if line is not None]  # newest first, and the first of equals is taken
                pick = min if after else max
                answers.append(pick(lines, key=lambda line: line.key) if lines else None)
            wanted = [(manifest, page) for manifest, pages in missing.items() for page in pages]
            if not wanted:
                return answers
            parts = [(manifest.key, *manifest.range_of(page)) for manifest, page in wanted]
            for (manifest, page), data in zip(wanted, self._backend.get_ranges(parts), strict=True):
                if data is None:
                    raise _Replaced
                manifest.put_page(page, data)

    def _make_room(self) -> None:
        if sum(len(manifest.pages) for manifest in self._manifests) > PAGES_MAX:
            for manifest in self._manifests:
                manifest.pages.clear()

    def write(self, added: Iterable[Line], removed: Iterable[bytes]) -> None:
        """A manifest of what changed; it is kept until the next time where the store takes none."""
        lines, gone = {line.id: line for line in added}, set(removed)
        self._added = {block: line for block, line in self._added.items() if block not in gone} | lines
        self._removed = (self._removed | gone) - lines.keys()
        if not self._complete or not (self._added or self._removed) or (self._own and not (lines or gone)):
            return
        data = packed(sorted(self._added.values(), key=place_of), self._removed if self._manifests else ())
        self._own = Manifest("", data)
        try:
            self._put(data)
        except OSError:
            return
        self._own, self._added, self._removed = None, {}, set()
        if len(self._manifests) > MANIFESTS_MAX:
            self._fold()

    def _put(self, data: bytes) -> None:
        key = f"{self._folder}{time.time_ns():016x}-{uuid.uuid4().hex[:8]}.lines"
        self._backend.put(key, data)
        self._manifests.insert(0, Manifest(key, data if len(data) <= HEAD_BYTES else data[: directory_bytes(data)]))

    def _fold(self) -> None:
        """One manifest in the place of the newest of those that are known; of others' newer ones nothing is lost."""
        try:
            self._list()
            count, size = 0, 0
            for manifest in self._manifests:
                if count >= FOLDED_MIN and manifest.size_bytes > LARGER * size:
                    break
                count, size = count + 1, size + manifest.size_bytes
            old = self._manifests[:count]
            oldest = count == len(self._manifests)
            removed: set[bytes] = set() if oldest else set().union(*(manifest.removed for manifest in old))
            self._put(packed(_not_in(removed, self._merged(old)), removed))
            for manifest in old:
                self._manifests.remove(manifest)
                self._backend.delete(manifest.key)
        except (OSError, CatalogError, _Replaced):
            return  # the next put folds

    def close(self) -> None:
        """Nothing is open."""

    def reset(self) -> None:
        """Delete the manifests."""
        self._manifests, self._own, self._added, self._removed = [], None, {}, set()
        try:
            for entry in list(self._backend.list(self._folder)):
                self._backend.delete(entry.key)
        except OSError:
            return


def _void(manifests: list[Manifest]) -> list[tuple[Manifest, Void]]:
    """Each manifest, newest first, with the blocks that newer ones removed."""
    found: list[tuple[Manifest, Void]] = []
    void: Void = ()
    for manifest in manifests:
        found.append((manifest, void))
        void = (*void, manifest.removed) if manifest.removed else void
    return found


def _not_in(removed: set[bytes], lines: Iterable[Line]) -> Iterator[Line]:
    """Lines as they are; each is taken out of ``removed``."""
    for line in lines:
        removed.discard(line.id)
        yield line
