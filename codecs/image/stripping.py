"""Metadata that people want left out: places, all EXIF, or all that tells no colours."""

from __future__ import annotations

import re
from dataclasses import replace

from PIL import Image

from .exif import cleaned, parsed
from .pictures import Picture

_GPS_IFD, _ORIENTATION = 0x8825, 0x0112


def stripped(picture: Picture, what: str) -> Picture:
    """The picture without some of its metadata, one of `formats.STRIPS`; ICC profile and orientation stay."""
    if what == "gps":
        return replace(picture, exif=_without_gps(picture.exif), xmp=_xmp_without_gps(picture.xmp))
    bare = replace(picture, exif=_orientation_alone(picture.exif), xmp=_xmp_without_gps(picture.xmp))
    return bare if what == "exif" else replace(bare, xmp=None, iptc=None, texts=None)


def _without_gps(data: bytes | None) -> bytes | None:
    def read() -> Image.Exif:
        exif = parsed(data)
        if _GPS_IFD in exif:
            del exif[_GPS_IFD]
        return exif

    return cleaned(read)[0] if data else None


def _xmp_without_gps(xmp: bytes | None) -> bytes | None:
    if not xmp:
        return None
    for pattern in (
        rb"<(\w+:GPS\w+)\b[^>]*/>",
        rb"<(\w+:GPS\w+)\b.*?</\1\s*>",
        rb"""\s\w+:GPS\w+\s*=\s*(?:"[^"]*"|'[^']*')""",
    ):
        xmp = re.sub(pattern, b"", xmp, flags=re.S)
    return None if b"\0" in xmp or re.search(rb"GPS", xmp, re.I) else xmp


def _orientation_alone(data: bytes | None) -> bytes | None:
    def read() -> Image.Exif:
        exif, orientation = Image.Exif(), parsed(data).get(_ORIENTATION, 1)
        if orientation != 1:
            exif[_ORIENTATION] = orientation
        return exif

    return cleaned(read)[0] if data else None
