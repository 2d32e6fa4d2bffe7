r"""The .rdc file, version 1. This docstring is the format's specification.

Little-endian throughout. A file is a header, a chunk table, a checksum over both, then the chunks
end to end; nothing follows the last chunk.

======  ====  =====================================================================================
offset  size  field
======  ====  =====================================================================================
0       4     magic: 0x89 "RDC" (the high bit shows transfers that are not 8-bit clean)
4       1     version, 1
5       1     reserved, 0
6       2     stream id; a number pinned for ever (`rdcodec.codecs.REGISTRY`)
8       8     first 8 bytes of the SHA-256 of the codec's weights file; zeros: the codec has none
16      2     S, size of the signal header, 0..4096
18      4     N, number of chunks, 0..2^20
22      S     signal header; each codec documents its own
22+S    9 N   chunk table, for each chunk: kind (1), length in bytes (4, at most 2^31 - 1), CRC-32 (4)
22+S+9N 4     CRC-32 of every byte before this field
...           chunks, in table order
======  ====  =====================================================================================

Chunk kinds: 0 data (its meaning is the codec's), 1 metadata (the codec's). A chunk is the unit of random access,
parallel work and damage: its offset is the sum of the lengths before it, and each is checked on its own.

>>> data = write(stream_id=1, weights=bytes(8), signal=b"", chunks=[(DATA, b"abc")])
>>> len(data), parse(data).chunk(0)
(38, b'abc')
"""

from __future__ import annotations

import io
import os
import secrets
import struct
import threading
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from ..entropy_models.checksum import crc32
from ..entropy_models.errors import Corrupt, Truncated, Unsupported

with suppress(ImportError):  # Windows, where a file that is open is not removed
    import fcntl

MAGIC = b"\x89RDC"
VERSION = 1
DATA, METADATA = 0, 1
SIGNAL_MAX = 4096
CHUNKS_MAX = 1 << 20
CHUNK_BYTES_MAX = (1 << 31) - 1
WEIGHTS_BYTES = 8
PART = ".part"
"""End of the names of files that are being written."""
_FIXED = struct.Struct("<4sBBH8sHI")
_ENTRY = struct.Struct("<BII")
_CRC = struct.Struct("<I")
ENTRY_BYTES = _ENTRY.size
"""Bytes of a chunk's line in the table."""


class Entry(NamedTuple):
    """One line of the chunk table. ``offset`` is from the start of the file."""

    kind: int
    offset: int
    length: int
    crc: int


class FileBytes:
    """The bytes of an open file that can seek, read when they are asked for: of bytes, what `parse` and `Stream` need.

    Threads may share it. A file that is cut short meanwhile gives fewer bytes.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._lock = file, threading.Lock()
        self._length = file.seek(0, os.SEEK_END)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, part: slice) -> bytes:
        start, stop, step = part.indices(self._length)
        with self._lock:
            self._file.seek(start)
            return self._file.read(max(0, stop - start))[::step]


@dataclass(frozen=True, slots=True)
class Stream:
    """A parsed file: header fields, the chunk table, and access to checked chunks."""

    stream_id: int
    weights: bytes
    signal: bytes
    entries: tuple[Entry, ...]
    data: bytes | memoryview | FileBytes
    """The whole file, in memory or open."""

    def chunk(self, index: int) -> bytes:
        """The bytes of one chunk.

        Raises:
            Truncated: the file ends before the chunk does.
            Corrupt: the checksum does not match.
        """
        body, expected = bytes(self.unchecked(index)), self.entries[index].crc
        if crc32(body) != expected:
            raise Corrupt(f"chunk {index} has checksum {crc32(body):08x}, its table entry says {expected:08x}")
        return body

    def unchecked(self, index: int) -> memoryview:
        """The bytes of one chunk unchecked, for a chunk that is a file with checksums of its own.

        Of a file that is in memory they are not copied.

        Raises:
            Truncated: the file ends before the chunk does.
        """
        entry = self.entries[index]
        end = entry.offset + entry.length
        if end > len(self.data):
            raise Truncated(f"chunk {index} ends at byte {end}, the file has {len(self.data)}")
        whole = self.data if isinstance(self.data, FileBytes) else memoryview(self.data)
        return memoryview(whole[entry.offset : end])

    def check(self) -> None:
        """Compare every chunk's checksum; errors as `chunk`."""
        for i in range(len(self.entries)):
            self.chunk(i)

    def check_weights(self, loaded: bytes) -> None:
        """Unsupported unless the stream was written with the weights of this hash."""
        if self.weights != loaded:
            raise Unsupported(f"the stream needs weights {self.weights.hex()}, loaded are {loaded.hex()}")

    def of_right_length(self) -> Stream:
        """The stream itself.

        Raises:
            Truncated: the file ends before the last chunk does.
            Corrupt: it goes on after it.
        """
        if len(self.data) != self.expected_bytes:
            kind_of = Truncated if len(self.data) < self.expected_bytes else Corrupt
            raise kind_of(f"{len(self.data)} bytes, the chunk table adds up to {self.expected_bytes}")
        return self

    def indices(self, kind: int) -> list[int]:
        """Positions in the table of the chunks of a kind, in order."""
        return [i for i, entry in enumerate(self.entries) if entry.kind == kind]

    @property
    def expected_bytes(self) -> int:
        """Length of the whole file according to the table."""
        last = self.entries[-1] if self.entries else None
        return last.offset + last.length if last else table_end(len(self.signal), 0)


