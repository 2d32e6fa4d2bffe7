"""The catalog of an object store: manifests, each written once, that are replayed into a table of this process's own.

    index/<namespace>/<time in ns, 16 hexadecimal digits>-<random>.lines
        "KVLN", version 1, a CRC-32 of the rest, then packed lines (`lines`), compressed by zlib

The first manifest is of all blocks. Each put adds one; when there are many, one takes the place of all. A reader lists them
(one request) and fetches those it does not know, all at once.
"""

from __future__ import annotations

import struct
import time
import uuid
import zlib
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from .lines import CatalogError, Line, packed_removal, unpacked
from .table import LineTable, TableCatalog, write_lines

MAGIC, VERSION = b"KVLN", 1
MANIFESTS_MAX = 32
"""More are replaced by one of all lines."""
_HEAD = struct.Struct("<4sBI")
_BYTES_MAX = 1 << 30


class ObjectCatalog(TableCatalog):
    """Manifests on a backend that has get_many, put, delete and list."""

    def __init__(self, backend: Any, namespace: str) -> None:
        self._backend, self._folder = backend, f"index/{namespace}/"
        self._table = LineTable(None)
        self._known: set[str] = set()
        self._complete = False

    def _keys(self) -> list[str]:
        return sorted(entry.key for entry in self._backend.list(self._folder))

    def outdated(self) -> list[str]:
        """Take in the manifests of others; everything, where there are none."""
        keys = self._keys()
        new = [key for key in keys if key not in self._known]
        for key, data in zip(new, self._backend.get_many(new), strict=True):
            if data is not None:  # else it was just replaced, by one that the next listing shows
                self._take(list(unpacked(_body(data))))
                self._known.add(key)
        self._complete = bool(self._known)
        return [] if self._complete else [""]

    def _take(self, lines: list[Line | bytes]) -> None:
        last = {line if isinstance(line, bytes) else line.id: line for line in lines}
        added = [line for line in last.values() if isinstance(line, Line)]
        if not self._table.change(lambda db: write_lines(db, added, last)):
            raise CatalogError("no room for a temporary table")

    def compared(self, part: str) -> None:
        """All blocks are known: the first manifest may be written."""
        self._complete = True

    def writing(self, block: bytes) -> AbstractContextManager[None]:
        """Nothing is watched."""
        return nullcontext()

    def write(self, added: Iterable[Line], removed: Iterable[bytes]) -> None:
        """A manifest of what changed; of everything where there are many. Nothing where the store takes none."""
        added, removed = list(added), list(removed)
        if added or removed:
            self._take([*removed, *added])
        if self._complete and not self._known:
            added, removed = list(self._table.lines()), []
        if not self._complete or not (added or removed):
            return
        try:
            self._put(b"".join([*map(packed_removal, removed), *(line.packed() for line in added)]))
            if len(self._known) > MANIFESTS_MAX:
                self._fold()
        except OSError:
            return

    def _put(self, body: bytes) -> None:
        key = f"{self._folder}{time.time_ns():016x}-{uuid.uuid4().hex[:8]}.lines"
        packed = zlib.compress(body, 1)
        self._backend.put(key, _HEAD.pack(MAGIC, VERSION, zlib.crc32(packed)) + packed)
        self._known.add(key)

    def _fold(self) -> None:
        """One manifest in the place of those that are known; of others' newer ones nothing is lost."""
        self.outdated()
        old = list(self._known)
        self._put(b"".join(line.packed() for line in self._table.lines()))
        for key in old:
            self._backend.delete(key)
            self._known.discard(key)

    def close(self) -> None:
        """The table is this process's own, and gone when it ends."""

    def reset(self) -> None:
        """Delete the manifests."""
        self._table.close()
        self._table, self._known = LineTable(None), set()
        try:
            for key in self._keys():
                self._backend.delete(key)
        except OSError:
            return


def _body(data: bytes) -> bytes:
    """The packed lines of a manifest."""
    try:
        magic, version, crc = _HEAD.unpack_from(data)
        packed = data[_HEAD.size :]
        if (magic, version, crc) != (MAGIC, VERSION, zlib.crc32(packed)):
            raise CatalogError("a manifest that is damaged, or of another version")
        inflater = zlib.decompressobj()
        body = inflater.decompress(packed, _BYTES_MAX)
        if not inflater.eof:
            raise CatalogError("a manifest that is cut short, or larger than any")
        return body
    except (struct.error, zlib.error) as error:
        raise CatalogError(str(error)) from error
