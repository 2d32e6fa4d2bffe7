"""Plain samples through pipes: raw PCM, and WAV files read from and written to what cannot seek, as they come.

soundfile wants to seek, and FFmpeg reads a second before it begins.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ...entropy_models.errors import InputError
from ..contract import Readable
from .sound import CHANNELS_MAX, check_rate

ENDLESS = 0xFFFF_FFFF
"""Size of a WAV's data that goes to the end of the file, from programs that cannot go back to their header."""
_PLACEHOLDERS = (range(1), range(0x7FFF_F000, 0x8000_0001), range(0xFFFF_F000, ENDLESS + 1))
"""Sizes that mean the same, from FFmpeg, SoX, arecord and others."""
FRAMES_AT_ONCE = 1 << 15
_HEADER_MAX = 1 << 24
_CHUNK = struct.Struct("<4sI")
_FORMAT = struct.Struct("<HHIIHH")
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_DTYPES = {
    (_PCM, 8): "u1", (_PCM, 16): "<i2", (_PCM, 24): "u1", (_PCM, 32): "<i4", (_FLOAT, 32): "<f4", (_FLOAT, 64): "<f8",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How samples lie in bytes, channels beside each other; raw PCM is 16-bit little-endian (``s16le``)."""

    sample_rate: int
    channels: int = 1
    kind: tuple[int, int] = (_PCM, 16)
    """WAV's format number, and bits a sample."""

    def __post_init__(self) -> None:
        check_rate(self.sample_rate)
        if self.channels < 1 or self.kind not in _DTYPES:
            raise InputError(f"{self.channels} channels of WAV format {self.kind[0]}, {self.kind[1]} bits")

    @property
    def frame_bytes(self) -> int:
        return self.channels * self.kind[1] // 8

    def samples(self, data: bytes) -> np.ndarray:
        """Whole frames of bytes as float32 (channels, n)."""
        number, bits = self.kind
        values = np.frombuffer(data, _DTYPES[self.kind])
        if bits == 24:
            padded = np.zeros((len(values) // 3, 4), np.uint8)
            padded[:, 1:] = values.reshape(-1, 3)
            values, bits = padded.view("<i4")[:, 0], 32
        floats = np.asarray(values, np.float64)
        if number == _PCM:
            floats = (floats - 128) / 128 if bits == 8 else floats / 2.0 ** (bits - 1)
        with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, and refused
            return np.ascontiguousarray(floats.reshape(-1, self.channels).T, np.float32)


def parse_layout(text: str) -> Layout:
    """The layout ``RATE`` or ``RATExCHANNELS`` of raw PCM.

    >>> parse_layout("8000x2").frame_bytes
    4

    Raises:
        ValueError: not such a text, or out of range.
    """
    rate, _, channels = text.lower().partition("x")
    if not (rate.isascii() and rate.isdigit() and (channels or "1") in [str(n + 1) for n in range(CHANNELS_MAX)]):
        raise InputError(f"raw samples {text!r}; need RATE or RATExCHANNELS of 1 or 2 channels, like 16000 or 8000x2")
    return Layout(sample_rate=int(rate), channels=int(channels or 1))


def read_wav_header(file: Readable) -> tuple[Layout | None, int | None]:
    """Layout and frames of a WAV file, read up to its first sample.

    Layout None: in a format that is not plain samples. Frames None: to the end of the file.

    Raises:
        ValueError: not a WAV file, or one that ends before its samples.
    """
    start = _exactly(file, 12)
    if start[:4] not in (b"RIFF", b"RF64", b"BW64") or start[8:] != b"WAVE":
        raise InputError(f"not a WAV file: it starts with {start!r}")
    layout, long_size, seen = None, None, 0
    while True:
        name, size = _CHUNK.unpack(_exactly(file, _CHUNK.size))
        if name == b"data":
            size = long_size if long_size and size == ENDLESS else size
            endless = any(size in sizes for sizes in _PLACEHOLDERS)
            return layout, None if endless or not layout else size // layout.frame_bytes
        seen += size
        if seen > _HEADER_MAX:
            raise InputError(f"a WAV header of more than {_HEADER_MAX} bytes")
        body = _exactly(file, size + size % 2)
        if name == b"fmt " and size >= _FORMAT.size:
            layout = _layout(body)
        elif name == b"ds64" and size >= 16:
            long_size = int.from_bytes(body[8:16], "little")


def _layout(body: bytes) -> Layout | None:
    number, channels, rate, _, block, bits = _FORMAT.unpack_from(body)
    if number == _EXTENSIBLE and len(body) >= 26:
        number = int.from_bytes(body[24:26], "little")
    if (number, bits) not in _DTYPES or block != channels * bits // 8:
        return None
    return Layout(sample_rate=rate, channels=channels, kind=(number, bits))


def _exactly(file: Readable, size: int) -> bytes:
    data = b""
    while len(data) < size:
        if not (more := file.read(size - len(data))):
            raise InputError(f"the WAV header ends early: {len(data)} of {size} bytes")
        data += more
    return data


def pcm_blocks(file: Readable, layout: Layout, frames: int | None = None) -> Iterator[np.ndarray]:
    """Blocks float32 (channels, n), as the file gives them.

    Args:
        frames: to read; None: to the end of the file.

    Raises:
        ValueError: the file ends before ``frames``, or within a frame.
    """
    left, rest, came = frames, b"", 0
    while left is None or left:
        size = (FRAMES_AT_ONCE if left is None else min(left, FRAMES_AT_ONCE)) * layout.frame_bytes - len(rest)
        if not (data := file.read(size)):
            break
        data = rest + data
        whole = len(data) // layout.frame_bytes
        rest = data[whole * layout.frame_bytes :]
        left = None if left is None else left - whole
        came += whole
        if whole:
            yield layout.samples(data[: whole * layout.frame_bytes])
    if left:
        raise InputError(ends_early(came, frames or 0, layout.sample_rate))
    if rest:
        raise InputError(f"{len(rest)} bytes are left over after {came} frames of {layout.frame_bytes}; wrong --pcm?")


def ends_early(frames: int, announced: int, sample_rate: int) -> str:
    """The message for a file that is cut off."""
    return f"ends after {frames / sample_rate:.2f} s of the {announced / sample_rate:.2f} s that its header announces"


def to_int16(block: np.ndarray) -> tuple[np.ndarray, int]:
    """Samples (channels, n) as int16 (n, channels), and how many were beyond full scale and are clipped."""
    values = np.rint(block.T * np.float32(32768)).clip(-32768, 32767).astype("<i2")
    return values, int(np.count_nonzero(np.abs(block) > 1))


def wav_header(sample_rate: int, channels: int, frames: int | None) -> bytes:
    """Header of a WAV file of 16-bit samples.

    Args:
        frames: how many follow; None: unknown, or too many for a WAV file, which goes on to its end.
    """
    size = ENDLESS if frames is None else 2 * channels * frames
    riff, data = (ENDLESS, ENDLESS) if size > ENDLESS - 36 else (36 + size, size)
    layout = _FORMAT.pack(_PCM, channels, sample_rate, 2 * channels * sample_rate, 2 * channels, 16)
    return b"".join([_CHUNK.pack(b"RIFF", riff), b"WAVE", _CHUNK.pack(b"fmt ", 16), layout, _CHUNK.pack(b"data", data)])
