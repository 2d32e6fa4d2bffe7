"""Sound tracks through the speech codec: a stream of its own within the video's, and a track again when that is decoded.

Bytes of the chunk: where the sound begins in the video's time, in microseconds (8 bytes, signed, little-endian), then a
whole .rdc file of `rdcodec.codecs.speech`.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
import numpy as np

from ...entropy_models.errors import Corrupt, InputError
from .. import container
from ..contract import Desk
from ..speech.codec import SpeechCodec
from ..speech.header import parse
from ..speech.sounds import sound_on_file
from .sound_track import OPTIONS

_START = struct.Struct("<q")
_MICROSECOND = Fraction(1, 1_000_000)
_ENCODERS = {".mkv": ("flac", "s16", None), ".mp4": ("aac", "fltp", 48000), ".webm": ("libopus", "flt", 48000)}
"""By the video's suffix: FFmpeg's encoder, its samples, and the rate to resample to."""


def coded(track: bytes, desk: Desk) -> tuple[bytes, tuple[str, ...]]:
    """A track that `sound_track.copied` gave, coded at the speech codec's default quality; and notices.

    Raises:
        InputError: FFmpeg cannot decode it.
    """
    codec = desk.codec("encode speech", lambda: SpeechCodec.load(device=desk.device))
    file, body = io.BytesIO(track), io.BytesIO()
    sound = sound_on_file(file)
    codec.encode_to(body, sound, progress=desk.progress)
    music = ("its sound is music rather than speech, and comes back rough; --audio copy keeps it",) if sound.music else ()
    return _START.pack(round(_begin(track) / _MICROSECOND)) + body.getvalue(), music


def decoded(data: bytes, suffix: str, span_s: tuple[Fraction, Fraction] | None, desk: Desk) -> bytes | None:
    """The sound as a track for a video with this suffix, as `sound_track.copied` gives it: FLAC, AAC or Opus.

    Args:
        data: of the chunk.
        span_s: only the sound between these times of the video; the first of them is zero then. What is heard before zero,
            as encoders put it there, is left out in any case.

    Returns: None where none of the sound lies in the span.

    Raises:
        BitstreamError: anything wrong with the data.
    """
    begin, stream = _parsed(data)
    _, header = parse(stream)
    last = Fraction(header.frames, header.sample_rate)
    zero, end = span_s or (Fraction(0), begin + last)
    begin -= zero
    first, last = max(Fraction(0), -begin), min(last, end - zero - begin)
    if first >= last:
        return None
    played = _codec_of(stream, desk).play(stream, start_s=float(first), end_s=float(last))
    return _track(played.blocks, played.sample_rate, played.channels, begin + first, suffix)


def verify(data: bytes, desk: Desk) -> None:
    """Decode every symbol of the chunk, as `SpeechCodec.verify`."""
    _, stream = _parsed(data)
    _codec_of(stream, desk).verify(stream)


def _parsed(data: bytes) -> tuple[Fraction, container.Stream]:
    if len(data) < _START.size:
        raise Corrupt(f"a sound track of speech in {len(data)} bytes")
    return _START.unpack_from(data)[0] * _MICROSECOND, container.parse(data[_START.size :])


def _codec_of(stream: container.Stream, desk: Desk) -> SpeechCodec:
    """The codec with the weights that a stream names."""
    codec: SpeechCodec = desk.codec(stream.weights, lambda: SpeechCodec.load(stream_hash=stream.weights, device=desk.device))
    return codec


def _begin(track: bytes) -> Fraction:
    """When the first samples of a track are heard."""
    with av.open(io.BytesIO(track), "r", metadata_errors="ignore") as file:
        try:
            frame = next(file.decode(file.streams.audio[0]))
        except (av.FFmpegError, StopIteration) as error:
            raise InputError(f"its sound cannot be decoded: {error}") from None
        return Fraction(frame.pts or 0) * (frame.time_base or 0)


def _track(blocks: Iterator[np.ndarray], sample_rate: int, channels: int, begin_s: Fraction, suffix: str) -> bytes:
    """A Matroska file with samples, float32 (channels, n), that begin at a time."""
    name, form, rate = _ENCODERS[suffix]
    layout = "stereo" if channels == 2 else "mono"
    target = io.BytesIO()
    with av.open(target, "w", format="matroska", options={**OPTIONS, "fflags": "+bitexact"}) as out:
        stream: Any = out.add_stream(name, rate=rate or sample_rate, layout=layout)
        stream.format = form
        resampler = av.AudioResampler(format=form, layout=layout, rate=rate or sample_rate, frame_size=None)
        at = round(begin_s * sample_rate)
        for block in blocks:
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block), format="fltp", layout=layout)
            frame.sample_rate, frame.time_base, frame.pts = sample_rate, Fraction(1, sample_rate), at
            at += block.shape[1]
            for part in resampler.resample(frame):
                out.mux(stream.encode(part))
        for part in resampler.resample(None):
            out.mux(stream.encode(part))
        out.mux(stream.encode(None))
    return target.getvalue()
