"""Times of frames as bytes: zlib over the ticks from each frame to the next, which mostly are alike."""

from __future__ import annotations

import zlib
from fractions import Fraction

import numpy as np

from ...entropy_models.errors import Corrupt, InputError

TICKS = np.dtype("<u4")


def pack_times(times: list[int], last_duration: int) -> bytes:
    """Times in ticks, ascending, and for how long the last frame is shown.

    Raises:
        ValueError: they do not ascend, or by more than 2^32 - 1 ticks.
    """
    steps = np.diff(np.array([0, *times, times[-1] + last_duration], np.int64))
    if times[0] < 0 or steps[1:].min() < 0 or steps.max() >= 1 << 32:
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
    ends = np.array([round(number / ticks_rate) for number in range(frames + 1)], np.int64)
    return ends[:-1], np.diff(ends)
