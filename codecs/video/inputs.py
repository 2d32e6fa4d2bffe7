"""Files that a video is read from, by several readers at a time."""

from __future__ import annotations

import io
import os
import shutil
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any, BinaryIO

STDIN = "-"
Input = str | Path | bytes | bytearray | memoryview | BinaryIO


class View(io.RawIOBase):
    """A file that others read as well, at a place of one's own."""

    def __init__(self, file: BinaryIO, lock: threading.Lock) -> None:
        self._file, self._lock, self._at = file, lock, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        with self._lock:
            self._file.seek(self._at)
            data = self._file.read(size)
        self._at += len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        with self._lock:
            base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at}.get(whence)
            self._at = offset + (self._file.seek(0, os.SEEK_END) if base is None else base)
        return self._at

    def tell(self) -> int:
        return self._at


def seekable(source: Input) -> tuple[Any, bool]:
    """A source as a file that can seek, and whether it is ours to close."""
    if isinstance(source, bytes | bytearray | memoryview):
        return io.BytesIO(source), True
    if isinstance(source, str | Path) and str(source) != STDIN:
        return open(source, "rb"), True  # noqa: SIM115  closed with the film
    if isinstance(source, str | Path):
        if sys.stdin is None:
            raise OSError("standard input is closed")
        source = sys.stdin.buffer
    if source.seekable():
        return source, False
    whole = tempfile.TemporaryFile()
    shutil.copyfileobj(source, whole)
    return whole, True
