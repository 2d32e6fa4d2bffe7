"""Sound tracks as they are: packets copied into a Matroska file of their own, and from there into a video.

Times are those of the video, whose first frame or sound is at zero: what encoders put before it stays below zero.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av

from ...entropy_models.errors import InputError

OPTIONS = {"avoid_negative_ts": "disabled"}
"""Muxers move no times: those of sound and video would move apart."""
_SNAP_S = Fraction(1, 600)
"""A packet that is not farther than this from where the one before it ends begins there: Matroska rounds to milliseconds."""


def copied(container: Any, track: Any, origin_s: Fraction, span_s: tuple[Fraction, Fraction] | None = None) -> bytes:
    """A Matroska file (.mka) with a track's packets, in times that count from ``origin_s``.

    Args:
        span_s: only packets that begin from the first and before the second of these times, which count from there as well.

    Raises:
        InputError: Matroska cannot hold the codec, or the track is damaged.
    """
    target = io.BytesIO()
    try:
        with av.open(target, "w", format="matroska", options={**OPTIONS, "fflags": "+bitexact"}) as out:
            stream = out.add_stream_from_template(track)
            shift = round(origin_s / track.time_base)
            for packet in container.demux(track):
                if packet.size and (packet.dts is not None or packet.pts is not None):
                    packet.pts = packet.dts = (packet.dts if packet.pts is None else packet.pts) - shift
                    if span_s is None or span_s[0] <= packet.pts * track.time_base < span_s[1]:
                        packet.stream = stream
                        out.mux(packet)
    except (av.FFmpegError, ValueError, EOFError) as error:
        raise InputError(f"its sound, {track.codec_context.name}, cannot be copied: {error}") from None
    return target.getvalue()


def cut(data: bytes, start_s: Fraction, end_s: Fraction) -> bytes:
    """What `copied` gave, from a time to another, which begins at zero: to whole packets.

    Raises:
        InputError: it is no such file.
    """
    with _opened(data) as container:
        return copied(container, container.streams.audio[0], start_s, (Fraction(0), end_s - start_s))


def check(data: bytes) -> None:
    """Read every packet of what `copied` gave.

    Raises:
        InputError: it is no such file, or a damaged one.
    """
    with _opened(data) as container:
        try:
            for _ in container.demux(container.streams.audio[0]):
                pass
        except (av.FFmpegError, ValueError, EOFError) as error:
            raise InputError(f"the sound track is damaged: {error}") from None


def _opened(data: bytes) -> Any:
    try:
        container = av.open(io.BytesIO(data), "r", metadata_errors="ignore")
    except (av.FFmpegError, ValueError, EOFError) as error:
        raise InputError(f"no sound track: {error}") from None
    if not container.streams.audio:
        container.close()
        raise InputError("no sound in the sound track's file")
    return container


class SoundTrack:
    """A copied sound track, to be put into another file.

    Args:
        data: what `copied` gave.
        out: the open output container, whose header is not written yet.

    Raises:
        InputError: it is no such file, or the output cannot hold the codec.
    """

    def __init__(self, data: bytes, out: Any) -> None:
        self._container = _opened(data)
        track = self._container.streams.audio[0]
        try:
            self._stream = out.add_stream_from_template(track)
        except (av.FFmpegError, ValueError) as error:
            self._container.close()
            raise InputError(f"{out.format.name} cannot hold sound of codec {track.codec_context.name}: {error}") from None
        self._packets = self._exact(track)
        self._next = next(self._packets, None)

    def _exact(self, track: Any) -> Iterator[Any]:
        """Packets, their times in samples where the codec's packets hold a known number of them."""
        context = track.codec_context
        samples = context.frame_size if context.sample_rate else 0
        end: int | None = None
        for packet in self._container.demux(track):
            if not packet.size or packet.pts is None:
                continue
            if samples:
                at = round(packet.pts * track.time_base * context.sample_rate)
                near = end is not None and abs(at - end) <= _SNAP_S * context.sample_rate
                packet.pts = packet.dts = end if near else at
                packet.duration, packet.time_base = samples, Fraction(1, context.sample_rate)
                end = packet.pts + samples
            yield packet

    def until(self, time_s: Fraction | None) -> Iterator[Any]:
        """The packets that begin before a time and did not come yet; None: all that are left."""
        while self._next is not None and (time_s is None or self._next.pts * self._next.time_base < time_s):
            packet, self._next = self._next, next(self._packets, None)
            packet.stream = self._stream
            yield packet

    def close(self) -> None:
        self._container.close()
