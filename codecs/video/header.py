"""What a video's .rdc file holds beyond the container (`rdcodec.codecs.container`). No torch here.

Signal header (little-endian)::

    offset  size  field
    0       2     width in pixels, 1..16384
    2       2     height in pixels, 1..16384
    4       4     frames, 1..2^31 - 1
    8       2     frames a group, 1..1024; the last group may have fewer
    10      1     quality, 0..100
    11      1     0..100: lift of frames that are coded on their own, and no pyramids; 128 + n: n lifts follow, 2 to 10
    12      4, 4  mean rate in frames per second, numerator and denominator, 1..2^31 - 1
    20      n     lifts, each -100..100: of anchors coded on their own, of other anchors, and of every depth of a pyramid
                  (`order`), from the outermost; there are 2^(n - 2) frames from one anchor to the next
    20 + n  ...   what the source was, `frames.Format`; empty: not known

A lift is what such frames have above the quality, never beyond 0 or 100 together.

Chunks: one of kind 0 for every group: the CRC-32 of its symbols, started with the CRC-32 of the signal header (4 bytes),
then the entropy-coded symbols of `groups.GroupPass`, frame by frame. Then any of kind 1, a 4-byte tag and its bytes:
``TIME``, times of frames (`timing`; without them they are evenly spaced), ``TAGS``, a UTF-8 JSON object of strings, and
``SOUN``, a Matroska file with the sound track, or ``SPCH``, the sound track through the speech codec (`speech_track`).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from ...entropy_models.errors import BitstreamError, Corrupt, InputError, Unsupported
from .. import container
from ..rate_control import QUALITY_MAX, checked_quality
from .order import Place, needed, order_of

STREAM_ID = 3
QUALITY = 50
"""Where none is asked for."""
GROUP = 32
"""Frames a group, where no number is asked for."""
LOW_DELAY = 16, 0
"""Lifts where each frame is coded as it comes: the first of a group is better than the others, which copy what they can."""
PYRAMID = 20, 6, -6, -12, -14
"""Lifts of pyramids of 8 frames: the more frames are made of one, the better it is."""
LIFT_MAX, LIFTS_MAX = 100, 10
_MORE_LIFTS = 128
SIDE_MAX = 16384
PIXELS_MAX = 1 << 26
FRAMES_MAX = (1 << 31) - 1
GROUP_MAX = 1024
RATE_PART_MAX = (1 << 31) - 1
TAG_BYTES = 4
TIMES, TAGS, SOUND, SPEECH = b"TIME", b"TAGS", b"SOUN", b"SPCH"
METADATA = {TIMES: "times of frames", TAGS: "tags", SOUND: "sound", SPEECH: "sound"}
"""What chunks of metadata hold, by their tags."""
_SIGNAL = struct.Struct("<HHIHBBII")


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoHeader:
    """The signal header. Raises Corrupt on a value out of range."""

    width: int
    height: int
    frames: int
    quality: int
    rate: Fraction
    """Mean rate in frames per second."""
    group: int = GROUP
    lifts: tuple[int, ...] = PYRAMID
    """What frames have above ``quality``: anchors coded on their own, other anchors, and every depth of a pyramid."""
    source: bytes = b""

    def __post_init__(self) -> None:
        if not (1 <= self.width <= SIDE_MAX and 1 <= self.height <= SIDE_MAX) or self.width * self.height > PIXELS_MAX:
            raise Corrupt(f"size {self.width}x{self.height}; sides up to {SIDE_MAX}, {PIXELS_MAX} pixels in all")
        if not 1 <= self.frames <= FRAMES_MAX or not 1 <= self.group <= GROUP_MAX or not 0 <= self.quality <= 100:
            raise Corrupt(
                f"{self.frames} frames in groups of {self.group} at quality {self.quality}; "
                f"need 1..{FRAMES_MAX}, 1..{GROUP_MAX} and 0..100"
            )
        if not 2 <= len(self.lifts) <= LIFTS_MAX or any(abs(lift) > LIFT_MAX for lift in self.lifts):
            raise Corrupt(f"lifts {self.lifts}; need 2 to {LIFTS_MAX} of them, each -{LIFT_MAX}..{LIFT_MAX}")
        if not (0 < self.rate.numerator <= RATE_PART_MAX and self.rate.denominator <= RATE_PART_MAX):
            raise Corrupt(f"{self.rate} frames per second; need a positive fraction of numbers up to {RATE_PART_MAX}")

    def pack(self) -> bytes:
        first, *others = self.lifts
        short = first >= 0 and others == [0]
        return _SIGNAL.pack(
            self.width, self.height, self.frames, self.group, self.quality,
            first if short else _MORE_LIFTS + len(self.lifts), self.rate.numerator, self.rate.denominator,
        ) + (b"" if short else struct.pack(f"{len(self.lifts)}b", *self.lifts)) + self.source  # fmt: skip

    @classmethod
    def unpack(cls, signal: bytes) -> VideoHeader:
        if len(signal) < _SIGNAL.size:
            raise Corrupt(f"a video's signal header has at least {_SIGNAL.size} bytes, this one {len(signal)}")
        width, height, frames, group, quality, lift, numerator, denominator = _SIGNAL.unpack_from(signal)
        if not denominator:
            raise Corrupt("a rate of frames without a denominator")
        rate, count = Fraction(numerator, denominator), max(0, lift - _MORE_LIFTS)
        if len(signal) < _SIGNAL.size + count or LIFT_MAX < lift < _MORE_LIFTS:
            raise Corrupt(f"a video's signal header of {len(signal)} bytes with {lift} where lifts are told")
        lifts = struct.unpack_from(f"{count}b", signal, _SIGNAL.size) if lift >= _MORE_LIFTS else (lift, 0)
        header = cls(
            width=width, height=height, frames=frames, group=group, quality=quality, lifts=lifts, rate=rate,
            source=signal[_SIGNAL.size + count :],
        )  # fmt: skip
        if header.pack() != signal:
            raise Corrupt(f"lifts {lifts} of a video are not told in the shortest way")
        return header

    @property
    def anchor_distance(self) -> int:
        """Frames from one that is coded before those between to the next; 1: every frame is coded as it comes."""
        return 1 << (len(self.lifts) - 2)

    def quality_of(self, depth: int, *, intra: bool = False) -> int:
        """Quality of a frame.

        Args:
            depth: in its pyramid, 0 for anchors.
            intra: whether it is coded on its own; what others are made of it then speaks for the first lift.
        """
        lift = self.lifts[0 if intra and not depth else 1 + depth]
        return min(QUALITY_MAX, max(0, self.quality + lift))

    def order_of(self, index: int) -> tuple[Place, ...]:
        """The frames of a group in the order of their coding, counted from its first."""
        return order_of(len(self.frames_of(index)), self.anchor_distance)

    def needed(self, index: int, numbers: Iterable[int]) -> tuple[set[int], int]:
        """What must be decoded of a group to see frames of it, as `order.needed` has it."""
        first = self.frames_of(index)[0]
        return needed(self.order_of(index), {number - first for number in numbers})

    @property
    def groups(self) -> int:
        return -(-self.frames // self.group)

    def frames_of(self, index: int) -> range:
        """Numbers of a group's frames."""
        return range(index * self.group, min(self.frames, (index + 1) * self.group))

    def group_name(self, index: int) -> str:
        """A group for people, counted from 0 as the chunks are: group i is chunk i."""
        frames = self.frames_of(index)
        named = f"frames {frames[0]} to {frames[-1]}" if len(frames) > 1 else f"frame {frames[0]}"
        return f"group {index} ({named} of 0..{self.frames - 1})"


