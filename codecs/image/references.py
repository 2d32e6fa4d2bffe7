"""Classic codecs to compare with, through Pillow: bytes and picture for each setting."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from PIL import Image


@dataclass(frozen=True, slots=True)
class Anchor:
    """How Pillow is asked: format, fixed options, and the qualities of its curve."""

    image_format: str
    options: dict[str, Any]
    qualities: tuple[int, ...]
    note: str


ANCHORS = {
    "jpeg": Anchor("JPEG", {"optimize": True, "subsampling": 2}, (5, 10, 15, 25, 35, 50, 65, 75, 85, 92), "4:2:0"),
    "webp": Anchor("WEBP", {"method": 6}, (1, 10, 25, 40, 55, 70, 80, 90, 95), "method 6"),
    "avif": Anchor("AVIF", {}, (12, 20, 28, 36, 44, 52, 60, 68, 76, 84), "Pillow's default, speed 6, 4:2:0"),
    "jxl": Anchor("JXL", {}, (10, 20, 35, 50, 60, 70, 80, 88, 93), "effort 7"),
}
"""By name on the command line."""


@dataclass(frozen=True, slots=True)
class Coded:
    """One file and what came back from it."""

    data: bytes
    pixels: np.ndarray
    """uint8 (height, width, 3)."""
    encode_s: float
    decode_s: float


def timed(encode: Callable[[], bytes], decode: Callable[[bytes], np.ndarray]) -> Coded:
    """Run both directions with a stopwatch."""
    start = time.perf_counter()
    data = encode()
    middle = time.perf_counter()
    pixels = decode(data)
    return Coded(data, pixels, middle - start, time.perf_counter() - middle)


def code(name: str, pixels: np.ndarray, quality: int) -> Coded:
    """Encode and decode RGB pixels with an anchor.

    Raises:
        ValueError: no such anchor, or this Pillow lacks the format.
    """
    check(name)
    return _code(ANCHORS[name], pixels, quality=quality)


def _code(anchor: Anchor, pixels: np.ndarray, **options: Any) -> Coded:
    """Encode and decode RGB pixels; ``options`` are Pillow's, beside the anchor's own."""

    def encode() -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, anchor.image_format, **options, **anchor.options)
        return buffer.getvalue()

    try:
        return timed(encode, lambda data: np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
    except (KeyError, OSError) as error:
        raise ValueError(f"this Pillow cannot write {anchor.image_format} ({error}); upgrade Pillow") from None


def check(name: str) -> None:
    """Whether an anchor can be run here.

    Raises:
        ValueError: no such anchor, or a package is missing.
    """
    if name not in ANCHORS:
        raise ValueError(f"no anchor {name!r}; there are {', '.join(ANCHORS)}")
    if name != "jxl":
        return
    try:
        import pillow_jxl  # noqa: F401  registers itself with Pillow
    except ImportError:
        raise ValueError("anchor jxl needs the package pillow-jxl-plugin: pip install 'rdcodec[eval]'") from None


def closest_jpeg(pixels: np.ndarray, size: int, tries: int = 16) -> tuple[float, Coded]:
    """The JPEG closest to ``size`` bytes, by bisection over quality in fractions, 1 to 100, till 0.1 % off.

    Whole qualities lie up to 15 % of bytes apart, so libjpeg's standard tables are scaled as its qualities scale
    them, but by any factor.

    Returns:
        The quality, and the file: it may be a little larger than ``size``, and is much larger where quality 1 is.
    """
    low, high = 1.0, 100.0
    found = [(quality, _jpeg(pixels, quality)) for quality in (low, high)]
    while len(found) < tries and all(abs(len(coded.data) - size) > size / 1000 for _, coded in found):
        middle = (low + high) / 2
        found.append((middle, _jpeg(pixels, middle)))
        low, high = (low, middle) if len(found[-1][1].data) > size else (middle, high)
    return min(found, key=lambda one: abs(len(one[1].data) - size))


def _jpeg(pixels: np.ndarray, quality: float) -> Coded:
    """A JPEG as the anchor writes it, of a quality between whole ones."""
    percent = 5000 / quality if quality < 50 else 200 - 2 * quality
    tables = [[min(255, max(1, int(step * percent / 100 + 0.5))) for step in table] for table in _jpeg_tables()]
    return _code(ANCHORS["jpeg"], pixels, qtables=tables)


@cache
def _jpeg_tables() -> tuple[list[int], list[int]]:
    """The standard's quantisation tables for luma and chroma: libjpeg's quality 50 takes them as they are."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "JPEG", quality=50)
    with Image.open(buffer) as image:
        tables = image.quantization  # type: ignore[attr-defined]
    return tables[0], tables[1]
