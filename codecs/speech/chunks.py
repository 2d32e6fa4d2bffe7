"""Chunks of a sound: its segments coded together, and read and shown again, one chunk at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from ...entropy_models.coder import Coder, Measure, Write
from ...entropy_models.errors import BitstreamError, Corrupt, InputError
from ...entropy_models.tables import Tables
from .. import container
from ..contract import Progress
from ..symbols import reading
from .ecc import SpeechNetwork
from .header import SAMPLE_RATE, SEGMENT, SEGMENT_SAMPLES, SpeechHeader
from .refining import Refiner
from .segments import Segment, SegmentAnalysis, SegmentSynthesis

C = TypeVar("C", Write, Measure)


class ChunkEncoder(Generic[C]):
    """Codes a sound's chunks, in order, each with a coder of its own.

    Args:
        new_coder: makes it.
        tables: with the stream's skip level.
        steps: of refinement of each chunk (`refining`).
    """

    def __init__(
        self, network: SpeechNetwork, tables: Tables, header: SpeechHeader, new_coder: Callable[[], C], steps: int = 0
    ) -> None:
        self._network, self._header = network, header
        self._new_coder: Callable[[], C] = new_coder
        self._refiners: list[Refiner] = []
        if steps:
            self._refiners = [Refiner(network, tables, header.quality, steps) for _ in range(header.channels)]
        self._quality = torch.tensor([header.quality], device=device_of(network))
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
        needed = size + bool(self._refiners)  # they look at what follows a chunk
        for block in blocks:
            samples += block.shape[1]
            for row, analysis, segments in zip(block, channels, waiting, strict=True):
                segments += analysis.push(row)
            while len(waiting[0]) >= needed:
                yield self._code(waiting)
                waiting = [segments[size:] for segments in waiting]
        if samples != self._header.coded_samples:
            raise InputError(f"{samples} samples at {SAMPLE_RATE} Hz; the header says {self._header.coded_samples}")
        for analysis, segments in zip(channels, waiting, strict=True):
            segments += analysis.finish()
        while waiting[0]:
            yield self._code(waiting)
            waiting = [segments[size:] for segments in waiting]

    @torch.inference_mode()
    def _code(self, waiting: list[list[Segment]]) -> C:
        """Code the chunk that the segments begin with."""
        coder, size = self._new_coder(), self._header.chunk_segments
        self.decoded = []
        for channel, segments in enumerate(waiting):
            chunk, after = segments[:size], next(iter(segments[size:]), None)
            y = torch.cat([segment.y for segment in chunk], dim=1)
            if self._refiners:
                y = self._refiners[channel].refined(chunk, after)
            silent = torch.tensor([[segment.silent for segment in chunk]], device=y.device)
            self.decoded.append(self._network.coding_pass(coder, y, self._quality, silent))
            if self._refiners:
                self._refiners[channel].remember(chunk, self.decoded[-1][0])
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
        tables: with the stream's skip level.
        salvage: a damaged chunk is noted down in ``lost`` and silent; else it raises.
    """

    def __init__(
        self,
        network: SpeechNetwork,
        tables: Tables,
        stream: container.Stream,
        header: SpeechHeader,
        *,
        salvage: bool = False,
    ) -> None:
        self._network, self._tables, self._stream, self._header = network, tables, stream, header
        self._device = device_of(network)
        self._quality = torch.tensor([header.quality], device=self._device)
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
        return torch.zeros(shape, device=self._device), torch.zeros(1, segments, device=self._device)

    def _read_or_blank(self, index: int) -> list[tuple[Tensor, Tensor]]:
        if not self._salvage:
            return self.read(index)
        try:
            return self._read(index)
        except BitstreamError as error:
            self.lost[index] = error
            y, silent = self._blank(index)
            return [(y, torch.ones_like(silent))] * self._header.channels


def device_of(network: SpeechNetwork) -> torch.device:
    """Where a network's weights are."""
    return next(network.parameters()).device
