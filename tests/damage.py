"""Damage to files that the tests of both codecs do. No tests here."""

from __future__ import annotations

import struct
import zlib


def rechecked(data: bytes) -> bytes:
    """The same with a header checksum that holds."""
    signal_bytes, count = struct.unpack_from("<HI", data, 16)
    end = 22 + signal_bytes + 9 * count
    if count > 10_000 or end + 4 > len(data):
        return data
    return data[:end] + struct.pack("<I", zlib.crc32(data[:end])) + data[end + 4 :]


def flip_bits(rng, data, others):
    body = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        body[rng.integers(len(body))] ^= 1 << rng.integers(8)
    return bytes(body)


def truncate(rng, data, others):
    return data[: rng.integers(len(data))]
