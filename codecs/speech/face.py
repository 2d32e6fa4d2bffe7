"""The speech codec on the command line: options, files in and out, and what is told of them. No numpy, no torch here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from io import BytesIO
from os import SEEK_END
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, cast

import typer

from ...entropy_models.errors import BitstreamError, Corrupt, InputError, Truncated
from .. import container, weights
from ..contract import Desk, Live, Readable, Result, Writable
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
from .formats import RAW, READ_ONLY, WRITTEN, looks_like_sound
from .header import QUALITY, SAMPLE_RATE, SEGMENT_SAMPLES, SpeechHeader, parse, tags_of
from .packets import begins_live, is_live, live_samples, packets_of

if TYPE_CHECKING:
    from .codec import SpeechCodec
    from .pcm import Layout

KBPS_MAX = 1000.0
LEAST_S = 0.1
"""Seconds of a sound whose rate says anything."""
FORMATS = {**WRITTEN, RAW: "samples"}
"""Suffixes of files that are written: ``.pcm`` cannot be told from others when it is read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeOptions:
    """Options of `codec encode`."""

    quality: Quality = None
    kbps: Annotated[float | None, typer.Option(help="At most this many kbit/s of file, and hardly fewer.")] = None
    size: Size = None
    mono: Annotated[bool, typer.Option("--mono", help="Mix two channels to one.")] = False
    pcm: Annotated[
        str | None,
        typer.Option(metavar="RATE[xN]", help="The input is raw 16-bit samples of N channels, like 16000 or 48000x2."),
    ] = None
    model: Model = None
    effort: Effort = None

    def __post_init__(self) -> None:
        check_targets(self.quality, ("--kbps", self.kbps), self.size)
        if self.pcm is not None:
            self.layout()

    def layout(self) -> Layout | None:
        """How raw samples lie; None: they are in a file that says so itself."""
        from .pcm import parse_layout

        return None if self.pcm is None else parse_layout(self.pcm)

    @property
    def whole(self) -> bool:
        """Whether more of the sound than a packet must be known before it is coded."""
        return self.kbps is not None or self.size is not None or bool(self.effort)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeOptions:
    """Options of `codec decode`."""

    format: Annotated[
        str | None, typer.Option("--format", metavar="NAME", help=f"{names_of(FORMATS)}; default OUT's, else wav.")
    ] = None
    start_s: From = None
    end_s: To = None
    salvage: Annotated[
        bool,
        typer.Option(
            "--salvage",
            help="Recover what is undamaged: silence for lost chunks; a note and --json's lost_s name them.",
        ),
    ] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyOptions:
    """`codec verify` takes no options of sounds."""