def write(*, stream_id: int, weights: bytes, signal: bytes, chunks: Sequence[tuple[int, bytes]]) -> bytes:
    """Assemble a file. ``chunks`` are (kind, body) pairs; ``weights`` the 8-byte hash, zeros for none.

    Raises:
        ValueError: a field does not fit; see the module's table.
    """
    file = io.BytesIO()
    writer = Writer(file, stream_id=stream_id, weights=weights, signal=signal, count=len(chunks))
    for kind, body in chunks:
        writer.add(kind, body)
    writer.close()
    return file.getvalue()


class Writer:
    """Writes a file chunk by chunk, so that none but the current one is in memory.

    Args:
        file: to write to, which can seek, at its beginning.
        count: number of chunks, known before the first: the table comes before them.

    Raises:
        ValueError: a field does not fit; see the module's table.
    """

    def __init__(self, file: BinaryIO, *, stream_id: int, weights: bytes, signal: bytes, count: int) -> None:
        if len(weights) != WEIGHTS_BYTES or len(signal) > SIGNAL_MAX or count > CHUNKS_MAX:
            raise ValueError(f"{len(weights)} hash, {len(signal)} signal header bytes, {count} chunks: out of range")
        self._file, self._count, self._lines = file, count, list[bytes]()
        self._head = _FIXED.pack(MAGIC, VERSION, 0, stream_id, weights, len(signal), count) + signal
        file.write(bytes(table_end(len(signal), count)))

    def add(self, kind: int, body: bytes) -> None:
        """Write the next chunk; ValueError if it is too long."""
        if len(body) > CHUNK_BYTES_MAX:
            raise ValueError(f"a chunk of {len(body)} bytes; at most {CHUNK_BYTES_MAX}")
        self._lines.append(_ENTRY.pack(kind, len(body), crc32(body)))
        self._file.write(body)

    def close(self) -> None:
        """Write header and table; ValueError if chunks are missing. The file stays open."""
        if len(self._lines) != self._count:
            raise ValueError(f"{len(self._lines)} chunks, {self._count} were announced")
        head = self._head + b"".join(self._lines)
        self._file.seek(0)
        self._file.write(head + _CRC.pack(crc32(head)))


