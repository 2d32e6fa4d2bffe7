"""What FFmpeg reads through PyAV, as frames with times."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.sidedata.sidedata import Type as SideData

from ...entropy_models.errors import InputError
from .colour import ToRgb, subsampling_of
from .frames import TICKS_MAX, Format, Frame
from .inputs import Input, View, seekable
from .sound_track import copied
from .structure import missing_bytes

TAGS = ("title", "artist", "date", "comment", "copyright", "description", "creation_time")
"""Names of tags that are kept."""
_UNREAD = av.FFmpegError, ValueError, EOFError
_ALONE = {"protocol_whitelist": "data"}
"""Playlists and scripts open no other files and no connections."""
_COUNTED = "avi", "h264", "hevc", "m4v", "mpegvideo", "obu", "vvc"
"""FFmpeg's names of formats that hold no times of frames out of order, only a rate."""
_RATE = Fraction(25)
_TERMS_MAX = (1 << 31) - 1
_DEEP_TRANSFERS = {16: "PQ", 18: "HLG"}
_AHEAD_S = Fraction(1)
"""Times that go back by more than this begin anew, as where transport streams were joined."""
_CORRUPT = "some frames are damaged; they are shown as FFmpeg mends them"


class Film:
    """A file that FFmpeg reads."""

    def __init__(self, source: Input) -> None:
        self._file, self._owned = seekable(source)
        self._lock = threading.Lock()
        self.notices: list[str] = []
        try:
            self._check()
            with self._opened() as container:
                self._learn(container)
        except BaseException:
            self.close()
            raise

    def _check(self) -> None:
        length = self._file.seek(0, os.SEEK_END)
        if not length:
            raise InputError("the file is empty")
        if missing := missing_bytes(self._file):
            raise InputError(f"cut off: at least {missing} bytes are missing after its {length}")

    def _opened(self) -> Any:
        try:
            container = av.open(View(self._file, self._lock), metadata_errors="ignore", options=_ALONE)
        except _UNREAD as error:
            raise InputError(f"no video that FFmpeg reads: {_text(error)}") from None
        name = container.format.name
        if name.endswith("_pipe"):  # single pictures
            container.close()
            raise InputError(f"no video, but {container.format.long_name}")
        return container

    def _learn(self, container: Any) -> None:
        """Format, tags, origin and notices, from the container and its first frame."""
        track = _video_track(container)
        first = _first_frame(container, track)
        if track.metadata.get("alpha_mode") == "1":
            raise InputError("it has an alpha channel, and the codec holds none; lay it on a background first")
        self._to_rgb = ToRgb(first)
        self._size = first.width, first.height
        self._counted = first.pts is None or (container.format.name in _COUNTED and bool(track.codec_context.has_b_frames))
        rate = track.average_rate or track.guessed_rate or _RATE
        rate = rate.limit_denominator(1_001_000) if 0 < rate < _TERMS_MAX else _RATE
        time_base = 1 / rate if self._counted else track.time_base
        self._turn = _turn_of(first, self.notices)
        aspect = (track.sample_aspect_ratio or Fraction(1)).limit_denominator(65535)
        turned = self._turn[0]
        width, height = reversed(self._size) if turned else self._size
        self.format = Format(
            width=width, height=height, time_base=time_base, rate=rate,
            aspect=(1 / aspect if turned else aspect) if aspect and max(aspect.as_integer_ratio()) <= 65535 else Fraction(1),
            matrix=self._to_rgb.matrix, full_range=self._to_rgb.full_range, subsampling=subsampling_of(first),
            primaries=int(first.color_primaries) & 255, transfer=int(first.color_trc) & 255,
            depth=min(self._to_rgb.depth, 16),
        )  # fmt: skip
        self.count = track.frames or None
        found = {name.lower(): value.strip("\0 ") for name, value in {**track.metadata, **container.metadata}.items()}
        self.tags = {name: found[name] for name in TAGS if found.get(name)}
        self._origin = self._origin_of(container, track, first)
        self._note(container, first)

    def _origin_of(self, container: Any, track: Any, first: Any) -> int:
        """The file's time, in ticks, that becomes zero: where the first of video and sound begins.

        What encoders of sound put before zero does not count.
        """
        if self._counted:
            return 0
        origin = int(first.pts)
        sound = container.streams.best("audio")
        if sound is not None and sound.start_time is not None:
            origin = min(origin, int(max(Fraction(0), sound.start_time * sound.time_base) // track.time_base))
        return origin

    def _note(self, container: Any, first: Any) -> None:
        if self._to_rgb.depth > 8:
            self.notices.append(f"{self._to_rgb.depth} bits a sample are rounded to 8")
        if (transfer := _DEEP_TRANSFERS.get(int(first.color_trc))) is not None:
            self.notices.append(f"high dynamic range ({transfer}) is kept as it is coded, in 8 bits: shades may show bands")
        if first.interlaced_frame:
            self.notices.append("it is interlaced; both fields are kept in one frame")
        for kind, tracks in (("video", len(_films(container))), ("sound", len(container.streams.audio))):
            if tracks > 1:
                self.notices.append(f"one of {tracks} {kind} tracks is kept")
        if container.streams.subtitles:
            self.notices.append("subtitles are left out")

    def frames(self) -> Iterator[Frame]:
        return self._with_durations(self._read(0, None))

    def frames_from(self, start: int, time: int) -> Iterator[Frame]:
        """Frames from the one of this number, which is shown at this time."""
        return self._with_durations(self._read(start, None) if self._counted else self._read(0, time))

    def _with_durations(self, timed: Iterator[tuple[int, np.ndarray, int]]) -> Iterator[Frame]:
        """Frames last until the next; the last one as long as the file says, or as the mean."""
        waiting: tuple[int, np.ndarray, int] | None = None
        for one in timed:
            if waiting is not None:
                yield Frame(waiting[1], waiting[0], one[0] - waiting[0])
            waiting = one
        if waiting is not None:
            time, rgb, own = waiting
            mean = max(1, round(1 / (self.format.rate * self.format.time_base)))
            yield Frame(rgb, time, own if own > 0 and not self._counted else mean)

    def _read(self, skipped: int, start: int | None) -> Iterator[tuple[int, np.ndarray, int]]:
        """Time, pixels and the file's own duration of frames; those before the first wanted one are not converted.

        Args:
            skipped: frames before it, counted from the first.
            start: its time, to seek it; None: read on from the first.
        """
        clock = _Clock(self.format, self._origin, counted=self._counted)
        number = 0
        with self._opened() as container:
            decoded = self._decoded(container, _video_track(container), start)
            while True:
                try:
                    if (frame := next(decoded, None)) is None:
                        break
                    time = clock.time_of(frame)
                    wanted = number >= skipped and (start is None or time >= start)
                    pixels = self._pixels(frame) if wanted else None
                except _UNREAD as error:
                    what = str(error) if isinstance(error, InputError) else f"damaged: {_text(error)}"
                    raise InputError(f"after {self.format.seconds(clock.last or 0):.2f} s: {what}") from None
                number += 1
                if pixels is not None:
                    yield time, pixels, int(frame.duration or 0)
        for notice in clock.notices:
            if notice not in self.notices:
                self.notices.append(notice)
        if not number:
            raise InputError("the video holds no frames")

    def _decoded(self, container: Any, track: Any, seek: int | None) -> Iterator[Any]:
        """FFmpeg's frames; where a seek goes too far, all of them from the first."""
        track.thread_type = "AUTO"
        if seek is None:
            yield from container.decode(track)
            return
        wanted = seek + self._origin
        container.seek(wanted, stream=track, backward=True)
        decoded = container.decode(track)
        first = next(decoded, None)
        if first is None or first.pts is None or first.pts > wanted:
            with self._opened() as anew:
                again = _video_track(anew)
                again.thread_type = "AUTO"
                yield from anew.decode(again)
            return
        yield first
        yield from decoded

    def _pixels(self, frame: Any) -> np.ndarray:
        if (frame.width, frame.height) != self._size:
            raise InputError(
                f"frames change from {self._size[0]}x{self._size[1]} to {frame.width}x{frame.height}; all must be alike"
            )
        if frame.is_corrupt and _CORRUPT not in self.notices:
            self.notices.append(_CORRUPT)
        rgb = self._to_rgb(frame)
        turned, left, down = self._turn
        rgb = rgb.transpose(1, 0, 2) if turned else rgb
        return np.ascontiguousarray(rgb[:: -1 if down else 1, :: -1 if left else 1])

    def times(self) -> np.ndarray:
        with self._opened() as container:
            track = _video_track(container)
            packets = (packet for packet in container.demux(track) if packet.size and _is_shown(packet, track))
            try:
                if self._counted:
                    return np.arange(sum(1 for _ in packets), dtype=np.int64)
                found = [int(packet.pts) - self._origin for packet in packets if packet.pts is not None]
            except _UNREAD as error:
                raise InputError(f"damaged: {_text(error)}") from None
        return np.unique(np.array(found, np.int64))

    def sound(self) -> bytes | None:
        with self._opened() as container:
            track = container.streams.best("audio")
            return None if track is None else copied(container, track, self._origin * self.format.time_base)

    def close(self) -> None:
        if self._owned:
            self._file.close()


class _Clock:
    """Times of frames, ascending: those of the file, or counted where it has none."""

    def __init__(self, video: Format, origin: int, *, counted: bool) -> None:
        self._origin, self._counted = origin, counted
        self._step = max(1, round(1 / (video.rate * video.time_base)))
        self._back = int(_AHEAD_S // video.time_base)
        self.last: int | None = None
        self.notices: list[str] = []

    def time_of(self, frame: Any) -> int:
        """The time of the next frame."""
        last, step = self.last, self._step
        if self._counted:
            time = 0 if last is None else last + 1
        elif frame.pts is None:
            time = 0 if last is None else last + step
        else:
            time = int(frame.pts) - self._origin
            if last is not None and time <= last:
                again = last - time > self._back
                self._origin -= last + step - time if again else 0
                time = last + (step if again else 1)
                self._note("times of frames begin anew within the file" if again else "times of some frames do not ascend")
        if not -TICKS_MAX < time < TICKS_MAX:
            raise InputError(f"a frame is shown after {time} ticks; at most {TICKS_MAX}")
        self.last = time
        return time

    def _note(self, what: str) -> None:
        notice = f"{what}; they follow each other instead"
        if notice not in self.notices:
            self.notices.append(notice)


def _films(container: Any) -> list[Any]:
    """Video tracks that are no cover."""
    return [track for track in container.streams.video if not track.disposition & av.stream.Disposition.attached_pic]


def _video_track(container: Any) -> Any:
    tracks = _films(container)
    if not tracks:
        raise InputError(f"no video track in this {container.format.long_name} file")
    best = container.streams.best("video")
    return best if best in tracks else tracks[0]


def _first_frame(container: Any, track: Any) -> Any:
    try:
        first = next(container.decode(track), None)
    except _UNREAD as error:
        raise InputError(f"damaged from its start: {_text(error)}") from None
    if first is None:
        raise InputError("the video holds no frames")
    return first


def _is_shown(packet: Any, track: Any) -> bool:
    """Whether a packet holds a frame that is shown; VP8's may be for reference alone (RFC 6386, 9.1)."""
    return not packet.is_discard and (track.codec_context.name not in ("vp8", "libvpx") or bool(bytes(packet)[0] >> 4 & 1))


def _turn_of(frame: Any, notices: list[str]) -> tuple[bool, bool, bool]:
    """What the display matrix (ISO/IEC 14496-12, 6.2.2) asks for: swap the axes; mirror left to right; top to bottom."""
    for data in frame.side_data:
        if data.type == SideData.DISPLAYMATRIX:
            a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5].tolist()
            if min(abs(a), abs(b)) > 0.01 * max(abs(a), abs(b)):
                notices.append("it is rotated by less than a right angle; the nearest right angle is taken")
            if abs(a) < abs(b):
                return True, c < 0, b < 0
            return False, a < 0, d < 0
    return False, False, False


def _text(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
