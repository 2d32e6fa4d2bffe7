"""What a sound's .rdc file holds beyond the container (`rdcodec.codecs.container`). No torch here.

Signal header (little-endian, 16 bytes)::

    offset  size  field
    0       8     length in samples of each channel, at the source's sample rate; 1..2^40. 0: not known, a live stream's
    8       4     the source's sample rate in Hz, 1,000..768,000
    12      1     channels, 1 or 2
    13      1     quality, 0..100
    14      1     segments a chunk, 1..255; 25 are 8 seconds
    15      1     skip level, 1..8: residuals of lower levels are not coded and are zero

Sounds are coded at 16 kHz. n samples at rate r are ceil(16000 n / r) there; those are frames of 640, the last one filled up,
and 8 frames are a segment. Chunks: one of kind 0 for every so many segments: the CRC-32 of its symbols, started with the
CRC-32 of the signal header (4 bytes), then the entropy-coded symbols of `SpeechNetwork.coding_pass`, one
channel after the other. Then, if there are tags, one of kind 1: a UTF-8 JSON object of strings by names in lower case.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from ...entropy_models.errors import Corrupt, InputError, Unsupported
from .. import container

STREAM_ID = 2
QUALITY = 50
"""Where none is asked for."""
SAMPLE_RATE = 16000
"""Hz, at which sounds are coded."""
FRAME, SEGMENT = 640, 8
"""Samples of a latent frame, 40 ms; frames that are coded together and can be read alone, 320 ms."""
SEGMENT_SAMPLES = FRAME * SEGMENT
CHUNK_SEGMENTS = 25
SKIP_MAX = 8
"""Flags of silence are coded at this level."""
SAMPLES_MAX = 1 << 40
RATES = range(1_000, 768_001)
CHANNELS_MAX = 2
TAGS_BYTES_MAX = 1 << 20
_SIGNAL = struct.Struct("<QIBBBB")
SIGNAL_BYTES = _SIGNAL.size


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechHeader:
    """The signal header. Raises Corrupt on a value out of range."""

    frames: int
    """Samples of each channel at the source's rate; 0: not known."""
    sample_rate: int
    """The source's, in Hz."""
    channels: int
    quality: int
    skip_level: int
    chunk_segments: int = CHUNK_SEGMENTS

    def __post_init__(self) -> None:
        if not 0 <= self.frames <= SAMPLES_MAX or self.sample_rate not in RATES:
            raise Corrupt(
                f"{self.frames} samples at {self.sample_rate} Hz; at most {SAMPLES_MAX} at {RATES[0]}..{RATES[-1]}"
            )
        if not 1 <= self.channels <= CHANNELS_MAX or self.quality > 100:
            raise Corrupt(f"{self.channels} channels, quality {self.quality}; need 1..{CHANNELS_MAX} and 0..100")
        if not 1 <= self.skip_level <= SKIP_MAX or not 1 <= self.chunk_segments <= 255:
            raise Corrupt(
                f"skip level {self.skip_level}, {self.chunk_segments} segments a chunk; need 1..{SKIP_MAX} and 1..255"
            )

    def pack(self) -> bytes:
        return _SIGNAL.pack(self.frames, self.sample_rate, self.channels, self.quality, self.chunk_segments, self.skip_level)

    @classmethod
    def unpack(cls, signal: bytes) -> SpeechHeader:
        if len(signal) != _SIGNAL.size:
            raise Corrupt(f"a sound's signal header has {_SIGNAL.size} bytes, this one {len(signal)}")
        frames, sample_rate, channels, quality, chunk_segments, skip_level = _SIGNAL.unpack(signal)
        return cls(
            frames=frames, sample_rate=sample_rate, channels=channels, quality=quality, skip_level=skip_level,
            chunk_segments=chunk_segments,
        )  # fmt: skip

    @classmethod
    def of(cls, stream: container.Stream) -> SpeechHeader:
        """The header of a stream; errors as `unpack`, and Unsupported for another codec's."""
        if stream.stream_id != STREAM_ID:
            raise Unsupported(f"stream id {stream.stream_id}, the speech codec is {STREAM_ID}")
        return cls.unpack(stream.signal)

    @property
    def latent_frames(self) -> int:
        return -(-self.coded_samples // FRAME)

    @property
    def coded_samples(self) -> int:
        """Samples of each channel at 16 kHz."""
        return -(-self.frames * SAMPLE_RATE // self.sample_rate)

    @property
    def segments(self) -> int:
        return -(-self.coded_samples // SEGMENT_SAMPLES)

    @property
    def chunks(self) -> int:
        return -(-self.segments // self.chunk_segments)

    @property
    def duration_s(self) -> float:
        return self.frames / self.sample_rate

    def segments_of(self, chunk: int) -> range:
        """The segments of a chunk."""
        start = chunk * self.chunk_segments
        return range(start, min(start + self.chunk_segments, self.segments))

    def span_s(self, chunk: int) -> tuple[float, float]:
        """Where a chunk starts and ends, in seconds."""
        span, second = self.segments_of(chunk), SEGMENT_SAMPLES / SAMPLE_RATE
        return span.start * second, min(span.stop * second, self.duration_s)

    def chunk_name(self, chunk: int) -> str:
        """A chunk for people."""
        start, end = self.span_s(chunk)
        return f"chunk {chunk} (of 0..{self.chunks - 1}, {start:.2f} to {end:.2f} s)"


def parse(data: bytes | memoryview | container.Stream, *, salvage: bool = False) -> tuple[container.Stream, SpeechHeader]:
    """Container, header, and the checks that tie them together; nothing is decoded."""
    stream = container.parse(data, salvage=salvage)
    header = SpeechHeader.of(stream)
    kinds = [entry.kind for entry in stream.entries]
    rest = kinds[header.chunks :]
    if (
        not header.frames
        or kinds[: header.chunks] != [container.DATA] * header.chunks
        or rest not in ([], [container.METADATA])
    ):
        raise Corrupt(f"{len(kinds)} chunks do not fit {header.frames} samples at {header.sample_rate} Hz")
    return stream, header


def tags_chunk(tags: Mapping[str, str]) -> list[tuple[int, bytes]]:
    """The chunk of tags, as (kind, body); none where there are no tags."""
    if not tags:
        return []
    body = json.dumps(dict(sorted(tags.items())), ensure_ascii=False, separators=(",", ":")).encode()
    if len(body) > TAGS_BYTES_MAX:
        raise InputError(f"tags of {len(body)} bytes; at most {TAGS_BYTES_MAX}")
    return [(container.METADATA, body)]


def tags_of(stream: container.Stream) -> dict[str, str]:
    """The tags of a file.

    Raises:
        BitstreamError: their chunk is damaged or holds something else.
    """
    for index in stream.indices(container.METADATA):
        try:
            tags = json.loads(stream.chunk(index).decode())
        except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
            raise Corrupt(f"tags: {error}") from None
        if not isinstance(tags, dict) or not all(isinstance(value, str) for value in tags.values()):
            raise Corrupt("tags are no object of strings")
        return tags
    return {}
