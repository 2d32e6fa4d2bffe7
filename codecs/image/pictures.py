"""Pictures in and out of files, through Pillow: pixels, alpha, ICC profile, EXIF and XMP.

Whatever Pillow opens becomes 8-bit grey or RGB with optional alpha; what that changed is said in ``notices``.
The EXIF orientation travels with the pixels, which are not rotated (Pillow itself turns TIFF files upright).
"""

from __future__ import annotations

import io
import math
import struct
import sys
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageOps, ImageSequence, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from ...entropy_models.errors import InputError
from .formats import FORMATS
from .header import PIXELS_MAX

_OPTIONS: dict[str, dict[str, Any]] = {
    "WEBP": {"lossless": True},
    "JPEG": {"quality": 95, "subsampling": 0},
    "AVIF": {"quality": 95},
}
"""Options of Pillow's writers: without loss where the format can."""
_STRUCTURAL_TAGS = frozenset({
    *range(254, 260), *range(262, 267), 273, *range(277, 282), 284, *range(288, 294), 297, 301, *range(317, 326),
    330, *range(332, 348), *range(512, 522), *range(529, 533), 700, 33723, 34377, 34675, 37724, *range(50706, 50976),
})  # fmt: skip
"""TIFF tags that say how one file stores its pixels, or hold its XMP, IPTC, Photoshop data and ICC profile: no EXIF."""

_MAGIC = {
    "PNG": (b"\x89PNG\r\n\x1a\n",), "JPEG": (b"\xff\xd8\xff",), "WebP": (b"WEBP",), "AVIF": (b"avif", b"avis"),
    "TIFF": (b"II*\0", b"MM\0*"), "GIF": (b"GIF87a", b"GIF89a"),
}  # fmt: skip
_XMP_TAG = 700
_RESOLUTION_TAGS = 282, 283
"""EXIF tags: pixels per inch or centimetre, across and down."""
_RESOLUTION_UNIT, _PER_INCH, _PER_CENTIMETRE = 296, 2, 3
_DPI_MAX = 65535
_BAND_ROWS = 64
_UNKNOWN_DPI = 1, 72, 96
"""What software writes, and Pillow reads from a TIFF, where nobody knows the size on paper; says nothing."""
_EXIF_ERRORS = (SyntaxError, struct.error, TypeError, ValueError, OSError, LookupError, ArithmeticError, RuntimeError)
"""What Pillow raises for EXIF that is not well formed."""
_SUB_IFDS = frozenset({0x8769, 0x8825, 0xA005})
"""EXIF tags that point at more tags."""
_ORIENTATION_TAG = 274
_BARE = "BMP", "PPM", "PGM"
"""Formats without metadata and alpha."""
_SIDE_MAX = {"JPEG": 65535, "WEBP": 16383, "AVIF": 65535}
_JPEG_METADATA_MAX = 65504
"""Bytes of EXIF or XMP in a JPEG marker, less the longest of their signatures."""


@dataclass(frozen=True, slots=True)
class Picture:
    """An image with what belongs to it."""

    pixels: np.ndarray
    """uint8 (height, width, 1 or 3)."""
    alpha: np.ndarray | None = None
    """uint8 (height, width), or None: opaque."""
    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    notices: tuple[str, ...] = ()
    """What was converted or lost, for people."""
    lost_tiles: tuple[int, ...] = ()
    """Numbers of the tiles that salvage could not recover."""

    def array(self) -> np.ndarray:
        """uint8 (height, width) for opaque grey, else (height, width, channels), alpha last."""
        if self.alpha is not None:
            return np.concatenate([self.pixels, self.alpha[..., None]], axis=-1)
        return self.pixels[..., 0] if self.pixels.shape[-1] == 1 else self.pixels

    def rgb(self) -> np.ndarray:
        """A copy of the pixels as uint8 (height, width, 3), grey three times; without alpha."""
        return np.broadcast_to(self.pixels, (*self.pixels.shape[:2], 3)).copy()


def as_picture(image: np.ndarray | str | Path | Image.Image | Picture) -> Picture:
    """An array, a path, Pillow's image or a picture, as a picture.

    Raises:
        ValueError: an array of another dtype or shape, an empty one, or a file that is no image.
    """
    if isinstance(image, Picture):
        return image
    if isinstance(image, Image.Image):
        return _convert(image, [])
    if isinstance(image, str | Path):
        return read_picture(Path(image).read_bytes())
    array = np.asarray(image)
    if array.ndim == 2:
        array = array[..., None]
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[-1] not in (1, 2, 3, 4) or not array.size:
        raise InputError(f"need a uint8 array (height, width) or (height, width, 1..4), got {array.dtype} {array.shape}")
    if array.shape[-1] in (2, 4):
        return Picture(array[..., :-1], np.ascontiguousarray(array[..., -1]))
    return Picture(array)


