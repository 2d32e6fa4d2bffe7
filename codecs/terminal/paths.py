"""Paths of files here and elsewhere: a `pathlib.Path`, or for ``s3://bucket/name`` its twin on any fsspec file system.

What takes a `Path` here also takes a ``upath.UPath``, which has its methods. It is imported when a URL is met.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from ...entropy_models.errors import InputError
from .. import container

_WHOLE_OBJECT_PUT = {"memory", "s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oci", "oss", "r2"}
"""fsspec protocols whose put of a whole object is atomic, and whose rename is a copy."""
_PART_AGE_S = 1.0
"""A temporary file younger than this may not have been locked yet by its writer."""


def path_of(text: str | os.PathLike[str]) -> Path:
    """The path of a name or URL.

    Raises:
        ValueError: a scheme that fsspec does not know, or whose package is not installed.
    """
    if not is_url(text):
        return Path(text)
    from upath import UPath

    try:
        path: Any = UPath(text)
        path.fs  # noqa: B018  finds the file system, or what is missing for it
    except (ImportError, ValueError) as error:
        raise InputError(f"{text}: {error}") from error
    return path


def is_url(text: str | os.PathLike[str]) -> bool:
    """Whether a name or path is a URL.

    >>> is_url("s3://bucket/a.png"), is_url("photos/a.png")
    (True, False)
    """
    return "://" in text if isinstance(text, str) else not isinstance(text, Path)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file that readers see whole or not at all, also where the writer is killed; makes its folder.

    Raises:
        OSError: it cannot be written.
    """
    if isinstance(path, Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        container.write_file(path, data)
    else:
        put_whole(path.fs, path.path, data)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which can seek, that readers see whole when all is written, or not at all; makes its folder.

    A file elsewhere, a pipe or a device gets what was written into a temporary file here.

    Raises:
        OSError: it cannot be written.
    """
    if isinstance(path, Path) and (path.is_file() or not path.exists()):
        path.parent.mkdir(parents=True, exist_ok=True)
        with container.replaced(path) as file:
            yield file
        return
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder, "whole")
        with here.open("w+b") as file:
            yield file
        if isinstance(path, Path):
            with here.open("rb") as written, path.open("wb") as out:
                shutil.copyfileobj(written, out)
        else:
            _put(path.fs, path.path, lambda name: path.fs.put_file(str(here), name))


def put_whole(file_system: Any, path: str, data: bytes) -> None:
    """`write_whole` on an fsspec file system."""
    _put(file_system, path, lambda name: file_system.pipe_file(name, data))


def _put(file_system: Any, path: str, put: Callable[[str], None]) -> None:
    """One put of an object, or else a temporary file and a rename."""
    protocol = file_system.protocol
    if _WHOLE_OBJECT_PUT & ({protocol} if isinstance(protocol, str) else set(protocol)):
        put(path)
        return
    folder, _, name = path.rpartition("/")
    file_system.makedirs(folder, exist_ok=True)
    part = f"{folder}/.{name}.{secrets.token_hex(4)}{container.PART}"
    try:
        put(part)
        file_system.mv(part, path)
    except BaseException:
        if file_system.exists(part):
            file_system.rm_file(part)
        raise


def find(folder: Path) -> list[str]:
    """Names of all files below a folder, sorted, with ``/`` between their parts; none where there is no such folder.

    Of a URL in one listing.
    """
    if isinstance(folder, Path):
        return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    root = folder.path.rstrip("/")
    return sorted(name[len(root) :].lstrip("/") for name in folder.fs.find(root))


def remove_parts(targets: Iterable[Path]) -> int:
    """Remove the temporary files that killed writers of these local files left beside them; returns how many.

    A writer that lives holds a lock on its file, which stays.
    """
    names: dict[Path, set[str]] = {}
    for target in targets:
        if isinstance(target, Path):
            names.setdefault(target.parent, set()).add(target.name)
    removed = 0
    for folder, written in names.items():
        for part in folder.glob(f".*{container.PART}"):
            if part.name[1:].removesuffix(container.PART).rpartition(".")[0] in written:
                with contextlib.suppress(OSError):  # removed by another, or not ours to remove
                    removed += _remove_abandoned(part)
    return removed


def _remove_abandoned(part: Path) -> bool:
    if time.time() - part.stat().st_mtime < _PART_AGE_S:
        return False
    with part.open("rb") as file:
        if not container.lock(file.fileno()):
            return False
        part.unlink()
    return True