class SpeechFace(Live):
    """`contract.Face` of the speech codec."""

    people = "sounds"
    single = "a sound"
    reads = READ_ONLY | WRITTEN.keys()
    writes = FORMATS
    chunk_kinds: dict[int, str] = {}
    examples = {
        "Encode": (
            f"codec encode talk.wav                    talk.rdc, quality {QUALITY}",
            "codec encode talk.m4a --kbps 3 --mono    at most 3 kbit/s",
            "codec encode talk.wav --effort 5         far better for the bytes; takes as long as the sound lasts",
            "arecord -f S16_LE -r 16000 | codec encode - --pcm 16000 > live.rdc",
        ),
        "Decode": ("codec decode talk.rdc --from 12.5 --to 30 -o part.flac", "nc -l 9000 | codec decode - | aplay"),
    }
    cuda = True
    shown = (
        "listen.html", "original.wav",
        *(f"speech_{rate}_kbps{suffix}" for rate in ("1.5", "3", "6", "9") for suffix in (".rdc", ".wav")),
    )  # fmt: skip
    Encode, Decode, Verify = EncodeOptions, DecodeOptions, VerifyOptions

    def takes(self, data: bytes, suffix: str) -> bool:
        """Whether its first bytes are those of a sound or of a video, whose sound is meant then."""
        return looks_like_sound(data)

    def encode_file(self, source: BinaryIO, target: BinaryIO, options: EncodeOptions, desk: Desk) -> Result:
        """A sound file to a stream.

        Raises:
            ValueError: a damaged sound, or a target out of reach.
            KeyError: no such model.
        """
        from ..rate_control import encode_to_size
        from .codec import SpeechCodec
        from .sounds import sound_on_file

        check_rate("--kbps", options.kbps, KBPS_MAX, "3")
        sound = sound_on_file(source, mono=options.mono, layout=options.layout())
        plain = desk.codec("encode speech", lambda: SpeechCodec.load(model=options.model, device=desk.device))
        codec = plain.with_effort(options.effort)
        size = parse_size(options.size) if options.size else None
        size = size if options.kbps is None else int(options.kbps * 1000 * sound.duration_s / 8)
        quality = QUALITY if options.quality is None else options.quality
        if size is None:
            codec.encode_to(target, sound, quality=quality, progress=desk.progress)
        else:

            def shown(size: int) -> str:
                return f"{size} bytes ({size * 8 / sound.duration_s / 1000:.2f} kbit/s)"

            stream, quality = encode_to_size(
                codec, sound, size, progress=desk.progress, shown=shown, draft=plain if options.effort else None,
                between=codec.with_wider_deadzone,
            )  # fmt: skip
            target.write(stream)
        source_bytes, stream_bytes = source.seek(0, SEEK_END), target.seek(0, SEEK_END)
        rate_kbps = stream_bytes * 8 / sound.duration_s / 1000
        notices = sound.notices + lost_above(sound.sample_rate)
        notices += lost_offset(sound.offset)
        if sound.music:
            notices += ("sounds like music; the model knows speech alone, and music comes back rough",)
        if stream_bytes > source_bytes:
            notices += (f"larger than the input of {show_size(source_bytes)}; keep that, or take a lower quality",)
        facts = facts_of(quality, rate_kbps, sound.duration_s, sound.channels, 2 * sound.frames * sound.channels)
        return Result(facts=facts, line=line_of(rate_kbps, sound.duration_s), notices=notices)

    def suffix(self, options: DecodeOptions) -> str:
        """``.wav``, or what --format says."""
        return suffix_for(options.format, FORMATS, self.people, ".wav")

    def claims(self, options: EncodeOptions) -> bool:
        """Raw samples say nothing of themselves."""
        return options.pcm is not None

    def encodes_live(self, head: bytes, options: EncodeOptions) -> bool:
        """Raw samples and WAV, unless a size of the whole or an effort is asked for."""
        wav = head[:4] in (b"RIFF", b"RF64") and head[8:12] == b"WAVE"
        return (options.pcm is not None or wav) and not options.whole

    def encode_live(self, source: Readable, target: Writable, options: EncodeOptions, desk: Desk) -> Result:
        """Samples to packets, each as soon as it is complete."""
        from .codec import SpeechCodec
        from .live import encode_live
        from .sounds import open_pcm, open_sound

        codec = desk.codec("encode speech", lambda: SpeechCodec.load(model=options.model, device=desk.device))
        quality = QUALITY if options.quality is None else options.quality
        layout = options.layout()
        counted = Counted(target)
        if layout:
            opened = open_pcm(source, layout, mono=options.mono)
        else:
            opened = open_sound(cast("BinaryIO", source), mono=options.mono)
        with opened as sound:
            taken = encode_live(codec, sound, counted, quality)
        duration_s = taken / SAMPLE_RATE
        rate_kbps = counted.bytes * 8 / duration_s / 1000
        notices = (*sound.notices, *lost_above(sound.sample_rate), *lost_offset(sound.meter.offset))
        if sound.frames:
            notices += ("coded live, packet by packet, at 16 kHz; with -o FILE it becomes a file with parts",)
        elif sound.sample_rate != SAMPLE_RATE:
            notices += (f"{sound.sample_rate} Hz; a live stream is decoded at {SAMPLE_RATE} Hz",)
        raw_bytes = 2 * sound.channels * round(duration_s * sound.sample_rate)
        facts = facts_of(quality, rate_kbps, duration_s, sound.channels, raw_bytes)
        return Result(facts=facts, line=line_of(rate_kbps, duration_s), notices=notices)

    def decodes_live(self, head: bytes) -> bool:
        """What `encode_live` writes."""
        return begins_live(head)

    def expect_live(self, desk: Desk) -> None:
        """Load the default model: streams of others load their own."""
        from . import live  # noqa: F401

        codec_with(weights.line_for("speech").stream_hash, desk)

    def decode_live(self, source: Readable, target: Writable, options: DecodeOptions, desk: Desk) -> Result:
        """Packets to a WAV, or to raw samples, each as soon as it is there."""
        return self._played(source, target, self.suffix(options), options, desk)

    def _played(self, source: Readable, target: Writable, suffix: str, options: DecodeOptions, desk: Desk) -> Result:
        from .live import decode_live

        if options.start_s is not None or options.end_s is not None:
            raise InputError("a live stream has no parts; leave out --from and --to")
        played = decode_live(source, target, suffix, lambda head: codec_of(head, desk), salvage=options.salvage)
        duration_s = played.frames / SAMPLE_RATE
        facts = {
            "duration_s": duration_s, "sample_rate": SAMPLE_RATE, "channels": played.channels, "lost_s": played.lost,
        }  # fmt: skip
        return Result(facts=facts, line=f"{duration_s:.2f} s", notices=played.notices)

    def decode_file(
        self, stream: container.Stream, target: Path | None, file: BinaryIO, options: DecodeOptions, desk: Desk
    ) -> Result:
        """A stream to a sound file; for standard output a WAV, unless --format says otherwise.

        Raises:
            BitstreamError: anything wrong with the data.
            ValueError: a part outside the sound, or a format that cannot hold it.
        """
        from .sound_writing import SoundWriter, check_rate_of

        suffix = self.suffix(options)
        if target and not options.format:
            suffix = target.suffix.lower()
        check_written(target, suffix, FORMATS)
        if is_live(stream):
            with naming_salvage(options):
                return self._played(whole_of(stream), file, suffix, options, desk)
        header = SpeechHeader.of(stream)
        check_rate_of(header.sample_rate, suffix)
        codec = codec_of(stream, desk)
        with naming_salvage(options):
            sound = codec.play(
                stream, start_s=options.start_s, end_s=options.end_s, salvage=options.salvage, progress=desk.progress
            )
            facts = {"sample_rate": sound.sample_rate, "channels": sound.channels}
            with SoundWriter(file, suffix, **facts, tags=sound.tags, frames=sound.frames) as writer:
                for block in sound.blocks:
                    writer.write(block)
        duration_s = sound.frames / sound.sample_rate
        told = {"duration_s": duration_s, **facts, "lost_s": sound.lost}
        return Result(facts=told, line=f"{duration_s:.2f} s", notices=(*sound.notices, *writer.notices))

    def verify(self, stream: container.Stream, options: VerifyOptions, desk: Desk) -> list[str]:
        """Every checksum and every symbol, no samples."""
        if is_live(stream):
            from .live import decode_live

            if notices := decode_live(whole_of(stream), None, RAW, lambda head: codec_of(head, desk)).notices:
                raise Corrupt(notices[0])
            return []
        parse(stream)
        return codec_of(stream, desk).verify(stream)

    def describe(self, stream: container.Stream) -> dict[str, Any]:
        """Duration, kbit/s, model, tags; also of a sound cut short or with more behind it."""
        if live := is_live(stream):
            header, size = SpeechHeader.of(stream), len(stream.data)
            header = replace(header, frames=samples_of(stream), chunk_segments=1)
        else:
            stream, header = parse(stream, salvage=True)
            size = stream.expected_bytes
        try:
            tags = tags_of(stream)
        except BitstreamError:
            tags = {}
        return {
            "live": live,
            "expected_bytes": size,
            "duration_s": round(header.duration_s, 4),
            "sample_rate": header.sample_rate,
            "channels": header.channels,
            "samples": header.frames,
            "quality": header.quality,
            "rate_kbps": round(size * 8 / header.duration_s / 1000, 4) if header.frames else 0.0,
            "weights": stream.weights.hex(),
            "model": weights.model_of("speech", stream.weights),
            "chunk_s": header.chunk_segments * SEGMENT_SAMPLES / SAMPLE_RATE,
            "skip_level": header.skip_level,
            "tags": tags,
        }

    def rows(self, facts: dict[str, Any]) -> dict[str, Any]:
        """What `describe` returned, for people."""
        tags = facts["tags"]
        return {
            "duration": f"{facts['duration_s']:.2f} s",
            "sound": f"{facts['channels']} channel{'s' * (facts['channels'] > 1)} at {facts['sample_rate']} Hz",
            "quality": facts["quality"],
            "rate_kbps": facts["rate_kbps"],
            "weights": weights.shown(facts["model"], facts["weights"]),
            "packet" if facts["live"] else "chunk": f"{facts['chunk_s']:g} s",
            "tags": ", ".join(f"{name}: {value}" for name, value in tags.items()) or "none",
        }

    def demo(
        self, source: Path | None, folder: Path, desk: Desk, note: Callable[[str], None], effort: int | None = None
    ) -> Iterable[Any]:
        """The beginning of a sound (else a synthetic voice) at four rates, on a page to listen beside Opus at equal ones."""
        from .codec import SpeechCodec
        from .demo import EFFORT, PAGE, run

        codec, effort = SpeechCodec.load(device=desk.device), EFFORT if effort is None else effort
        return run(codec, source, folder, note, effort), f"the page to listen: {folder / PAGE}"


