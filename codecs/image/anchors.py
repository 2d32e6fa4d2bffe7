"""Classic codecs to compare with, through Pillow: bytes and picture for each setting."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from dataclasses import dataclass
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
    anchor = ANCHORS[name]

    def encode() -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, anchor.image_format, quality=quality, **anchor.options)
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


def at_most(name: str, pixels: np.ndarray, size: int) -> tuple[int, Coded]:
    """The highest quality whose file has at most ``size`` bytes (the lowest quality if none does)."""
    low, high, best = 1, 95, (1, code(name, pixels, 1))
    while low <= high:
        middle = (low + high) // 2
        coded = code(name, pixels, middle)
        if len(coded.data) <= size:
            best, low = (middle, coded), middle + 1
        else:
            high = middle - 1
    return best
