"""A sketch: a tile in lossy WebP, in place of a latent.

Text with noise around it, as in a scan or a screenshot that was a JPEG, costs a lossless format too much, and networks that
know photographs even more. An encoder takes a sketch where it costs least (`choice`).
"""

from __future__ import annotations

import io
import zlib
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
from PIL import Image

from ...entropy_models.errors import Corrupt
from .drawn import HEAD, Layer, blocks, colours, cut, opened_webp

QUALITIES, STEPS = (10, 30, 50, 70, 90), (10, 5, 2)
"""WebP's that are tried, and how far from the best of them then. What they cost falls and rises more than once."""
_FAST, _BEST = 4, 6
"""WebP's methods: to choose by, and to write."""


@dataclass(frozen=True, slots=True)
class Sketch:
    """A tile's file, and what it shows."""

    file: bytes
    pixels: np.ndarray
    """uint8 (height, width, 3)."""

    def under(self, layer: Layer | None) -> Layer:
        """A layer that shows the sketch where ``layer`` has nothing."""
        mask = np.ones(self.pixels.shape[:2], bool)
        return Layer(layer.over(self.pixels) if layer else self.pixels, mask)


def chunk(file: bytes, header: bytes) -> bytes:
    """Length of a sketch's file, its CRC-32, started with the signal header's, and the file."""
    return HEAD.pack(len(file), zlib.crc32(file, zlib.crc32(header))) + file


def read(chunk: bytes, header: bytes, height: int, width: int) -> tuple[Sketch | None, bytes]:
    """The sketch at the beginning of a chunk, None if it has none, and the rest of the chunk.

    Raises:
        BitstreamError: it is damaged, or of another size.
    """
    body, check, rest = cut(chunk, "a sketch")
    if not body:
        return None, rest
    if zlib.crc32(body, zlib.crc32(header)) != check:
        raise Corrupt("the sketch does not match its checksum")
    image = opened_webp(body, "a sketch", height * width)
    if image.size != (width, height):
        raise Corrupt(f"a sketch of {image.size}; it should have {width}x{height}")
    return Sketch(body, colours(image, "RGB", "a sketch")), rest


def quality_for(pixels: np.ndarray, price: np.ndarray) -> int:
    """WebP's quality of the sketch that costs least, as files tell that take little time.

    Args:
        pixels: uint8 (height, width, 1 or 3).
        price: bits that a unit of squared error is worth in each block of 16x16 pixels.
    """
    cost = cache(partial(_cost, pixels, price))
    best = min(QUALITIES, key=cost)
    for step in STEPS:
        best = min((best, max(best - step, 0), min(best + step, 100)), key=cost)
    return best


def cost_of(pixels: np.ndarray, price: np.ndarray) -> float:
    """About what a sketch costs, in bits; arguments as those of `quality_for`."""
    return min(_cost(pixels, price, quality) for quality in QUALITIES)


def _cost(pixels: np.ndarray, price: np.ndarray, quality: int) -> float:
    sketch = written(pixels, quality, method=_FAST)
    return 8.0 * len(sketch.file) + float((squares(sketch.pixels, pixels) * price).sum())


def written(pixels: np.ndarray, quality: int, *, method: int = _BEST) -> Sketch:
    """A sketch of uint8 pixels (height, width, 1 or 3)."""
    rgb = np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))
    Image.fromarray(rgb).save(buffer := io.BytesIO(), "WEBP", quality=quality, method=method)
    return Sketch(buffer.getvalue(), np.asarray(Image.open(buffer).convert("RGB")))


def squares(shown: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Squared error of each block; float64 (rows, columns)."""
    return blocks(np.square(shown[..., : pixels.shape[-1]].astype(np.float32) - pixels).sum(-1, dtype=np.float64))
