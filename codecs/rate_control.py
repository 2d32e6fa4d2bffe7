"""File sizes that people name, reached by a search over what a codec measures (`contract.Lossy.measurer`)."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral
from typing import TypeVar

from ..entropy_models.errors import InputError
from .contract import Lossy, Progress

S = TypeVar("S")
QUALITY_MAX = 100
CLOSE, TRIES, WIDEST = 0.98, 5, 4.0
"""Between two qualities: share of a size that is near enough, how many streams are tried, and their widest dead zone."""


def checked_quality(quality: int | None, default: int) -> int:
    """A quality, or the default where it is None.

    Raises:
        ValueError: no whole number 0..100.
    """
    return whole_number("quality", default if quality is None else quality, QUALITY_MAX)


def whole_number(name: str, value: int, most: int) -> int:
    """``value``, named so in the message.

    Raises:
        ValueError: no whole number from 0 to ``most``.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or not 0 <= value <= most:
        raise InputError(f"{name} {value!r}; need a whole number 0..{most}")
    return int(value)


def highest_quality(measure: Callable[[int], int], size: int, near: int | None = None) -> int:
    """The highest quality 0..100 that ``measure`` gives at most ``size`` bytes; 0 if it gives none so few.

    By bisection, or, where it is dear, from a guess ``near`` outwards in steps that double, and then by bisection.
    """
    low, high, step = 0, QUALITY_MAX, 1
    while low < high:
        quality = (low + high + 1) // 2 if near is None else min(max(near, low + 1), high)
        if measure(quality) <= size:
            low, turned, ahead = quality, high < QUALITY_MAX, quality + step
        else:
            high, turned, ahead = quality - 1, low > 0, quality - step
        near = None if near is None or turned else ahead
        step *= 2
    return low


def encode_to_size(
    codec: Lossy[S],
    signal: S,
    size: int,
    *,
    progress: Progress | None = None,
    shown: Callable[[int], str] = "{} bytes".format,
    draft: Lossy[S] | None = None,
    between: Callable[[float], Lossy[S]] | None = None,
) -> tuple[bytes, int]:
    """The stream of the highest quality with at most ``size`` bytes, and that quality.

    The measure is of no more bytes than the file will have, so the search starts at that quality or above it; from there
    each is encoded until one fits.

    Args:
        progress: of each of these, and where there is a ``draft`` of what is measured, too, for that takes as long.
        shown: a size for messages.
        draft: measures about the same bytes sooner, with less effort; only where the search begins depends on it.
        between: the codec with a dead zone so many times as wide, which takes fewer bytes. Where a quality leaves more than
            a fiftieth of the size, the next one is written with the narrowest that fits.

    Raises:
        ValueError: quality 0 has more.
    """
    if draft is None:
        highest = highest_quality(codec.measurer(signal), size)
    else:
        near = highest_quality(draft.measurer(signal), size)
        highest = highest_quality(codec.measurer(signal, progress=progress), size, near)
    for quality in range(highest, -1, -1):
        data = codec.encode(signal, quality=quality, progress=progress)
        if len(data) <= size:
            close = len(data) >= CLOSE * size or quality == QUALITY_MAX
            finer = between and not close and _finer(between, signal, size, quality + 1, progress)
            return (finer, quality + 1) if finer else (data, quality)
    raise InputError(f"{shown(size)} is too small: quality 0 needs {shown(len(data))}")


def _finer(
    between: Callable[[float], Lossy[S]], signal: S, size: int, quality: int, progress: Progress | None
) -> bytes | None:
    """The stream of a quality with the narrowest dead zone that gives at most ``size`` bytes, about; None if none does."""
    narrow, wide, best = 1.0, WIDEST, None
    for _ in range(TRIES):
        factor = (narrow * wide) ** 0.5
        data = between(factor).encode(signal, quality=quality, progress=progress)
        if len(data) > size:
            narrow = factor
            continue
        wide, best = factor, data
        if len(data) >= CLOSE * size:
            break
    return best
