"""Images of Pillow, and the files they come from, to pixels of 8 or 16 bits, alpha and colour profile."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageCms

from . import colour, png
from .deep import FULL, avif_depth, read_deep

_BAND_ROWS = 64
_BITS_TAG, _PRIMARIES_TAG = 258, 319


class Converted(NamedTuple):
    """What becomes of an image's pixels."""

    pixels: np.ndarray
    """uint8, or uint16 in full range, (height, width, 1 or 3)."""
    alpha: np.ndarray | None
    """Of the same type, (height, width)."""
    icc: bytes | None
    notices: tuple[str, ...]


def converted(image: Image.Image, data: bytes = b"") -> Converted:
    """Pixels, alpha and profile of an image.

    Args:
        data: the file it comes from: tells what Pillow does not.
    """
    icc, notices = image.info.get("icc_profile") or None, list[str]()
    if image.mode.startswith(("I", "F")):
        pixels, alpha, note = _numbers(image)
        notices += note
    elif image.mode == "CMYK":
        pixels, icc, alpha = np.asarray(_cmyk_to_rgb(image, icc)), None, None
    elif image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info or _key(image, data) is not None:
        grey = image.mode in ("LA", "La", "L", "1") or (image.format == "PNG" and png.is_grey(data))
        rgba = np.asarray(image.convert("RGBA"))
        alpha = (
            rgba[..., 3] if (key := _key(image, data)) is None else np.where(rgba[..., 0] == key, np.uint8(0), np.uint8(255))
        )
        pixels = rgba[..., :1] if grey else rgba[..., :3]
    else:
        grey, alpha = image.mode in ("1", "L"), None
        pixels = np.asarray(image.convert("L" if grey else "RGB"))
        pixels = pixels[..., None] if grey else pixels
    if image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX") and not image.mode.startswith(("I", "F")):
        notices.append(f"{image.mode} is converted to RGB")
    if pixels.dtype == np.uint8 and (depth := _depth(image, data)) > 8 and image.mode in ("RGB", "RGBA", "L", "LA"):
        if (deep := read_deep(data, pixels)) is None:
            notices.append(f"{depth}-bit {image.mode} is converted to 8 bits")
        else:
            alpha = _deep_alpha(deep, alpha)
            pixels = deep[..., : pixels.shape[-1]]
    icc, note = _profile(image, data, icc, grey=pixels.shape[-1] == 1)
    alpha = None if alpha is None else np.ascontiguousarray(alpha)
    return Converted(np.ascontiguousarray(pixels), alpha, icc, (*notices, *note))


def _depth(image: Image.Image, data: bytes) -> int:
    """Bits per channel of a file whose colours Pillow gives in 8."""
    if image.format == "PNG" and data:
        return png.depth_and_colour(data)[0]
    if image.format == "AVIF":
        return avif_depth(data)
    if image.format == "TIFF":
        return int(max(getattr(image, "tag_v2", {}).get(_BITS_TAG, (8,))))
    return 8


def _deep_alpha(deep: np.ndarray, alpha: np.ndarray | None) -> np.ndarray | None:
    """Alpha of 16 bits, from the file where it is beside the colours there."""
    if alpha is None:
        return None
    return deep[..., -1] if deep.shape[-1] in (2, 4) else alpha.astype(np.uint16) * (FULL // 255)


def _key(image: Image.Image, data: bytes) -> int | None:
    """The transparent grey, of 8 bits, of a PNG of fewer: Pillow scales the pixels alone."""
    depth, _ = png.depth_and_colour(data) if image.format == "PNG" else (8, None)
    grey = png.transparent_grey(data) if depth < 8 else None
    return None if grey is None else grey * 255 // ((1 << depth) - 1)


def _profile(image: Image.Image, data: bytes, icc: bytes | None, *, grey: bool) -> tuple[bytes | None, list[str]]:
    """The ICC profile of the pixels: the file's, or one of what else it says of its colours; and notices."""
    found, unknown = None, ""
    if image.format == "PNG" and data:
        parts = {name: body for name, body in png.chunks(data) if name in (b"gAMA", b"cHRM", b"cICP", b"sRGB", b"iCCP")}
        found, unknown = colour.of_png(parts)
    elif image.format == "AVIF" and not icc:
        found, unknown = colour.of_avif(data)
    elif image.format == "TIFF" and not icc and _PRIMARIES_TAG in getattr(image, "tag_v2", {}):
        unknown = "the TIFF's primaries and white"
    notices = [f"{unknown} is not understood; colours are taken for sRGB"] if unknown else []
    if found is not None:
        return (None if found.is_srgb else colour.profile(found, grey=grey)), notices
    if icc and _colour_space(icc) != ("GRAY" if grey else "RGB"):
        return None, [*notices, f"the ICC profile is for {_colour_space(icc)}, not for the pixels kept; it is dropped"]
    return icc, notices


def _colour_space(icc: bytes) -> str:
    """What the header of an ICC profile says it describes: RGB, GRAY, CMYK, Lab."""
    return icc[16:20].decode("latin-1").strip()


def _numbers(image: Image.Image) -> tuple[np.ndarray, np.ndarray | None, list[str]]:
    """Grey (height, width, 1) and alpha of an image of integers of 16 or 32 bits, or floats."""
    mode = "I;16" if image.format == "PPM" and image.mode == "I" else image.mode  # Pillow has scaled it to 16 bits
    deep, alpha = np.asarray(image), None
    if mode.startswith("I;16"):
        pixels, notices = deep.astype(np.uint16), []
    else:
        pixels, name = _scaled(deep, mode), "32-bit grey" if mode == "I" else "float grey"
        notices = [f"{name} is converted to {8 * pixels.itemsize} bits"]
    if isinstance(transparent := image.info.get("transparency"), int):  # a 16-bit PNG's transparent grey
        alpha = np.where(deep == transparent, 0, 255 if pixels.itemsize == 1 else FULL).astype(pixels.dtype)
    return pixels[..., None], alpha, notices


def _scaled(values: np.ndarray, mode: str) -> np.ndarray:
    """Floats and 32-bit integers, 0..1, 0..255 or 0..65535 as they are, or by their own range if it exceeds that.

    Integers up to 255 become 8 bits, all others 16. What is not a number counts as the lowest value, and infinities as the
    lowest and highest. Works on some rows at a time, in float64.
    """
    bands = [slice(top, top + _BAND_ROWS) for top in range(0, len(values), _BAND_ROWS)]
    low, high = _finite_range(values[band] for band in bands)
    peak = 1.0 if mode == "F" and high <= 1.0 else 65535.0 if mode.startswith("I") and high > 255 else 255.0
    small = mode.startswith("I") and low >= 0 and peak == 255.0
    floor, peak = (low, max(high - low, 1e-9)) if low < 0 or high > peak else (0.0, peak)
    out, white = np.empty(values.shape, np.uint8 if small else np.uint16), 255 if small else FULL
    for band in bands:
        part = np.nan_to_num(values[band].astype(np.float64), nan=low, posinf=high, neginf=low)
        out[band] = np.rint((part - floor) * (white / peak)).clip(0, white)
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
