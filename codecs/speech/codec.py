"""The speech codec: sounds to .rdc files and back. The file is specified in `header` and `container`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import ClassVar, Generic, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from ...entropy_models.coder import Coder, Measure, Write
from ...entropy_models.errors import BitstreamError, Corrupt, InputError, raise_first
from ...entropy_models.tables import Tables
from .. import container, weights
from ..contract import Estimate, Progress
from ..device import resolve_device
from ..rate_control import checked_quality
from ..symbols import LEAST_BYTES, chunk_of, new_writer, reading
from ..torch_state import own_state
from ..weights_file import read_weights
from .architectures import ARCHITECTURES
from .ecc import SpeechNetwork
from .header import (
    QUALITY,
    SAMPLE_RATE,
    SEGMENT,
    SEGMENT_SAMPLES,
    STREAM_ID,
    SpeechHeader,
    parse,
    tags_chunk,
    tags_of,
)
from .resampling import resampled, span_for
from .segments import Segment, SegmentAnalysis, SegmentSynthesis
from .sound import Sound, as_sound

Source = Sound | np.ndarray | str | Path
"""A sound, samples (n,) or (channels, n), or the path of a sound file."""
C = TypeVar("C", Write, Measure)
BLOCK = 16 * SEGMENT_SAMPLES
"""Samples that are handed on at a time where all of them are at hand."""


class SpeechCodec:
    """Variable-rate learned speech codec; see `ecc` for the networks.

    Use ``SpeechCodec.load()``. Quality 0..100 covers about 1 to 12 kbit/s a channel on speech. What lies above 8 kHz is
    lost.
    """

    stream_id: ClassVar[int] = STREAM_ID

    def __init__(self, network: SpeechNetwork, tables: Tables, stream_hash: bytes, device: str = "cpu") -> None:
        self.network = network.eval().requires_grad_(False).to(device)
        self.tables, self.stream_hash, self.device = tables, stream_hash, torch.device(device)

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
        sound = sound_of(signal, sample_rate)
        header = self.header_of(sound.frames, sound.sample_rate, sound.channels, quality)
        return self.encode_blocks(_coded_blocks(sound), header, sound.tags, progress=progress)

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
        blocks: Iterable[np.ndarray],
        header: SpeechHeader,
        tags: Mapping[str, str] | None = None,
        *,
        progress: Progress | None = None,
    ) -> bytes:
        """Compress a sound that comes in blocks, in memory that does not grow with it, but for its bytes.

        Args:
            blocks: float32 (channels, n) at 16 kHz, of any lengths.
            header: as `header_of` makes it.

        Raises:
            ValueError: the blocks are not as long as the header says.
        """
        encoder = ChunkEncoder(self, header, lambda: new_writer(self.tables_at(header.skip_level), header.pack()))
        chunks = []
        for coder in encoder.run(blocks):
            chunks.append((container.DATA, chunk_of(coder)))
            if progress:
                progress(len(chunks), header.chunks)
        chunks += tags_chunk(tags or {})
        return container.write(stream_id=STREAM_ID, weights=self.stream_hash, signal=header.pack(), chunks=chunks)

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
        stream, header = self.parsed(data, salvage=salvage)
        if not salvage:
            stream.check()
        first, last = checked_span(header, start_s, end_s)
        span = span_for(first, last, header.sample_rate, SAMPLE_RATE)
        decoder = ChunkDecoder(self, stream, header, salvage=salvage)
        stop = min(span.stop, header.coded_samples)
        blocks = list(decoder.blocks(span.start, stop, progress))
        samples = resampled(np.concatenate(blocks, axis=1), SAMPLE_RATE, header.sample_rate, span.skip + last - first)
        tags, notices = self._tags(stream, salvage)
        notices = decoder.notices() + notices
        lost = tuple(header.span_s(chunk) for chunk in sorted(decoder.lost))
        return Sound(samples=samples[:, span.skip :], sample_rate=header.sample_rate, tags=tags, notices=notices, lost=lost)

    def decode_batch(self, streams: Iterable[bytes]) -> list[Sound]:
        """Decode several streams."""
        return [self.decode(data) for data in streams]

    @own_state(0)
    def estimate(self, signal: Source, *, sample_rate: int = SAMPLE_RATE, quality: int | None = None) -> Estimate[Sound]:
        """Ideal bits of the chunks' symbols and what `decode` will return, without a stream. Errors as `encode`."""
        sound = sound_of(signal, sample_rate)
        header = self.header_of(sound.frames, sound.sample_rate, sound.channels, quality)
        encoder = ChunkEncoder(self, header, lambda: Measure(self.tables_at(header.skip_level)))
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
        decoder = ChunkDecoder(self, stream, header)
        errors: list[BitstreamError] = []
        for index in range(header.chunks):
            try:
                decoder.read(index)
            except BitstreamError as error:
                errors.append(error)
        raise_first(errors, header.chunks)
        tags_of(stream)
        return []

    def measurer(self, signal: Source, *, sample_rate: int = SAMPLE_RATE) -> Callable[[int], int]:
        """A function from quality to the bytes that `encode` writes at least: a few a chunk fewer."""
        sound = sound_of(signal, sample_rate)
        blocks = list(_coded_blocks(sound))
        extra = sum(container.ENTRY_BYTES + len(body) for _, body in tags_chunk(sound.tags))

        @own_state(0)
        def measure(quality: int) -> int:
            header = self.header_of(sound.frames, sound.sample_rate, sound.channels, quality)
            encoder = ChunkEncoder(self, header, lambda: Measure(self.tables_at(header.skip_level)))
            bits = sum(float(coder.bits[0]) for coder in encoder.run(blocks))
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


