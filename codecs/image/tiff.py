"""TIFF files of 16 bits and several channels, which Pillow has no mode for."""

from __future__ import annotations

import io
import zlib

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2
from PIL.TiffTags import TAGS_V2_GROUPS

_DEFLATE, _GREY, _RGB, _UNASSOCIATED_ALPHA = 8, 1, 2, 2
_UNDEFINED = 7
"""Type of a tag that holds bytes."""


def write_deep(pixels: np.ndarray, exif: Image.Exif) -> bytes:
    """A deflated TIFF of 16 bits per channel in one strip.

    Args:
        pixels: uint16 (height, width, 1..4), alpha last.
        exif: all other tags, and IFDs below them.
    """
    height, width, channels = pixels.shape
    strip = zlib.compress(np.ascontiguousarray(pixels, "<u2").tobytes())
    tags = ImageFileDirectory_v2(prefix=b"II")
    for tag in exif:
        tags[tag] = exif.get_ifd(tag) if tag in TAGS_V2_GROUPS else exif[tag]
        if isinstance(exif[tag], bytes):
            tags.tagtype[tag] = _UNDEFINED
    tags[256], tags[257], tags[258], tags[259] = width, height, (16,) * channels, _DEFLATE
    tags[262] = _RGB if channels > 2 else _GREY
    tags[273], tags[277], tags[278], tags[279] = 0, channels, height, len(strip)  # the offset is what lies before
    if channels in (2, 4):
        tags[338] = _UNASSOCIATED_ALPHA
    file = io.BytesIO()
    tags.save(file)
    return file.getvalue() + strip
