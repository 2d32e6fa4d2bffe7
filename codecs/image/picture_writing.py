"""Pictures to image files, through Pillow, and what of a picture each format can hold."""

from __future__ import annotations

import io
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ...entropy_models.errors import InputError
from . import png, tiff
from .colour import code_of
from .exif import cleaned, dpi_option, parsed
from .formats import FORMATS
from .metadata import COMMENT, iptc_marker, parsed_texts
from .pictures import Picture, eight_bits

_OPTIONS: dict[str, dict[str, Any]] = {
    "WEBP": {"lossless": True},
    "JPEG": {"quality": 95, "subsampling": 0},
    "AVIF": {"quality": 95},
}
"""Options of Pillow's writers: without loss where the format can."""
_XMP_TAG, _ICC_TAG, _IPTC_TAG = 700, 34675, 33723
_DEEP = "PNG", "TIFF"
"""Formats that are written with 16 bits; TIFF of grey with alpha is not: nobody reads that."""
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
    """The picture with only the depth and metadata that a file format can hold; ``notices`` name what is left out."""
    exif, malformed = cleaned(lambda: parsed(picture.exif))
    held: dict[str, Any] = {
        "icc": picture.icc,
        "exif": exif,
        "xmp": picture.xmp,
        "iptc": picture.iptc,
        "texts": picture.texts,
    }
    lost = ["some EXIF is malformed and left out"] if malformed else []
    if image_format in _BARE and exif:
        picture = upright(replace(picture, exif=exif))
    for name, value in held.items():
        if value and (reason := _unfit(name, value, image_format)):
            lost.append(f"{reason}; {'they are' if name == 'texts' else 'it is'} left out")
            held[name] = None
    grey_alpha = picture.alpha is not None and picture.pixels.shape[-1] == 1
    if picture.pixels.dtype != np.uint8 and image_format not in (_DEEP[:1] if grey_alpha else _DEEP):
        lost.append(f"{image_format} is written with 8 bits, the picture has 16; {' and '.join(_DEEP)} hold them")
        alpha = None if picture.alpha is None else eight_bits(picture.alpha)
        picture = replace(picture, pixels=eight_bits(picture.pixels), alpha=alpha)
    return replace(picture, **held, notices=(*picture.notices, *lost))


def _unfit(name: str, value: bytes, image_format: str) -> str:
    """Why a format cannot hold some metadata; empty if it can."""
    shown = name if name == "texts" else name.upper()
    most = _JPEG_METADATA_MAX if image_format == "JPEG" and name != "icc" else sys.maxsize
    if image_format in _BARE:
        return f"{image_format} holds no {shown}"
    if len(value) > most:
        return f"{len(value)} bytes of {shown}, JPEG holds {most}"
    if name == "xmp" and image_format == "PNG" and not _is_utf8(value):
        return "XMP is not UTF-8, as PNG needs it"
    if name == "iptc" and image_format not in ("JPEG", "TIFF"):
        return f"{image_format} holds no IPTC (JPEG and TIFF do)"
    if name == "texts":
        names = ", ".join(sorted(parsed_texts(value))) or "none that can be read"
        if image_format != "PNG" and not (image_format == "JPEG" and names == COMMENT):
            return f"{image_format} holds no texts ({names}; PNG does)"
    return ""


def upright(picture: Picture) -> Picture:
    """The picture with its pixels turned as its EXIF orientation asks a viewer to; well-formed EXIF, which stays."""
    orientation = parsed(picture.exif).get(_ORIENTATION_TAG, 1)

    def turned(plane: np.ndarray) -> np.ndarray:
        plane = plane.swapaxes(0, 1) if orientation in (5, 6, 7, 8) else plane
        plane = plane[::-1] if orientation in (3, 4, 7, 8) else plane
        return np.ascontiguousarray(plane[:, ::-1] if orientation in (2, 3, 6, 7) else plane)

    return replace(picture, pixels=turned(picture.pixels), alpha=None if picture.alpha is None else turned(picture.alpha))


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


