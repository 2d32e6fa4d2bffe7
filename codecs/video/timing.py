"""Times of frames as bytes: zlib over the ticks from each frame to the next, which mostly are alike. And a clock for frames
that come live."""

from __future__ import annotations

import math
import zlib
from array import array
from fractions import Fraction

import numpy as np

from ...entropy_models.errors import Corrupt, InputError

TICKS = np.dtype("<u4")
STEP_MAX = (1 << 32) - 1
"""Ticks from one frame to the next, at most."""
TICK_S = Fraction(1, 90_000)
"""A live video's; `STEP_MAX` of them are 13 hours."""
_UNKNOWN = -1
_TERM_MAX = 10_000
"""Of the smaller term of a mean rate."""


def pack_times(times: list[int], last_duration: int) -> bytes:
    """Times in ticks, ascending, and for how long the last frame is shown.

    Raises:
        ValueError: they do not ascend, or by more than 2^32 - 1 ticks.
    """
    steps = np.diff(np.array([0, *times, times[-1] + last_duration], np.int64))
    if times[0] < 0 or steps[1:].min() < 0 or steps.max() > STEP_MAX:
        raise InputError(f"times of frames from {times[0]} to {times[-1]} ticks do not ascend in steps of up to 2^32")
    return zlib.compress(steps.astype(TICKS).tobytes(), 9)


def unpack_times(data: bytes, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Times and durations in ticks, int64 (frames,).

    Raises:
        Corrupt: they are not those of so many frames.
    """
    expected = (frames + 1) * TICKS.itemsize
    inflate = zlib.decompressobj()
    try:
        raw = inflate.decompress(data, expected + 1)
    except zlib.error as error:
        raise Corrupt(f"times of frames: {error}") from None
    if len(raw) != expected or not inflate.eof or inflate.unused_data:
        raise Corrupt(f"times of frames: {len(raw)} bytes or more, {frames} frames have {expected}")
    ends = np.cumsum(np.frombuffer(raw, TICKS).astype(np.int64))
    return ends[:-1], np.diff(ends)


def times_of(data: bytes | None, frames: int, ticks_rate: Fraction) -> tuple[np.ndarray, np.ndarray]:
    """Times and durations in ticks, int64 (frames,), as bytes or, without them, evenly spaced.

    Args:
        ticks_rate: mean frames a tick.

    Raises:
        Corrupt: they are not those of so many frames.
    """
    if data is not None:
        return unpack_times(data, frames)
    ends = np.array(
        [_rounded(number * ticks_rate.denominator, ticks_rate.numerator) for number in range(frames + 1)], np.int64
    )
    return ends[:-1], np.diff(ends)


def _rounded(part: int, whole: int) -> int:
    """`round` of a fraction, in a tenth of the time."""
    least, rest = divmod(part, whole)
    return least + (2 * rest > whole or (2 * rest == whole and least % 2 == 1))


class Clock:
    """Times of frames that come one by one, of some of which they are not known; eight bytes each."""

    def __init__(self) -> None:
        self._times, self._last = array("q"), _UNKNOWN
        self._zero_s: float | None = None

    def __len__(self) -> int:
        """Frames."""
        return len(self._times)

    @property
    def told(self) -> bool:
        """Whether the time of any is known."""
        return self._last != _UNKNOWN

    def ticks(self, time_s: float) -> int:
        """Ticks of `TICK_S` since the first time that was asked about.

        Raises:
            ValueError: the time is not after that of the last frame, or too long after it.
        """
        zero_s = time_s if self._zero_s is None else self._zero_s
        ticks = round((time_s - zero_s) / TICK_S) if math.isfinite(time_s) else _UNKNOWN
        if not self._last < ticks <= self._last + STEP_MAX:
            raise InputError(
                f"a frame at {time_s} s after one at {zero_s + float(self._last * TICK_S)} s;"
                f" times must ascend, by at most {float(STEP_MAX * TICK_S):.0f} s"
            )
        self._zero_s = zero_s
        return ticks

    def add(self, ticks: int | None) -> None:
        """One more frame; None: its time is not known."""
        self._times.append(_UNKNOWN if ticks is None else ticks)
        self._last = self._last if ticks is None else ticks

    def packed(self, rate: Fraction) -> tuple[bytes, Fraction]:
        """`pack_times`, from zero on, and the mean rate.

        Where times are not known, frames lie evenly between those of which they are.

        Args:
            rate: frames per second of a single frame.
        """
        found, numbers = np.array(self._times), np.arange(len(self))
        known = np.flatnonzero(found != _UNKNOWN)
        first, last = known[0], known[-1]
        step = (found[last] - found[first]) / (last - first) if last > first else float(1 / (rate * TICK_S))
        beyond = np.minimum(numbers - first, 0) + np.maximum(numbers - last, 0)
        times = np.interp(numbers, known, found[known]) + step * beyond
        times = np.floor(times - times[0]).astype(np.int64)
        times = np.maximum.accumulate(times - numbers) + numbers  # no two at once
        if len(times) > 1:
            rate = len(times[1:]) / (int(times[-1]) * TICK_S)
            rate = rate.limit_denominator(_TERM_MAX) if rate > 1 else 1 / (1 / rate).limit_denominator(_TERM_MAX)
        return pack_times(times.tolist(), max(1, round(step))), rate
