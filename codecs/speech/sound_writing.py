"""Sounds to sound files, by blocks, through libsndfile (package soundfile); WAV also into what cannot seek."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Self

import numpy as np
import soundfile

from ...entropy_models.errors import InputError
from ..contract import Writable
from .formats import RAW, WRITTEN
from .pcm import ENDLESS, to_int16, wav_header
from .sound import Sound
from .sounds import TAGS

SUBTYPES = {
    ".wav": "PCM_16", ".flac": "PCM_16", ".aiff": "PCM_16", ".ogg": "VORBIS", ".opus": "OPUS", ".mp3": "MPEG_LAYER_III",
}  # fmt: skip
OPUS_RATES = (8000, 12000, 16000, 24000, 48000)
MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
_FRAMES_AT_ONCE = 1 << 15
_HEADERS_MAX = 1 << 20


class SoundWriter:
    """Writer of a sound file, 16 bits where it has bits; a context manager. What is beyond full scale is cut off.

    Args:
        file: open for writing; one that cannot seek takes ``.wav`` and ``.pcm`` only.
        suffix: one of `WRITTEN`, or `RAW`.
        frames: how many will come, if it is known: a WAV of more than 4 GiB becomes an RF64, and one in a pipe tells its
            length.

    Raises:
        InputError: the format cannot hold the sample rate, or the file cannot take it.
    """

    def __init__(
        self,
        file: Writable,
        suffix: str,
        *,
        sample_rate: int,
        channels: int,
        tags: Mapping[str, str] | None = None,
        frames: int | None = None,
    ) -> None:
        check_rate_of(sample_rate, suffix)
        self.clipped = 0
        """Samples that were beyond full scale."""
        self._pipe = None if file.seekable() and suffix != RAW else file
        if self._pipe:
            if suffix == RAW:
                return
            if suffix != ".wav":
                raise InputError(f"{suffix} cannot be written into a pipe by blocks, but .wav and .pcm can")
            self._pipe.write(wav_header(sample_rate, channels, frames))
            return
        large = 2 * channels * (frames or 0) > ENDLESS - _HEADERS_MAX
        form = "RF64" if suffix == ".wav" and large else WRITTEN[suffix]
        self._sound = soundfile.SoundFile(file, "w", sample_rate, channels, SUBTYPES[suffix], format=form)
        for name, value in (tags or {}).items():
            if name in TAGS:
                setattr(self._sound, name, value)

    @property
    def notices(self) -> tuple[str, ...]:
        """Notices of what could not be kept, for people."""
        return (f"{self.clipped} samples beyond full scale were clipped",) if self.clipped else ()

    def write(self, block: np.ndarray) -> None:
        """One more block, float32 (channels, n)."""
        for start in range(0, block.shape[1], _FRAMES_AT_ONCE):  # libvorbis takes memory from the stack for each call
            part = block[:, start : start + _FRAMES_AT_ONCE]
            values, clipped = to_int16(part)
            self.clipped += clipped
            if self._pipe:
                self._pipe.write(values.tobytes())
            else:  # libsndfile 1.2.2 garbles 16-bit stereo on its way to MP3, and rounds floats to other 16 bits
                self._sound.write(values if self._sound.subtype == "PCM_16" else np.clip(part.T, -1, 1))

    def close(self) -> None:
        """Finish the file, which stays open."""
        if self._pipe:
            self._pipe.flush()
        else:
            self._sound.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def sound_bytes(sound: Sound, suffix: str) -> bytes:
    """A sound file of a format. Errors as `SoundWriter`.

    Args:
        suffix: one of `WRITTEN`.
    """
    file, facts = io.BytesIO(), {"sample_rate": sound.sample_rate, "channels": sound.channels}
    with SoundWriter(file, suffix, **facts, tags=sound.tags, frames=sound.frames) as writer:
        writer.write(sound.samples)
    return file.getvalue()


def check_rate_of(sample_rate: int, suffix: str) -> None:
    """InputError for a sample rate that a format cannot hold."""
    rates = {".opus": OPUS_RATES, ".mp3": MP3_RATES}.get(suffix)
    if rates and sample_rate not in rates:
        raise InputError(f"{suffix} cannot hold {sample_rate} Hz, but {', '.join(map(str, rates))}; write .wav or .flac")
