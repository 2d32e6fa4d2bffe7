"""Videos written frame by frame: at a quality, or at the highest quality whose file is small enough."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from ...entropy_models.errors import InputError
from .. import container
from ..contract import Progress
from ..rate_control import highest_quality
from .header import SOUND, SPEECH, TIMES, VideoHeader
from .timing import pack_times

if TYPE_CHECKING:
    from .codec import VideoCodec
    from .reading import VideoFile

SAMPLES, SAMPLE_FRAMES = 2, 5
"""Places in a video where some frames in a row are measured, to guess the quality of a size."""
KNOTS = 0, 25, 50, 75, 100
"""Qualities at which they are."""
TRIALS = 5
"""Times that a video is encoded for a size, at most, once one has fitted."""


def written_at(
    codec: VideoCodec,
    video: VideoFile,
    header: VideoHeader,
    extras: Mapping[bytes, bytes],
    target: BinaryIO,
    progress: Progress | None,
) -> int:
    """Encode a video at the header's quality into a file; its bytes.

    Raises:
        ValueError: the video is damaged.
    """
    times: list[int] = []
    last = [1]

    def frames() -> Iterator[np.ndarray]:
        for frame in video.frames():
            times.append(frame.time)
            last[0] = frame.duration
            yield frame.rgb

    target.seek(0)
    target.truncate()
    count = header.groups + len(extras) + 1
    writer = container.Writer(
        target, stream_id=codec.stream_id, weights=codec.stream_hash, signal=header.pack(), count=count
    )
    for group in codec.encode_groups(frames(), header, progress=progress):
        writer.add(container.DATA, group)
    for tag, body in ({TIMES: pack_times(times, last[0])} | dict(extras)).items():
        writer.add(container.METADATA, tag + body)
    writer.close()
    return target.seek(0, 2)


def written_within(
    codec: VideoCodec,
    video: VideoFile,
    header: VideoHeader,
    extras: Mapping[bytes, bytes],
    target: BinaryIO,
    size: int,
    progress: Progress | None,
    shown: Callable[[int], str] = "{} bytes".format,
    low_delay: bool | None = None,
) -> VideoHeader:
    """Encode a video at the highest quality of at most ``size`` bytes; the header that it got.

    A guess from samples is corrected by what the whole takes.

    Args:
        shown: bytes of file as they were asked for, for messages.
        low_delay: the order of frames, as `VideoCodec.encode` has it.

    Raises:
        ValueError: quality 0 has more, or the sound alone; the message says what would help.
    """
    more, sound = sum(map(len, extras.values())), sum(len(extras.get(tag, b"")) for tag in (SOUND, SPEECH))
    smaller = "; --audio none leaves it out" + (", --audio speech makes it smaller" if SOUND in extras else "")
    if sound >= size:
        raise InputError(f"{shown(size)} are too few: the sound alone has {shown(sound)}{smaller}")
    guess, trials = Guess(codec.with_effort(0), video, header, more), TRIALS
    near = codec.with_order(replace(header, quality=highest_quality(guess.bytes_of, size)), low_delay, video.some)
    if near.lifts != header.lifts:
        header = replace(header, lifts=near.lifts)
        guess = guess.of(header)
    fitting, least, scale, failed = -1, 101, 1.0, 0
    while fitting + 1 < least:
        quality = highest_quality(guess.bytes_of, int(size / scale))
        below = 2**failed // 4 if fitting < 0 else 0  # the guess, then farther each time that it was too much
        quality = min(max(quality - below, fitting + 1), least - 1)
        written = written_at(codec, video, replace(header, quality=quality), extras, target, progress)
        scale = written / guess.bytes_of(quality)
        if written <= size:
            fitting = quality
        else:
            least, failed = quality, failed + 1
        if fitting >= 0:
            trials -= 1
        if not trials:
            break
    if least == 0:
        part = f", the sound {shown(sound)} of them{smaller}" if 2 * sound > written else ""
        raise InputError(f"{shown(size)} are too few: quality 0 needs {shown(written)}{part}")
    found = replace(header, quality=fitting)
    if quality != fitting:
        written_at(codec, video, found, extras, target, progress)
    return found


class Guess:
    """Bytes of a video at any quality, guessed from some frames here and there; log-linear between `KNOTS`."""

    def __init__(self, codec: VideoCodec, video: VideoFile, header: VideoHeader, more: int) -> None:
        self._codec, self._header, self._more = codec, header, more
        places = np.unique(np.linspace(0, max(0, header.frames - SAMPLE_FRAMES), SAMPLES).astype(int))
        self._samples = [video.some(range(at, min(at + SAMPLE_FRAMES, header.frames))) for at in places.tolist()]
        self._known: dict[int, float] = {}

    def of(self, header: VideoHeader) -> Guess:
        """The same frames, coded with another header."""
        other = copy(self)
        other._header, other._known = header, {}
        return other

    def bytes_of(self, quality: int) -> int:
        """Bytes, about; more at every higher quality."""
        below = max(knot for knot in KNOTS if knot <= quality)
        above = min(knot for knot in KNOTS if knot >= quality)
        if below == above:
            return int(self._measured(quality))
        share = (quality - below) / (above - below)
        return int(self._measured(below) ** (1 - share) * self._measured(above) ** share)

    def _measured(self, quality: int) -> float:
        if quality not in self._known:
            header = replace(self._header, quality=quality)
            first, later = np.mean([self._codec.frame_bits(sample, header) for sample in self._samples], 0)
            bits_in_all = header.groups * first + (header.frames - header.groups) * later
            self._known[quality] = float(bits_in_all) / 8 + self._more + 20 * header.groups
        return self._known[quality]