def looks_like_image(data: bytes) -> bool:
    """Whether Pillow knows the format, judged by content; files that begin as usual formats do are not opened for it."""
    if _image_magic(data):
        return True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            Image.open(io.BytesIO(data)).close()
            return True
    except Image.DecompressionBombError:
        return True
    except (OSError, ValueError, SyntaxError, RuntimeError, LookupError, TypeError):
        return False


def _image_magic(data: bytes) -> str | None:
    """The image format that a file's first bytes announce."""
    container = data[8:12] if data[:4] == b"RIFF" or data[4:8] == b"ftyp" else b""
    for name, starts in _MAGIC.items():
        if data.startswith(starts) or container in starts:
            return name
    return None


def read_picture(data: bytes) -> Picture:
    """Decode an image file.

    Raises:
        ValueError: not an image, damaged, or larger than `PIXELS_MAX`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data)) as image:
                if image.width * image.height > PIXELS_MAX:
                    raise InputError(f"{image.width}x{image.height} pixels; at most {PIXELS_MAX}")
                notices = _notices(image, data)
                image.load()
                return _convert(image, notices)
    except Image.DecompressionBombError:
        raise InputError(f"more than {PIXELS_MAX} pixels") from None
    except UnidentifiedImageError:
        if name := _image_magic(data):
            raise InputError(f"a damaged or unsupported {name} image of {len(data)} bytes") from None
        raise InputError(f"not an image Pillow can read (starts with {data[:8]!r})") from None
    except (OSError, SyntaxError, RuntimeError, LookupError, TypeError, OverflowError, MemoryError) as error:
        raise InputError(f"damaged image: {error}") from None


def _notices(image: Image.Image, data: bytes) -> list[str]:
    notices = []
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        notices.append(f"only the first of {frames} frames is kept")
        next(iter(ImageSequence.Iterator(image)))
    if _is_deep(image, data):
        kind = {"F": "float grey", "I": "32-bit grey"}.get(image.mode if image.format != "PPM" else "", "16-bit grey")
        notices.append(f"{kind if image.mode.startswith(('F', 'I')) else '16-bit ' + image.mode} is converted to 8 bits")
    if image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX") and not _is_deep(image, data):
        notices.append(f"{image.mode} is converted to RGB")
    return notices


def _is_deep(image: Image.Image, data: bytes) -> bool:
    """Pillow opens 16-bit colour PNG and TIFF as 8-bit RGB; the files themselves tell."""
    if image.mode.startswith(("I", "F")):
        return True
    if image.format == "PNG":
        return data[24] > 8
    if image.format == "TIFF":
        return max(getattr(image, "tag_v2", {}).get(258, (8,))) > 8  # BitsPerSample
    return False


def _convert(image: Image.Image, notices: list[str]) -> Picture:
    icc, alpha = image.info.get("icc_profile"), None
    if image.mode.startswith(("I", "F")):
        mode = "I;16" if image.format == "PPM" and image.mode == "I" else image.mode  # Pillow has scaled it to 16 bits
        deep = np.asarray(image)
        pixels = _eight_bits(deep, mode)[..., None]
        if isinstance(transparent := image.info.get("transparency"), int):  # a 16-bit PNG's transparent grey
            alpha = np.where(deep == transparent, 0, 255).astype(np.uint8)
    elif image.mode == "CMYK":
        pixels, icc = np.asarray(_cmyk_to_rgb(image, icc)), None
    elif image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        grey = image.mode in ("LA", "La", "L", "1")
        rgba = np.asarray(image.convert("RGBA"))
        alpha = np.ascontiguousarray(rgba[..., 3])
        pixels = rgba[..., :1] if grey else rgba[..., :3]
    else:
        grey = image.mode in ("1", "L")
        pixels = np.asarray(image.convert("L" if grey else "RGB"))
        pixels = pixels[..., None] if grey else pixels
    xmp = image.info.get("xmp")
    xmp = xmp.encode() if isinstance(xmp, str) else xmp
    if icc and not _profile_fits(icc, pixels):
        notices = [*notices, f"the ICC profile is for {_colour_space(icc)}, not for the pixels kept; it is dropped"]
        icc = None
    exif, lost = _exif(image.getexif, image.info.get("dpi"))
    notices = [*notices, "some EXIF is malformed and left out"] if lost else notices
    return Picture(np.ascontiguousarray(pixels), alpha, icc or None, exif, xmp or None, tuple(notices))


def _colour_space(icc: bytes) -> str:
    """What the header of an ICC profile says it describes: RGB, GRAY, CMYK, Lab."""
    return icc[16:20].decode("latin-1").strip()


def _profile_fits(icc: bytes, pixels: np.ndarray) -> bool:
    return _colour_space(icc) == ("GRAY" if pixels.shape[-1] == 1 else "RGB")


def _with_resolution(exif: Image.Exif, dpi: Any) -> Image.Exif:
    """EXIF that also says what PNG, JPEG and TIFF keep elsewhere: how many pixels of a scan make an inch."""
    known = set(_RESOLUTION_TAGS) & set(exif)
    if dpi and not known and all(1 <= x < _DPI_MAX and round(x) not in _UNKNOWN_DPI for x in map(float, dpi)):
        for tag, value in zip(_RESOLUTION_TAGS, dpi, strict=True):
            exif[tag] = round(float(value), 2)
        exif[_RESOLUTION_UNIT] = _PER_INCH
    return exif


def _dpi(data: bytes | None) -> dict[str, tuple[float, float]]:
    """Pillow's option for the pixels per inch that EXIF tells; PNG and JPEG also have them outside of EXIF."""
    exif = _parsed(data)
    try:
        across, down = (float(exif.get(tag, 0)) for tag in _RESOLUTION_TAGS)
    except _EXIF_ERRORS:
        return {}
    inch = {_PER_INCH: 1.0, _PER_CENTIMETRE: 2.54}.get(exif.get(_RESOLUTION_UNIT, _PER_INCH), math.nan)
    dpi = across * inch, down * inch
    return {"dpi": dpi} if all(1 <= x < _DPI_MAX for x in dpi) else {}


