"""The video codec on the command line: options, files in and out, and what is told of them. No numpy, no torch here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from ...entropy_models.errors import BitstreamError, InputError
from .. import container
from ..contract import Desk, Foldered, Framed, Result, Tagged
from ..image.effort import effort_of
from ..image.face import Tune
from ..terminal.files import parse_size, show_size
from ..terminal.options import (
    Effort,
    From,
    Model,
    Quality,
    Size,
    To,
    check_rate,
    check_targets,
    check_written,
    names_of,
    suffix_for,
)
from ..terminal.sources import NUMBERED
from .describe import describe, rows, tag_name
from .extras import extras_from, readable, sound_of, tags_of
from .formats import PAGE, PICTURES, READ_ONLY, SHOWN, WRITTEN, looks_like_video, names_a_folder
from .header import (
    GROUP,
    GROUP_MAX,
    QUALITY,
    SOUND,
    SPEECH,
    TIMES,
    VideoHeader,
    checked_range,
    checked_rate,
    extras_of,
    parse,
    show_frames,
    tag_at,
)

if TYPE_CHECKING:
    import numpy as np

    from .codec import VideoCodec
    from .frames import Format, Frame
    from .reading import VideoFile

KBPS_MAX = 1e6
FPS_MIN, FPS_MAX = 0.001, 1000.0
AUDIO = "copy", "speech", "none"


GroupThreads = Annotated[
    int | None, typer.Option(min=1, help="CPU threads; of small frames each does groups of its own. By default all cores.")
]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeOptions:
    """Options of `codec encode`."""

    quality: Quality = None
    kbps: Annotated[float | None, typer.Option(help="The highest whole quality of at most this many kbit/s of file.")] = None
    size: Size = None
    gop: Annotated[
        int | None,
        typer.Option(min=1, max=GROUP_MAX, help=f"Frames from one that decodes on its own to the next; default {GROUP}."),
    ] = None
    low_delay: Annotated[
        bool | None,
        typer.Option(
            "--low-delay/--pyramids",
            help="Frames made of the one before alone, as live video, or of later ones, too. Default: what tells more in "
            "its bytes, by trial of some frames.",
        ),
    ] = None
    fps: Annotated[
        float | None,
        typer.Option(
            metavar="N", help="One video of all the pictures that are given, N a second, as their names count; one size."
        ),
    ] = None
    audio: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Sound track: copy (as it is, default), speech (by the speech codec), none."),
    ] = None
    model: Model = None
    effort: Effort = None
    tune: Tune = None
    threads: GroupThreads = None

    def __post_init__(self) -> None:
        check_targets(self.quality, ("--kbps", self.kbps), self.size)
        effort_of(self.effort, self.tune)
        if self.fps is not None and not FPS_MIN <= self.fps <= FPS_MAX:
            raise InputError(f"--fps {self.fps:g}; need {FPS_MIN:g} to {FPS_MAX:g}")
        if self.audio not in (None, *AUDIO):
            raise InputError(f"--audio {self.audio}; need {', '.join(AUDIO[:-1])} or {AUDIO[-1]}")


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeOptions:
    """Options of `codec decode`."""

    format: Annotated[
        str | None, typer.Option("--format", metavar="NAME", help=f"{names_of(WRITTEN)}; default OUT's, else mkv.")
    ] = None
    frames: Annotated[
        str | None, typer.Option(metavar="A:B", help="Only frames A until B, counted from 0, like 100:164, or one.")
    ] = None
    start_s: From = None
    end_s: To = None
    every: Annotated[int | None, typer.Option(min=1, metavar="N", help="Only every Nth frame.")] = None
    salvage: Annotated[
        bool,
        typer.Option("--salvage", help="Recover what is undamaged: grey frames for lost groups; a note names them."),
    ] = False
    threads: GroupThreads = None

    def __post_init__(self) -> None:
        if self.frames is not None:
            parse_frames(self.frames)
            if (self.start_s, self.end_s) != (None, None):
                raise InputError("give --frames or --from and --to, not both")


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyOptions:
    """Options of `codec verify`."""

    threads: GroupThreads = None


class VideoFace(Foldered, Framed, Tagged):
    """`contract.Face` of the video codec."""

    people = "videos"
    single = "a video"
    reads = READ_ONLY | WRITTEN.keys()
    writes = WRITTEN
    chunk_kinds: dict[int, str] = {}
    examples = {
        "Encode": (
            f"codec encode clip.mp4                    clip.rdc, quality {QUALITY}, sound copied",
            "codec encode clip.mp4 --kbps 500         at most 500 kbit/s, sound and all",
            "codec encode clip.mp4 --effort 3         smaller at the same PSNR, takes several times as long",
            "codec encode frames/ --fps 30 -o clip.rdc      one video of the pictures of a folder",
        ),
        "Decode": (
            "codec decode clip.rdc --frames 100:164 -o part.mp4",
            "codec decode clip.rdc -o frames/%05d.png     pictures with the frames' numbers",
            "codec decode clip.rdc --frames 100 -o still.png",
        ),
    }
    cuda = True
    shown = SHOWN
    Encode, Decode, Verify = EncodeOptions, DecodeOptions, VerifyOptions

    def takes(self, data: bytes, suffix: str) -> bool:
        """Whether its first bytes are those of a video."""
        return looks_like_video(data)

    def encode_file(self, source: BinaryIO, target: BinaryIO, options: EncodeOptions, desk: Desk) -> Result:
        """A video file to a stream, frame by frame.

        Raises:
            ValueError: no video, a damaged one, or a target out of reach.
            KeyError: no such model.
        """
        result = self._encode(source, target, options, desk)
        if source.seek(0, 2) < target.seek(0, 2):
            large = f"larger than the input of {show_size(source.tell())}; keep that, or take a lower quality"
            result = replace(result, notices=(*result.notices, large))
        return result

    def takes_numbered(self, source: Path) -> bool:
        """Whether it is like ``folder/%05d.png``."""
        return bool(NUMBERED.search(source.name))

    gathered = PICTURES
    gathering = "--fps N makes one video of pictures"

    def gathers(self, options: EncodeOptions) -> bool:
        """Whether a rate of pictures is given."""
        return options.fps is not None

    def encode_numbered(
        self, source: Path | tuple[Path, ...], target: BinaryIO, options: EncodeOptions, desk: Desk
    ) -> Result:
        """Pictures, 25 a second where no rate is given, to a stream. Errors as `encode_file`."""
        if isinstance(source, tuple):
            from .picture_folders import check_images

            check_images(source)
        return self._encode(source, target, options, desk)

    def _encode(
        self, source: Path | tuple[Path, ...] | BinaryIO, target: BinaryIO, options: EncodeOptions, desk: Desk
    ) -> Result:
        from .codec import VideoCodec
        from .reading import RATE, VideoFile
        from .targets import written_at, written_within

        check_rate("--kbps", options.kbps, KBPS_MAX, "500")
        codec = desk.codec(
            "encode video", lambda: VideoCodec.load(model=options.model, device=desk.device, threads=options.threads)
        )
        codec = codec.with_effort(options.effort, tune=options.tune)
        rate = RATE if options.fps is None else checked_rate(options.fps)
        with VideoFile(source, rate=rate) as video:
            times = video.times()
            header = header_of(video, len(times), options)
            extras, heard = extras_from(video, options.audio or AUDIO[0], desk)
            desk.unit = "frames"
            duration_s = video_duration_s(video)
            size = parse_size(options.size) if options.size else None
            size = size if options.kbps is None else int(options.kbps * 1000 * duration_s / 8)
            if desk.progress:
                desk.progress(0, header.frames)  # the bar is there while some frames are tried
            if size is None:
                header = codec.with_order(header, options.low_delay, video.some)
                written = written_at(codec, video, header, extras, target, desk.progress)
            else:
                shown = "{} bytes".format if options.kbps is None else partial(show_rate, duration_s=duration_s)
                header = written_within(
                    codec, video, header, extras, target, size, desk.progress, shown, low_delay=options.low_delay
                )
                written = target.seek(0, 2)
            notices = tuple(video.notices) + heard
        rate_kbps = written * 8 / duration_s / 1000
        raw_bytes = 3 * header.width * header.height * header.frames
        sound_bytes = sum(len(extras.get(tag, b"")) for tag in (SOUND, SPEECH))
        facts = {
            "quality": header.quality, "rate_kbps": rate_kbps, "frames": header.frames, "width": header.width,
            "height": header.height, "duration_s": duration_s, "sound_bytes": sound_bytes,
            "bpp": written * 8 / (header.width * header.height * header.frames), "raw_bytes": raw_bytes,
            "anchor_distance": header.anchor_distance,
        }  # fmt: skip
        return Result(b"", facts, f"{show_frames(header.frames)}, {rate_kbps:.0f} kbit/s", notices)

    def suffix(self, options: DecodeOptions) -> str:
        """``.mkv``, or what --format says; pictures go into a folder, whose name has none."""
        suffix = suffix_for(options.format, WRITTEN, self.people, ".mkv")
        return "" if suffix == ".png" else suffix

    def fills_folder(self, target: Path | None, options: DecodeOptions) -> bool:
        """Whether pictures are asked for: by --format, ``folder/%05d.png``, or a name without a suffix."""
        return self.suffix(options) == "" if options.format else target is not None and names_a_folder(target)

    def decode_folder(
        self, stream: container.Stream, target: Path, options: DecodeOptions, desk: Desk, *, force: bool = False
    ) -> Result:
        """A stream to PNG files with the frames' numbers. Errors as `decode_file`."""
        if target.suffix.lower() == ".png" and not names_a_folder(target):
            raise InputError(f"{target} is no folder; pictures need one, like -o {target.with_suffix('')}/%05d.png")
        return self._decode(stream, target, ".png", options, desk, force)

    def decode_file(
        self, stream: container.Stream, target: Path | None, file: BinaryIO, options: DecodeOptions, desk: Desk
    ) -> Result:
        """A stream to a video file, frame by frame, or one frame to a PNG; for standard output an MKV, unless --format says
        otherwise.

        Raises:
            BitstreamError: anything wrong with the data.
            ValueError: frames outside the video, or a format that cannot hold it.
        """
        suffix = target.suffix.lower() if target and not options.format else self.suffix(options)
        if suffix == "":
            raise InputError(f"the output {target or 'to a pipe'}: pictures need a folder, like -o folder/%05d.png")
        check_written(target, suffix, WRITTEN)
        return self._decode(stream, file, suffix, options, desk)

    def _decode(
        self,
        stream: container.Stream,
        target: Path | BinaryIO,
        suffix: str,
        options: DecodeOptions,
        desk: Desk,
        force: bool = False,
    ) -> Result:
        from .frames import format_of
        from .timing import times_of
        from .writing import VideoWriter

        stream, header = parse(stream, salvage=options.salvage)
        lost_extras: list[str] = []
        extras = extras_of(stream, header, lost_extras if options.salvage else None)
        if options.salvage:
            extras = readable(extras, header.frames, desk, lost_extras)
        video = format_of(header)
        times, durations = times_of(extras.get(TIMES), header.frames, header.rate * video.time_base)
        wanted = wanted_frames(options, header, video, times)
        if suffix == ".png":
            check_pictures(target, wanted, force)
        if not options.salvage and len(wanted) == header.frames:
            stream.check()
        codec = codec_of(stream, desk, options.threads)
        lost: dict[int, BitstreamError] = {}
        desk.unit = "frames"
        frames = codec.frames(stream, header, wanted, lost if options.salvage else None, desk.progress)
        origin = 0 if wanted[0] == 0 else int(times[wanted[0]])  # the first frame may come after the sound's beginning
        span_s = None
        if len(wanted) < header.frames:
            span_s = origin * video.time_base, int(times[wanted[-1]] + durations[wanted[-1]]) * video.time_base
        sound, tags = sound_of(extras, suffix, span_s, desk), tags_of(extras)
        video = replace(video, rate=video.rate / min(wanted.step, header.frames))
        with VideoWriter(target, video, sound, suffix=suffix, tags=tags, numbers=wanted, force=force) as writer:
            for frame in timed(frames, wanted, times, durations, origin):
                writer.write(frame)
        notices = *lost_extras, *writer.notices
        notices += tuple(f"{header.group_name(index)} is lost ({error})" for index, error in sorted(lost.items()))
        facts = {
            "frames": len(wanted), "width": header.width, "height": header.height, "lost_groups": tuple(sorted(lost)),
            "bytes": writer.pictures_bytes,
        }  # fmt: skip
        return Result(b"", facts, f"{show_frames(len(wanted))} of {header.width}x{header.height}", notices)

    def verify(self, stream: container.Stream, options: VerifyOptions, desk: Desk) -> list[str]:
        """Every checksum and every symbol, times, tags and sound, no pixels."""
        stream, header = parse(stream)
        notices = codec_of(stream, desk, options.threads).verify(stream)
        readable(extras_of(stream, header), header.frames, desk)
        return notices

    def describe(self, stream: container.Stream) -> dict[str, Any]:
        """Size, rate, groups, bits, sound, metadata, model; also of a video cut short or with more behind it."""
        return describe(stream)

    def describe_frames(self, stream: container.Stream, desk: Desk) -> list[dict[str, Any]]:
        """Kind and bits of each frame. BitstreamError: a group is damaged."""
        return codec_of(stream, desk, None).frame_table(stream)

    def metadata_kind(self, stream: container.Stream, index: int) -> str:
        """The tag of a metadata chunk."""
        return tag_name(tag_at(stream, index))

    def rows(self, facts: dict[str, Any]) -> dict[str, Any]:
        """What `describe` returned, for people."""
        return rows(facts)

    def demo(
        self, source: Path | None, folder: Path, desk: Desk, note: Callable[[str], None], effort: int | None = None
    ) -> Iterable[Any]:
        """The first frames of a video (else of a sample) at two qualities, on a page to watch beside x265 at equal bytes."""
        from .codec import VideoCodec
        from .demo import run

        codec = VideoCodec.load(device=desk.device).with_effort(effort)
        return run(codec, source, folder, note, effort or 0), f"the page to watch: {folder / PAGE}"


