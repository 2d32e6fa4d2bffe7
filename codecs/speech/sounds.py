"""Sound files to samples: what libsndfile reads (package soundfile), and through PyAV what it does not."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from ...entropy_models.errors import InputError
from .sound import CHANNELS_MAX, Sound, check_samples

BLOCK_S = 10
"""Seconds that are read at a time."""
TAGS = ("title", "artist", "album", "date", "genre", "tracknumber", "comment", "copyright", "license", "software")
"""Tags that libsndfile knows, by its names."""
_RAW = 0xFFFFF000
"""A WAV whose length is not known, as programs write it into pipes, says at least this."""


class SoundFile:
    """A sound file that is read in blocks, in memory that does not grow with it.

    Args:
        source: path, or the bytes of a file.

    Raises:
        InputError: not a sound that can be read; more than two channels.
    """

    def __init__(self, source: Path | bytes) -> None:
        self._source = source
        self.notices: tuple[str, ...] = ()
        try:
            with soundfile.SoundFile(self._file()) as file:
                self.sample_rate, self.channels, self.frames = file.samplerate, file.channels, file.frames
                self.tags = {name: str(value) for name in TAGS if (value := getattr(file, name, ""))}
                self.subtype = file.subtype
            self._blocks = self._soundfile_blocks
        except (soundfile.LibsndfileError, TypeError) as error:
            self._open_with_av(error)
        if not 1 <= self.channels <= CHANNELS_MAX:
            raise InputError(f"{self.channels} channels; need 1 or {CHANNELS_MAX}, or --mono")

    def blocks(self) -> Iterator[np.ndarray]:
        """float32 (channels, n), one after the other.

        Raises:
            InputError: damaged, or with samples that are not finite.
        """
        done = 0
        for block in self._blocks():
            check_samples(block, done)
            done += block.shape[1]
            yield block
        if not done:
            raise InputError("the sound is empty; need at least one sample")

    def _file(self) -> Any:
        return io.BytesIO(self._source) if isinstance(self._source, bytes) else str(self._source)

    def _soundfile_blocks(self) -> Iterator[np.ndarray]:
        try:
            with soundfile.SoundFile(self._file()) as file:
                for block in file.blocks(BLOCK_S * self.sample_rate, dtype="float32", always_2d=True):
                    yield np.ascontiguousarray(block.T)
        except soundfile.LibsndfileError as error:
            raise InputError(f"the sound is damaged: {error}") from None

    def _open_with_av(self, reason: Exception) -> None:
        import av

        try:
            with av.open(self._file()) as container:
                if not container.streams.audio:
                    raise InputError("the file holds no sound")
                stream = container.streams.audio[0]
                self.sample_rate, self.channels = stream.codec_context.sample_rate, stream.codec_context.channels
                found = {**container.metadata, **stream.metadata}
        except (av.FFmpegError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"not a sound that can be read ({reason}; {error})") from None
        self.tags = {name.lower(): str(value) for name, value in found.items() if name.lower() in TAGS}
        self.frames, self.subtype = 0, stream.codec_context.name
        self._blocks = self._av_blocks

    def _av_blocks(self) -> Iterator[np.ndarray]:
        import av

        layout = "mono" if self.channels == 1 else "stereo"
        resampler = av.AudioResampler(format="fltp", layout=layout, rate=self.sample_rate)
        try:
            with av.open(self._file()) as container:
                for frame in container.decode(audio=0):
                    for part in resampler.resample(frame):
                        yield part.to_ndarray()
                for part in resampler.resample(None):
                    yield part.to_ndarray()
        except av.FFmpegError as error:
            raise InputError(f"the sound is damaged: {error}") from None


def read_sound(source: Path | bytes, *, mono: bool = False) -> Sound:
    """The whole sound of a file. Errors as `SoundFile` and `Sound`.

    Args:
        mono: mix two channels to one.
    """
    file = SoundFile(source)
    samples = np.concatenate(list(file.blocks()), axis=1)
    sound = Sound(samples=samples, sample_rate=file.sample_rate, tags=file.tags, notices=file.notices)
    return sound.mono() if mono else sound
