"""Photographs for training: folders or tar shards, decoded once into a cache, cropped at random.

Decoding AVIF or PNG costs more than a training step on small machines, so the first use writes all pixels
to one memory-mapped file (``cache``), and every later run starts at once.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import lightning as L
import numpy as np
import torch
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from ...codecs.container import write_file
from ...codecs.image.pictures import read_picture
from ...entropy_models.errors import InputError
from .camera import with_camera_softness
from .graphics import with_graphics

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".avif", ".bmp", ".tif", ".tiff"}


def files_of(source: Path) -> list[Path]:
    """Image files and tar shards of a folder (recursive), or the one file; sorted.

    Raises:
        FileNotFoundError: there is neither.
    """
    if source.is_file():
        return [source]
    if source.is_dir():
        return sorted(p for p in source.rglob("*") if p.suffix.lower() in SUFFIXES | {".tar"})
    raise FileNotFoundError(f"{source}: no such folder or tar file of training images")


def state_of(source: Path) -> list[tuple[Path, int, int]]:
    """Path, bytes and time of change of each file: another set of images is another cache."""
    return [(path.resolve(), path.stat().st_size, path.stat().st_mtime_ns) for path in files_of(source)]


def iterate_images(source: Path) -> Iterator[tuple[str, bytes]]:
    """Names and bytes of the images in a folder (recursive), a tar file, or a folder of tar files; sorted."""
    for path in files_of(source):
        if path.suffix.lower() != ".tar":
            yield path.name, path.read_bytes()
            continue
        with tarfile.open(path) as shard:
            for member in sorted(shard.getmembers(), key=lambda m: m.name):
                if member.isfile() and Path(member.name).suffix.lower() in SUFFIXES:
                    yield member.name, shard.extractfile(member).read()  # type: ignore[union-attr]


def rgb_of(data: bytes, name: str) -> np.ndarray:
    """Pixels as the codec sees them, uint8 (height, width, 3); grey three times, without alpha.

    Raises:
        InputError: not an image; the message begins with ``name``.
    """
    try:
        return read_picture(data).rgb()
    except ValueError as error:
        raise InputError(f"{name}: {error}") from None


class PixelCache:
    """All images of a source as one memory-mapped file of uint8 RGB, with an index of (offset, height, width)."""

    def __init__(self, source: Path, folder: Path) -> None:
        key = hashlib.sha256("\n".join(map(str, state_of(source))).encode()).hexdigest()[:16]
        self.pixels_path, self.index_path = folder / f"{key}.bin", folder / f"{key}.npy"
        if not self.index_path.exists():
            self._build(source)
        self.index = np.load(self.index_path)
        self._pixels: np.memmap | None = None

    def _build(self, source: Path) -> None:
        self.pixels_path.parent.mkdir(parents=True, exist_ok=True)
        part = self.pixels_path.with_suffix(".part")
        try:
            index = self._decode(source, part)
            part.rename(self.pixels_path)
        except BaseException:  # another set of images is another name: nobody would ever overwrite it
            part.unlink(missing_ok=True)
            raise
        buffer = io.BytesIO()
        np.save(buffer, np.array(index, np.int64))
        write_file(self.index_path, buffer.getvalue())

    @staticmethod
    def _decode(source: Path, part: Path) -> list[tuple[int, ...]]:
        """Write all pixels to ``part``; returns the index."""
        index, offset = [], 0
        with part.open("wb") as file:
            for name, data in track(iterate_images(source), description="decoding training images"):
                image = rgb_of(data, f"{source}: {name}")
                file.write(image.tobytes())
                index.append((offset, *image.shape[:2]))
                offset += image.size
        if not index:
            raise InputError(f"{source} holds no images ({', '.join(sorted(SUFFIXES))}) and no tar shards")
        return index

    def image(self, i: int) -> np.ndarray:
        """uint8 (height, width, 3), read on demand."""
        if self._pixels is None:
            self._pixels = np.memmap(self.pixels_path, np.uint8, "r")
        offset, height, width = (int(v) for v in self.index[i])
        return self._pixels[offset : offset + height * width * 3].reshape(height, width, 3)


class RandomCrops(IterableDataset):
    """Endless random crops, flips and transposes; images drawn in proportion to their area. A share of ``camera`` crops is
    made as soft as a camera's own files; on a share of ``graphics`` crops, or in their place, text and shapes are drawn."""

    def __init__(self, cache: PixelCache, crop: int, graphics: float = 0.0, camera: float = 0.0) -> None:
        self.cache, self.crop, self.graphics, self.camera = cache, crop, graphics, camera
        area = np.where((cache.index[:, 1:] >= crop).all(1), cache.index[:, 1] * cache.index[:, 2], 0).astype(float)
        if not area.sum():
            raise InputError(f"no training image is as large as the crop of {crop}x{crop}")
        self.probability = area / area.sum()

    def __iter__(self) -> Iterator[Tensor]:
        rng = np.random.default_rng(torch.initial_seed() % 2**63)
        while True:
            for i in rng.choice(len(self.probability), 256, p=self.probability):
                yield torch.from_numpy(self._augmented(self.cache.image(i), rng))

    def _augmented(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        top = rng.integers(image.shape[0] - self.crop + 1)
        left = rng.integers(image.shape[1] - self.crop + 1)
        image = image[top : top + self.crop, left : left + self.crop]
        if rng.random() < 0.5:
            image = image[:, ::-1]
        if rng.random() < 0.25:
            image = image.swapaxes(0, 1)
        image = np.ascontiguousarray(image)
        if rng.random() < self.camera:
            image = with_camera_softness(image, rng)
        return with_graphics(image, rng) if rng.random() < self.graphics else image


class ImageFiles(Dataset):
    """Whole images of a folder, uint8 (height, width, 3), at most ``limit`` of them."""

    def __init__(self, source: Path, limit: int | None = None) -> None:
        self.files = list(islice(iterate_images(source), limit))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> Tensor:
        name, data = self.files[i]
        return torch.from_numpy(rgb_of(data, name))


class ImageData(L.LightningDataModule):
    """Training crops and whole validation images.

    Args:
        train: folder of images or tar shards.
        validation: folder of images the real coder is run on; never shown to the optimiser.
        crop: side of a training crop in pixels, a multiple of 64.
        batch_size: crops per step and process.
        graphics: share of crops with text and shapes drawn on them, 0..1, for pictures that are no photographs.
        camera: share of crops made as soft as a camera's own files, 0..1, for training images that were scaled down.
        cache: where decoded pixels are kept.
        validation_images: how many validation images to use.
        seed: of the crops; the process rank is added.
        workers: processes that cut crops.
    """

    def __init__(
        self,
        train: Path | str,
        validation: Path | str | None = None,
        crop: int = 128,
        batch_size: int = 8,
        graphics: float = 0.0,
        camera: float = 0.0,
        cache: Path | str = "runs/cache",
        validation_images: int = 8,
        seed: int = 0,
        workers: int = 0,
    ) -> None:
        super().__init__()
        if crop % 64 or crop < 64:
            raise InputError(f"crop={crop}; need a multiple of 64, 64 or more")
        if batch_size < 1 or validation_images < 1:
            raise InputError(f"batch_size={batch_size}, validation_images={validation_images}; need 1 or more")
        for name, share in (("graphics", graphics), ("camera", camera)):
            if not 0 <= share <= 1:
                raise InputError(f"{name}={share}; need a share of the crops, 0 to 1")
        self.train, self.cache = Path(train), Path(cache)
        self.validation = None if validation is None else Path(validation)
        self.crop, self.batch_size, self.seed, self.workers = crop, batch_size, seed, workers
        self.graphics, self.camera, self.validation_images = graphics, camera, validation_images

    def prepare_data(self) -> None:
        PixelCache(self.train, self.cache)

    def train_dataloader(self) -> DataLoader:
        rank, step = (self.trainer.global_rank, self.trainer.global_step) if self.trainer else (0, 0)
        torch.manual_seed(self.seed + 1_000_003 * rank + step)  # resuming goes on with fresh crops
        crops = RandomCrops(PixelCache(self.train, self.cache), self.crop, self.graphics, self.camera)
        return DataLoader(crops, batch_size=self.batch_size, num_workers=self.workers)

    def val_dataloader(self) -> DataLoader | list:
        if self.validation is None:
            return []
        return DataLoader(ImageFiles(self.validation, self.validation_images), batch_size=None)