class ChunkEncoder(Generic[C]):
    """Codes a sound's chunks, in order, each with a coder of its own.

    Args:
        new_coder: makes it.
    """

    def __init__(self, codec: SpeechCodec, header: SpeechHeader, new_coder: Callable[[], C]) -> None:
        self._network, self._header = codec.network, header
        self._new_coder: Callable[[], C] = new_coder
        self._quality = torch.tensor([header.quality], device=codec.device)
        self.decoded: list[tuple[Tensor, Tensor]] = []
        """What a decoder knows of the chunk that was coded last, by channel: latents and flags of silence."""

    def run(self, blocks: Iterable[np.ndarray]) -> Iterator[C]:
        """The coder of each chunk, which has coded it.

        Args:
            blocks: float32 (channels, n) at 16 kHz.

        Raises:
            ValueError: they are not as long as the header says.
        """
        channels = [SegmentAnalysis(self._network, self._header.quality) for _ in range(self._header.channels)]
        waiting: list[list[Segment]] = [[] for _ in channels]
        size, samples = self._header.chunk_segments, 0
        for block in blocks:
            samples += block.shape[1]
            for row, analysis, segments in zip(block, channels, waiting, strict=True):
                segments += analysis.push(row)
            while len(waiting[0]) >= size:
                yield self._code([segments[:size] for segments in waiting])
                waiting = [segments[size:] for segments in waiting]
        if samples != self._header.coded_samples:
            raise InputError(f"{samples} samples at {SAMPLE_RATE} Hz; the header says {self._header.coded_samples}")
        for analysis, segments in zip(channels, waiting, strict=True):
            segments += analysis.finish()
        while waiting[0]:
            yield self._code([segments[:size] for segments in waiting])
            waiting = [segments[size:] for segments in waiting]

    @torch.inference_mode()
    def _code(self, chunk: list[list[Segment]]) -> C:
        coder = self._new_coder()
        self.decoded = []
        for segments in chunk:
            y = torch.cat([segment.y for segment in segments], dim=1)
            silent = torch.tensor([[segment.silent for segment in segments]], device=y.device)
            self.decoded.append(self._network.coding_pass(coder, y, self._quality, silent))
        return coder


class ChannelsShown:
    """Samples of a sound's chunks as a decoder shows them, from segment ``start`` on."""

    def __init__(self, network: SpeechNetwork, header: SpeechHeader, start: int = 0) -> None:
        self._channels = [SegmentSynthesis(network, header.quality) for _ in range(header.channels)]
        self._frames, self._segment = header.latent_frames - start * SEGMENT, 0

    def push(self, decoded: list[tuple[Tensor, Tensor]], *, lost: bool = False) -> list[np.ndarray]:
        """Blocks of samples (channels, n) that are complete now."""
        blocks = []
        for index in range(decoded[0][1].shape[1]):
            left = max(0, min(SEGMENT, self._frames - self._segment * SEGMENT))
            rows = []
            for synthesis, (y_hat, silent) in zip(self._channels, decoded, strict=True):
                part = y_hat[:, index * SEGMENT : (index + 1) * SEGMENT]
                rows.append(synthesis.push(part, 0 if silent[0, index] else left, lost=lost))
            blocks.append(np.stack(rows))
            self._segment += 1
        return blocks

    def finish(self) -> np.ndarray:
        """The rest, (channels, n)."""
        return np.stack([synthesis.finish() for synthesis in self._channels])


