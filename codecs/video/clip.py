"""A clip: frames in memory, as Python code hands them to the video codec and gets them back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from ...entropy_models.errors import InputError

RATE = Fraction(25)


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """Some frames of video.

    Raises:
        ValueError: the frames are not what they should be.
    """

    frames: np.ndarray
    """Frames, uint8 (frames, height, width, 3), sRGB-like as the source's conversion gives them."""
    rate: Fraction = RATE
    """Mean rate in frames per second."""
    extras: Mapping[bytes, bytes] = field(default_factory=dict)
    """What travels with them, by 4-byte tags: times, tags, sound."""
    source: bytes = b""
    """What the source was, as the header keeps it."""
    notices: tuple[str, ...] = ()
    lost: tuple[int, ...] = ()
    """Groups that were damaged."""

    def __post_init__(self) -> None:
        shape = self.frames.shape
        if self.frames.dtype != np.uint8 or len(shape) != 4 or shape[-1] != 3 or not self.frames.size:
            raise InputError(f"frames are {self.frames.dtype} {shape}; need uint8 (frames, height, width, 3), at least one")

    def array(self) -> np.ndarray:
        """The frames."""
        return self.frames

    def sample(self) -> np.ndarray:
        """For training, uint8 (frames, 3, height, width)."""
        return np.ascontiguousarray(self.frames.transpose(0, 3, 1, 2))
