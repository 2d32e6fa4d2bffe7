"""Sounds in memory: samples with what belongs to them, and what is refused by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from ...entropy_models.errors import InputError

CHANNELS_MAX = 2
RATE_MIN, RATE_MAX = 1_000, 768_000
"""Sample rates that are taken, Hz."""
PEAK_MAX = 16.0
"""Largest sample that is taken: 24 dB above full scale. What is above holds integers that were never divided."""
_FULL_SCALE = {np.dtype(np.int16): 2.0**15, np.dtype(np.int32): 2.0**31}


class Recording(Protocol):
    """A sound that is read by blocks, as often as it is asked for: a `Sound`, or one on a file (`sounds.SoundOnFile`)."""

    @property
    def sample_rate(self) -> int: ...
    @property
    def channels(self) -> int: ...
    @property
    def frames(self) -> int: ...
    @property
    def duration_s(self) -> float: ...
    @property
    def tags(self) -> Mapping[str, str]: ...
    def blocks(self) -> Iterator[np.ndarray]:
        """Blocks float32 (channels, n), none of them empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sound:
    """A sound with what belongs to it.

    Raises:
        ValueError: samples of another shape or dtype, none, not finite or far above full scale; a rate out of range.
    """

    samples: np.ndarray
    """float32 (channels, n), channels 1 or 2, n at least 1, about -1 to 1."""
    sample_rate: int
    """Samples a second."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """Title, artist and the like, by their names in lower case."""
    notices: tuple[str, ...] = ()
    """Notices of what was converted or lost, for people."""
    lost: tuple[tuple[float, float], ...] = ()
    """Spans, from and to in seconds, that salvage could not recover: they are silent."""

    def __post_init__(self) -> None:
        check_rate(self.sample_rate)
        if self.samples.dtype != np.float32 or self.samples.ndim != 2 or not 1 <= len(self.samples) <= CHANNELS_MAX:
            raise InputError(f"samples are {self.samples.dtype} {self.samples.shape}; need float32 (1 or 2 channels, n)")
        if not self.samples.size:
            raise InputError("the sound is empty; need at least one sample")
        check_samples(self.samples)

    @property
    def channels(self) -> int:
        return len(self.samples)

    @property
    def frames(self) -> int:
        """Samples of each channel."""
        return self.samples.shape[1]

    @property
    def duration_s(self) -> float:
        return self.frames / self.sample_rate

    def blocks(self) -> Iterator[np.ndarray]:
        """All samples, as one block."""
        yield self.samples

    def array(self) -> np.ndarray:
        """float32 (n,) for one channel, else (channels, n)."""
        return self.samples[0] if len(self.samples) == 1 else self.samples

    def mono(self) -> Sound:
        """The mean of the channels."""
        return self if len(self.samples) == 1 else replace(self, samples=mixed(self.samples))


def as_sound(samples: Any, sample_rate: int, tags: Mapping[str, str] | None = None) -> Sound:
    """The sound of an array (n,) or (channels, n): floats of about -1 to 1, or int16 or int32 of full range.

    >>> as_sound(np.zeros(16000, np.int16), 16000).duration_s
    1.0

    Raises:
        ValueError: as `Sound`.
    """
    return Sound(samples=as_samples(samples), sample_rate=sample_rate, tags=tags or {})


def as_samples(samples: Any) -> np.ndarray:
    """The samples of such an array, float32 (channels, n), whose values are not checked (`check_samples`); n may be 0.

    Raises:
        ValueError: another shape or dtype.
    """
    array = np.asarray(samples)
    scale = _FULL_SCALE.get(array.dtype)
    if scale is None and array.dtype.kind != "f":
        raise InputError(f"samples are {array.dtype}; need floats of about -1 to 1, int16 or int32")
    array = array[None] if array.ndim == 1 else array
    if array.ndim != 2 or not 1 <= len(array) <= CHANNELS_MAX:
        hint = "; soundfile's (n, channels) needs .T" if array.ndim == 2 and array.shape[1] <= CHANNELS_MAX else ""
        raise InputError(f"samples are of shape {np.shape(samples)}; need (n,) or (1 or 2 channels, n){hint}")
    with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, and refused
        return array.astype(np.float32) if scale is None else (array / scale).astype(np.float32)


def check_rate(sample_rate: int) -> None:
    """ValueError for a sample rate that is no whole number, or that no sound has."""
    if not isinstance(sample_rate, int | np.integer) or not RATE_MIN <= sample_rate <= RATE_MAX:
        raise InputError(f"the sample rate is {sample_rate!r}; need a whole number of Hz, {RATE_MIN} to {RATE_MAX}")


def check_samples(block: np.ndarray, first: int = 0) -> None:
    """ValueError for samples that are not finite or far above full scale.

    Args:
        block: float32 (channels, n).
        first: number of its first frame, for the message.
    """
    peak = max(float(block.max()), -float(block.min())) if block.size else 0.0  # nan if there is one
    if peak <= PEAK_MAX:
        return
    bad = ~np.isfinite(block)
    needed = "need finite samples"
    if not bad.any():
        bad, needed = np.abs(block) > PEAK_MAX, "full scale is 1 (divide 16-bit integers by 32768)"
    channel, frame = (int(at) for at in np.argwhere(bad)[0])
    raise InputError(f"sample {first + frame} of channel {channel} is {block[channel, frame]:g}; {needed}")


def mixed(block: np.ndarray) -> np.ndarray:
    """The mean of the channels, float32 (1, n), of a block (channels, n)."""
    return block if len(block) == 1 else block.mean(axis=0, dtype=np.float64).astype(np.float32)[None]
