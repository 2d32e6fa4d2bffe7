"""Targets people name: bits per pixel or file size, reached by a search over `ImageCodec.measure_bytes`."""

from __future__ import annotations

from .codec import ImageCodec, Progress
from .pictures import Picture


def quality_for_bytes(codec: ImageCodec, picture: Picture, size: int) -> int:
    """The highest quality whose file is expected to have at most ``size`` bytes, by bisection; no stream is written.

    Raises:
        ValueError: even quality 0 is larger.
    """
    low, high = 0, 100
    extra_bytes = codec.extra_bytes(picture)  # once: compressing a large alpha plane takes seconds
    smallest = codec.measure_bytes(picture, 0, extra_bytes=extra_bytes)
    if smallest > size:
        pixels = picture.pixels.shape[0] * picture.pixels.shape[1]
        raise ValueError(
            f"{size} bytes ({size * 8 / pixels:.3f} bpp) is too small: "
            f"quality 0 needs about {smallest} ({smallest * 8 / pixels:.3f} bpp)"
        )
    while low < high:
        middle = (low + high + 1) // 2
        if codec.measure_bytes(picture, middle, extra_bytes=extra_bytes) <= size:
            low = middle
        else:
            high = middle - 1
    return low


def encode_to_bytes(codec: ImageCodec, picture: Picture, size: int, progress: Progress | None = None) -> tuple[bytes, int]:
    """The best stream of at most ``size`` bytes, and its quality.

    Raises:
        ValueError: there is none.
    """
    quality = quality_for_bytes(codec, picture, size)
    while True:
        data = codec.encode(picture, quality, progress)
        if len(data) <= size:
            return data, quality
        if quality == 0:
            raise ValueError(f"{size} bytes is too small: quality 0 needs {len(data)}")
        quality -= 1  # the measure leaves out a few bytes of the coder's tail