def flattened(picture: Picture, background: tuple[int, int, int]) -> Picture:
    """The picture without alpha, on a colour of 8-bit RGB; grey stays grey on a grey."""
    if picture.alpha is None:
        return picture
    peak = np.iinfo(picture.pixels.dtype).max
    grey = picture.pixels.shape[-1] == 1 and len(set(background)) == 1
    colour = np.array(background[:1] if grey else background, np.float32) * (peak / 255)
    share = picture.alpha[..., None].astype(np.float32) / peak
    pixels = np.rint(picture.pixels * share + colour * (1 - share)).astype(picture.pixels.dtype)
    return replace(picture, pixels=pixels, alpha=None)


def write_picture(picture: Picture, image_format: str = "PNG") -> bytes:
    """Encode as an image file: PNG, TIFF, BMP, PPM, PGM and WebP without loss, JPEG and AVIF at quality 95.

    PNG and TIFF hold 16 bits, the others 8. What else the format cannot hold is left out; see `fitting`.

    Raises:
        ValueError: the format cannot hold alpha, colours, or so long a side.
    """
    height, width = picture.pixels.shape[:2]
    check_sides(height, width, image_format)
    if picture.alpha is not None and image_format in ("JPEG", *_BARE):
        raise InputError(
            f"{image_format} cannot hold the picture's alpha; use PNG, WebP, AVIF or TIFF, or put it on a background"
        )
    if image_format == "PGM" and picture.pixels.shape[-1] != 1:
        raise InputError("PGM holds grey, and the picture has colours; use PPM")
    picture = fitting(picture, image_format)
    metadata = _metadata(picture, image_format)
    array = picture.array()
    if array.dtype != np.uint8 and array.ndim == 3:
        if image_format == "TIFF":
            return tiff.write_deep(array, _tags(picture))
        return png.write_deep(array, _saved(array[:1, :1, :1] * np.uint8(0), image_format, metadata))
    return _saved(array, image_format, metadata)


def _saved(array: np.ndarray, image_format: str, metadata: dict[str, Any]) -> bytes:
    """A file by Pillow."""
    options = _OPTIONS.get(image_format, {}) | {name: value for name, value in metadata.items() if value is not None}
    buffer, array = io.BytesIO(), array[..., 0] if array.shape[2:] == (1,) else array
    image = Image.fromarray(array)
    image.save(buffer, "PPM" if image_format == "PGM" else image_format, **options)
    data = buffer.getvalue()
    return png.with_code(data, code) if image_format == "PNG" and (code := code_of(metadata["icc_profile"])) else data


def _metadata(picture: Picture, image_format: str) -> dict[str, Any]:
    """Pillow's options for a picture's metadata."""
    metadata: dict[str, Any] = {"icc_profile": picture.icc, "exif": picture.exif, "xmp": picture.xmp}
    texts = parsed_texts(picture.texts)
    if image_format == "PNG" and (picture.xmp or texts):
        metadata["pnginfo"] = PngInfo()
        if picture.xmp:
            metadata["pnginfo"].add_itxt("XML:com.adobe.xmp", picture.xmp.decode())
        for name, text in texts.items():
            metadata["pnginfo"].add_itxt(name.encode("latin-1", "replace").decode("latin-1")[:79], text)
    if image_format in ("PNG", "JPEG"):
        metadata |= dpi_option(picture.exif)
    if image_format == "JPEG":
        metadata["comment"] = texts.get(COMMENT)
        metadata["extra"] = iptc_marker(picture.iptc) if picture.iptc else None
    if image_format == "TIFF":
        metadata["exif"] = _tags(picture)
    return metadata


def _tags(picture: Picture) -> Image.Exif:
    """All that a TIFF holds beside the pixels."""
    tags = parsed(picture.exif)
    for tag, value in ((_XMP_TAG, picture.xmp), (_ICC_TAG, picture.icc), (_IPTC_TAG, picture.iptc)):
        if value:
            tags[tag] = value
    return tags
