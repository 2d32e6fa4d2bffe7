"""Frames and sound packets into a video file that is open, through PyAV: one kind for each suffix."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, BinaryIO

import av
from av.codec.context import Flags

from ...entropy_models.errors import InputError
from .colour import FromRgb
from .frames import MATRICES, Format, Frame
from .sound_track import OPTIONS, SoundTrack

_UNSPECIFIED, _RGB = 2, 0
_LIMITED, _FULL = 1, 2
"""Numbers of H.273 and of FFmpeg's ranges."""
_GIF_TICK, _GIF_LEAST, _GIF_MOST = Fraction(1, 100), 2, (1 << 16) - 1
"""Players take shorter delays than the least for a tenth of a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """How files of a suffix are written."""

    container: str
    codec: str
    form: Callable[[Format], str]
    """FFmpeg's name of the pixel format, for a source's format."""
    options: Mapping[str, str]
    chroma: str = "left"


def _sampled(video: Format) -> str:
    return {"422": "yuv422p", "444": "yuv444p"}.get(video.subsampling, "yuv420p")


def _even(video: Format) -> str:
    """H.264 halves even sizes only."""
    form = _sampled(video)
    odd = video.width % 2 or (video.height % 2 and form == "yuv420p")
    return "yuv444p" if odd else form


def _plain(video: Format) -> str:
    return {"420": "yuv420p", "422": "yuv422p", "gray": "gray"}.get(video.subsampling, "yuv444p")


KINDS = {
    ".mkv": Kind(
        container="matroska", codec="ffv1", form=lambda video: "bgr0", options={"level": "3", "slicecrc": "1", "g": "1"}
    ),
    ".mp4": Kind(container="mp4", codec="libx264", form=_even, options={"crf": "10", "bf": "0"}),
    ".webm": Kind(
        container="webm", codec="libvpx-vp9", form=_sampled,
        options={"crf": "10", "b": "0", "deadline": "good", "cpu-used": "4", "row-mt": "1"},
    ),
    ".y4m": Kind(container="yuv4mpegpipe", codec="rawvideo", form=_plain, options={}, chroma="center"),
    ".gif": Kind(container="gif", codec="gif", form=lambda video: "pal8", options={}),
}  # fmt: skip
"""Without B-frames, durations in MP4 are those of the frames. Y4M as FFmpeg writes it has chroma as JPEG has it."""


class Muxer:
    """Writer of one file.

    Raises:
        InputError: the format cannot hold frames of that size, or the sound's codec.
    """

    def __init__(
        self,
        file: BinaryIO,
        kind: Kind,
        video: Format,
        sound: bytes | None,
        tags: Mapping[str, str],
        notices: list[str],
    ) -> None:
        self.notices, self._sound = notices, None
        self._time_base, form = video.time_base, kind.form(video)
        if form == "yuv444p" and video.subsampling in ("420", "rgb", "gray") and kind.codec == "libx264":
            notices.append(f"{video.width}x{video.height} is odd, and written as H.264 4:4:4, which few players show")
        self._convert = FromRgb(form, video, chroma=kind.chroma)
        options = {
            **OPTIONS,
            **({"video_track_timescale": str(video.time_base.denominator)} if kind.container == "mp4" else {}),
        }
        self._out = av.open(file, "w", format=kind.container, options=options)
        try:
            self._out.metadata.update(tags)
            self._track: Any = self._out.add_stream(kind.codec, rate=video.rate, options=dict(kind.options))
            self._describe(video, form)
            if sound is not None:
                self._sound = SoundTrack(sound, self._out)
            self._out.start_encoding()
        except (av.FFmpegError, ValueError) as error:
            self.release()
            if isinstance(error, InputError):
                raise
            what = f"{video.width}x{video.height} pixels" + (" or the sound's codec" if sound is not None else "")
            raise InputError(f"{kind.container} with {kind.codec} does not take {what}: {error}") from None

    def _describe(self, video: Format, form: str) -> None:
        """Size, time base and colour tags."""
        context, rgb = self._track.codec_context, av.VideoFormat(form).is_rgb
        context.width, context.height, context.pix_fmt = video.width, video.height, form
        context.time_base = self._track.time_base = video.time_base
        context.flags |= int(Flags.frame_duration)
        context.sample_aspect_ratio = video.aspect
        context.colorspace = _RGB if rgb else _UNSPECIFIED if form in ("gray", "pal8") else MATRICES[video.matrix]
        context.color_range = _FULL if rgb or form == "gray" or video.full_range else _LIMITED
        context.color_primaries, context.color_trc = video.primaries, video.transfer

    def write(self, frame: Frame) -> None:
        """One more frame, and the sound before it."""
        if self._sound:
            for packet in self._sound.until(frame.time * self._time_base):
                self._out.mux(packet)
        converted = self._convert(frame)
        converted.time_base = self._time_base
        self._out.mux(self._track.encode(converted))

    def finish(self) -> None:
        """What the encoder still holds, the rest of the sound, and the file's end."""
        self._out.mux(self._track.encode())
        for packet in self._sound.until(None) if self._sound else ():
            self._out.mux(packet)
        self._out.close()

    def release(self) -> None:
        """Let go of the file, whatever state it is in."""
        if self._sound:
            self._sound.close()
        with suppress(Exception):  # an end that cannot be written, of a file that is thrown away
            self._out.close()


class GifMuxer(Muxer):
    """Writer of a GIF: the first frame at zero, and those left out that come sooner than players can show them."""

    def __init__(self, file: BinaryIO, kind: Kind, video: Format, *more: Any) -> None:
        super().__init__(file, kind, replace(video, time_base=_GIF_TICK), *more)
        self._scale = video.time_base / _GIF_TICK
        self._waiting: Frame | None = None
        self._start = self._end = 0

    def write(self, frame: Frame) -> None:
        if self._waiting is None:
            self._start = frame.time
        time = round((frame.time - self._start) * self._scale)
        self._end = round((frame.time + frame.duration - self._start) * self._scale)
        if self._waiting and time - self._waiting.time < _GIF_LEAST:
            notice = "a GIF shows at most 50 frames a second; some are left out"
            if notice not in self.notices:
                self.notices.append(notice)
            return
        self._put_out(time)
        self._waiting = replace(frame, time=time)

    def finish(self) -> None:
        self._put_out(self._end)
        super().finish()

    def _put_out(self, end: int) -> None:
        if self._waiting:
            shown = max(_GIF_LEAST, end - self._waiting.time)
            if shown > _GIF_MOST:
                raise InputError(f"a frame is shown for {shown / 100:.0f} s; a GIF holds at most {_GIF_MOST / 100:.0f} s")
            super().write(replace(self._waiting, duration=shown))
