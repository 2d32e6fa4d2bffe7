"""The speech codec: sounds to .rdc files and back. The file is specified in `header` and `container`."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, ClassVar, Self

import numpy as np
import torch

from ...entropy_models.coder import Measure
from ...entropy_models.errors import BitstreamError, InputError, raise_first
from ...entropy_models.tables import Tables
from .. import container, weights
from ..contract import Estimate, Progress, told
from ..device import resolve_device
from ..rate_control import checked_quality
from ..symbols import LEAST_BYTES, chunk_of, new_writer
from ..torch_state import own_state
from ..weights_file import read_weights
from .architectures import ARCHITECTURES
from .chunks import C, ChannelsShown, ChunkDecoder, ChunkEncoder
from .ecc import SpeechNetwork
from .header import (
    QUALITY,
    SAMPLE_RATE,
    SEGMENT_SAMPLES,
    STREAM_ID,
    SpeechHeader,
    parse,
    tags_chunk,
    tags_of,
)
from .refining import steps_of
from .resampling import regrouped, resampled, resampled_blocks, span_for
from .sound import Recording, Sound, as_sound

Source = Recording | np.ndarray | str | Path
"""A sound, samples (n,) or (channels, n), or the path of a sound file, which is read into memory."""
BLOCK = 16 * SEGMENT_SAMPLES
"""Samples that are handed on at a time where all of them are at hand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Playback:
    """A sound of a file that is decoded while it is read, once."""

    sample_rate: int
    channels: int
    frames: int
    """Samples of each channel that will come."""
    tags: Mapping[str, str]
    blocks: Iterator[np.ndarray]
    """float32 (channels, n). Raises BitstreamError at what is damaged."""
    header: SpeechHeader
    decoder: ChunkDecoder
    other_notices: tuple[str, ...]

    @property
    def notices(self) -> tuple[str, ...]:
        """As `Sound.notices`, when all blocks have come."""
        return self.decoder.notices() + self.other_notices

    @property
    def lost(self) -> tuple[tuple[float, float], ...]:
        """As `Sound.lost`, when all blocks have come."""
        return tuple(self.header.span_s(chunk) for chunk in sorted(self.decoder.lost))


