"""Backends, where blocks lie: a directory, any fsspec URL, or Redis. A few verbs, and a put that is never seen half done.

Keys are relative paths of letters, digits, ``-``, ``_``, ``.`` and ``/``. A value is immutable in meaning
(its key is a hash of what it holds), so writers need no locks: the last of two equal puts wins, and nothing is lost.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ...entropy_models.errors import InputError
from ..terminal.paths import put_whole
from .catalogs.lines import Catalog

_KEY = re.compile(r"[A-Za-z0-9_\-]+(?:[./][A-Za-z0-9_\-]+)*")
_PART = ".part"
_PART_AGE_S = 3600.0
"""No writer takes so long for one block."""
REDIS_VALUE_MAX = 512 * 2**20
"""Redis refuses larger strings (its ``proto-max-bulk-len``)."""
REQUESTS_AT_ONCE = 16
"""Objects that are fetched together."""
REDIS_CONNECT_S, REDIS_ANSWER_S = 2.0, 2.0
"""Seconds after which a Redis server counts as one that does not answer, unless the URL says ``socket_connect_timeout`` or
``socket_timeout``: a generation that waits longer than that had better compute its prompt."""
REDIS_TRIES = 2
"""Times a connection that broke is made again; what timed out is not tried again."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One stored value."""

    key: str
    size_bytes: int


class Backend(Protocol):
    """The interface. A key that is not there is None or nothing, never an exception."""

    def get(self, key: str, end: int | None = None) -> bytes | None:
        """The value, or None; only its first ``end`` bytes where given."""

    def get_many(self, keys: Sequence[str], end: int | None = None) -> Sequence[bytes | None]:
        """`get` of each key, in as few round trips as the store allows."""

    def put(self, key: str, data: bytes) -> None:
        """Store a value; readers and other writers see all of it or none of it."""

    def delete(self, key: str) -> None:
        """Remove a value if it is there."""

    def list(self, prefix: str) -> Iterator[Entry]:
        """Values whose key starts with ``prefix``, in no particular order."""

    def folders(self, prefix: str) -> Sequence[str]:
        """What comes between ``prefix``, which ends with ``/``, and the next ``/`` in the keys of values."""

    def catalog(self, namespace: str) -> Catalog:
        """What is written down of the blocks of a namespace."""


def open_backend(where: str | os.PathLike[str]) -> Backend:
    """The backend of an address.

    Args:
        where: a directory, ``~`` being the user's home, which the first put makes if it is missing; ``redis://``,
            ``rediss://``, ``valkey://`` or ``unix://`` with an optional ``?prefix=name``; any other ``scheme://``
            goes to fsspec (``s3://bucket/folder``, ``memory://x``).

    Raises:
        ValueError: a scheme that neither Redis nor fsspec knows, or whose extra package is not installed.
        OSError: a file where the directory should be. A server that does not answer shows when it is first asked.
    """
    where = os.fspath(where)
    scheme = where.partition("://")[0] if "://" in where else ""
    if scheme in {"redis", "rediss", "valkey", "valkeys", "unix"}:
        return RedisBackend(where)
    return FsspecBackend(where) if scheme else DirectoryBackend(Path(os.path.expanduser(where)))


def _checked(key: str) -> str:
    if not _KEY.fullmatch(key):
        raise InputError(f"{key!r} is not a key: need letters, digits, - _ . and / between")
    return key


class DirectoryBackend:
    """A local directory; a value is a file, written beside its place and renamed into it."""

    def __init__(self, root: Path) -> None:
        """``root`` may be missing: the first put makes it, so that one that is refused leaves no empty folder."""
        if root.exists() and not root.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(root))
        self.root = root

    def get(self, key: str, end: int | None = None) -> bytes | None:
        """The file's bytes, or None."""
        try:
            with (self.root / _checked(key)).open("rb") as file:
                return file.read(-1 if end is None else end)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def get_many(self, keys: Sequence[str], end: int | None = None) -> Sequence[bytes | None]:
        """One file after the other: a disk is no faster for being asked at once."""
        return [self.get(key, end) for key in keys]

    def put(self, key: str, data: bytes) -> None:
        """Write a temporary file, flush it to the disk, rename: a killed writer leaves only a ``.part`` file."""
        path = self.root / _checked(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=_PART)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise

    def delete(self, key: str) -> None:
        """Unlink the file if it is there."""
        (self.root / _checked(key)).unlink(missing_ok=True)

    def list(self, prefix: str) -> Iterator[Entry]:
        """Walk the prefix's folder; files that vanish meanwhile are left out. What killed writers left there is removed."""
        for folder, _, names in os.walk(self.root / prefix.rpartition("/")[0]):
            for name in names:
                path = Path(folder) / name
                key = path.relative_to(self.root).as_posix()
                if name.endswith(_PART):
                    with contextlib.suppress(OSError):  # someone else removed it, or we may only read
                        if path.stat().st_mtime < time.time() - _PART_AGE_S:
                            path.unlink()
                elif key.startswith(prefix):
                    with contextlib.suppress(FileNotFoundError):
                        yield Entry(key, path.stat().st_size)

    def folders(self, prefix: str) -> Sequence[str]:
        """Folders that hold a file, which ends the walk."""
        try:
            names = [entry.name for entry in os.scandir(self.root / prefix) if entry.is_dir()]
        except (FileNotFoundError, NotADirectoryError):
            return []
        return [name for name in names if any(files for _, _, files in os.walk(self.root / prefix / name))]

    def catalog(self, namespace: str) -> Catalog:
        """An SQLite file in the directory."""
        from .catalogs.folder import FolderCatalog

        return FolderCatalog(self.root, namespace)


