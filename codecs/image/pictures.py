"""Pictures, and image files to pictures, through Pillow: pixels, alpha, colour profile and metadata.

What the formats of `READ` hold becomes grey or RGB with optional alpha, of 8 bits, or 16 where a file has more than 8; what
that changed is said in ``notices``. The EXIF orientation travels with the pixels, which are not rotated (Pillow itself turns
TIFF files upright).
"""

from __future__ import annotations

import io
import warnings
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageSequence, PngImagePlugin, TiffImagePlugin, UnidentifiedImageError

from ...entropy_models.errors import InputError
from .conversion import converted
from .exif import cleaned
from .foreign import foreign
from .header import PIXELS_MAX
from .metadata import iptc_of, texts_of, without_gain_map

_MAGIC = {
    "PNG": (b"\x89PNG\r\n\x1a\n",), "JPEG": (b"\xff\xd8\xff",), "WebP": (b"WEBP",), "AVIF": (b"avif", b"avis"),
    "TIFF": (b"II*\0", b"MM\0*"), "GIF": (b"GIF87a", b"GIF89a"),
}  # fmt: skip
READ = (
    "PNG", "JPEG", "WEBP", "AVIF", "TIFF", "GIF", "BMP", "DIB", "PPM", "JPEG2000", "ICO", "ICNS", "TGA", "PCX", "SGI",
    "DDS", "QOI", "PSD", "XBM", "XPM", "FITS", "SPIDER", "IM", "MSP", "PIXAR", "SUN", "CUR", "BLP", "FTEX", "HEIF", "JXL",
)  # fmt: skip
"""Pillow's formats that are read: none that starts another program, as EPS would, and of plugins two."""
PngImagePlugin.MAX_TEXT_CHUNK = max(PngImagePlugin.MAX_TEXT_CHUNK, 1 << 24)
"""Bytes of a profile or text in a PNG, decompressed. Profiles of printers have more than Pillow's own 1 MiB."""
_DNG_VERSION, _SUBFILE_TYPE, _SUB_IFDS, _REDUCED = 50706, 254, 330, 1
_END_OF_JPEG, _FILLINGS = b"\xff\xd9", (b"", b"\x55" * 99, b"\xaa" * 99)
_NEVER_OPENED = (OSError, ValueError, SyntaxError, RuntimeError, LookupError, TypeError, OverflowError, MemoryError)


@dataclass(frozen=True, slots=True)
class Picture:
    """An image with what belongs to it."""

    pixels: np.ndarray
    """uint8, or uint16 in full range, (height, width, 1 or 3)."""
    alpha: np.ndarray | None = None
    """Of the pixels' type (height, width), or None: opaque."""
    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    iptc: bytes | None = None
    """IPTC-IIM records."""
    texts: bytes | None = None
    """Texts of a PNG and comments, a JSON object from names to texts, UTF-8."""
    notices: tuple[str, ...] = ()
    """What was converted or lost, for people."""
    lost_tiles: tuple[int, ...] = ()
    """Numbers of the tiles that salvage could not recover."""

    def array(self) -> np.ndarray:
        """The pixels (height, width) of opaque grey, else (height, width, channels), alpha last."""
        if self.alpha is not None:
            return np.concatenate([self.pixels, self.alpha[..., None]], axis=-1)
        return self.pixels[..., 0] if self.pixels.shape[-1] == 1 else self.pixels

    def rgb(self) -> np.ndarray:
        """A copy of the pixels as uint8 (height, width, 3), grey three times; without alpha."""
        return np.broadcast_to(eight_bits(self.pixels), (*self.pixels.shape[:2], 3)).copy()

    def sample(self) -> np.ndarray:
        """The pixels for training, uint8 (3, height, width), grey three times; without alpha."""
        return np.ascontiguousarray(np.moveaxis(self.rgb(), -1, 0))


def eight_bits(values: np.ndarray) -> np.ndarray:
    """uint8 of uint8, or of uint16 in full range, rounded."""
    return values if values.dtype == np.uint8 else ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def as_picture(image: np.ndarray | bytes | str | Path | BinaryIO | Image.Image | Picture) -> Picture:
    """An array, an image file (its bytes, open, or by its path), Pillow's image or a picture, as a picture.

    Raises:
        ValueError: an array of another dtype or shape, an empty one, or a file that is no image.
    """
    if isinstance(image, Picture):
        return image
    if isinstance(image, Image.Image):
        return _pictured(image)
    if isinstance(image, bytes):
        return read_picture(image)
    if isinstance(image, str | Path):
        return read_picture(Path(image).read_bytes())
    if isinstance(image, io.IOBase):
        return read_picture(image.read())
    array = np.asarray(image)
    if array.ndim == 2:
        array = array[..., None]
    if array.dtype not in (np.uint8, np.uint16) or array.ndim != 3 or array.shape[-1] not in (1, 2, 3, 4) or not array.size:
        raise InputError(
            f"need a uint8 or uint16 array (height, width) or (height, width, 1..4), got {array.dtype} {array.shape}"
        )
    if array.shape[-1] in (2, 4):
        return Picture(array[..., :-1], np.ascontiguousarray(array[..., -1]))
    return Picture(array)


