"""Classic codecs to compare with, through Pillow. No numpy and no Pillow before one is used."""

from __future__ import annotations

import io
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from ...entropy_models.errors import InputError
from ..evaluation.task import Reference

if TYPE_CHECKING:
    import numpy as np

JPEG = {"optimize": True, "subsampling": 2}
"""Pillow's options for 4:2:0 with Huffman tables of the image's own."""


def encode(image_format: str, pixels: np.ndarray, **options: Any) -> bytes:
    """A file of uint8 pixels (height, width, 3); ``options`` are Pillow's.

    Raises:
        InputError: the format cannot hold these pixels, or this Pillow lacks it.
    """
    from PIL import Image

    buffer = io.BytesIO()
    try:
        Image.fromarray(pixels).save(buffer, image_format, **options)
    except (KeyError, OSError, ValueError) as error:
        raise InputError(f"Pillow cannot write it as {image_format}: {error}") from None
    return buffer.getvalue()


def decode(data: bytes) -> np.ndarray:
    """Pixels of a file, uint8 (height, width, 3)."""
    import numpy as np
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def check_format(image_format: str) -> None:
    """InputError if this Pillow cannot write a format."""
    from PIL import Image

    Image.init()
    if image_format not in Image.SAVE:
        raise InputError(f"this Pillow cannot write {image_format}; upgrade Pillow")


def check_jxl() -> None:
    """InputError if there is no JPEG XL for Pillow."""
    try:
        import pillow_jxl  # noqa: F401  registers itself with Pillow
    except ImportError:
        raise InputError("reference jxl needs the package pillow-jxl-plugin: pip install 'rdcodec[eval]'") from None


def pillow(image_format: str, qualities: tuple[int, ...], note: str, **options: Any) -> Reference[np.ndarray]:
    """A reference at Pillow's qualities."""

    def encoded(pixels: np.ndarray, quality: float) -> bytes:
        return encode(image_format, pixels, quality=int(quality), **options)

    check = check_jxl if image_format == "JXL" else partial(check_format, image_format)
    return Reference(qualities, encoded, decode, note, check)


REFERENCES = {
    "jpeg": pillow("JPEG", (5, 10, 15, 25, 35, 50, 65, 75, 85, 92), "4:2:0, optimised", **JPEG),
    "webp": pillow("WEBP", (1, 10, 25, 40, 55, 70, 80, 90, 95), "method 6", method=6),
    "avif": pillow("AVIF", (12, 20, 28, 36, 44, 52, 60, 68, 76, 84), "Pillow's default, speed 6, 4:2:0"),
    "jxl": pillow("JXL", (10, 20, 35, 50, 60, 70, 80, 88, 93), "effort 7"),
}
"""References by name on the command line."""


def jpeg_of_bytes(pixels: np.ndarray, size: int, tries: int = 16) -> tuple[float, bytes]:
    """The JPEG closest to ``size`` bytes, by bisection over quality in fractions, 1 to 100, till 0.1 % off.

    Whole qualities lie up to 15 % of bytes apart, so libjpeg's standard tables are scaled as its qualities scale
    them, but by any factor.

    Returns:
        The quality, and the file: it may be a little larger than ``size``, and is much larger where quality 1 is.
    """
    low, high = 1.0, 100.0
    found = [(quality, _jpeg(pixels, quality)) for quality in (low, high)]
    while len(found) < tries and all(abs(len(data) - size) > size / 1000 for _, data in found):
        middle = (low + high) / 2
        found.append((middle, _jpeg(pixels, middle)))
        low, high = (low, middle) if len(found[-1][1]) > size else (middle, high)
    return min(found, key=lambda one: abs(len(one[1]) - size))


def _jpeg(pixels: np.ndarray, quality: float) -> bytes:
    """A JPEG as the reference writes it, of a quality between whole ones."""
    percent = 5000 / quality if quality < 50 else 200 - 2 * quality
    tables = [[min(255, max(1, int(step * percent / 100 + 0.5))) for step in table] for table in _jpeg_tables()]
    return encode("JPEG", pixels, qtables=tables, **JPEG)


@cache
def _jpeg_tables() -> tuple[list[int], list[int]]:
    """The standard's quantisation tables for luma and chroma: libjpeg's quality 50 takes them as they are."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "JPEG", quality=50)
    with Image.open(buffer) as image:
        tables = image.quantization  # type: ignore[attr-defined]
    return tables[0], tables[1]
