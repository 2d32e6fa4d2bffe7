"""Formats of image files that are written, and names that a demonstration writes: known before Pillow is loaded."""

from __future__ import annotations

FORMATS = {
    ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".avif": "AVIF", ".tif": "TIFF", ".tiff": "TIFF",
    ".bmp": "BMP", ".ppm": "PPM", ".pgm": "PGM",
}  # fmt: skip
"""Suffixes, with Pillow's names of their formats, and PGM for its PPM in grey."""
READ_ONLY = frozenset({".gif", ".jp2", ".ico", ".jfif", ".jpe", ".tga", ".dib"})
"""Suffixes of more images that folders are searched for."""
STRIPS = "gps", "exif", "all"
"""Metadata that people leave out: places; all EXIF; all that tells no colours. The orientation stays."""
QUALITIES = (15, 40, 70)
"""Qualities of the demonstration."""
ORIGINAL, SHEET = "original.png", "sheet.png"
SHOWN = ORIGINAL, SHEET, *(f"q{quality}{end}" for quality in QUALITIES for end in (".rdc", ".png", "_equal_bytes.jpg"))
"""Files that a demonstration writes."""


def moves(gif: bytes) -> bool:
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
