"""The catalog of a store in Redis: a hash of lines for each namespace, and for each parent a set of its children in order.

    <prefix>;lines:<namespace>            id: packed line, and a CRC-32 of it; "version": 2
    <prefix>;lengths:<namespace>          set of the lengths of blocks in tokens
    <prefix>;after:<namespace>:<parent>   sorted by bytes: the children's tokens and ids; a neighbour takes one question

A token is 0x01 and four bytes, the end 0x00: a block sorts before the longer ones that begin with it.
A server that evicts by itself may drop either; then whole blocks are still found by their ids.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import numpy as np

from ..trie import TOKEN_BYTES
from .lines import CatalogError, Line, around, unpacked

T = TypeVar("T")
VERSION = b"2"
_ID_BYTES, _CRC_BYTES = 16, 4
_AT_ONCE = 1000


class RedisCatalog:
    """A catalog on a Redis client."""

    far = True

    def __init__(self, client: Any, prefix: str, namespace: str) -> None:
        self._redis, self._hash = client, f"{prefix};lines:{namespace}".encode()
        self._lengths, self._sets = f"{prefix};lengths:{namespace}".encode(), f"{prefix};after:{namespace}:".encode()
        self._longest: int | None = None
        self._complete = self._marked = False

    def _read(self, ask: Callable[[], T]) -> T:
        """An answer of the server. `CatalogError` if it refuses, e.g. as another type of value is there."""
        import redis

        try:
            return ask()
        except (redis.ConnectionError, redis.TimeoutError) as error:
            raise ConnectionError(f"the Redis server does not answer: {error}") from None
        except redis.RedisError as error:
            raise CatalogError(str(error)) from error

    @property
    def longest(self) -> int:
        """Most tokens of a block, as of when the store was opened, and of what this process added."""
        if self._longest is None:
            self._longest = max(map(int, self._read(lambda: self._redis.smembers(self._lengths))), default=0)
        return self._longest

    def outdated(self) -> list[str]:
        """Everything, where there is no catalog yet."""
        self._longest = None
        version = self._read(lambda: self._redis.hget(self._hash, "version"))
        if version not in {None, VERSION}:
            raise CatalogError(f"a catalog of version {version!r}; this program knows {VERSION!r}")
        if version and not self.longest and self._read(lambda: self._redis.hlen(self._hash)) > 1:
            raise CatalogError("the lengths of its blocks are lost")
        self._complete = self._marked = version is not None
        return [] if self._complete else [""]

    def compared(self, part: str) -> None:
        """What is written from now on makes it a catalog."""
        self._complete = True

    def writing(self, block: bytes) -> AbstractContextManager[None]:
        """Nothing is watched."""
        return nullcontext()

    def sizes(self, part: str) -> dict[bytes, int]:
        """Id and bytes of all blocks."""
        return {line.id: line.size_bytes for line in self.lines()}

    def lines(self) -> Iterator[Line]:
        """Every line."""
        fields = self._read(lambda: dict(self._redis.hscan_iter(self._hash, count=_AT_ONCE)))
        yield from (_line(data) for name, data in fields.items() if len(name) == _ID_BYTES)

    def around(self, places: list[tuple[bytes, bytes]]) -> list[list[Line]]:
        """See `Catalog`."""
        return around(self._ask, places)

    def _ask(self, questions: list[tuple[bytes, bytes, bool]]) -> list[Line | None]:
        """Two round trips: the neighbours, then their lines."""
        pipe = self._redis.pipeline(transaction=False)
        for parent, key, after in questions:
            name, at = self._sets + parent.hex().encode(), _sortable(key) + b"\x01"  # after all blocks of just this key
            if after:
                pipe.zrangebylex(name, b"(" + at, b"+", start=0, num=1)
            else:
                pipe.zrevrangebylex(name, b"(" + at, b"-", start=0, num=1)
        ids = [found[0][-_ID_BYTES:] if found else None for found in self._read(pipe.execute)]
        asked = [block for block in ids if block]
        lines = dict(zip(asked, self._read(lambda: self._redis.hmget(self._hash, asked)) if asked else (), strict=True))
        return [_line(lines[block]) if block and lines[block] else None for block in ids]

    def write(self, added: Iterable[Line], removed: Iterable[bytes]) -> None:
        """Add and replace lines, and remove others; nothing where the server takes none."""
        import redis

        added, removed = list(added), list(removed)
        if not added and not removed and self._complete == self._marked:
            return
        try:
            pipe = self._redis.pipeline(transaction=False)
            old = self._redis.hmget(self._hash, removed) if removed else []
            for line in map(_line, filter(None, old)):
                pipe.zrem(self._sets + line.parent_id.hex().encode(), _member(line))
                pipe.hdel(self._hash, line.id)
            if self._complete:
                pipe.hset(self._hash, "version", VERSION)
            for line in added:
                packed = line.packed()
                pipe.hset(self._hash, line.id, packed + zlib.crc32(packed).to_bytes(_CRC_BYTES, "little"))
                pipe.zadd(self._sets + line.parent_id.hex().encode(), {_member(line): 0})
            for tokens in {len(line.key) // TOKEN_BYTES for line in added}:
                pipe.sadd(self._lengths, tokens)
                self._longest = max(self._longest or 0, tokens) if self._longest is not None else None
            pipe.execute()
            self._marked = self._complete
        except (redis.RedisError, CatalogError):
            return

    def close(self) -> None:
        """The client's connections are the backend's."""

    def reset(self) -> None:
        """Delete the hash and the lengths; sets without them are replaced as lines are written."""
        import redis

        try:
            self._redis.delete(self._hash, self._lengths)
        except redis.RedisError:
            return


def _sortable(key: bytes) -> bytes:
    out = np.ones((len(key) // TOKEN_BYTES, 1 + TOKEN_BYTES), np.uint8)
    out[:, 1:] = np.frombuffer(key, np.uint8).reshape(-1, TOKEN_BYTES)
    return out.tobytes()


def _member(line: Line) -> bytes:
    return _sortable(line.key) + b"\x00" + line.id


def _line(data: bytes) -> Line:
    packed = data[:-_CRC_BYTES]
    if zlib.crc32(packed).to_bytes(_CRC_BYTES, "little") != data[-_CRC_BYTES:]:
        raise CatalogError("a line whose checksum does not hold")
    line = next(unpacked(packed), None)
    if line is None:
        raise CatalogError("no line of a block")
    return line
