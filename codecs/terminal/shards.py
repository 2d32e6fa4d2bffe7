"""Shards: many small files in tar files of about one size, as WebDataset reads them (``shard-000000.tar``, ...)."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import tempfile
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from ...entropy_models.errors import InputError
from .. import container
from .paths import find

_BLOCK = tarfile.BLOCKSIZE
_PATTERN = "shard-*.tar"


class ShardWriter:
    """Writes files into the shards of a folder, one after another; goes on after those that are there.

    The shard in work is ``shard-N.tar.part`` until it is full. In a folder here a killed run leaves it, and the next one
    keeps what is whole in it; elsewhere (an fsspec URL) it lies in a temporary file here, and only full shards are stored.

    Args:
        folder: made if it is missing.
        size_bytes: of a tar at most, unless one file is larger.

    Raises:
        ValueError: another run writes there.
    """

    def __init__(self, folder: Path, size_bytes: int) -> None:
        self._folder, self._size_bytes = folder, size_bytes
        full = [folder / name for name in find(folder) if Path(name).match(_PATTERN) and "/" not in name]
        self.names = {name for path in full for name in _members(path)}
        """Names of the files that are there."""
        self._number = max((int(path.stem.removeprefix("shard-")) for path in full), default=-1) + 1
        self._file: IO[bytes] | None = None
        self._tar: tarfile.TarFile | None = None
        self._go_on()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Store the last shard; one that is interrupted here is taken up by the next run."""
        if isinstance(error, KeyboardInterrupt) and isinstance(self._folder, Path) and self._file:
            self._file.close()
        else:
            self._close()

    def add(self, name: str, data: bytes) -> str:
        """Write a file; returns the shard and the name, for people."""
        member = tarfile.TarInfo(name)  # of time 0 and nobody's: the same run gives the same bytes
        member.size = len(data)
        taken = len(member.tobuf()) + _padded(len(data), _BLOCK) + 2 * _BLOCK
        if self._tar and self._tar.offset and _padded(self._tar.offset + taken, tarfile.RECORDSIZE) > self._size_bytes:
            self._close()
        if not self._tar:
            self._open()
        assert self._tar and self._file, "one is open"
        self._tar.addfile(member, io.BytesIO(data))
        self._file.flush()
        self.names.add(name)
        return f"{self._shard}/{name}"

    @property
    def _shard(self) -> Path:
        return self._folder / f"shard-{self._number:06}.tar"

    @property
    def _part(self) -> Path:
        return self._folder / f"{self._shard.name}{container.PART}"

    def _go_on(self) -> None:
        """Take up the shard that a killed run left."""
        if isinstance(self._folder, Path) and self._part.exists():
            self._open()

    def _open(self) -> None:
        if not isinstance(self._folder, Path):
            self._file = tempfile.TemporaryFile()
        else:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file = os.fdopen(os.open(self._part, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666), "r+b")
            if hasattr(os, "fork") and not container.lock(self._file.fileno()):
                raise InputError(f"{self._part} is being written by another run")
            self.names |= set(_recover(self._file))
        self._tar = tarfile.TarFile(fileobj=self._file, mode="w")

    def _close(self) -> None:
        if not self._tar or not self._file:
            return
        self._tar.close()
        if isinstance(self._folder, Path):
            self._file.close()
            os.replace(self._part, self._shard)
        else:
            self._file.seek(0)
            with self._shard.open("wb") as stored:
                shutil.copyfileobj(self._file, stored)
            self._file.close()
        self._tar, self._file, self._number = None, None, self._number + 1


def _members(path: Path) -> list[str]:
    with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
        return tar.getnames()


def _recover(file: IO[bytes]) -> list[str]:
    """Cut a tar after the last file that is whole, and stand there; returns the names of those before."""
    length, end, names = file.seek(0, os.SEEK_END), 0, []
    file.seek(0)
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                after = member.offset_data + _padded(member.size, _BLOCK)
                if after > length:
                    break
                names.append(member.name)
                end = after
    except tarfile.ReadError:  # a header that is cut off, or nothing yet
        pass
    file.truncate(end)
    file.seek(end)
    return names


def _padded(length: int, unit: int) -> int:
    return -(-length // unit) * unit
