"""Videos for training: chains of frames, already analysed, in random order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import lightning as L
import torch
from torch.utils.data import DataLoader, IterableDataset

from .chains import Chain, ChainCache


class Shuffled(IterableDataset[Chain]):
    """Chains in random order, without end."""

    def __init__(self, cache: ChainCache) -> None:
        self.cache = cache

    def __iter__(self) -> Iterator[Chain]:
        random = torch.Generator().manual_seed(torch.initial_seed() % 2**63)
        while True:
            for index in torch.randperm(len(self.cache), generator=random).tolist():
                yield self.cache[index]


class VideoData(L.LightningDataModule):
    """Folders of videos.

    Args:
        train: folder or file.
        validation: the same, of scenes that are not in ``train``.
        image: name of the image model whose latents are coded.
        chains: of frames that are cut out and analysed, once, and kept; 1.5 MB each at the defaults.
        validation_chains: the same for validation.
        frames: of a chain.
        crop: side in pixels, a multiple of 64.
        batch_size: chains of a step.
        cache: folder for analysed chains.
        seed: of chains and their order; the process rank is added.
    """

    def __init__(
        self,
        train: Path,
        validation: Path | None = None,
        image: str = "image-10",
        chains: int = 1000,
        validation_chains: int = 24,
        frames: int = 4,
        crop: int = 256,
        batch_size: int = 4,
        cache: Path = Path("runs/cache"),
        seed: int = 1,
    ) -> None:
        super().__init__()
        self.train, self.held_out, self.cache = Path(train), validation and Path(validation), Path(cache)
        self.image, self.chains, self.validation_chains = image, chains, validation_chains
        self.frames, self.crop, self.batch_size, self.seed = frames, crop, batch_size, seed

    def prepare_data(self) -> None:
        self._cache(self.train, self.chains)
        if self.held_out:
            self._cache(self.held_out, self.validation_chains)

    def train_dataloader(self) -> DataLoader[Chain]:
        rank, step = (self.trainer.global_rank, self.trainer.global_step) if self.trainer else (0, 0)
        torch.manual_seed(self.seed + 1_000_003 * rank + step)  # resuming goes on with another order
        return DataLoader(self.shuffled(), batch_size=self.batch_size)

    def shuffled(self) -> Shuffled:
        """Chains for training, one by one without end."""
        return Shuffled(self._cache(self.train, self.chains))

    def val_dataloader(self) -> DataLoader[Chain] | list[Chain]:
        if not self.held_out:
            return []
        return DataLoader(self._cache(self.held_out, self.validation_chains), batch_size=1)  # type: ignore[arg-type]

    def _cache(self, source: Path, count: int) -> ChainCache:
        return ChainCache(
            source, self.cache, count=count, image=self.image, frames=self.frames, crop=self.crop, seed=self.seed
        )
