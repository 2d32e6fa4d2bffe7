"""Video files by suffix and by their first bytes: known before numpy and PyAV are loaded."""

from __future__ import annotations

import re
from pathlib import Path

from ..image.formats import moves
from ..speech.formats import STILLS, TRANSPORT_PACKET
from ..terminal.sources import NUMBERED

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
PICTURES = frozenset({".png", ".jpg", ".jpeg"})
"""Suffixes of pictures that folders are searched for, to make a video of them."""
QUALITIES = (24, 48)
"""Qualities of the demonstration."""
PAGE, ORIGINAL = "watch.html", "original.mp4"
STREAMS, DECODED = (tuple(f"video_q{quality}{suffix}" for quality in QUALITIES) for suffix in (".rdc", ".mp4"))
SHOWN = PAGE, ORIGINAL, *STREAMS, *DECODED
"""Files that a demonstration writes."""
_AUDIO_BRANDS = (b"M4A ", b"M4B ", b"M4P ")
_MATROSKA, _AVI, _FLASH, _ASF = b"\x1a\x45\xdf\xa3", b"AVI ", b"FLV\x01", b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"
_MATROSKA_VIDEO = re.compile(rb"\x83\x81\x01|V_[A-Z]")
"""A track of the kind video, or its codec's name."""


def names_a_folder(path: Path) -> bool:
    """Whether a target is a folder for pictures: one that is there, a name without a suffix, or numbered PNG in it."""
    return path.is_dir() or not path.suffix or (path.suffix.lower() == ".png" and bool(NUMBERED.search(path.name)))


def looks_like_video(head: bytes) -> bool:
    """Whether a file is a video, judged by its first bytes. A GIF is one if it moves.

    >>> looks_like_video(b"YUV4MPEG2 W2 H2"), looks_like_video(b"....ftypM4A "), looks_like_video(b"....ftypisom")
    (True, False, True)
    """
    if head[4:8] == b"ftyp":
        return head[8:12] not in (*_AUDIO_BRANDS, *STILLS) and (b"moov" not in head or b"vide" in head)
    if head[4:8] in (b"moov", b"mdat", b"wide"):
        return True
    if head.startswith(_MATROSKA):
        return _MATROSKA_VIDEO.search(head) is not None
    if head.startswith((b"GIF87a", b"GIF89a")):
        return moves(head)
    if head.startswith(b"RIFF"):
        return head[8:12] == _AVI and b"vids" in head
    packets = head[: 3 * TRANSPORT_PACKET : TRANSPORT_PACKET]
    return head.startswith((b"YUV4MPEG2", _FLASH, b"\x00\x00\x01\xba", b"\x00\x00\x01\xb3")) or packets == b"GGG"
