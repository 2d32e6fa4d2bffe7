"""Targets people name: bits per pixel or file size, reached by a search over `ImageCodec.measure_bytes`."""

from __future__ import annotations

from ...entropy_models.errors import InputError
from .codec import CORRECTION_BYTES, ImageCodec, Progress
from .pictures import Picture
from .tiles import TileGrid

SLACK_BYTES = 8 + CORRECTION_BYTES
"""Bytes by which a measure may be larger than its file, per tile: the coder's end is a whole word, and a correction none."""


def quality_for_bytes(codec: ImageCodec, picture: Picture, size: int) -> int:
    """The highest quality whose file is expected to have at most ``size`` bytes, by bisection; no stream is written.

    0 if even that is larger.
    """
    low, high = 0, 100
    extra_bytes = codec.extra_bytes(picture)  # once: compressing a large alpha plane takes seconds
    while low < high:
        middle = (low + high + 1) // 2
        if codec.measure_bytes(picture, middle, extra_bytes=extra_bytes) <= size:
            low = middle
        else:
            high = middle - 1
    return low


def encode_to_bytes(codec: ImageCodec, picture: Picture, size: int, progress: Progress | None = None) -> tuple[bytes, int]:
    """The stream of the highest quality with at most ``size`` bytes, and that quality.

    Raises:
        ValueError: there is none.
    """
    height, width = picture.pixels.shape[:2]
    slack = SLACK_BYTES * len(TileGrid(height, width))
    for quality in range(quality_for_bytes(codec, picture, size + slack), -1, -1):
        data = codec.encode(picture, quality, progress)
        if len(data) <= size:
            return data, quality
    asked, needed = (f"{count} bytes ({count * 8 / (height * width):.3f} bpp)" for count in (size, len(data)))
    raise InputError(f"{asked} is too small: quality 0 needs {needed}")
