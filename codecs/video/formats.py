"""Video files by suffix and by their first bytes: known before numpy and PyAV are loaded."""

from __future__ import annotations

import re

WRITTEN = {
    ".mkv": "FFV1, without loss", ".mp4": "H.264, nearly without loss", ".webm": "VP9, nearly without loss",
    ".y4m": "plain YCbCr", ".gif": "animation of 256 colours a frame", ".png": "pictures, numbered as %05d.png",
}  # fmt: skip
"""Suffixes of files that are written, for people; a folder holds PNG as well."""
SILENT = frozenset({".y4m", ".gif", ".png"})
"""Of these, those without sound."""
READ_ONLY = frozenset({
    ".mov", ".m4v", ".avi", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp", ".3g2", ".ogv", ".vob", ".mxf",
    ".h264", ".264", ".hevc", ".265", ".apng",
})  # fmt: skip
"""Suffixes of more videos that folders are searched for."""
_AUDIO_BRANDS = (b"M4A ", b"M4B ", b"M4P ")
_STILLS = (b"avif", b"avis", b"heic", b"heix", b"hevc", b"mif1", b"msf1")
"""Brands of MP4 files that hold pictures."""
_MATROSKA, _AVI, _FLASH, _ASF = b"\x1a\x45\xdf\xa3", b"AVI ", b"FLV\x01", b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"
_MATROSKA_VIDEO = re.compile(rb"\x83\x81\x01|V_[A-Z]")
"""A track of the kind video, or its codec's name."""
_TRANSPORT_PACKET = 188


def looks_like_video(head: bytes) -> bool:
    """Whether a file is a video, judged by its first bytes. A GIF is one if it moves.

    >>> looks_like_video(b"YUV4MPEG2 W2 H2"), looks_like_video(b"....ftypM4A "), looks_like_video(b"....ftypisom")
    (True, False, True)
    """
    if head[4:8] == b"ftyp":
        return head[8:12] not in (*_AUDIO_BRANDS, *_STILLS) and (b"moov" not in head or b"vide" in head)
    if head[4:8] in (b"moov", b"mdat", b"wide"):
        return True
    if head.startswith(_MATROSKA):
        return _MATROSKA_VIDEO.search(head) is not None
    if head.startswith((b"GIF87a", b"GIF89a")):
        return _moves(head)
    if head.startswith(b"RIFF"):
        return head[8:12] == _AVI and b"vids" in head
    packets = head[: 3 * _TRANSPORT_PACKET : _TRANSPORT_PACKET]
    return head.startswith((b"YUV4MPEG2", _FLASH, b"\x00\x00\x01\xba", b"\x00\x00\x01\xb3")) or packets == b"GGG"


def _moves(gif: bytes) -> bool:
    """Whether a GIF has a second picture, or, where its beginning does not reach that far, says that it repeats."""
    place, pictures = 13 + _colours(gif[10:11]), 0
    while place < len(gif):
        kind = gif[place : place + 1]
        if kind == b"\x2c":
            pictures += 1
            place += 11 + _colours(gif[place + 9 : place + 10])
        elif kind == b"\x21":
            place += 2
        else:
            break
        while place < len(gif) and gif[place]:  # blocks of data
            place += 1 + gif[place]
        place += 1
        if pictures > 1:
            return True
    return place >= len(gif) and b"NETSCAPE2.0" in gif


def _colours(flags: bytes) -> int:
    """Bytes of a colour table."""
    return 3 << ((flags[0] & 7) + 1) if flags and flags[0] & 0x80 else 0
