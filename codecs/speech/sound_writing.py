"""Sounds to the bytes of sound files, through libsndfile (package soundfile)."""

from __future__ import annotations

import io

import numpy as np
import soundfile

from ...entropy_models.errors import InputError
from .formats import WRITTEN
from .sound import Sound
from .sounds import TAGS

SUBTYPES = {
    ".wav": "PCM_16", ".flac": "PCM_16", ".aiff": "PCM_16", ".ogg": "VORBIS", ".opus": "OPUS", ".mp3": "MPEG_LAYER_III",
}  # fmt: skip
OPUS_RATES = (8000, 12000, 16000, 24000, 48000)
MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)


def sound_bytes(sound: Sound, suffix: str) -> bytes:
    """A sound file of a format, 16 bits where it has bits; what is beyond full scale is cut off.

    Args:
        suffix: one of `WRITTEN`.

    Raises:
        InputError: the format cannot hold the sample rate.
    """
    check_rate_of(sound.sample_rate, suffix)
    file = io.BytesIO()
    with soundfile.SoundFile(
        file, "w", sound.sample_rate, sound.channels, SUBTYPES[suffix], format=WRITTEN[suffix]
    ) as writer:
        for name, value in sound.tags.items():
            if name in TAGS:
                setattr(writer, name, value)
        writer.write(np.clip(sound.samples.T, -1, 32767 / 32768))
    return file.getvalue()


def check_rate_of(sample_rate: int, suffix: str) -> None:
    """InputError for a sample rate that a format cannot hold."""
    rates = {".opus": OPUS_RATES, ".mp3": MP3_RATES}.get(suffix)
    if rates and sample_rate not in rates:
        raise InputError(f"{suffix} cannot hold {sample_rate} Hz, but {', '.join(map(str, rates))}; write .wav or .flac")
