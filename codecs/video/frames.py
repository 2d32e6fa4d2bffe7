"""Frames of a video, and what belongs to all of them. No PyAV and no torch here.

A format as bytes (`Format.pack`; little-endian, 30)::

    offset  size  field
    0       2     width in pixels, 1..65535, upright
    2       2     height in pixels, 1..65535; width * height at most 2^27
    4       8     time base: seconds of a tick as numerator and denominator, 4 bytes each, 1..2^31-1, in lowest terms
    12      8     mean frames a second, likewise
    20      4     pixel aspect ratio, width to height, as numerator and denominator, 2 bytes each, 1..65535, in lowest terms
    24      1     matrix between YCbCr and RGB, by its number in ITU-T H.273: 1 BT.709, 5 BT.601, 9 BT.2020
    25      1     colour primaries, by their number in H.273; 2: not known
    26      1     transfer characteristics, likewise
    27      1     1: YCbCr of full range; 0: limited
    28      1     subsampling: index in `SUBSAMPLINGS`
    29      1     bits of a sample, 1..16
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from ...entropy_models.errors import Corrupt, InputError
from .header import VideoHeader

PIXELS_MAX = 1 << 27
SUBSAMPLINGS = "420", "422", "444", "rgb", "gray"
MATRICES = {"bt601": 5, "bt709": 1, "bt2020nc": 9}
"""Matrices with their numbers in ITU-T H.273."""
UNKNOWN = 2
"""Primaries or transfer characteristics that the source does not tell."""
TICKS_MAX = 1 << 62
_SIDE_MAX = _ASPECT_MAX = (1 << 16) - 1
_TERM_MAX = (1 << 31) - 1
_DEPTH_MAX = 16
_FORMAT = struct.Struct("<HHIIIIHHBBBBBB")
FORMAT_BYTES = _FORMAT.size


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame, upright."""

    rgb: np.ndarray
    """uint8 (height, width, 3)."""
    time: int
    """When it is shown first, in ticks of the format's time base."""
    duration: int
    """Ticks that it is shown, at least 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """What all frames of a video share. Raises InputError on a value out of range."""

    width: int
    height: int
    """In pixels, after the source's rotation, which the frames no longer need."""
    time_base: Fraction
    """Seconds of a tick."""
    rate: Fraction = Fraction(25)
    """Mean frames a second; times tell when each is shown."""
    aspect: Fraction = Fraction(1)
    """Of a pixel, width to height."""
    matrix: str = "bt709"
    """Of `MATRICES`: between the source's YCbCr and RGB; where it did not tell, as players guess from the size."""
    primaries: int = UNKNOWN
    transfer: int = UNKNOWN
    """Numbers of ITU-T H.273: pixels are neither tone-mapped nor converted to other primaries."""
    full_range: bool = False
    """Whether the source's YCbCr uses all values, as a JPEG does."""
    subsampling: str = "444"
    """The source's, of `SUBSAMPLINGS`."""
    depth: int = 8
    """Bits of the source's samples."""

    def __post_init__(self) -> None:
        if not (1 <= self.width <= _SIDE_MAX and 1 <= self.height <= _SIDE_MAX) or self.width * self.height > PIXELS_MAX:
            raise InputError(
                f"frames of {self.width}x{self.height}; need sides of 1..{_SIDE_MAX} and at most {PIXELS_MAX} pixels"
            )
        for name, value, most in (
            ("time base", self.time_base, _TERM_MAX),
            ("frame rate", self.rate, _TERM_MAX),
            ("pixel aspect ratio", self.aspect, _ASPECT_MAX),
        ):
            if not (1 <= value.numerator <= most and value.denominator <= most):
                raise InputError(f"{name} {value}; both of its terms must be 1..{most}")
        if self.matrix not in MATRICES or self.subsampling not in SUBSAMPLINGS:
            raise InputError(
                f"matrix {self.matrix!r}, subsampling {self.subsampling!r};"
                f" need one of {', '.join(MATRICES)} and one of {', '.join(SUBSAMPLINGS)}"
            )
        if not (0 <= self.primaries <= 255 and 0 <= self.transfer <= 255 and 1 <= self.depth <= _DEPTH_MAX):
            raise InputError(
                f"primaries {self.primaries}, transfer {self.transfer}, {self.depth} bits a sample;"
                f" need 0..255 twice and 1..{_DEPTH_MAX}"
            )

    def pack(self) -> bytes:
        """The format as `FORMAT_BYTES` bytes."""
        return _FORMAT.pack(
            self.width, self.height,
            *self.time_base.as_integer_ratio(), *self.rate.as_integer_ratio(), *self.aspect.as_integer_ratio(),
            MATRICES[self.matrix], self.primaries, self.transfer, self.full_range,
            SUBSAMPLINGS.index(self.subsampling), self.depth,
        )  # fmt: skip

    @classmethod
    def unpack(cls, data: bytes) -> Format:
        """The format that `pack` made bytes of.

        Raises:
            Corrupt: there are more or fewer bytes, or they are not what `pack` gives.
        """
        if len(data) != FORMAT_BYTES:
            raise Corrupt(f"a video's format has {FORMAT_BYTES} bytes, this one {len(data)}")
        width, height, *terms, matrix, primaries, transfer, full_range, subsampling, depth = _FORMAT.unpack(data)
        if 0 in terms or full_range > 1 or subsampling >= len(SUBSAMPLINGS) or matrix not in MATRICES.values():
            raise Corrupt(f"a video's format has a zero or a number that is not known: {data.hex()}")
        time_base, rate, aspect = (Fraction(*terms[at : at + 2]) for at in (0, 2, 4))
        try:
            found = cls(
                width=width, height=height, time_base=time_base, rate=rate, aspect=aspect,
                matrix={number: name for name, number in MATRICES.items()}[matrix],
                primaries=primaries, transfer=transfer, full_range=bool(full_range),
                subsampling=SUBSAMPLINGS[subsampling], depth=depth,
            )  # fmt: skip
        except InputError as error:
            raise Corrupt(f"a video's format: {error}") from None
        if found.pack() != data:
            raise Corrupt("fractions of a video's format are not in lowest terms")
        return found

    def seconds(self, ticks: int) -> float:
        """Ticks in seconds."""
        return float(ticks * self.time_base)


def format_of(header: VideoHeader) -> Format:
    """Of a stream's source, or where that was an array, what suits its frames.

    Raises:
        Corrupt: it is not one of frames of this size.
    """
    if not header.source:
        return Format(width=header.width, height=header.height, time_base=1 / header.rate, rate=header.rate)
    found = Format.unpack(header.source)
    if (found.width, found.height) != (header.width, header.height):
        raise Corrupt(f"a source of {found.width}x{found.height}, but frames of {header.width}x{header.height}")
    return found