class FsspecBackend:
    """Any fsspec URL. Object stores put whole objects; file systems get a temporary file and a rename."""

    def __init__(self, url: str) -> None:
        try:
            from fsspec.core import url_to_fs
        except ImportError as error:  # pragma: no cover - depends on what is installed
            raise InputError(f"{url} needs fsspec: pip install 'rdcodec[kv]'") from error
        try:
            self._fs, root = url_to_fs(url, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise InputError(f"{url}: {error}") from error
        self._root = root.rstrip("/")

    def _path(self, key: str) -> str:
        return f"{self._root}/{_checked(key)}"

    def get(self, key: str, end: int | None = None) -> bytes | None:
        """The object's bytes, or None; a range request where only the beginning is asked for."""
        return self._range(key, None if end is None else 0, end)

    def _range(self, key: str, first: int | None, end: int | None) -> bytes | None:
        try:
            return bytes(self._fs.cat_file(self._path(key), start=first, end=end))
        except FileNotFoundError:
            return None

    def get_many(self, keys: Sequence[str], end: int | None = None) -> Sequence[bytes | None]:
        """All at once."""
        return self.get_ranges([(key, None if end is None else 0, end) for key in keys])

    def get_ranges(self, parts: Sequence[tuple[str, int | None, int | None]]) -> Sequence[bytes | None]:
        """Of each (key, first, end) the bytes from ``first`` on that come before ``end``, or None; all at once."""
        if len(parts) < 2:
            return [self._range(*part) for part in parts]
        with ThreadPoolExecutor(min(len(parts), REQUESTS_AT_ONCE)) as pool:
            return list(pool.map(lambda part: self._range(*part), parts))

    def put(self, key: str, data: bytes) -> None:
        """One put of a whole object, or a temporary file and a rename."""
        put_whole(self._fs, self._path(key), data)

    def delete(self, key: str) -> None:
        """Remove the object if it is there."""
        try:
            self._fs.rm_file(self._path(key))
        except FileNotFoundError:
            pass

    def list(self, prefix: str) -> Iterator[Entry]:
        """List under the prefix's folder. What killed writers left behind there is removed."""
        folder = f"{self._root}/{prefix.rpartition('/')[0]}".rstrip("/")
        try:
            found = self._fs.find(folder, detail=True)
        except FileNotFoundError:
            return
        for path, info in found.items():
            key = path[len(self._root) :].lstrip("/")
            if key.endswith(_PART):
                self._remove_old(path)
            elif key.startswith(prefix):
                yield Entry(key, int(info["size"]))

    def folders(self, prefix: str) -> Sequence[str]:
        """Names in one listing; of file systems also those of empty folders."""
        try:
            found = self._fs.ls(f"{self._root}/{prefix}".rstrip("/"), detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return [info["name"].rstrip("/").rpartition("/")[2] for info in found if info["type"] == "directory"]

    def catalog(self, namespace: str) -> Catalog:
        """Manifests among the blocks."""
        from .catalogs.objects import ObjectCatalog

        return ObjectCatalog(self, namespace)

    def _remove_old(self, path: str) -> None:
        """Remove a temporary file that no writer can still be at; it stays where the file system does not tell its age."""
        with contextlib.suppress(OSError, NotImplementedError):  # removed by another, not ours to remove, or no age told
            modified = self._fs.modified(path)
            # without a time zone it may be hours off
            if modified.tzinfo and modified.timestamp() < time.time() - _PART_AGE_S:
                self._fs.rm_file(path)


@contextlib.contextmanager
def _as_os_error() -> Iterator[None]:
    """A Redis server that is gone or full fails as a folder or S3 would."""
    import redis

    try:
        yield
    except redis.RedisError as error:
        raise ConnectionError(f"the Redis server refuses, or does not answer: {error}") from None


class RedisBackend:
    """Redis or Valkey; a value is a string under ``prefix:key``. SET replaces a whole value at once.

    A server that evicts by itself (``maxmemory-policy allkeys-lru``) is fine: a block that is gone is a miss.
    """

    def __init__(self, url: str) -> None:
        try:
            import redis
        except ImportError as error:  # pragma: no cover - depends on what is installed
            raise InputError(f"{url} needs the redis client: pip install 'rdcodec[kv]'") from error
        from redis.backoff import ExponentialBackoff
        from redis.retry import Retry

        address, prefix = _split_prefix(url)
        broken: tuple[type[Exception], ...] = (redis.ConnectionError,)
        self._redis: Any = redis.Redis.from_url(
            re.sub(r"^valkey", "redis", address),
            socket_connect_timeout=REDIS_CONNECT_S,
            socket_timeout=REDIS_ANSWER_S,
            retry=Retry(ExponentialBackoff(cap=0.5, base=0.05), REDIS_TRIES, supported_errors=broken),
        )
        self._prefix = prefix
        pool = self._redis.connection_pool
        try:
            pool.connection_class(**pool.connection_kwargs)
        except TypeError as error:  # what follows the ? reaches the client's connection as it is
            raise InputError(f"{url}: an option that the redis client does not know: {error}") from None

    def _name(self, key: str) -> bytes:
        return f"{self._prefix}:{_checked(key)}".encode()

    def get(self, key: str, end: int | None = None) -> bytes | None:
        """The string's bytes, or None; GETRANGE where only the beginning is asked for."""
        name = self._name(key)
        with _as_os_error():
            value = self._redis.get(name) if end is None else self._redis.getrange(name, 0, end - 1)
        return bytes(value) if value else None  # GETRANGE of a missing key is empty; blocks never are

    def get_many(self, keys: Sequence[str], end: int | None = None) -> Sequence[bytes | None]:
        """MGET, or GETRANGE of each in one round trip."""
        if not keys:
            return []
        names = [self._name(key) for key in keys]
        with _as_os_error():
            if end is None:
                values = self._redis.mget(names)
            else:
                pipe = self._redis.pipeline(transaction=False)
                for name in names:
                    pipe.getrange(name, 0, end - 1)
                values = pipe.execute()
        return [bytes(value) if value else None for value in values]

    def put(self, key: str, data: bytes) -> None:
        """SET.

        Raises:
            ValueError: more than Redis takes in one string.
        """
        if len(data) > REDIS_VALUE_MAX:
            raise InputError(f"a block of {len(data)} bytes; Redis takes at most {REDIS_VALUE_MAX}, use fewer tokens")
        with _as_os_error():
            self._redis.set(self._name(key), data)

    def delete(self, key: str) -> None:
        """DEL."""
        with _as_os_error():
            self._redis.delete(self._name(key))

    def list(self, prefix: str) -> Iterator[Entry]:
        """SCAN, which never blocks the server; sizes by STRLEN, a thousand in one round trip."""
        names, skip = self._names(prefix), len(self._prefix) + 1
        for at in range(0, len(names), 1000):
            part = names[at : at + 1000]
            pipe = self._redis.pipeline(transaction=False)
            for name in part:
                pipe.strlen(name)
            with _as_os_error():
                sizes = pipe.execute()
            for name, size in zip(part, sizes, strict=True):
                if size:
                    yield Entry(name.decode()[skip:], int(size))

    def _names(self, prefix: str) -> Sequence[bytes]:
        pattern = re.sub(r"([*?\[\]\\])", r"\\\1", f"{self._prefix}:{prefix}") + "*"
        with _as_os_error():
            return sorted(set(self._redis.scan_iter(match=pattern.encode(), count=1000)))  # SCAN may repeat a key

    def folders(self, prefix: str) -> Sequence[str]:
        """SCAN of all keys once."""
        skip = len(self._prefix) + 1 + len(prefix)
        return list(dict.fromkeys(name.decode()[skip:].partition("/")[0] for name in self._names(prefix)))

    def catalog(self, namespace: str) -> Catalog:
        """A hash and sorted sets beside the blocks."""
        from .catalogs.redis import RedisCatalog

        return RedisCatalog(self._redis, self._prefix, namespace)


def _split_prefix(url: str) -> tuple[str, str]:
    """Take ``prefix=name`` out of the query string; the client refuses options it does not know."""
    base, _, query = url.partition("?")
    options = [option for option in query.split("&") if option]
    prefixes = [option[7:] for option in options if option.startswith("prefix=")]
    rest = "&".join(option for option in options if not option.startswith("prefix="))
    return base + (f"?{rest}" if rest else ""), prefixes[-1] if prefixes else "rdcodec"