def show_frames(count: int) -> str:
    """A number of frames for people: ``1 frame``."""
    return f"{count} frame{'s' * (count != 1)}"


def parse(data: bytes | memoryview | container.Stream, *, salvage: bool = False) -> tuple[container.Stream, VideoHeader]:
    """Container, header, and the checks that tie them together; nothing is decoded."""
    stream = container.parse(data, salvage=salvage)
    if stream.stream_id != STREAM_ID:
        raise Unsupported(f"stream id {stream.stream_id}, the video codec is {STREAM_ID}")
    header = VideoHeader.unpack(stream.signal)
    kinds = [entry.kind for entry in stream.entries]
    if kinds[: header.groups] != [container.DATA] * header.groups or set(kinds[header.groups :]) - {container.METADATA}:
        raise Corrupt(f"{len(kinds)} chunks do not fit {header.frames} frames in groups of {header.group}")
    return stream, header


def extras_of(stream: container.Stream, header: VideoHeader, lost: list[str] | None = None) -> dict[bytes, bytes]:
    """Bodies of the metadata chunks by their tags.

    Args:
        lost: gets a notice of each chunk that is damaged, and the others are returned; None: the first raises.

    Raises:
        BitstreamError: one is damaged, or has no tag, or a tag comes twice.
    """
    found: dict[bytes, bytes] = {}
    for index in range(header.groups, len(stream.entries)):
        try:
            body = stream.chunk(index)
            tag = body[:TAG_BYTES]
            if len(tag) < TAG_BYTES or tag in found:
                raise Corrupt(f"chunk {index}: {tag!r} is no tag of its own")
            found[tag] = body[TAG_BYTES:]
        except BitstreamError as error:
            if lost is None:
                raise
            lost.append(lost_notice(tag_at(stream, index), str(error)))
    return found


def lost_notice(tag: bytes, why: str) -> str:
    """What is told of a metadata chunk that salvage could not recover."""
    return f"lost: {METADATA.get(tag, 'metadata')} ({why})"


def extra_of(stream: container.Stream, header: VideoHeader, tag: bytes) -> bytes | None:
    """The body of the metadata chunk with a tag, the others unread; None: there is none. Errors as `Stream.chunk`."""
    indices = (index for index in range(header.groups, len(stream.entries)) if tag_at(stream, index) == tag)
    index = next(indices, None)
    return None if index is None else stream.chunk(index)[TAG_BYTES:]


def tag_at(stream: container.Stream, index: int) -> bytes:
    """The tag of a metadata chunk, unchecked; of one that is cut short maybe less of it."""
    entry = stream.entries[index]
    return bytes(stream.data[entry.offset : entry.offset + min(TAG_BYTES, entry.length)])


def checked_header(*, quality: int | None, **fields: Any) -> VideoHeader:
    """A header of what a caller asks for; ValueError where a field is out of range."""
    try:
        return VideoHeader(quality=checked_quality(quality, QUALITY), **fields)
    except Corrupt as error:
        raise InputError(str(error)) from None


def checked_rate(rate: Fraction | float) -> Fraction:
    """Frames per second as a fraction; ValueError if they are none."""
    try:
        return Fraction(rate).limit_denominator(100_000)
    except (OverflowError, ValueError, TypeError):
        raise InputError(f"{rate!r} frames per second; need a positive number") from None


def checked_range(start: int | None, stop: int | None, header: VideoHeader) -> range:
    """Numbers of the frames from ``start`` until ``stop``; all where none are asked for.

    Raises:
        ValueError: there are none, or they leave the video.
    """
    first, last = 0 if start is None else start, header.frames if stop is None else stop
    if not 0 <= first < last <= header.frames:
        raise InputError(
            f"frames {first}:{last}; the video has frames 0..{header.frames - 1}, and all of them are 0:{header.frames}"
        )
    return range(first, last)
