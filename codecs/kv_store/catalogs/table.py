"""Lines in an SQLite file."""

from __future__ import annotations

import os
import sqlite3
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from ...kv_cache.modes.table import MODES, mode_of
from .lines import CatalogError, Line, around

T = TypeVar("T")
VERSION = 1
_PAGE_BYTES = 16384
"""A key of 256 tokens fits into an index page of this size; in smaller ones it takes a page of its own."""
_WAIT_S = 5.0
"""For another process that writes."""
_SCHEMA = """
CREATE TABLE blocks (id BLOB NOT NULL, parent BLOB NOT NULL, tokens BLOB NOT NULL, start INTEGER NOT NULL,
                     size INTEGER NOT NULL, mode INTEGER NOT NULL, crc INTEGER NOT NULL);
CREATE UNIQUE INDEX by_id ON blocks (id, size);
CREATE INDEX by_place ON blocks (parent, tokens);
CREATE TABLE lengths (bytes INTEGER PRIMARY KEY);
CREATE TABLE stamps (part TEXT PRIMARY KEY, modified_ns INTEGER NOT NULL);
"""
_FIELDS = "id, parent, tokens, start, size, mode, crc"
_BEFORE = f"SELECT {_FIELDS} FROM blocks WHERE parent = ? AND tokens <= ? ORDER BY tokens DESC LIMIT 1"
_AFTER = f"SELECT {_FIELDS} FROM blocks WHERE parent = ? AND tokens > ? ORDER BY tokens LIMIT 1"


class LineTable:
    """A table of lines. Every line has a checksum; one that does not hold makes the table one that cannot be read."""

    def __init__(self, path: Path) -> None:
        """``path``: of the file, which the first write makes."""
        self.path = path
        self._db: sqlite3.Connection | None = None
        self._process = 0

    def _open(self, *, write: bool) -> sqlite3.Connection | None:
        """The connection, one for each process; None: there is no file yet, and none is to be made."""
        if self._db is not None and self._process == os.getpid():
            return self._db
        if not write and not self.path.exists():
            return None
        if write:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        rights = "rw" if os.access(self.path, os.W_OK) else "rwc" if write else "ro"
        where = f"{self.path.absolute().as_uri()}?mode={rights}"
        db = sqlite3.connect(where, timeout=_WAIT_S, uri=True, check_same_thread=False)
        db.execute("PRAGMA synchronous = OFF")  # what a power cut destroys is made anew
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version == 0 and write:
            db.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
            with db:
                db.execute("BEGIN IMMEDIATE")
                (version,) = db.execute("PRAGMA user_version").fetchone()
                for statement in _SCHEMA.split(";") if version == 0 else ():  # another process may have been faster
                    db.execute(statement)
                db.execute(f"PRAGMA user_version = {version or VERSION}")
            version = version or VERSION
        if version != VERSION:
            raise CatalogError(f"a table of version {version}; this program knows {VERSION}")
        self._db, self._process = db, os.getpid()
        return db

    def read(self, ask: Callable[[sqlite3.Connection], T], nothing: T) -> T:
        """An answer of the table; ``nothing`` where there is none yet. `CatalogError` if it cannot be read."""
        try:
            db = self._open(write=False)
            return nothing if db is None else ask(db)
        except (sqlite3.Error, OSError) as error:
            raise CatalogError(str(error)) from error

    def change(self, write: Callable[[sqlite3.Connection], None]) -> bool:
        """One transaction; False if nothing can be written here."""
        try:
            db = self._open(write=True)
            assert db is not None, "made where missing"
            with db:
                write(db)
        except (sqlite3.Error, OSError, CatalogError):
            return False
        return True

    @property
    def longest_bytes(self) -> int:
        """Length of the longest key; 0: there are no lines."""
        return self.read(lambda db: db.execute("SELECT max(bytes) FROM lengths").fetchone()[0] or 0, 0)

    def sizes(self, part: str) -> dict[bytes, int]:
        """Id and bytes of the blocks whose id begins with these two digits; ``""``: of all."""
        limits = (bytes.fromhex(part + "00" * 15), bytes.fromhex(part + "ff" * 15)) if part else ()
        query = f"SELECT id, size FROM blocks{' WHERE id BETWEEN ? AND ?' if part else ''}"
        return self.read(lambda db: dict(db.execute(query, limits)), {})

    def around(self, places: list[tuple[bytes, bytes]]) -> list[list[Line]]:
        """`Catalog.around`."""

        def ask(questions: list[tuple[bytes, bytes, bool]]) -> list[Line | None]:
            def answers(db: sqlite3.Connection) -> list[Line | None]:
                rows = (
                    db.execute(_AFTER if after else _BEFORE, (parent, key)).fetchone() for parent, key, after in questions
                )
                return [None if row is None else _line(row) for row in rows]

            return self.read(answers, [None] * len(questions))

        return around(ask, places)

    def lines(self) -> Iterator[Line]:
        """Every line."""
        yield from map(_line, self.read(lambda db: db.execute(f"SELECT {_FIELDS} FROM blocks").fetchall(), []))

    def close(self) -> None:
        """Close the file."""
        if self._db is not None and self._process == os.getpid():
            self._db.close()
        self._db = None


def write_lines(db: sqlite3.Connection, added: Iterable[Line], removed: Iterable[bytes]) -> None:
    """Replace lines, and remove those of these ids, within a transaction."""
    added = list(added)
    db.executemany("DELETE FROM blocks WHERE id = ?", [(block,) for block in (*removed, *(line.id for line in added))])
    db.executemany(f"INSERT INTO blocks ({_FIELDS}) VALUES (?, ?, ?, ?, ?, ?, ?)", map(_row, added))
    lengths = [(length,) for length in {len(line.key) for line in added}]
    db.executemany("INSERT OR IGNORE INTO lengths VALUES (?)", lengths)


def _row(line: Line) -> tuple[bytes, bytes, bytes, int, int, int, int]:
    number = MODES[line.mode].number
    return line.id, line.parent_id, line.key, line.start, line.size_bytes, number, zlib.crc32(line.packed())


def _line(row: tuple[bytes, bytes, bytes, int, int, int, int]) -> Line:
    block, parent, key, start, size, number, crc = row
    mode = mode_of(number)
    line = None if mode is None else Line(block, parent, key, start, size, mode)
    if line is None or zlib.crc32(line.packed()) != crc:
        raise CatalogError("a line whose checksum does not hold")
    return line