class Counted:
    """A file that is written, and its bytes."""

    def __init__(self, file: Writable) -> None:
        self._file, self.bytes = file, 0

    def write(self, data: bytes) -> None:
        self.bytes += len(data)
        self._file.write(data)

    def flush(self) -> None:
        self._file.flush()

    def seekable(self) -> bool:
        return False


@contextmanager
def naming_salvage(options: DecodeOptions) -> Iterator[None]:
    """Errors of damaged data say how the rest is had, unless that was asked for."""
    try:
        yield
    except (Corrupt, Truncated) as error:
        if options.salvage:
            raise
        raise type(error)(f"{error}; --salvage recovers what is undamaged") from None


def line_of(rate_kbps: float, duration_s: float) -> str:
    """What is told of a sound that was encoded: no rate of one that is next to nothing beside the file's header."""
    return f"{rate_kbps:.2f} kbit/s" if duration_s >= LEAST_S else ""


def facts_of(quality: int, rate_kbps: float, duration_s: float, channels: int, raw_bytes: int) -> dict[str, Any]:
    """What ``--json`` tells of a sound that was encoded."""
    return {
        "quality": quality, "rate_kbps": rate_kbps, "duration_s": duration_s, "channels": channels, "raw_bytes": raw_bytes,
    }  # fmt: skip


