"""Live speech: samples in, packets out, and back, 320 ms at a time. The numbers are those of a file of the same sound.

    encoder = StreamEncoder(codec, quality=40)
    decoder = StreamDecoder(codec, encoder.head)
    for samples in microphone:                       # float32 (n,) or (channels, n) at 16 kHz, any n
        for packet in encoder.push(samples):
            play(decoder.push(packet))
    for packet in encoder.finish():
        play(decoder.push(packet))
    play(decoder.finish())

Packets, and how they go through a pipe, are specified in `packets`.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ...entropy_models.coder import WORD_BYTES
from ...entropy_models.errors import BitstreamError, Corrupt, InputError, Truncated
from .. import container
from ..symbols import chunk_of, new_writer, reading
from ..torch_state import own_state
from .codec import SpeechCodec
from .header import FRAME, SAMPLE_RATE, SEGMENT, SEGMENT_SAMPLES, STREAM_ID, SpeechHeader
from .packets import CHECK_BYTES, COUNT, LAST, NUMBERS
from .segments import LATE, Segment, SegmentAnalysis, SegmentSynthesis

DELAY_S = (SEGMENT_SAMPLES + 2 * LATE) / SAMPLE_RATE
"""Algorithmic delay, 0.5 s: between a sample's going in and its coming out, if computing and sending take no time."""
HELD = 0.8
"""Factor from frame to frame on the last latent that is known, where the first packet of a gap is replaced."""


class StreamEncoder:
    """Samples to packets.

    Args:
        quality: 0..100; None: 50.
        channels: 1 or 2.

    Raises:
        ValueError: a codec with effort, which refines whole chunks.
    """

    def __init__(self, codec: SpeechCodec, *, quality: int | None = None, channels: int = 1) -> None:
        if codec.refinement_steps:
            raise InputError("a codec with effort refines whole chunks; a live stream has none: need effort 0")
        self.header = codec.header_of(0, SAMPLE_RATE, channels, quality)
        self._codec, self._number, self._taken = codec, 0, 0
        self._quality = torch.tensor([self.header.quality], device=codec.device)
        self._channels = [SegmentAnalysis(codec.network, self.header.quality) for _ in range(channels)]

    @property
    def head(self) -> bytes:
        """What a decoder needs before the first packet: an .rdc file without chunks."""
        return container.write(
            stream_id=STREAM_ID, weights=self._codec.stream_hash, signal=self.header.pack(), chunks=[]
        )  # fmt: skip

    @own_state(0)
    def push(self, samples: np.ndarray) -> list[bytes]:
        """The packets that are complete now.

        Args:
            samples: float32 (n,) or (channels, n) at 16 kHz, any number of them.

        Raises:
            ValueError: of another shape.
        """
        block = np.atleast_2d(samples).astype(np.float32)
        if block.ndim != 2 or len(block) != self.header.channels:
            raise InputError(f"samples of shape {np.shape(samples)}; need (n,) or ({self.header.channels}, n)")
        self._taken += block.shape[1]
        return self._packets([analysis.push(row) for row, analysis in zip(block, self._channels, strict=True)])

    @own_state(0)
    def finish(self) -> list[bytes]:
        """The packets that are left; nothing can be pushed any more."""
        left = [analysis.finish() for analysis in self._channels]
        count = self._taken - (self._number + len(left[0]) - 1) * SEGMENT_SAMPLES
        return self._packets(left, count)

    def _packets(self, channels: list[list[Segment]], last_count: int | None = None) -> list[bytes]:
        """Packets of complete segments; with ``last_count``, that of the last one is the sound's last."""
        packets = []
        for index, segments in enumerate(zip(*channels, strict=True), 1):
            last = last_count if index == len(channels[0]) else None
            packets.append(self._packet(segments, last))
        return packets

    @torch.inference_mode()
    def _packet(self, segments: tuple[Segment, ...], last_count: int | None) -> bytes:
        writer = new_writer(self._codec.tables_at(self.header.skip_level), self.header.pack())
        for segment in segments:
            silent = torch.tensor([[segment.silent]], device=segment.y.device)
            self._codec.network.coding_pass(writer, segment.y, self._quality, silent)
        number = self._number % NUMBERS
        self._number += 1
        start = bytes([number]) if last_count is None else bytes([number + LAST]) + COUNT.pack(last_count)
        return start + chunk_of(writer, CHECK_BYTES).rstrip(b"\0")