def parse_frames(text: str) -> tuple[int | None, int | None]:
    """First frame and the one after the last of ``A:B``, either of which may be left out, or of one frame, ``A``.

    Raises:
        ValueError: it is not of that form.
    """
    first, colon, last = text.partition(":")
    if text.isdecimal():
        return int(text), int(text) + 1
    if not colon or not all(part.isdecimal() or not part for part in (first, last)):
        raise InputError(f"--frames {text}; need a number from 0, or two with a colon, like 100:164")
    return int(first) if first else None, int(last) if last else None


def header_of(video: VideoFile, frames: int, options: EncodeOptions) -> VideoHeader:
    """The header of a video's stream."""
    return VideoHeader(
        width=video.format.width, height=video.format.height, frames=frames, rate=video.format.rate,
        quality=QUALITY if options.quality is None else options.quality, group=options.gop or GROUP,
        source=video.format.pack(),
    )  # fmt: skip


def video_duration_s(video: VideoFile) -> float:
    """Of the frames, as far as their times tell: the last one counts as long as the mean."""
    times = video.times()
    return float((int(times[-1]) - int(times[0])) * video.format.time_base + 1 / video.format.rate)


def show_rate(size: int, duration_s: float) -> str:
    """Bytes of a file as a rate for people."""
    return f"{size * 8 / duration_s / 1000:.1f} kbit/s"


