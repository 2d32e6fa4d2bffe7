"""The catalog of a folder: an SQLite file for each namespace, which knows when each folder of blocks was last changed.

So a block that another program put, copied or removed, or that a killed writer left without a line, is found when the store
is opened: only the folders that changed since are listed, and only the headers of blocks without a line are read.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..trie import TOKEN_BYTES
from .lines import Line
from .table import LineTable, write_lines

_SETTLED_NS = 2 * 10**9
"""A folder that changed less than this ago may change again without a new time: file systems' clocks are coarse."""


class FolderCatalog:
    """``index/<namespace>.sqlite`` of a store in a folder."""

    far = False

    def __init__(self, root: Path, namespace: str) -> None:
        self._path = root / "index" / f"{namespace}.sqlite"
        self._table = LineTable(self._path)
        self._blocks = root / "blocks" / namespace
        self._known: dict[str, int] | None = None
        self._seen: dict[str, int] = {}
        self._changed: dict[str, int] = {}

    @property
    def longest(self) -> int:
        """Most tokens of a block."""
        return self._table.longest_bytes // TOKEN_BYTES

    def sizes(self, part: str) -> dict[bytes, int]:
        """Id and bytes of blocks, by the first digits of their id."""
        return self._table.sizes(part)

    def around(self, places: list[tuple[bytes, bytes]]) -> list[list[Line]]:
        """See `Catalog`."""
        return self._table.around(places)

    def lines(self) -> Iterator[Line]:
        """Every line."""
        return self._table.lines()

    def _stamps(self) -> dict[str, int]:
        """When each folder was last changed, as the table knows it, ns."""
        if self._known is None:
            self._known = self._table.read(lambda db: dict(db.execute("SELECT part, modified_ns FROM stamps")), {})
        return self._known

    def outdated(self) -> list[str]:
        """Folders that changed since their blocks were compared with their lines, and those that are gone."""
        self._known = None
        known, self._seen = self._stamps(), {}
        with suppress(FileNotFoundError, NotADirectoryError):
            self._seen = {entry.name: entry.stat().st_mtime_ns for entry in self._blocks.iterdir() if _is_part(entry.name)}
        return sorted(part for part in {*known, *self._seen} if known.get(part) != self._seen.get(part))

    def compared(self, part: str) -> None:
        """Take note of when the folder (``""``: each of them) was changed, to be written with the next lines."""
        for name in (part,) if part else {*self._seen, *self._stamps()}:
            modified = self._seen.get(name)
            if modified is None or modified < time.time_ns() - _SETTLED_NS:
                self._note(name, modified)

    def _note(self, part: str, modified: int | None) -> None:
        self._changed[part] = modified or 0
        self._stamps().pop(part, None)
        if modified is not None:
            self._stamps()[part] = modified

    @contextmanager
    def writing(self, block: bytes) -> Iterator[None]:
        """Take note of the change that this process makes itself, if it is the only one."""
        part = f"{block[0]:02x}"
        before = self._modified(part)
        yield
        if before == self._stamps().get(part):
            self._note(part, self._modified(part))

    def _modified(self, part: str) -> int | None:
        try:
            return (self._blocks / part).stat().st_mtime_ns
        except OSError:
            return None

    def write(self, added: Iterable[Line], removed: Iterable[bytes]) -> None:
        """Add, replace and remove lines, and write down what was compared."""
        added, removed, stamps = list(added), list(removed), dict(self._changed)
        if not added and not removed and not stamps:
            return
        if not added and not self._path.exists():
            return  # nothing is stored: no file either

        def change(db: sqlite3.Connection) -> None:
            write_lines(db, added, removed)
            db.executemany("DELETE FROM stamps WHERE part = ?", [(part,) for part in stamps])
            rows = [(part, modified) for part, modified in stamps.items() if modified]
            db.executemany("INSERT INTO stamps VALUES (?, ?)", rows)

        if self._table.change(change):
            self._changed = {}

    def close(self) -> None:
        """Close the file, until the next question."""
        self._table.close()

    def reset(self) -> None:
        """Remove the file."""
        self._table.close()
        self._known, self._changed = None, {}
        with suppress(OSError):
            self._path.unlink(missing_ok=True)


def _is_part(name: str) -> bool:
    return len(name) == 2 and set(name) <= set("0123456789abcdef")