class StreamDecoder:
    """Packets to samples. Lost packets are concealed: the first of a gap by what was there before, dying away, the others by
    silence; packets that are damaged count as lost, and those that come too late are left out.

    Args:
        head: `StreamEncoder.head`.

    Raises:
        BitstreamError: a head of something else.
    """

    def __init__(self, codec: SpeechCodec, head: bytes) -> None:
        stream = container.parse(head)
        self.header = SpeechHeader.of(stream)
        stream.check_weights(codec.stream_hash)
        self._codec, self._tables = codec, codec.tables_at(self.header.skip_level)
        self._quality = torch.tensor([self.header.quality], device=codec.device)
        self._channels = [SegmentSynthesis(codec.network, self.header.quality) for _ in range(self.header.channels)]
        self._blank = torch.zeros(1, SEGMENT, codec.network.config.latent_channels, device=codec.device)
        self._before: list[Tensor] | None = None
        self._next = self._given = 0
        self._samples: int | None = None  # until the last packet is there
        self.lost: list[tuple[int, str]] = []
        """Numbers of the segments that were concealed, from 0, and why."""

    @property
    def ended(self) -> bool:
        """Whether the sound's last packet has come."""
        return self._samples is not None

    @own_state(0)
    def push(self, packet: bytes) -> np.ndarray:
        """Samples (channels, n) that are complete now, n perhaps 0; at 16 kHz."""
        if not packet:
            return self._joined([self._concealed("an empty packet")])
        ahead = (packet[0] % LAST - self._next) % NUMBERS
        if ahead >= NUMBERS // 2:  # late: its place is taken
            return self._joined([])
        blocks = [self._concealed("it did not come") for _ in range(ahead)]
        try:
            decoded, frames = self._read(packet)
        except BitstreamError as error:
            return self._joined([*blocks, self._concealed(str(error))])
        self._before = [y_hat for y_hat, _ in decoded]
        return self._joined([*blocks, self._shown(self._before, [0 if silent else frames for _, silent in decoded])])

    @own_state(0)
    def finish(self) -> np.ndarray:
        """The rest of the samples. Nothing can be pushed any more."""
        return self._joined([np.stack([synthesis.finish() for synthesis in self._channels])] if self._next else [])

    @torch.inference_mode()
    def _read(self, packet: bytes) -> tuple[list[tuple[Tensor, bool]], int]:
        """Latents and silence of each channel, and how many frames are the signal's."""
        count, start = SEGMENT_SAMPLES, 1
        if last := packet[0] >= LAST:
            if len(packet) < 1 + COUNT.size:
                raise Truncated(f"a last packet of {len(packet)} bytes")
            (count,), start = COUNT.unpack_from(packet, 1), 1 + COUNT.size
            if not 1 <= count <= SEGMENT_SAMPLES:
                raise Corrupt(f"{count} samples in a segment; need 1..{SEGMENT_SAMPLES}")
        body = packet[start:].ljust(CHECK_BYTES, b"\0")
        body += bytes((CHECK_BYTES - len(body)) % WORD_BYTES)
        decoded = []
        with reading(self._tables, self.header.pack(), body, CHECK_BYTES) as reader:
            for _ in self._channels:
                flag = torch.zeros(1, 1, device=self._blank.device)
                y_hat, silent = self._codec.network.coding_pass(reader, self._blank, self._quality, flag)
                decoded.append((y_hat, bool(silent)))
        if last:
            self._samples = self._next * SEGMENT_SAMPLES + count
        return decoded, -(-count // FRAME)

    def _concealed(self, reason: str) -> np.ndarray:
        """A segment in place of one that is lost."""
        self.lost.append((self._next, reason))
        if self._before is None:
            return self._shown([self._blank] * len(self._channels), [0] * len(self._channels), lost=True)
        fading = HELD ** torch.arange(1, SEGMENT + 1, device=self._blank.device)[None, :, None]
        held = [y_hat[:, -1:] * fading for y_hat in self._before]
        self._before = None
        return self._shown(held, [SEGMENT] * len(held))

    def _shown(self, latents: list[Tensor], frames: list[int], *, lost: bool = False) -> np.ndarray:
        self._next += 1
        rows = [s.push(y, n, lost=lost) for s, y, n in zip(self._channels, latents, frames, strict=True)]
        return np.stack(rows)

    def _joined(self, blocks: list[np.ndarray]) -> np.ndarray:
        """Blocks as one, up to the sound's end where that is known."""
        joined = np.concatenate([np.empty((len(self._channels), 0), np.float32), *blocks], axis=1)
        if self._samples is not None:
            joined = joined[:, : max(0, self._samples - self._given)]
        self._given += joined.shape[1]
        return joined
