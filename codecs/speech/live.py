"""Live sounds on the command line: samples in, packets out as soon as they are complete, and back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from ...entropy_models.errors import InputError, Truncated
from .. import container
from ..contract import Readable, Writable
from .codec import SpeechCodec
from .header import SAMPLE_RATE, SEGMENT_SAMPLES
from .packets import live_bytes, packets_of
from .resampling import resampled_blocks
from .sound_writing import SoundWriter
from .sounds import SoundSource
from .streaming import StreamDecoder, StreamEncoder


def encode_live(codec: SpeechCodec, sound: SoundSource, out: Writable, quality: int | None) -> int:
    """Write a live stream, its head with the first packet. Returns how many samples at 16 kHz each channel had.

    A stream that is interrupted, or whose source turns out to be damaged, is whole up to there, with its last packet.

    Raises:
        ValueError: as `SoundSource.blocks`, after what came before has been written.
    """
    encoder = StreamEncoder(codec, quality=quality, channels=sound.channels)
    taken = 0

    def packets() -> Iterator[bytes]:
        nonlocal taken
        try:
            for block in resampled_blocks(sound.blocks(), sound.sample_rate, SAMPLE_RATE, sound.channels):
                taken += block.shape[1]
                yield from encoder.push(block)
        except (KeyboardInterrupt, InputError):
            if taken:
                yield from encoder.finish()
            raise
        yield from encoder.finish()

    for piece in live_bytes(encoder.head, packets()):
        out.write(piece)
    return taken


class Played(NamedTuple):
    """What came of a live stream."""

    frames: int
    """Samples of each channel, at 16 kHz."""
    channels: int
    lost: tuple[tuple[float, float], ...]
    """Spans in seconds that were concealed."""
    notices: tuple[str, ...]


def decode_live(
    source: Readable,
    out: Writable | None,
    suffix: str,
    codec_for: Callable[[container.Stream], SpeechCodec],
    *,
    salvage: bool = False,
) -> Played:
    """Write the samples of a live stream; what is lost or damaged is concealed, and told.

    Args:
        out: None: nothing is written.
        suffix: of its format, as `SoundWriter` takes them.
        codec_for: the codec for the stream's head.
        salvage: a stream may end in the middle of a packet.

    Raises:
        BitstreamError: the head is damaged, or the stream ends in the middle of a packet; after what came before.
    """
    packets = packets_of(source)
    head = next(packets)
    decoder = StreamDecoder(codec_for(container.parse(head)), head)
    channels, frames, notices = decoder.header.channels, 0, list[str]()
    writer = SoundWriter(out, suffix, sample_rate=SAMPLE_RATE, channels=channels) if out else None
    try:
        for block in _blocks(decoder, packets, notices if salvage else None):
            frames += block.shape[1]
            if writer:
                writer.write(block)
    finally:
        if writer:
            writer.close()
    if not decoder.ended:
        notices.append("the stream ends without its last packet")
    second = SEGMENT_SAMPLES / SAMPLE_RATE
    spans = [(first * second, (last + 1) * second, why) for first, last, why in _runs(decoder.lost)]
    told = [f"{start:.2f} to {end:.2f} s are concealed ({why})" for start, end, why in spans]
    for (number, why), count in Counter(decoder.left_out).items():
        told.append(f"left out after {number * second:.2f} s: {count} packet{'s' * (count > 1)} ({why})")
    told += writer.notices if writer else ()
    lost = tuple((start, end) for start, end, _ in spans)
    return Played(frames, channels, lost, (*told, *notices))


def _runs(lost: list[tuple[int, str]]) -> list[tuple[int, int, str]]:
    """Segments that follow each other and are lost for one reason: the first, the last, and why."""
    runs: list[tuple[int, int, str]] = []
    for number, why in lost:
        if runs and runs[-1][1:] == (number - 1, why):
            runs[-1] = runs[-1][0], number, why
        else:
            runs.append((number, number, why))
    return runs


def _blocks(decoder: StreamDecoder, packets: Iterator[bytes], notices: list[str] | None) -> Iterator[np.ndarray]:
    """Samples as they come; with ``notices``, a packet that is cut off goes into them."""
    try:
        for packet in packets:
            yield decoder.push(packet)
    except Truncated as error:
        if notices is None:
            raise
        notices.append(str(error))
    yield decoder.finish()
