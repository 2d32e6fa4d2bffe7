"""EXIF that may hold anything: what of it travels with a picture, and what belonged to one file alone."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from typing import Any

from PIL import Image

_STRUCTURAL_TAGS = frozenset({
    *range(254, 260), *range(262, 267), 273, *range(277, 282), 284, *range(288, 294), 297, 301, *range(317, 326),
    330, *range(332, 348), *range(512, 522), *range(529, 533), 700, 33723, 34377, 34675, 37724, *range(50706, 50976),
})  # fmt: skip
"""TIFF tags that say how one file stores its pixels, or hold its XMP, IPTC, Photoshop data and ICC profile: no EXIF."""
_RESOLUTION_TAGS = 282, 283
"""EXIF tags: pixels per inch or centimetre, across and down."""
_RESOLUTION_UNIT, _PER_INCH, _PER_CENTIMETRE = 296, 2, 3
_DPI_MAX = 65535
_UNKNOWN_DPI = 1, 72, 96
"""What software writes, and Pillow reads from a TIFF, where nobody knows the size on paper; says nothing."""
_EXIF_ERRORS = (SyntaxError, struct.error, TypeError, ValueError, OSError, LookupError, ArithmeticError, RuntimeError)
"""What Pillow raises for EXIF that is not well formed."""
_SUB_IFDS = frozenset({0x8769, 0x8825, 0xA005})
"""EXIF tags that point at more tags."""


def _with_resolution(exif: Image.Exif, dpi: Any) -> Image.Exif:
    """EXIF that also says what PNG, JPEG and TIFF keep elsewhere: how many pixels of a scan make an inch."""
    known = set(_RESOLUTION_TAGS) & set(exif)
    if dpi and not known and all(1 <= x < _DPI_MAX and round(x) not in _UNKNOWN_DPI for x in map(float, dpi)):
        for tag, value in zip(_RESOLUTION_TAGS, dpi, strict=True):
            exif[tag] = round(float(value), 2)
        exif[_RESOLUTION_UNIT] = _PER_INCH
    return exif


def dpi_option(data: bytes | None) -> dict[str, tuple[float, float]]:
    """Pillow's option for the pixels per inch that EXIF tells; PNG and JPEG also have them outside of EXIF."""
    exif = parsed(data)
    try:
        across, down = (float(exif.get(tag, 0)) for tag in _RESOLUTION_TAGS)
    except _EXIF_ERRORS:
        return {}
    inch = {_PER_INCH: 1.0, _PER_CENTIMETRE: 2.54}.get(exif.get(_RESOLUTION_UNIT, _PER_INCH), math.nan)
    dpi = across * inch, down * inch
    return {"dpi": dpi} if all(1 <= x < _DPI_MAX for x in dpi) else {}


def parsed(data: bytes | None) -> Image.Exif:
    """EXIF from bytes, which may hold anything."""
    exif = Image.Exif()
    exif.load(data or b"")
    return exif


def cleaned(read: Callable[[], Image.Exif], dpi: Any = None) -> tuple[bytes | None, bool]:
    """EXIF as bytes, and whether some is lost because it is malformed.

    Without what belongs to the file it came from, which a TIFF writer would take over.
    """
    try:
        exif = read()
        for tag in _STRUCTURAL_TAGS & set(exif):
            del exif[tag]
    except _EXIF_ERRORS:
        return None, True
    try:
        exif = _with_resolution(exif, dpi)
        return exif.tobytes() if len(exif) else None, False
    except _EXIF_ERRORS:
        kept = Image.Exif()
        for tag in set(exif) - _SUB_IFDS:
            if _is_well_formed(exif, tag):
                kept[tag] = exif[tag]
        return kept.tobytes() if len(kept) else None, True


def _is_well_formed(exif: Image.Exif, tag: int) -> bool:
    alone = Image.Exif()
    try:
        alone[tag] = exif[tag]
        return bool(alone.tobytes())
    except _EXIF_ERRORS:
        return False
