"""Pictures, and image files to pictures, through Pillow: pixels, alpha, ICC profile, EXIF and XMP.

Whatever Pillow opens becomes 8-bit grey or RGB with optional alpha; what that changed is said in ``notices``.
The EXIF orientation travels with the pixels, which are not rotated (Pillow itself turns TIFF files upright).
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageCms, ImageSequence, UnidentifiedImageError

from ...entropy_models.errors import InputError
from .exif import cleaned
from .header import PIXELS_MAX

_MAGIC = {
    "PNG": (b"\x89PNG\r\n\x1a\n",), "JPEG": (b"\xff\xd8\xff",), "WebP": (b"WEBP",), "AVIF": (b"avif", b"avis"),
    "TIFF": (b"II*\0", b"MM\0*"), "GIF": (b"GIF87a", b"GIF89a"),
}  # fmt: skip
_BAND_ROWS = 64


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

    def sample(self) -> np.ndarray:
        """The pixels for training, uint8 (3, height, width), grey three times; without alpha."""
        return np.ascontiguousarray(np.moveaxis(self.rgb(), -1, 0))


def as_picture(image: np.ndarray | str | Path | BinaryIO | Image.Image | Picture) -> Picture:
    """An array, an image file, open or by its path, Pillow's image or a picture, as a picture.

    Raises:
        ValueError: an array of another dtype or shape, an empty one, or a file that is no image.
    """
    if isinstance(image, Picture):
        return image
    if isinstance(image, Image.Image):
        return _convert(image, [])
    if isinstance(image, str | Path):
        return read_picture(Path(image).read_bytes())
    if isinstance(image, io.IOBase):
        return read_picture(image.read())
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
    exif, lost = cleaned(image.getexif, image.info.get("dpi"))
    notices = [*notices, "some EXIF is malformed and left out"] if lost else notices
    return Picture(np.ascontiguousarray(pixels), alpha, icc or None, exif, xmp or None, tuple(notices))


def _colour_space(icc: bytes) -> str:
    """What the header of an ICC profile says it describes: RGB, GRAY, CMYK, Lab."""
    return icc[16:20].decode("latin-1").strip()


def _profile_fits(icc: bytes, pixels: np.ndarray) -> bool:
    return _colour_space(icc) == ("GRAY" if pixels.shape[-1] == 1 else "RGB")


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