class ChunkDecoder:
    """Reads a sound's chunks from a stream.

    Args:
        salvage: a damaged chunk is noted down in ``lost`` and silent; else it raises.
    """

    def __init__(self, codec: SpeechCodec, stream: container.Stream, header: SpeechHeader, *, salvage: bool = False) -> None:
        self._codec, self._network, self._stream, self._header = codec, codec.network, stream, header
        self._tables = codec.tables_at(header.skip_level)
        self._quality = torch.tensor([header.quality], device=codec.device)
        self._salvage = salvage
        self.lost: dict[int, BitstreamError] = {}

    def blocks(self, start: int, stop: int, progress: Progress | None = None) -> Iterator[np.ndarray]:
        """Samples (channels, n) ``start`` to ``stop`` at 16 kHz, in blocks; reads the chunks they need.

        Raises:
            BitstreamError: a damaged chunk, by name; in salvage, only if there is no other.
        """
        header = self._header
        warm = -(-self._network.behind // SEGMENT) + 1
        first = max(0, start // SEGMENT_SAMPLES - warm)
        last = min(header.segments, -(-stop // SEGMENT_SAMPLES) + 1)
        shown, position = ChannelsShown(self._network, header, first), first * SEGMENT_SAMPLES

        def cut(block: np.ndarray) -> np.ndarray:
            nonlocal position
            part = block[:, max(0, start - position) : max(0, stop - position)]
            position += block.shape[1]
            return part

        chunks = range(first // header.chunk_segments, -(-last // header.chunk_segments))
        for done, chunk in enumerate(chunks, 1):
            decoded = self._read_or_blank(chunk)
            begin = max(0, first - header.segments_of(chunk).start)
            wanted = [(y[:, begin * SEGMENT :], silent[:, begin:]) for y, silent in decoded]
            yield from map(cut, shown.push(wanted, lost=chunk in self.lost))
            if progress:
                progress(done, len(chunks))
        if self.lost.keys() >= set(chunks):
            raise Corrupt(f"no chunk is undamaged; {self.notices()[0]}")
        yield cut(shown.finish())

    def read(self, index: int) -> list[tuple[Tensor, Tensor]]:
        """Latents and flags of silence of one chunk, by channel.

        Raises:
            BitstreamError: the chunk is damaged; says which it is.
        """
        try:
            return self._read(index)
        except BitstreamError as error:
            raise type(error)(f"{self._header.chunk_name(index)}: {error}") from None

    def notices(self) -> tuple[str, ...]:
        """What was lost, for people."""
        return tuple(f"{self._header.chunk_name(index)} is lost ({error})" for index, error in sorted(self.lost.items()))

    @torch.inference_mode()
    def _read(self, index: int) -> list[tuple[Tensor, Tensor]]:
        blank = self._blank(index)
        with reading(self._tables, self._header.pack(), self._stream.chunk(index)) as reader:
            return [self._pass(reader, *blank) for _ in range(self._header.channels)]

    def _pass(self, coder: Coder, y: Tensor, silent: Tensor) -> tuple[Tensor, Tensor]:
        return self._network.coding_pass(coder, y, self._quality, silent)

    def _blank(self, index: int) -> tuple[Tensor, Tensor]:
        """What a reader has to tell of a chunk: its shape. Also a silent one."""
        segments = len(self._header.segments_of(index))
        shape = 1, segments * SEGMENT, self._network.config.latent_channels
        return torch.zeros(shape, device=self._codec.device), torch.zeros(1, segments, device=self._codec.device)

    def _read_or_blank(self, index: int) -> list[tuple[Tensor, Tensor]]:
        if not self._salvage:
            return self.read(index)
        try:
            return self._read(index)
        except BitstreamError as error:
            self.lost[index] = error
            y, silent = self._blank(index)
            return [(y, torch.ones_like(silent))] * self._header.channels


def sound_of(signal: Source, sample_rate: int) -> Sound:
    """The sound that a source holds.

    Raises:
        ValueError: it is none that this codec takes.
    """
    if isinstance(signal, Sound):
        return signal
    if isinstance(signal, np.ndarray):
        return as_sound(signal, sample_rate)
    from .sounds import read_sound

    return read_sound(Path(signal))


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


def _coded_blocks(sound: Sound) -> Iterator[np.ndarray]:
    """A sound at 16 kHz, in blocks."""
    samples = resampled(sound.samples, sound.sample_rate, SAMPLE_RATE)
    for start in range(0, samples.shape[1], BLOCK):
        yield samples[:, start : start + BLOCK]
