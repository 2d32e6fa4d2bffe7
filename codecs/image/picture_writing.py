"""Pictures to image files, through Pillow, and what of a picture each format can hold."""

from __future__ import annotations

import io
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from ...entropy_models.errors import InputError
from .exif import cleaned, dpi_option, parsed
from .formats import FORMATS
from .pictures import Picture, as_picture

_OPTIONS: dict[str, dict[str, Any]] = {
    "WEBP": {"lossless": True},
    "JPEG": {"quality": 95, "subsampling": 0},
    "AVIF": {"quality": 95},
}
"""Options of Pillow's writers: without loss where the format can."""
_XMP_TAG = 700
_ORIENTATION_TAG = 274
_BARE = "BMP", "PPM", "PGM"
"""Formats without metadata and alpha."""
_SIDE_MAX = {"JPEG": 65535, "WEBP": 16383, "AVIF": 65535}
_JPEG_METADATA_MAX = 65504
"""Bytes of EXIF or XMP in a JPEG marker, less the longest of their signatures."""


def format_of(path: Path) -> str:
    """Pillow's format for a file name.

    Raises:
        ValueError: the suffix is not one we write.
    """
    if not path.suffix:
        raise InputError(f"{path.name!r} has no suffix to tell the image format; use one of {', '.join(FORMATS)}")
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"cannot write {path.suffix!r} images; use one of {', '.join(FORMATS)}")
    return FORMATS[path.suffix.lower()]


def fitting(picture: Picture, image_format: str) -> Picture:
    """The picture with only the metadata that a file format can hold; ``notices`` name what is left out."""
    exif, malformed = cleaned(lambda: parsed(picture.exif))
    held = {"icc": picture.icc, "exif": exif, "xmp": picture.xmp}
    lost = ["some EXIF is malformed and left out"] if malformed else []
    if image_format in _BARE and exif:
        picture = upright(replace(picture, exif=exif))
    for name, value in held.items():
        most = _JPEG_METADATA_MAX if image_format == "JPEG" and name != "icc" else sys.maxsize
        if value and image_format in _BARE:
            lost.append(f"{image_format} holds no {name.upper()}; it is left out")
        elif value and len(value) > most:
            lost.append(f"{len(value)} bytes of {name.upper()}, JPEG holds {most}; it is left out")
        elif value and name == "xmp" and image_format == "PNG" and not _is_utf8(value):
            lost.append("XMP is not UTF-8, as PNG needs it; it is left out")
        else:
            continue
        held[name] = None
    notices = (*picture.notices, *lost)
    return replace(picture, icc=held["icc"], exif=held["exif"], xmp=held["xmp"], notices=notices)


def upright(picture: Picture) -> Picture:
    """The picture with its pixels turned as its EXIF orientation asks a viewer to; well-formed EXIF, which stays."""
    image = Image.fromarray(picture.array())
    image.getexif()[_ORIENTATION_TAG] = parsed(picture.exif).get(_ORIENTATION_TAG, 1)
    turned = as_picture(np.asarray(ImageOps.exif_transpose(image)))
    return replace(picture, pixels=turned.pixels, alpha=turned.alpha)


def check_sides(height: int, width: int, image_format: str) -> None:
    """ValueError for a picture that is too long or wide for a file format."""
    most = _SIDE_MAX.get(image_format, sys.maxsize)
    if max(height, width) > most:
        raise InputError(f"{width}x{height} pixels; {image_format} holds at most {most} a side")


def _is_utf8(data: bytes) -> bool:
    try:
        return data.decode() is not None
    except UnicodeDecodeError:
        return False


def write_picture(picture: Picture, image_format: str = "PNG") -> bytes:
    """Encode as an image file: PNG, TIFF, BMP, PPM, PGM and WebP without loss, JPEG and AVIF at quality 95.

    Metadata that the format cannot hold is left out; see `fitting`.

    Raises:
        ValueError: the format cannot hold alpha, colours, or so long a side.
    """
    height, width = picture.pixels.shape[:2]
    check_sides(height, width, image_format)
    if picture.alpha is not None and image_format in ("JPEG", *_BARE):
        raise InputError(f"{image_format} cannot hold the picture's alpha; use PNG, WebP, AVIF or TIFF")
    if image_format == "PGM" and picture.pixels.shape[-1] != 1:
        raise InputError("PGM holds grey, and the picture has colours; use PPM")
    picture = fitting(picture, image_format)
    array = picture.array()
    metadata: dict[str, Any] = {"icc_profile": picture.icc, "exif": picture.exif, "xmp": picture.xmp}
    if picture.xmp and image_format == "PNG":
        metadata["pnginfo"] = PngInfo()
        metadata["pnginfo"].add_itxt("XML:com.adobe.xmp", picture.xmp.decode())
    if image_format in ("PNG", "JPEG"):
        metadata |= dpi_option(picture.exif)
    if picture.xmp and image_format == "TIFF":
        metadata["exif"] = parsed(picture.exif)
        metadata["exif"][_XMP_TAG] = picture.xmp
    options = _OPTIONS.get(image_format, {}) | {name: value for name, value in metadata.items() if value is not None}
    buffer = io.BytesIO()
    Image.fromarray(array, {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[1 if array.ndim == 2 else array.shape[-1]]).save(
        buffer, "PPM" if image_format == "PGM" else image_format, **options
    )
    return buffer.getvalue()