def lost_above(sample_rate: int) -> tuple[str, ...]:
    """The notice of what a sound of this rate loses."""
    if sample_rate <= SAMPLE_RATE:
        return ()
    return (f"{sample_rate} Hz; what lies above {SAMPLE_RATE // 2000} kHz is lost",)


def lost_offset(offset: float) -> tuple[str, ...]:
    """The notice of a sound that is a constant for the most part."""
    return (f"a constant offset of {offset:.3g} of full scale is not kept",) if offset else ()


def whole_of(stream: container.Stream) -> Readable:
    """All bytes of a live stream's file, from its beginning."""
    return BytesIO(stream.data[:])


def samples_of(stream: container.Stream) -> int:
    """Samples of a live stream's file, up to where it ends."""
    packets = packets_of(whole_of(stream))
    next(packets)

    def there() -> Iterator[bytes]:
        with suppress(Truncated):
            yield from packets

    return live_samples(there())


def codec_of(stream: container.Stream, desk: Desk) -> SpeechCodec:
    """The codec with the weights that a stream names."""
    return codec_with(stream.weights, desk)


def codec_with(stream_hash: bytes, desk: Desk) -> SpeechCodec:
    """The codec with the weights of this hash."""
    from .codec import SpeechCodec

    codec: SpeechCodec = desk.codec(stream_hash, lambda: SpeechCodec.load(stream_hash=stream_hash, device=desk.device))
    return codec


FACE = SpeechFace()
