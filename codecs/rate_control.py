"""File sizes that people name, reached by a search over what a codec measures (`contract.Lossy.measurer`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ..entropy_models.errors import InputError
from .contract import Lossy, Progress

S = TypeVar("S")
QUALITY_MAX = 100


def highest_quality(measure: Callable[[int], int], size: int) -> int:
    """The highest quality 0..100 that ``measure`` gives at most ``size`` bytes, by bisection; 0 if it gives none so few."""
    low, high = 0, QUALITY_MAX
    while low < high:
        middle = (low + high + 1) // 2
        if measure(middle) <= size:
            low = middle
        else:
            high = middle - 1
    return low


def encode_to_size(
    codec: Lossy[S],
    signal: S,
    size: int,
    *,
    progress: Progress | None = None,
    shown: Callable[[int], str] = "{} bytes".format,
) -> tuple[bytes, int]:
    """The stream of the highest quality with at most ``size`` bytes, and that quality.

    The measure is of no more bytes than the file will have, so the search starts at that quality or above it; from there
    each is encoded until one fits.

    Args:
        progress: of each of these.
        shown: a size for messages.

    Raises:
        ValueError: quality 0 has more.
    """
    for quality in range(highest_quality(codec.measurer(signal), size), -1, -1):
        data = codec.encode(signal, quality=quality, progress=progress)
        if len(data) <= size:
            return data, quality
    raise InputError(f"{shown(size)} is too small: quality 0 needs {shown(len(data))}")