class SpeechCodec:
    """Variable-rate learned speech codec; see `ecc` for the networks.

    Use ``SpeechCodec.load()``. Quality 0..100 covers about 0.8 to 24 kbit/s a channel on speech. What lies above 8 kHz is
    lost.
    """

    stream_id: ClassVar[int] = STREAM_ID

    def __init__(self, network: SpeechNetwork, tables: Tables, stream_hash: bytes, device: str = "cpu") -> None:
        self.network = network.eval().requires_grad_(False).to(device)
        self.tables, self.stream_hash, self.device = tables, stream_hash, torch.device(device)
        self.refinement_steps = 0

    @classmethod
    def load(cls, *, model: str | None = None, stream_hash: bytes | None = None, device: str = "auto") -> Self:
        """Weights by model name, or by the hash in a stream; else the default model.

        Args:
            device: ``cpu``, ``cuda`` or ``auto`` (CUDA if there is one).

        Raises:
            KeyError: no such model.
            Unsupported: no such weights.
            ValueError: CUDA asked for and not available, or a damaged weights file.
        """
        line = weights.line_for("speech", model=model, stream_hash=stream_hash)
        network, tables = read_weights(weights.verified_bytes(line), ARCHITECTURES)
        return cls(network, tables, line.stream_hash, resolve_device(device))

    def with_effort(self, effort: int | None = None) -> Self:
        """This codec with an encoder that refines latents before it writes them; networks are shared.

        The same decoder and weights read what it writes. At the same quality it has a few per cent more bytes and sounds far
        better. Two machines, or on CUDA two calls, may write other bytes.

        Args:
            effort: 0 or None (none) to 9; each chunk costs so many steps forward and backward as `refining.STEPS` says.

        Raises:
            ValueError: there is no such effort.
        """
        other = copy(self)
        other.refinement_steps = steps_of(effort)
        return other

    def with_wider_deadzone(self, factor: float) -> Self:
        """This codec with an encoder that pulls ``factor`` times as far towards zero before it rounds: up to a tenth fewer
        bytes, in steps as small as one likes, at no worse a trade. The same decoder and weights read what it writes."""
        other = copy(self)
        other.tables = self.tables.with_wider_deadzone(factor)
        return other

    def encode(
        self,
        signal: Source,
        *,
        sample_rate: int = SAMPLE_RATE,
        quality: int | None = None,
        progress: Progress | None = None,
    ) -> bytes:
        """Compress one sound to the bytes of an .rdc file.

        Args:
            sample_rate: of an array, in Hz; a `Sound` and a file know theirs.
            quality: 0..100; None: 50.
            progress: called with (chunks done, chunks in all).

        Raises:
            ValueError: not a sound this codec takes, or quality out of range.
        """
        file = io.BytesIO()
        self.encode_to(file, signal, sample_rate=sample_rate, quality=quality, progress=progress)
        return file.getvalue()

    def encode_to(
        self,
        file: BinaryIO,
        signal: Source,
        *,
        sample_rate: int = SAMPLE_RATE,
        quality: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        """`encode` into a file that can seek, at its beginning; a `Recording` is never in memory as a whole."""
        sound = sound_of(signal, sample_rate)
        header = self.header_of(sound.frames, sound.sample_rate, sound.channels, quality)
        self.encode_blocks(file, _coded_blocks(sound), header, sound.tags, progress=progress)

    def encode_batch(
        self, signals: Iterable[Source], *, sample_rate: int = SAMPLE_RATE, quality: int | None = None
    ) -> list[bytes]:
        """Encode several sounds; the very bytes `encode` gives for each.

        They run one after another: float networks may round differently in a batch, and then bytes would differ.
        """
        return [self.encode(signal, sample_rate=sample_rate, quality=quality) for signal in signals]

    @own_state(0)
    def encode_blocks(
        self,
        file: BinaryIO,
        blocks: Iterable[np.ndarray],
        header: SpeechHeader,
        tags: Mapping[str, str] | None = None,
        *,
        progress: Progress | None = None,
    ) -> None:
        """Compress a sound that comes in blocks, in memory that does not grow with it.

        Args:
            file: to write, as `container.Writer` does.
            blocks: float32 (channels, n) at 16 kHz, of any lengths.
            header: as `header_of` makes it.

        Raises:
            ValueError: the blocks are not as long as the header says.
        """
        encoder = self._encoder(header, lambda: new_writer(self.tables_at(header.skip_level), header.pack()))
        last = tags_chunk(tags or {})
        writer = container.Writer(
            file, stream_id=STREAM_ID, weights=self.stream_hash, signal=header.pack(), count=header.chunks + len(last)
        )
        for coder in told(encoder.run(blocks), header.chunks, progress):
            writer.add(container.DATA, chunk_of(coder))
        for kind, body in last:
            writer.add(kind, body)
        writer.close()

    @own_state(0)
    def decode(
        self,
        data: bytes | container.Stream,
        *,
        start_s: float | None = None,
        end_s: float | None = None,
        salvage: bool = False,
        progress: Progress | None = None,
    ) -> Sound:
        """Decompress to samples at the source's rate, as many as it had, and tags; ``.array()`` of it is an array.

        Symbols are the same on every machine; samples may differ in their last bits.

        Args:
            start_s, end_s: only this part, in seconds; only the chunks it needs are decoded.
            salvage: silence for damaged chunks, with `Sound.notices` and `Sound.lost` of them.
            progress: called with (chunks done, chunks needed).

        Raises:
            BitstreamError: anything wrong with the data that salvage does not cover, or nothing left to salvage.
            ValueError: the part does not lie in the sound.
        """
        played = self.play(data, start_s=start_s, end_s=end_s, salvage=salvage, progress=progress)
        samples = np.concatenate(list(played.blocks), axis=1)
        return Sound(
            samples=samples, sample_rate=played.sample_rate, tags=played.tags, notices=played.notices, lost=played.lost
        )  # fmt: skip

    def play(
        self,
        data: bytes | container.Stream,
        *,
        start_s: float | None = None,
        end_s: float | None = None,
        salvage: bool = False,
        progress: Progress | None = None,
    ) -> Playback:
        """`decode` by blocks, in memory that does not grow with the sound."""
        stream, header = self.parsed(data, salvage=salvage)
        if not salvage:
            check_chunks(stream, header)
        first, last = checked_span(header, start_s, end_s)
        span = span_for(first, last, header.sample_rate, SAMPLE_RATE)
        decoder = ChunkDecoder(self.network, self.tables_at(header.skip_level), stream, header, salvage=salvage)
        coded = decoder.blocks(span.start, min(span.stop, header.coded_samples), progress)
        rates = SAMPLE_RATE, header.sample_rate
        blocks = resampled_blocks(coded, *rates, header.channels, span.skip + last - first)
        tags, notices = self._tags(stream, salvage)
        return Playback(
            sample_rate=header.sample_rate, channels=header.channels, frames=last - first, tags=tags,
            blocks=_in_own_state(_without_first(blocks, span.skip)), header=header, decoder=decoder, other_notices=notices,
        )  # fmt: skip

    def decode_batch(self, streams: Iterable[bytes]) -> list[Sound]:
        """Decode several streams."""
        return [self.decode(data) for data in streams]

    @own_state(0)
    def estimate(self, signal: Source, *, sample_rate: int = SAMPLE_RATE, quality: int | None = None) -> Estimate[Sound]:
        """Ideal bits of the chunks' symbols and what `decode` will return, without a stream. Errors as `encode`."""
        sound = sound_of(signal, sample_rate)
        header = self.header_of(sound.frames, sound.sample_rate, sound.channels, quality)
        encoder = self._encoder(header, lambda: Measure(self.tables_at(header.skip_level)))
        shown, bits = ChannelsShown(self.network, header), 0.0
        blocks: list[np.ndarray] = []
        for coder in encoder.run(_coded_blocks(sound)):
            bits += float(coder.bits[0])
            blocks += shown.push(encoder.decoded)
        samples = np.concatenate([*blocks, shown.finish()], axis=1)[:, : header.coded_samples]
        samples = resampled(samples, SAMPLE_RATE, sound.sample_rate, sound.frames)
        return Estimate(bits, Sound(samples=samples, sample_rate=sound.sample_rate, tags=sound.tags))

    @own_state(0)
    def verify(self, data: bytes | container.Stream) -> list[str]:
        """Check every chunk and decode every symbol, but no samples. Returns an empty list: nothing is left unchecked.

        Raises:
            BitstreamError: anything wrong with the data; names the first damaged chunk, and how many more there are.
        """
        stream, header = self.parsed(data)
        decoder = ChunkDecoder(self.network, self.tables_at(header.skip_level), stream, header)
        errors: list[BitstreamError] = []
        for index in range(header.chunks):
            try:
                decoder.read(index)
            except BitstreamError as error:
                errors.append(error)
        raise_first(errors, header.chunks)
        tags_of(stream)
        return []

    def measurer(
        self, signal: Source, *, sample_rate: int = SAMPLE_RATE, progress: Progress | None = None
    ) -> Callable[[int], int]:
        """A function from quality to the bytes that `encode` writes at least: a few a chunk fewer."""
        sound = sound_of(signal, sample_rate)
        extra = sum(container.ENTRY_BYTES + len(body) for _, body in tags_chunk(sound.tags))

        @own_state(0)
        def measure(quality: int) -> int:
            header = self.header_of(sound.frames, sound.sample_rate, sound.channels, quality)
            encoder = self._encoder(header, lambda: Measure(self.tables_at(header.skip_level)))
            coders = told(encoder.run(_coded_blocks(sound)), header.chunks, progress)
            bits = sum(float(coder.bits[0]) for coder in coders)
            fixed = container.table_end(len(header.pack()), header.chunks) + LEAST_BYTES * header.chunks
            return int(bits / 8) + fixed + extra

        return measure

    def header_of(self, frames: int, sample_rate: int, channels: int, quality: int | None = None) -> SpeechHeader:
        """The signal header of a sound that these weights code.

        Args:
            frames: samples of each channel; 0: not known yet.

        Raises:
            ValueError: one is out of range.
        """
        return SpeechHeader(
            frames=frames, sample_rate=sample_rate, channels=channels, quality=checked_quality(quality, QUALITY),
            skip_level=self.tables.skip_level,
        )  # fmt: skip

    def _encoder(self, header: SpeechHeader, new_coder: Callable[[], C]) -> ChunkEncoder[C]:
        return ChunkEncoder(self.network, self.tables_at(header.skip_level), header, new_coder, self.refinement_steps)

    def tables_at(self, skip_level: int) -> Tables:
        """The weights' tables with a stream's skip level."""
        return self.tables if skip_level == self.tables.skip_level else self.tables.with_skip_level(skip_level)

    def parsed(self, data: bytes | container.Stream, *, salvage: bool = False) -> tuple[container.Stream, SpeechHeader]:
        """Container and header of a file for these weights. Errors as `decode`."""
        stream, header = parse(data, salvage=salvage)
        stream.check_weights(self.stream_hash)
        return stream, header

    def _tags(self, stream: container.Stream, salvage: bool) -> tuple[dict[str, str], tuple[str, ...]]:
        try:
            return tags_of(stream), ()
        except BitstreamError as error:
            if not salvage:
                raise
            return {}, (f"tags are lost ({error})",)


def sound_of(signal: Source, sample_rate: int) -> Recording:
    """The sound that a source holds.

    Raises:
        ValueError: it is none that this codec takes.
    """
    if isinstance(signal, np.ndarray):
        return as_sound(signal, sample_rate)
    if isinstance(signal, str | Path):
        from .sounds import read_sound

        return read_sound(Path(signal))
    if not hasattr(signal, "blocks"):
        raise InputError(
            f"a {type(signal).__name__} is no sound; need a numpy array (n,) or (channels, n), a Sound, or a file's path"
        )
    return signal


def check_chunks(stream: container.Stream, header: SpeechHeader) -> None:
    """Compare every chunk's checksum.

    Raises:
        BitstreamError: names the first damaged chunk and its seconds, and how many more there are.
    """
    try:
        stream.check()
    except BitstreamError:
        errors: list[BitstreamError] = []
        for index in range(len(stream.entries)):
            try:
                stream.chunk(index)
            except BitstreamError as error:
                name = header.chunk_name(index) if index < header.chunks else "tags"
                errors.append(type(error)(f"{name}: {error}"))
        raise_first(errors, len(stream.entries))


def checked_span(header: SpeechHeader, start_s: float | None, end_s: float | None) -> tuple[int, int]:
    """First sample and the one after the last of a part, at the source's rate; all of them where no part is asked for.

    Raises:
        ValueError: it is empty or leaves the sound.
    """
    start = 0.0 if start_s is None else start_s
    end = header.duration_s if end_s is None else end_s
    first, last = round(start * header.sample_rate), round(end * header.sample_rate)
    if not 0 <= first < last <= header.frames:
        raise InputError(f"from {start:g} to {end:g} s; the sound has {header.duration_s:.2f} s")
    return first, last


def _coded_blocks(sound: Recording) -> Iterator[np.ndarray]:
    """A sound at 16 kHz, in blocks."""
    return regrouped(resampled_blocks(sound.blocks(), sound.sample_rate, SAMPLE_RATE, sound.channels), BLOCK)


def _without_first(blocks: Iterable[np.ndarray], frames: int) -> Iterator[np.ndarray]:
    """Blocks (channels, n) without so many frames at their beginning."""
    for block in blocks:
        left, frames = block[:, frames:], max(0, frames - block.shape[1])
        if left.size:
            yield left


def _in_own_state(blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Blocks, each of which is made in a state of torch of our own (`torch_state`)."""
    while True:
        with own_state(0):
            if (block := next(blocks, None)) is None:
                return
        yield block