def _parsed(data: bytes | None) -> Image.Exif:
    """EXIF from bytes, which may hold anything."""
    exif = Image.Exif()
    exif.load(data or b"")
    return exif


def _exif(read: Callable[[], Image.Exif], dpi: Any = None) -> tuple[bytes | None, bool]:
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


def _eight_bits(values: np.ndarray, mode: str) -> np.ndarray:
    """16-bit integers by /257; float and 32-bit images by their own range if it exceeds 8 or 16 bits.

    What is not a number counts as the lowest value, and infinities as the lowest and highest. Works on some rows at a time,
    in float64.
    """
    bands = [slice(top, top + _BAND_ROWS) for top in range(0, len(values), _BAND_ROWS)]
    if mode.startswith("I;16"):
        low, high, floor, peak = 0.0, 65535.0, 0.0, 65535.0
    else:
        low, high = _finite_range(values[band] for band in bands)
        peak = 1.0 if mode == "F" and high <= 1.0 else 65535.0 if mode.startswith("I") and high > 255 else 255.0
        floor, peak = (low, max(high - low, 1e-9)) if low < 0 or high > peak else (0.0, peak)
    out = np.empty(values.shape, np.uint8)
    for band in bands:
        part = np.nan_to_num(values[band].astype(np.float64), nan=low, posinf=high, neginf=low)
        out[band] = np.rint((part - floor) * (255 / peak)).clip(0, 255)
    return out


def _finite_range(bands: Iterable[np.ndarray]) -> tuple[float, float]:
    """Least and largest of what is finite; zeros if nothing is."""
    ends = [(float(f.min()), float(f.max())) for band in bands if (f := band[np.isfinite(band)]).size]
    return (min(low for low, _ in ends), max(high for _, high in ends)) if ends else (0.0, 0.0)


def _cmyk_to_rgb(image: Image.Image, icc: bytes | None) -> Image.Image:
    """Through the embedded profile where there is a usable one, else Pillow's plain formula."""
    if icc:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(icc))
            converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
            if converted is not None:
                return converted
        except ImageCms.PyCMSError:
            pass
    return image.convert("RGB")


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
    exif, malformed = _exif(lambda: _parsed(picture.exif))
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
    image.getexif()[_ORIENTATION_TAG] = _parsed(picture.exif).get(_ORIENTATION_TAG, 1)
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
        metadata |= _dpi(picture.exif)
    if picture.xmp and image_format == "TIFF":
        metadata["exif"] = _parsed(picture.exif)
        metadata["exif"][_XMP_TAG] = picture.xmp
    options = _OPTIONS.get(image_format, {}) | {name: value for name, value in metadata.items() if value is not None}
    buffer = io.BytesIO()
    Image.fromarray(array, {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[1 if array.ndim == 2 else array.shape[-1]]).save(
        buffer, "PPM" if image_format == "PGM" else image_format, **options
    )
    return buffer.getvalue()