def parse(data: bytes | memoryview | FileBytes | Stream, *, salvage: bool = False) -> Stream:
    """Check header and table and return access to the chunks; chunk bodies are checked when read.

    Args:
        data: a whole file, an open one, or what this returned for it, so that each reader may take either.
        salvage: accept a file that ends early or has bytes after the last chunk.

    Raises:
        Unsupported: not an .rdc file, or another version.
        Truncated: the data ends early.
        Corrupt: a field is out of range or the header's checksum does not match.
    """
    if isinstance(data, Stream):
        return data if salvage else data.of_right_length()
    start = bytes(data[: len(MAGIC)])
    if not start:
        raise Unsupported("not an .rdc file: it is empty")
    if start != MAGIC[: len(start)]:
        raise Unsupported(f"not an .rdc file: it starts with {start!r}, not {MAGIC!r}")
    if len(data) < _FIXED.size:
        raise Truncated(f"{len(data)} bytes, a header has at least {_FIXED.size}")
    _, version, reserved, stream_id, weights, signal_bytes, count = _FIXED.unpack(data[: _FIXED.size])
    if version != VERSION:
        raise Unsupported(f"version {version}, this program reads version {VERSION}")
    if reserved or signal_bytes > SIGNAL_MAX or count > CHUNKS_MAX:
        raise Corrupt(f"reserved byte {reserved}, signal header {signal_bytes} bytes, {count} chunks: out of range")
    end = table_end(signal_bytes, count)
    if len(data) < end:
        raise Truncated(f"{len(data)} bytes, header and chunk table need {end}")
    head = bytes(data[:end])
    crc = crc32(head[: -_CRC.size])
    if crc != _CRC.unpack(head[-_CRC.size :])[0]:
        raise Corrupt(f"header checksum is {crc:08x}, not what the file says")
    table = _FIXED.size + signal_bytes
    entries, offset = [], end
    for i, (kind, length, chunk_crc) in enumerate(_ENTRY.iter_unpack(head[table : -_CRC.size])):
        if length > CHUNK_BYTES_MAX:
            raise Corrupt(f"chunk {i} claims {length} bytes, at most {CHUNK_BYTES_MAX}")
        entries.append(Entry(kind, offset, length, chunk_crc))
        offset += length
    stream = Stream(stream_id, weights, head[_FIXED.size : table], tuple(entries), data)
    return stream if salvage else stream.of_right_length()


def stream_id_at(path: Path) -> int | None:
    """The stream id in a file's first bytes, unchecked; None where it cannot be had without consuming the data.

    To name outputs before files are read: pipes are left alone, and what is wrong shows when the file is read.
    """
    try:
        with path.open("rb") if path.is_file() else io.BytesIO() as file:
            head = file.read(_FIXED.size)
    except OSError:
        return None
    return _FIXED.unpack(head)[3] if len(head) == _FIXED.size and head.startswith(MAGIC) else None


def table_end(signal_bytes: int, count: int) -> int:
    """Bytes before the first of ``count`` chunks."""
    return _FIXED.size + signal_bytes + count * _ENTRY.size + _CRC.size


def write_file(path: Path, data: bytes) -> None:
    """Write to a temporary file beside ``path``, then rename: a reader never sees half a file.

    A link stays, and what it points to is replaced; into a pipe or a device the data just goes.

    Raises:
        OSError: it cannot be written; names ``path``.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        path.write_bytes(data)
        return
    with replaced(path) as file:
        file.write(data)


@contextmanager
def replaced(path: Path) -> Iterator[BinaryIO]:
    """A new file that takes the place of ``path`` when all is written, and leaves no trace if anything fails.

    It is locked while it is written: one that is not is what a killed writer left.

    Raises:
        OSError: it cannot be written; names ``path``.
    """
    path = Path(os.path.realpath(path))
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PART}")
    try:  # not tempfile, whose files are their owner's alone: a umask can only be read by setting it, for all threads
        handle = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    try:
        with os.fdopen(handle, "w+b") as file:
            lock(handle)
            yield file
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def lock(handle: int) -> bool:
    """Lock an open file until it is closed; False: another process has it. Where there are no locks, False."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (NameError, OSError):
        return False
    return True


def inflated(data: bytes, limit: int) -> bytes:
    """Content of a zlib stream, of at most ``limit`` bytes.

    Raises:
        Corrupt: it is none, or longer, or other bytes follow.
    """
    inflate = zlib.decompressobj()
    try:
        body = inflate.decompress(data, limit)
    except zlib.error as error:
        raise Corrupt(f"no zlib stream: {error}") from None
    if not inflate.eof or inflate.unused_data:
        raise Corrupt(f"a zlib stream that is cut short, goes on after its end, or has more than {limit} bytes")
    return body
