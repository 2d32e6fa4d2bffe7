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

from collections import deque

import numpy as np
import torch
from torch import Tensor

from ...entropy_models.errors import BitstreamError, Corrupt, InputError, Truncated
from .. import container
from ..symbols import new_writer, packet_of, reading, unpacked
from ..torch_state import own_state
from .codec import SpeechCodec
from .header import FRAME, SAMPLE_RATE, SEGMENT, SEGMENT_SAMPLES, STREAM_ID, SpeechHeader
from .packets import BACK, CHECK_BYTES, COUNT, LAST, NUMBERS
from .segments import LATE, Segment, SegmentAnalysis, SegmentSynthesis
from .sound import as_samples, check_samples

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
        self._codec, self._number, self._taken, self._finished = codec, 0, 0, False
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
            samples: (n,) or (channels, n) at 16 kHz, any n: floats of about -1 to 1, or int16 or int32 of full range.

        Raises:
            ValueError: of another shape or dtype, not finite or far above full scale, or pushed after `finish`. The stream
                goes on without them.
        """
        _check_open(self._finished)
        block = as_samples(samples)
        if len(block) != self.header.channels:
            raise InputError(f"samples are of shape {np.shape(samples)}; need ({self.header.channels} channels, n)")
        check_samples(block, self._taken)
        self._taken += block.shape[1]
        return self._packets([analysis.push(row) for row, analysis in zip(block, self._channels, strict=True)])

    @own_state(0)
    def finish(self) -> list[bytes]:
        """The packets that are left; nothing can be pushed any more, and a second call is an error as well."""
        _check_open(self._finished)
        self._finished = True
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
        return start + packet_of(writer, CHECK_BYTES)


class StreamDecoder:
    """Packets to samples. Lost packets are concealed: the first of a gap by what was there before, dying away, the others by
    silence; packets that are damaged count as lost, and those that come late, up to `BACK` packets, are left out.

    Up to `NUMBERS` - `BACK` - 1 packets in a row, 35.5 s, may be lost: the samples after the gap are in their place. After a
    longer gap up to `BACK` packets are taken for late ones, and the sound is shorter by whole turns of the numbers, 40.96 s.

    Args:
        head: `StreamEncoder.head`.
        joined: the stream has begun long ago: the first packet that comes is where the sound begins here.

    Raises:
        BitstreamError: a head of something else.
    """

    def __init__(self, codec: SpeechCodec, head: bytes, *, joined: bool = False) -> None:
        stream = container.parse(head)
        self.header = SpeechHeader.of(stream)
        stream.check_weights(codec.stream_hash)
        self._codec, self._tables = codec, codec.tables_at(self.header.skip_level)
        self._quality = torch.tensor([self.header.quality], device=codec.device)
        self._channels = [SegmentSynthesis(codec.network, self.header.quality) for _ in range(self.header.channels)]
        self._blank = torch.zeros(1, SEGMENT, codec.network.config.latent_channels, device=codec.device)
        self._before: list[Tensor] | None = None
        self._next = self._given = 0
        self._first = None if joined else 0  # number of the packet of segment 0
        self._samples: int | None = None  # until the last packet is there
        self._finished = False
        self._recent = deque[bytes | None](maxlen=BACK)  # the last packets; None: concealed
        self.lost: list[tuple[int, str]] = []
        """Numbers of the segments that were concealed, from 0, and why."""
        self.left_out: list[tuple[int, str]] = []
        """Packets that were left out and whose sound is nowhere: number of the segment that was next, and why. Those that
        come twice, or after they were concealed, are not among them."""

    @property
    def ended(self) -> bool:
        """Whether the sound's last packet has come."""
        return self._samples is not None

    @own_state(0)
    def push(self, packet: bytes) -> np.ndarray:
        """Samples (channels, n) that are complete now, n perhaps 0; at 16 kHz.

        Raises:
            ValueError: after `finish`.
        """
        _check_open(self._finished)
        if packet and self._first is None:
            self._first = packet[0] % LAST
        back = (self._next + (self._first or 0) - packet[0] % LAST) % NUMBERS if packet else 0
        if self.ended or 0 < back <= len(self._recent):
            self._leave_out(packet, back)
            return self._joined([])
        blocks = [self._concealed("it did not come") for _ in range(-back % NUMBERS)]
        try:
            decoded, frames = self._read(packet)
        except BitstreamError as error:
            return self._joined([*blocks, self._concealed(str(error))])
        self._before = [y_hat for y_hat, _ in decoded]
        shown = self._shown(self._before, [0 if silent else frames for _, silent in decoded], packet=packet)
        return self._joined([*blocks, shown])

    @own_state(0)
    def finish(self) -> np.ndarray:
        """The rest of the samples; nothing can be pushed any more, and a second call is an error as well."""
        _check_open(self._finished)
        self._finished = True
        return self._joined([np.stack([synthesis.finish() for synthesis in self._channels])] if self._next else [])

    @torch.inference_mode()
    def _read(self, packet: bytes) -> tuple[list[tuple[Tensor, bool]], int]:
        """Latents and silence of each channel, and how many frames are the signal's."""
        if not packet:
            raise Truncated("an empty packet")
        count, start = SEGMENT_SAMPLES, 1
        if last := packet[0] >= LAST:
            if len(packet) < 1 + COUNT.size:
                raise Truncated(f"a last packet of {len(packet)} bytes")
            (count,), start = COUNT.unpack_from(packet, 1), 1 + COUNT.size
            if not 1 <= count <= SEGMENT_SAMPLES:
                raise Corrupt(f"{count} samples in a segment; need 1..{SEGMENT_SAMPLES}")
        body = unpacked(packet[start:], CHECK_BYTES)
        decoded = []
        with reading(self._tables, self.header.pack(), body, CHECK_BYTES) as reader:
            for _ in self._channels:
                flag = torch.zeros(1, 1, device=self._blank.device)
                y_hat, silent = self._codec.network.coding_pass(reader, self._blank, self._quality, flag)
                decoded.append((y_hat, bool(silent)))
        if last:
            self._samples = self._next * SEGMENT_SAMPLES + count
        return decoded, -(-count // FRAME)

    def _leave_out(self, packet: bytes, back: int) -> None:
        """Note down a packet so many segments behind the next one, unless it was played or concealed in its place."""
        there = self._recent[-back] if 0 < back <= len(self._recent) else b""
        if there not in (None, packet):
            why = "the sound had ended" if self.ended else "another packet had come under its number"
            self.left_out.append((self._next, why))

    def _concealed(self, reason: str) -> np.ndarray:
        """A segment in place of one that is lost."""
        self.lost.append((self._next, reason))
        if self._before is None:
            return self._shown([self._blank] * len(self._channels), [0] * len(self._channels), lost=True)
        fading = HELD ** torch.arange(1, SEGMENT + 1, device=self._blank.device)[None, :, None]
        held = [y_hat[:, -1:] * fading for y_hat in self._before]
        self._before = None
        return self._shown(held, [SEGMENT] * len(held))

    def _shown(
        self, latents: list[Tensor], frames: list[int], *, lost: bool = False, packet: bytes | None = None
    ) -> np.ndarray:
        self._next += 1
        self._recent.append(packet)
        rows = [s.push(y, n, lost=lost) for s, y, n in zip(self._channels, latents, frames, strict=True)]
        return np.stack(rows)

    def _joined(self, blocks: list[np.ndarray]) -> np.ndarray:
        """Blocks as one, up to the sound's end where that is known."""
        joined = np.concatenate([np.empty((len(self._channels), 0), np.float32), *blocks], axis=1)
        if self._samples is not None:
            joined = joined[:, : max(0, self._samples - self._given)]
        self._given += joined.shape[1]
        return joined


def _check_open(finished: bool) -> None:
    """InputError for a stream that is finished."""
    if finished:
        raise InputError("the stream is finished, and nothing can be pushed any more; another one begins with a new object")
