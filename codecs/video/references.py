"""Classic video codecs to compare with, through PyAV's wheel: x264, x265, SVT-AV1. No numpy and no PyAV before one is used.

Each gets the original's own 4:2:0 planes and one thread, so that it writes the same bytes every time. A name says preset and
frames a group, ``x265-veryfast-g12``: exactly so far apart are frames that can be decoded alone, and nothing before them is
needed (closed groups). Of a Matroska file the packets count, without headers and parameter sets; notes about the encoder
(x264 writes some 700 bytes of them) are not written.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from ...entropy_models.errors import InputError
from ..evaluation.task import Reference
from .footage import Footage, read_footage

if TYPE_CHECKING:
    from av import Packet, VideoFrame

CRF = (16, 20, 24, 28, 32, 36, 40)
"""Constant rate factors of x264 and x265."""
CRF_AV1 = (18, 26, 34, 41, 48, 54, 60)
"""Those of SVT-AV1, for about the same rates."""
Options = Callable[[int], Mapping[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoder:
    """An encoder of FFmpeg, with settings that keep frames of a group together."""

    name: str
    """FFmpeg's name."""
    people: str
    """Its name for people."""
    options: Options
    """Frames a group to options of FFmpeg."""
    crf: tuple[float, ...]
    filter: str = ""
    """Of its packets, one of FFmpeg's bitstream filters."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables that it looks at."""


def _x264(group: int) -> dict[str, str]:
    return {"keyint_min": str(group), "sc_threshold": "0"}


def _x265(group: int) -> dict[str, str]:
    keys = f"keyint={group}:min-keyint={group}:scenecut=0:open-gop=0"
    return {"x265-params": f"{keys}:pools=none:frame-threads=1:info=0:log-level=none"}


def _svtav1(group: int) -> dict[str, str]:
    return {"svtav1-params": "lp=1:scd=0"}


X264 = Encoder(name="libx264", people="x264", options=_x264, crf=CRF, filter="filter_units=remove_types=6")
X265 = Encoder(name="libx265", people="x265", options=_x265, crf=CRF)
SVT_AV1 = Encoder(
    name="libsvtav1", people="SVT-AV1", options=_svtav1, crf=CRF_AV1, environment={"SVT_LOG": "1"}  # errors alone
)  # fmt: skip


def encode(footage: Footage, crf: float, *, encoder: Encoder, preset: str, group: int, tune: str = "") -> bytes:
    """A Matroska file.

    Raises:
        InputError: the encoder does not take it.
    """
    import av
    from av.bitstream import BitStreamFilterContext

    os.environ.update(encoder.environment)
    options = {"preset": preset, "crf": f"{crf:g}", **encoder.options(group)} | ({"tune": tune} if tune else {})
    buffer = io.BytesIO()
    try:
        with av.open(buffer, "w", format="matroska", options={"fflags": "bitexact"}) as container:
            stream: Any = container.add_stream(encoder.name, rate=footage.rate, options=options)
            stream.height, stream.width = footage.rgb.shape[1:3]
            context = stream.codec_context
            context.pix_fmt, context.gop_size, context.thread_count = "yuv420p", group, 1
            context.colorspace, context.color_range = footage.colours.matrix, 1 + footage.colours.full_range
            context.open()
            leave_realtime()
            packets: list[Packet] = []
            for frame in _frames(footage):
                packets += stream.encode(frame)
            packets += stream.encode(None)
            if encoder.filter:
                kept = BitStreamFilterContext(encoder.filter, stream)
                packets = [one for packet in (*packets, None) for one in kept.filter(packet)]
            for packet in packets:
                packet.stream = stream
                container.mux(packet)
    except av.FFmpegError as error:
        raise InputError(f"{encoder.people} cannot encode it: {error}") from None
    return buffer.getvalue()


def leave_realtime() -> None:
    """Give up the real-time priority that SVT-AV1, where it runs as root, gives its threads, the caller, and so whatever
    that starts later: nothing else would get a turn on their cores, not even what should end them."""
    if not hasattr(os, "SCHED_FIFO"):  # Linux alone has it
        return
    for thread in os.listdir("/proc/self/task"):
        with suppress(ProcessLookupError):
            if os.sched_getscheduler(int(thread)) == os.SCHED_FIFO:
                os.sched_setscheduler(int(thread), os.SCHED_OTHER, os.sched_param(0))


def _frames(footage: Footage) -> list[VideoFrame]:
    """The planes, as PyAV has frames."""
    from av import VideoFrame

    frames = []
    for index, planes in enumerate(footage.planes()):
        frame = VideoFrame.from_ndarray(planes, format="yuv420p")
        frame.pts, frame.time_base = index, 1 / footage.rate
        frame.colorspace, frame.color_range = footage.colours.matrix, 1 + footage.colours.full_range
        frames.append(frame)
    return frames


def decode(data: bytes) -> Footage:
    """All frames of what `encode` wrote, in one thread; as pixels by the same matrix as the original."""
    return read_footage(data, frames_max=1 << 31)


def payload(data: bytes) -> int:
    """Bytes of the packets."""
    return sum(packet.size for packet in _packets(data))


def _packets(data: bytes) -> list[Any]:
    import av

    with av.open(io.BytesIO(data), "r") as container:
        return [packet for packet in container.demux(video=0) if packet.size]


def group_starts(data: bytes) -> list[int]:
    """Numbers of the packets that begin a group."""
    return [index for index, packet in enumerate(_packets(data)) if packet.is_keyframe]


def check(encoder: Encoder) -> None:
    """InputError if PyAV has no such encoder here."""
    try:
        import av
    except ImportError as error:
        raise InputError(f"{encoder.people} needs more packages ({error}): pip install av") from None
    if encoder.name not in av.codecs_available:
        raise InputError(f"this PyAV has no {encoder.name}; the wheel has: pip install av")


def reference(encoder: Encoder, preset: str, group: int, tune: str = "") -> Reference[Footage]:
    """An encoder at a preset, with so many frames a group."""
    tuned = f", tuned for {tune.upper()}" if tune else ""
    note = f"{encoder.name} in PyAV, preset {preset}{tuned}, {group} frames a group, one thread, packets alone"
    one = partial(encode, encoder=encoder, preset=preset, group=group, tune=tune)
    return Reference(encoder.crf, one, decode, note, partial(check, encoder), payload)


REFERENCES: dict[str, Reference[Footage]] = {
    "x264-medium-g12": reference(X264, "medium", 12),
    "x264-medium-g32": reference(X264, "medium", 32),
    "x265-veryfast-g12": reference(X265, "veryfast", 12),
    "x265-veryfast-g32": reference(X265, "veryfast", 32),
    "x265-medium-g12": reference(X265, "medium", 12),
    "x265-medium-g32": reference(X265, "medium", 32),
    "x265-medium-g32-psnr": reference(X265, "medium", 32, "psnr"),
    "svtav1-p6-g12": reference(SVT_AV1, "6", 12),
    "svtav1-p6-g32": reference(SVT_AV1, "6", 32),
}
"""References by name on the command line. All but one as their presets come: x264 and x265 then give up PSNR for the eye,
SVT-AV1 does not."""
