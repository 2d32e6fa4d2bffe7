"""A chunk of entropy-coded symbols that knows them: the CRC-32 of the symbols (4 bytes, little-endian), then their bytes.

The check starts from the CRC-32 of the signal header. So a chunk that is read under another header, with other tables or
levels, or in another place than it was written for gives other symbols, and is found out: its bytes alone look well.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

from ..entropy_models.coder import WORD_BYTES, Read, Write
from ..entropy_models.errors import BitstreamError, Corrupt, Truncated
from ..entropy_models.tables import Tables

CHECK = struct.Struct("<I")
CHECK_BYTES = CHECK.size
LEAST_BYTES = CHECK_BYTES - WORD_BYTES
"""Bytes of a chunk beside the bits of its symbols, at least: a stream's end is a whole word, which may hold the last symbols
by luck."""


def new_writer(tables: Tables, signal_header: bytes) -> Write:
    """A coder for the symbols of one chunk; `chunk_of` ends it."""
    writer = Write(tables)
    writer.checks[0] = zlib.crc32(signal_header)
    return writer


def chunk_of(writer: Write, check_bytes: int = CHECK_BYTES) -> bytes:
    """The chunk of what a writer has coded; ``check_bytes``: lower bytes of the check that it holds, fewer in small
    packets."""
    return CHECK.pack(writer.checks[0])[:check_bytes] + writer.close()[0]


def packet_of(writer: Write, check_bytes: int) -> bytes:
    """A chunk for a packet, whose size is known: without zeros at its end, which `unpacked` puts back."""
    return chunk_of(writer, check_bytes).rstrip(b"\0")


def unpacked(packet: bytes, check_bytes: int) -> bytes:
    """The chunk that `packet_of` made a packet of."""
    chunk = packet.ljust(check_bytes, b"\0")
    return chunk + bytes((check_bytes - len(chunk)) % WORD_BYTES)


@contextmanager
def reading(tables: Tables, signal_header: bytes, chunk: bytes, check_bytes: int = CHECK_BYTES) -> Iterator[Read]:
    """A coder for the symbols of a chunk; at the end of the block all of them must have been read, and be those written.

    Raises:
        BitstreamError: they are not, or the chunk is none. Any ValueError inside the block is Corrupt: of symbols that no
            encoder writes.
    """
    if len(chunk) < check_bytes:
        raise Truncated(f"a chunk of {len(chunk)} bytes; its check alone has {check_bytes}")
    reader = Read(tables, [chunk[check_bytes:]])
    reader.checks[0] = zlib.crc32(signal_header)
    try:
        yield reader
    except ValueError as error:
        raise error if isinstance(error, BitstreamError) else Corrupt(str(error)) from None
    reader.close()
    check = CHECK.pack(reader.checks[0])[:check_bytes]
    if check != chunk[:check_bytes]:
        raise Corrupt(f"symbols have checksum {check[::-1].hex()}, the chunk says {chunk[:check_bytes][::-1].hex()}")
