"""The speech codec on the command line: options, files in and out, and what is told of them. No numpy, no torch here."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from os import SEEK_END
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from ...entropy_models.errors import BitstreamError, InputError
from .. import container, weights
from ..contract import Desk, Result, Streamed
from ..terminal.files import parse_size, show_size
from ..terminal.options import Model, Quality, Size, check_targets, names_of, suffix_for
from .formats import READ_ONLY, WRITTEN, looks_like_sound
from .header import QUALITY, SAMPLE_RATE, SEGMENT_SAMPLES, parse, tags_of

if TYPE_CHECKING:
    from .codec import SpeechCodec

KBPS_MAX = 1000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeOptions:
    """Options of `codec encode`."""

    quality: Quality = None
    kbps: Annotated[float | None, typer.Option(help="The highest whole quality of at most this many kbit/s of file.")] = None
    size: Size = None
    mono: Annotated[bool, typer.Option("--mono", help="Mix two channels to one.")] = False
    model: Model = None

    def __post_init__(self) -> None:
        check_targets(self.quality, ("--kbps", self.kbps), KBPS_MAX, "3", self.size)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeOptions:
    """Options of `codec decode`."""

    format: Annotated[
        str | None, typer.Option("--format", metavar="NAME", help=f"{names_of(WRITTEN)}; default OUT's, else wav.")
    ] = None
    start_s: Annotated[float | None, typer.Option("--from", metavar="S", help="Only from this second on, like 12.5.")] = None
    end_s: Annotated[float | None, typer.Option("--to", metavar="S", help="Only up to this second.")] = None
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


class SpeechFace(Streamed):
    """`contract.Face` of the speech codec."""

    people = "sounds"
    single = "a sound"
    reads = READ_ONLY | WRITTEN.keys()
    writes = WRITTEN
    chunk_kinds: dict[int, str] = {}
    examples = {
        "Encode": (
            f"codec encode talk.wav                    talk.rdc, quality {QUALITY}",
            "codec encode talk.m4a --kbps 3 --mono    at most 3 kbit/s",
        ),
        "Decode": ("codec decode talk.rdc --from 12.5 --to 30 -o part.flac",),
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

        sound = sound_on_file(source, mono=options.mono)
        codec = desk.codec("encode speech", lambda: SpeechCodec.load(model=options.model, device=desk.device))
        size = parse_size(options.size) if options.size else None
        size = size if options.kbps is None else int(options.kbps * 1000 * sound.duration_s / 8)
        quality = QUALITY if options.quality is None else options.quality
        if size is None:
            codec.encode_to(target, sound, quality=quality, progress=desk.progress)
        else:

            def shown(size: int) -> str:
                return f"{size} bytes ({size * 8 / sound.duration_s / 1000:.2f} kbit/s)"

            stream, quality = encode_to_size(codec, sound, size, progress=desk.progress, shown=shown)
            target.write(stream)
        source_bytes, stream_bytes = source.seek(0, SEEK_END), target.seek(0, SEEK_END)
        rate_kbps = stream_bytes * 8 / sound.duration_s / 1000
        notices = sound.notices
        if sound.sample_rate > SAMPLE_RATE:
            notices += (f"{sound.sample_rate} Hz; what lies above {SAMPLE_RATE // 2000} kHz is lost",)
        if stream_bytes > source_bytes:
            notices += (f"larger than the input of {show_size(source_bytes)}; keep that, or take a lower quality",)
        facts = {
            "quality": quality, "rate_kbps": rate_kbps, "duration_s": sound.duration_s, "channels": sound.channels,
            "raw_bytes": 2 * sound.frames * sound.channels,
        }  # fmt: skip
        return Result(facts=facts, line=f"{rate_kbps:.2f} kbit/s", notices=notices)

    def suffix(self, options: DecodeOptions) -> str:
        """``.wav``, or what --format says."""
        return suffix_for(options.format, WRITTEN, self.people, ".wav")

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
        if suffix not in WRITTEN:
            raise InputError(f"the output {target}; its name must end in one of {', '.join(WRITTEN)}")
        stream, header = parse(stream, salvage=options.salvage)
        check_rate_of(header.sample_rate, suffix)
        sound = codec_of(stream, desk).play(
            stream, start_s=options.start_s, end_s=options.end_s, salvage=options.salvage, progress=desk.progress
        )
        facts = {"sample_rate": sound.sample_rate, "channels": sound.channels}
        with SoundWriter(file, suffix, **facts, tags=sound.tags, frames=sound.frames) as writer:
            for block in sound.blocks:
                writer.write(block)
        duration_s = sound.frames / sound.sample_rate
        told = {"duration_s": duration_s, **facts, "lost_s": sound.lost}
        return Result(facts=told, line=f"{duration_s:.2f} s", notices=sound.notices)

    def verify(self, stream: container.Stream, options: VerifyOptions, desk: Desk) -> list[str]:
        """Every checksum and every symbol, no samples."""
        parse(stream)
        return codec_of(stream, desk).verify(stream)

    def describe(self, stream: container.Stream) -> dict[str, Any]:
        """Duration, kbit/s, model, tags; also of a sound cut short or with more behind it."""
        stream, header = parse(stream, salvage=True)
        try:
            tags = tags_of(stream)
        except BitstreamError:
            tags = {}
        return {
            "duration_s": round(header.duration_s, 4),
            "sample_rate": header.sample_rate,
            "channels": header.channels,
            "samples": header.frames,
            "quality": header.quality,
            "rate_kbps": round(stream.expected_bytes * 8 / header.duration_s / 1000, 4),
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
            "chunk": f"{facts['chunk_s']:g} s",
            "tags": ", ".join(f"{name}: {value}" for name, value in tags.items()) or "none",
        }

    def demo(self, source: Path | None, folder: Path, desk: Desk, note: Callable[[str], None]) -> Iterable[Any]:
        """A sound (else a synthetic voice) at four rates, on a page to listen beside Opus at equal rates."""
        from .codec import SpeechCodec
        from .demo import PAGE, run

        return run(SpeechCodec.load(device=desk.device), source, folder, note), f"the page to listen: {folder / PAGE}"


def codec_of(stream: container.Stream, desk: Desk) -> SpeechCodec:
    """The codec with the weights that a stream names."""
    from .codec import SpeechCodec

    codec: SpeechCodec = desk.codec(
        stream.weights, lambda: SpeechCodec.load(stream_hash=stream.weights, device=desk.device)
    )  # fmt: skip
    return codec


FACE = SpeechFace()
