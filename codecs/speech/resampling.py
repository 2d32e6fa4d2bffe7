"""Resampling by blocks, through soxr: the samples do not depend on the blocks, and lengths are exact.

A sound of n frames at rate a has ceil(n b / a) at rate b; and those, taken back to a, at least n, of which n are kept:
so a sound comes back with its length, from one sample up.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import NamedTuple

import numpy as np
import soxr

_MARGIN_S = 0.1
"""More than the length of soxr's filter at 1 kHz."""


def resampled_frames(frames: int, rate_in: int, rate_out: int) -> int:
    """Frames at another rate.

    >>> resampled_frames(1, 44100, 16000), resampled_frames(44100, 44100, 16000), resampled_frames(16000, 16000, 44100)
    (1, 16000, 44100)
    """
    return -(-frames * rate_out // rate_in)


class Resampler:
    """Resampler of one sound: takes its blocks, gives blocks at the other rate.

    Blocks are float32 (channels, n), n from 0 up. What is given lags behind what is taken by the filter's length, some
    milliseconds; `finish` gives the rest.
    """

    def __init__(self, rate_in: int, rate_out: int, channels: int) -> None:
        self._rates, self._channels = (rate_in, rate_out), channels
        self._taken = self._given = 0
        same = rate_in == rate_out
        self._stream = None if same else soxr.ResampleStream(rate_in, rate_out, channels, dtype="float32", quality="HQ")

    def push(self, block: np.ndarray) -> np.ndarray:
        """What can be given after one more block."""
        self._taken += block.shape[1]
        return self._through(block, last=False)

    def finish(self) -> np.ndarray:
        """The rest; nothing can be pushed any more."""
        left = resampled_frames(self._taken, *self._rates) - self._given
        rate_in, rate_out = self._rates
        silence = np.zeros((self._channels, rate_in // rate_out + 2), np.float32)  # soxr rounds the length, we round up
        return self._through(silence, last=True)[:, :left]

    def _through(self, block: np.ndarray, last: bool) -> np.ndarray:
        given = block
        if self._stream is not None:
            given = self._stream.resample_chunk(np.ascontiguousarray(block.T), last=last).T
        self._given += given.shape[1]
        return given


def resampled_blocks(
    blocks: Iterable[np.ndarray], rate_in: int, rate_out: int, channels: int, frames: int | None = None
) -> Iterator[np.ndarray]:
    """Blocks (channels, n) at another rate, none of them empty.

    Args:
        frames: where to end; None: with `resampled_frames` of what came.
    """
    resampler = Resampler(rate_in, rate_out, channels)
    left = sys.maxsize if frames is None else frames
    for block in chain(map(resampler.push, blocks), map(Resampler.finish, [resampler])):
        given = block[:, :left]
        left -= given.shape[1]
        if given.size:
            yield given


def resampled(samples: np.ndarray, rate_in: int, rate_out: int, frames: int | None = None) -> np.ndarray:
    """Samples (channels, n) at another rate, float32, as `resampled_blocks`."""
    blocks = resampled_blocks([samples], rate_in, rate_out, len(samples), frames)
    return np.ascontiguousarray(np.concatenate([samples[:, :0], *blocks], axis=1))


def regrouped(blocks: Iterator[np.ndarray], frames: int) -> Iterator[np.ndarray]:
    """Blocks (channels, n) as ones of ``frames`` frames each; the last may have fewer."""
    waiting: list[np.ndarray] = []
    count = 0
    for block in blocks:
        waiting.append(block)
        count += block.shape[1]
        if count >= frames:
            joined = np.concatenate(waiting, axis=1)
            whole = count - count % frames
            yield from (joined[:, at : at + frames] for at in range(0, whole, frames))
            waiting, count = [joined[:, whole:]], count - whole
    if count:
        yield np.concatenate(waiting, axis=1)


class Span(NamedTuple):
    """Frames at one rate that give frames of another: resample ``start`` to ``stop``, leave out the first ``skip``."""

    start: int
    stop: int
    skip: int


def span_for(start: int, stop: int, rate: int, inner_rate: int) -> Span:
    """What of a sound at ``inner_rate`` is needed for the frames ``start`` to ``stop`` of it at ``rate``.

    The two rates' samples fall together every 1 / gcd seconds, and the span starts there; it has the resampler's filter
    before and behind it, so that the samples are those of the whole, to within -100 dB.

    >>> span_for(44100, 88200, 44100, 16000)
    Span(start=14400, stop=33600, skip=4410)
    """
    common = math.gcd(rate, inner_rate)
    step, inner_step = rate // common, inner_rate // common
    margin = math.ceil(_MARGIN_S * inner_rate)
    first = max(0, (start * inner_rate // rate - margin) // inner_step)
    return Span(first * inner_step, resampled_frames(stop, rate, inner_rate) + margin, start - first * step)
