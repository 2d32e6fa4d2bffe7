"""Videos for training: chains of frames, already analysed, or decoded frames before fusion; in random order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import lightning as L
import torch
from torch.utils.data import DataLoader, IterableDataset

from .cache import RecordCache
from .chains import chain_cache
from .observations import observation_cache

R = TypeVar("R", bound=tuple[torch.Tensor, ...])


class Shuffled(IterableDataset[R]):
    """Records in random order, without end."""

    def __init__(self, cache: RecordCache[R]) -> None:
        self.cache = cache

    def __iter__(self) -> Iterator[R]:
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
        fused: name of an installed video model, for the stage ``fusion``: the frames as it decodes them are the data;
            None: chains, for the stage ``entropy``.
        chains: of frames that are cut out and coded, once, and kept; 2 MB each at the defaults, 1 MB a frame where fused.
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
        fused: str | None = None,
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
        self.image, self.fused, self.chains, self.validation_chains = image, fused, chains, validation_chains
        self.frames, self.crop, self.batch_size, self.seed = frames, crop, batch_size, seed

    def prepare_data(self) -> None:
        self._cache(self.train, self.chains)
        if self.held_out:
            self._cache(self.held_out, self.validation_chains)

    def train_dataloader(self) -> DataLoader[Any]:
        rank, step = (self.trainer.global_rank, self.trainer.global_step) if self.trainer else (0, 0)
        torch.manual_seed(self.seed + 1_000_003 * rank + step)  # resuming goes on with another order
        return DataLoader(self.shuffled(), batch_size=self.batch_size)

    def shuffled(self) -> Shuffled[Any]:
        """Records for training, one by one without end."""
        return Shuffled(self._cache(self.train, self.chains))

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        if not self.held_out:
            return []
        return DataLoader(self._cache(self.held_out, self.validation_chains), batch_size=1)  # type: ignore[arg-type]

    def _cache(self, source: Path, count: int) -> RecordCache[Any]:
        common = {"frames": self.frames, "crop": self.crop, "seed": self.seed}
        if self.fused:
            count *= self.frames - 1
            return observation_cache(source, self.cache, count=count, model=self.fused, **common)
        return chain_cache(source, self.cache, count=count, image=self.image, **common)
