"""PNG files beyond what Pillow tells and writes: transparent colours at every depth, and pictures of 16 bits."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

import numpy as np

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY, RGB, ALPHA = 0, 2, 4
"""Colour types; alpha is added."""
_UP = 2
"""Filter: the difference to the row above."""
_PIXELS = b"IHDR", b"IDAT", b"IEND"


def chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Name and body of each chunk of a PNG, as far as they are whole; checksums are not looked at."""
    at = len(SIGNATURE)
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        if at + 12 + length > len(data):
            return
        yield data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        at += 12 + length


def depth_and_colour(data: bytes) -> tuple[int, int]:
    """Bits per channel and colour type of a PNG."""
    return (data[24], data[25]) if len(data) > 25 else (8, RGB)


def is_grey(data: bytes) -> bool:
    """Whether a PNG has no colours: Pillow gives grey with alpha of 16 bits as RGBA."""
    return bool(data) and depth_and_colour(data)[1] in (GREY, GREY + ALPHA)


def transparent_grey(data: bytes) -> int | None:
    """The grey that a PNG without alpha has transparent, in the file's own bits; None: none.

    Pillow compares it with greys that it has scaled to 8 bits.
    """
    found = dict(chunks(data)).get(b"tRNS", b"")
    depth, colour = depth_and_colour(data)
    return int.from_bytes(found[:2], "big") & ((1 << depth) - 1) if colour == GREY and len(found) >= 2 else None


def write_deep(pixels: np.ndarray, like: bytes) -> bytes:
    """A PNG of 16 bits per channel.

    Args:
        pixels: uint16 (height, width, 1..4), alpha last.
        like: a PNG whose metadata it gets.
    """
    height, width, channels = pixels.shape
    colour = {1: GREY, 2: GREY + ALPHA, 3: RGB, 4: RGB + ALPHA}[channels]
    rows = pixels.astype(">u2").reshape(height, -1).view(np.uint8)
    above = np.concatenate([np.zeros_like(rows[:1]), rows[:-1]])
    filtered = np.concatenate([np.full((height, 1), _UP, np.uint8), rows - above], axis=1)
    parts = [(name, body) for name, body in chunks(like) if name not in _PIXELS]
    head = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    return assembled([(b"IHDR", head), *parts, (b"IDAT", zlib.compress(filtered.tobytes())), (b"IEND", b"")])


def with_code(data: bytes, code: bytes) -> bytes:
    """A PNG with a cICP chunk: its four code points."""
    head, *rest = chunks(data)
    return assembled([head, (b"cICP", code), *rest])


def assembled(parts: list[tuple[bytes, bytes]]) -> bytes:
    """A PNG of chunks, by name and body."""
    file = [SIGNATURE]
    for name, body in parts:
        file.append(struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)))
    return b"".join(file)