def looks_like_image(data: bytes) -> bool:
    """Whether a file is an image, or a foreign one that is named when it is read, judged by content.

    Files that begin as usual formats do are not opened for it.
    """
    if _image_magic(data) or foreign(data):
        return True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _opened(data).close()
            return True
    except Image.DecompressionBombError:
        return True
    except _NEVER_OPENED:
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
        ValueError: not an image, a foreign or damaged one, or larger than `PIXELS_MAX`.
    """
    if (kind := foreign(data)) and not _plugin(kind.plugin):
        raise InputError(f"{kind.name}, which is not read; {kind.advice}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with _opened(data) as image:
                if image.width * image.height > PIXELS_MAX:
                    raise InputError(f"{image.width}x{image.height} pixels; at most {PIXELS_MAX}")
                return _read(image, data)
    except Image.DecompressionBombError:
        raise InputError(f"more than {PIXELS_MAX} pixels") from None
    except UnidentifiedImageError:
        if name := _image_magic(data):
            raise InputError(f"a damaged or unsupported {name} image of {len(data)} bytes") from None
        raise InputError(f"not an image we read (starts with {data[:8]!r})") from None
    except InputError:
        raise
    except _NEVER_OPENED as error:
        if not data.endswith(_END_OF_JPEG) and (whole := _ended(data)):
            picture = read_picture(whole)
            return replace(picture, notices=(*picture.notices, "the end of the JPEG is missing; no pixel is"))
        raise InputError(f"damaged image: {error}") from None


def _opened(data: bytes) -> Image.Image:
    """An image file, opened by Pillow."""
    Image.init()
    return Image.open(io.BytesIO(data), formats=[name for name in READ if name in Image.OPEN])


def _plugin(name: str) -> bool:
    """Whether there is a plugin for Pillow, which is registered by now."""
    with suppress(ImportError):
        module = import_module(name) if name else None
        getattr(module, "register_heif_opener", lambda: None)()
        return bool(name)
    return False


def _read(image: Image.Image, data: bytes) -> Picture:
    """The picture of a file that is open."""
    notices = []
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        tags = image.tag_v2
        if _DNG_VERSION in tags or (tags.get(_SUBFILE_TYPE, 0) & _REDUCED and _SUB_IFDS in tags):
            raise InputError("the preview of a raw file; develop it to PNG or TIFF first")
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        notices.append(f"only the first of {frames} frames is kept")
        next(iter(ImageSequence.Iterator(image)))
    image.load()
    picture = _pictured(image, data)
    if picture.alpha is not None and picture.alpha.min() == np.iinfo(picture.alpha.dtype).max:
        picture = replace(picture, alpha=None)
    return replace(picture, notices=(*notices, *picture.notices))


def _ended(data: bytes) -> bytes | None:
    """A JPEG that lacks its end marker alone, with one; None if there is more amiss.

    Data of pixels that were missing would be taken from whatever follows, and show.
    """
    if not data.startswith(_MAGIC["JPEG"]):
        return None
    shown = []
    for filling in _FILLINGS:
        try:
            with Image.open(io.BytesIO(data + filling + _END_OF_JPEG), formats=("JPEG",)) as image:
                shown.append(image.tobytes())
        except _NEVER_OPENED:
            return None
    return data + _END_OF_JPEG if len(set(shown)) == 1 else None


def _pictured(image: Image.Image, data: bytes = b"") -> Picture:
    """An image of Pillow with all that belongs to it; ``data``: its file."""
    found = converted(image, data)
    xmp = image.info.get("xmp")
    xmp, gain_map = without_gain_map(xmp.encode() if isinstance(xmp, str) else xmp)
    exif, lost = cleaned(image.getexif, image.info.get("dpi"))
    notices = [*found.notices, *["some EXIF is malformed and left out"] * lost]
    notices += ["the gain map (Ultra HDR) is left out: the picture is the one for usual screens"] * gain_map
    return Picture(
        found.pixels, found.alpha, found.icc, exif, xmp or None, iptc_of(image), texts_of(image), notices=tuple(notices)
    )