def wanted_frames(options: DecodeOptions, header: VideoHeader, video: Format, times: np.ndarray) -> range:
    """Numbers of the frames that are asked for.

    Raises:
        ValueError: there are none.
    """
    start, stop = parse_frames(options.frames) if options.frames else (None, None)
    if options.start_s is not None or options.end_s is not None:
        seconds = (times - times[0]) * float(video.time_base)
        first_s, last_s = options.start_s or 0.0, float("inf") if options.end_s is None else options.end_s
        shown = [number for number, second in enumerate(seconds) if first_s <= second < last_s]
        if not shown:
            span = f"from {first_s:g} s on" if options.end_s is None else f"from {first_s:g} to {last_s:g} s"
            length_s = float(header.frames / header.rate)
            raise InputError(f"no frame {span}; the video is {length_s:.2f} s long, its last frame at {seconds[-1]:.2f} s")
        start, stop = shown[0], shown[-1] + 1
    return checked_range(start, stop, header)[:: options.every or 1]


def check_pictures(target: Path | BinaryIO, wanted: range, force: bool) -> None:
    """InputError for several frames in one picture, or in a folder that has some of them, unless ``force``."""
    from .picture_folders import check_free

    if not isinstance(target, Path):
        if len(wanted) > 1:
            raise InputError(f"{len(wanted)} frames need a folder, like -o folder/%05d.png; one is --frames {wanted[0]}")
    elif not force:
        check_free(target, wanted)


def timed(
    frames: Iterable[np.ndarray], wanted: range, times: np.ndarray, durations: np.ndarray, origin: int
) -> Iterator[Frame]:
    """The wanted frames with their times, counted from ``origin``; each lasts until the next."""
    from .frames import Frame

    for number, pixels in zip(wanted, frames, strict=True):
        following = number + wanted.step
        ends = times[following] if following in wanted else times[number] + durations[number]
        yield Frame(pixels, int(times[number]) - origin, max(1, int(ends - times[number])))


def codec_of(stream: container.Stream, desk: Desk, threads: int | None) -> VideoCodec:
    """The codec with the weights that a stream names."""
    from .codec import VideoCodec

    codec: VideoCodec = desk.codec(
        stream.weights, lambda: VideoCodec.load(stream_hash=stream.weights, device=desk.device, threads=threads)
    )
    return codec


FACE = VideoFace()
