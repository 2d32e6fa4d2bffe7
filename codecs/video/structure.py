"""Length that a video file announces, to tell one that is cut off before hours are spent on it."""

from __future__ import annotations

import io
import os
import re
from typing import BinaryIO

_HEAD_BYTES = 1 << 16
_EBML, _SEGMENT = 0x1A45DFA3, 0x18538067
_BOX = re.compile(rb"[A-Za-z0-9 \xa9_-]{4}")
_Y4M_SAMPLES = {"420": (2, 2), "422": (2, 1), "444": (1, 1), "411": (4, 1), "mono": (0, 0)}
"""Pixels to a chroma sample, horizontally and vertically."""


def missing_bytes(file: BinaryIO) -> int:
    """Bytes at least by which a file is shorter than its structure says; 0: whole, or the format does not tell.

    Reads MP4 and QuickTime boxes, Matroska's segment, RIFF (AVI), GIF's last byte and Y4M's frames. Moves in the file.
    """
    length = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(_HEAD_BYTES)
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        announced = _boxes_end(file, length)
    elif head.startswith(_EBML.to_bytes(4, "big")):
        announced = _segment_end(io.BytesIO(head))
    elif head.startswith(b"RIFF"):
        announced = 8 + int.from_bytes(head[4:8], "little")
    elif head.startswith(b"GIF8"):
        file.seek(max(0, length - _HEAD_BYTES))
        announced = length if file.read().rstrip(b"\0").endswith(b";") else length + 1
    elif head.startswith(b"YUV4MPEG2 "):
        announced = _y4m_end(head, length)
    else:
        announced = 0
    return max(0, announced - length)


def _boxes_end(file: BinaryIO, length: int) -> int:
    """End of the last box (ISO/IEC 14496-12, 4.2)."""
    at = 0
    while at + 8 <= length:
        file.seek(at)
        head = file.read(16)
        size = int.from_bytes(head[:4], "big")
        if not _BOX.fullmatch(head[4:8]) or size == 0:  # something else behind the boxes; or it goes to the end
            return length
        if size == 1:
            size = int.from_bytes(head[8:16], "big")
        if size < 8:
            return length
        at += size
    return at


def _segment_end(head: BinaryIO) -> int:
    """End of Matroska's segment (RFC 8794, 5 and 6; RFC 9559, 5.1); 0: a live stream's, of no known size."""
    for wanted in (_EBML, _SEGMENT):
        if int.from_bytes(head.read(4), "big") != wanted:
            return 0
        first = head.read(1)
        more = 8 - first[0].bit_length() if first and first[0] else 8
        if more > 7:
            return 0
        value = int.from_bytes(first + head.read(more), "big") & ((1 << 7 * (more + 1)) - 1)
        if value == (1 << 7 * (more + 1)) - 1:
            return 0
        end = head.tell() + value
        head.seek(end)
    return end


def _y4m_end(head: bytes, length: int) -> int:
    """End of the last frame, if frames have no parameters of their own."""
    line, _, rest = head.partition(b"\n")
    words = {word[:1]: word[1:] for word in line.decode("latin-1").split()[1:]}
    form = re.fullmatch(r"(420|422|444|411|mono)(?:jpeg|mpeg2|paldv)?(?:p?(\d+))?", words.get("C", "420"))
    if not form or not rest.startswith(b"FRAME\n") or not (words.get("W", "").isdigit() and words.get("H", "").isdigit()):
        return length
    width, height = int(words["W"]), int(words["H"])
    across, down = _Y4M_SAMPLES[form[1]]
    samples = width * height + (2 * -(-width // across) * -(-height // down) if across else 0)
    frame = len(b"FRAME\n") + samples * (2 if int(form[2] or 8) > 8 else 1)
    start = len(line) + 1
    return start + -(-(length - start) // frame) * frame
