"""Speech for training: sound files, decoded once into a cache, cropped at random and varied.

An hour of speech is little, so that crops differ in level, speed (and pitch with it), and tone, and some are mixtures of
two.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import lightning as L
import numpy as np
import soxr
import torch
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from ...codecs.container import write_file
from ...codecs.speech.evaluation import read_speech
from ...codecs.speech.header import FRAME, SAMPLE_RATE
from ...entropy_models.errors import InputError
from ..files import files_of

SUFFIXES = {".flac", ".ogg", ".opus", ".wav", ".mp3"}
SPEED_SHARE, SPEED_SPAN = 0.4, 0.16
"""Share of crops whose speed is varied, and by how much, in natural logarithms."""
TONE_SHARE, TONE_SPAN_DB, TONE_KNOTS = 0.3, 6.0, 6
"""Share of crops with another tone: gain over frequency, linear in decibels between random knots."""
MIX_SHARE, MIX_DB = 0.1, (-20.0, 0.0)
GAIN_DB = (-16.0, 8.0)
LONGEST_S = 10.0
"""A file is drawn in proportion to its length, up to this."""


def samples_of(path: Path) -> np.ndarray:
    """Samples of a file as the codec hears them: int16, 16 kHz, one channel.

    Raises:
        InputError: not a sound; names the file.
    """
    try:
        samples = read_speech(path)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return np.clip(np.rint(samples * 32768), -32768, 32767).astype(np.int16)


class SampleCache:
    """All sounds of a source as one memory-mapped file of int16, with an index of (offset, length)."""

    def __init__(self, source: Path, folder: Path) -> None:
        files = files_of(source, SUFFIXES, "sound files")
        state = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
        key = hashlib.sha256(repr(state).encode()).hexdigest()[:16]
        self.samples_path, index_path = folder / f"speech-{key}.bin", folder / f"speech-{key}.npy"
        if not index_path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            sounds = [samples_of(path) for path in track(files, "decoding speech")]
            write_file(self.samples_path, b"".join(sound.tobytes() for sound in sounds))
            ends = np.cumsum([len(sound) for sound in sounds])
            np.save(index_path, np.stack([ends - [len(sound) for sound in sounds], ends], axis=1))
        self.index: np.ndarray = np.load(index_path)
        self.samples = np.memmap(self.samples_path, np.int16, "r")

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: int) -> np.ndarray:
        start, end = self.index[index]
        return self.samples[start:end].astype(np.float32) / 32768


class Crops(IterableDataset[Tensor]):
    """Random crops without end, float32 (samples,)."""

    def __init__(self, cache: SampleCache, samples: int) -> None:
        self.cache, self.samples = cache, samples
        lengths = np.minimum(cache.index[:, 1] - cache.index[:, 0], LONGEST_S * SAMPLE_RATE)
        self.shares = lengths / lengths.sum()

    def __iter__(self) -> Iterator[Tensor]:
        random = np.random.default_rng(torch.initial_seed() % 2**63)
        while True:
            yield torch.from_numpy(self.drawn(random))

    def drawn(self, random: np.random.Generator) -> np.ndarray:
        """One crop, varied."""
        crop = self.piece(random)
        if random.random() < MIX_SHARE:
            crop = crop + decibels(random.uniform(*MIX_DB)) * self.piece(random)
        crop = crop * decibels(random.uniform(*GAIN_DB))
        return (crop / max(1.0, np.abs(crop).max() / 0.99)).astype(np.float32)

    def piece(self, random: np.random.Generator) -> np.ndarray:
        """A piece of one file, in speed and tone of its own; silence before it where the file is too short."""
        sound = self.cache[random.choice(len(self.cache), p=self.shares)]
        speed = float(np.exp(random.uniform(-SPEED_SPAN, SPEED_SPAN))) if random.random() < SPEED_SHARE else 1.0
        needed = int(self.samples * speed) + 8
        lacking = max(0, needed - len(sound))
        before = int(random.integers(lacking + 1))
        sound = np.pad(sound, (before, lacking - before))
        start = int(random.integers(len(sound) - needed + 1))
        crop = sound[start : start + needed]
        if speed != 1.0:
            crop = soxr.resample(crop, SAMPLE_RATE * speed, SAMPLE_RATE, quality="MQ")
        crop = np.pad(crop, (0, max(0, self.samples - len(crop))))[: self.samples]
        return with_tone(crop, random) if random.random() < TONE_SHARE else crop


def decibels(gain_db: float) -> float:
    """A gain as a factor."""
    return 10.0 ** (gain_db / 20)


def with_tone(samples: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Samples through a smooth random equaliser."""
    spectrum = np.fft.rfft(samples)
    gains_db = random.uniform(-TONE_SPAN_DB, TONE_SPAN_DB, TONE_KNOTS)
    curve = np.interp(np.linspace(0, TONE_KNOTS - 1, len(spectrum)), np.arange(TONE_KNOTS), gains_db)
    return np.fft.irfft(spectrum * 10 ** (curve / 20), len(samples))


class Whole(Dataset[Tensor]):
    """Whole sounds, float32 (samples,), for validation."""

    def __init__(self, cache: SampleCache) -> None:
        self.cache = cache

    def __len__(self) -> int:
        return len(self.cache)

    def __getitem__(self, index: int) -> Tensor:
        return torch.from_numpy(self.cache[index])


class SpeechData(L.LightningDataModule):
    """Folders of sound files.

    Args:
        train: folder or file.
        validation: the same, of speakers that are not in ``train``.
        frames: of 40 ms in a crop, a multiple of 8.
        batch_size: crops of a step.
        cache: folder for decoded samples.
        workers: processes that draw crops; 0: the training's own.
        seed: of the crops; the process rank is added.
    """

    def __init__(
        self,
        train: Path,
        validation: Path | None = None,
        frames: int = 48,
        batch_size: int = 12,
        cache: Path = Path("runs/cache"),
        workers: int = 0,
        seed: int = 1,
    ) -> None:
        super().__init__()
        self.train, self.held_out, self.frames = Path(train), validation and Path(validation), frames
        self.batch_size, self.cache, self.workers, self.seed = batch_size, Path(cache), workers, seed

    def prepare_data(self) -> None:
        SampleCache(self.train, self.cache)
        if self.held_out:
            SampleCache(self.held_out, self.cache)

    def train_dataloader(self) -> DataLoader[Tensor]:
        rank, step = (self.trainer.global_rank, self.trainer.global_step) if self.trainer else (0, 0)
        torch.manual_seed(self.seed + 1_000_003 * rank + step)  # resuming goes on with fresh crops
        crops = Crops(SampleCache(self.train, self.cache), self.frames * FRAME)
        return DataLoader(crops, batch_size=self.batch_size, num_workers=self.workers)

    def val_dataloader(self) -> DataLoader[Tensor] | list[Tensor]:
        if not self.held_out:
            return []
        return DataLoader(Whole(SampleCache(self.held_out, self.cache)), batch_size=None)
