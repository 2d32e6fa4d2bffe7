"""Chains of frames as the entropy model meets them: latents and motion, computed once with the frozen image codec.

A chain is a crop of some frames that follow one another, at one quality. The first is coded on its own; of the others, the
decoded frame before them is moved by block motion and analysed, or in other chains, as between the references of a pyramid,
those before and after them, blended. Training on chains costs no transform.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import torch
from torch import Tensor

from ...codecs.image.codec import ImageCodec
from ...codecs.image.tile_coder import to_pixels, to_signal
from ...codecs.image.tiles import LATENT_STRIDE
from ...codecs.video.motion import moved
from ...codecs.video.motion_search import searched
from ...codecs.video.prediction import blended, searched_shares
from ...codecs.video.stem import Past, Remembered, StemConfig
from ...entropy_models.coder import Measure
from ...entropy_models.errors import InputError
from ...entropy_models.hyperprior import QUALITY_MAX
from ..files import files_of
from .cache import Make, RecordCache

SUFFIXES = {".mkv", ".mp4", ".webm", ".y4m", ".avi", ".mov"}
SKIPS, SKIP_SHARES = (1, 2, 3, 5), (0.65, 0.17, 0.1, 0.08)
"""Frames from one of a chain to the next, and how often."""
BETWEEN_SHARE, BETWEEN_LIFTS = 0.5, (6, 14)
"""How many chains are of frames between two references, and how much better those are coded, in qualities."""

DRAWS_MAX = 200
"""Videos that are drawn for a chain before none is found to be fit."""


class Chain(NamedTuple):
    """A chain, or a batch of them with one more axis at the front."""

    quality: Tensor
    """Integer 0..100."""
    y: Tensor
    """Latents, float16 (frames, rows, columns, latent)."""
    moved: Tensor
    """Latents of the decoded references after motion, float16 (frames - 1, rows, columns, latent)."""
    y_hat: Tensor
    """Decoded latent of the first frame, float16 (rows, columns, latent)."""
    symbols: Tensor
    """Symbols of the first frame, int16."""
    levels: Tensor
    """Levels of the first frame, uint8."""
    intra_bits: Tensor
    """Bits of each frame on its own, float32 (frames,)."""


class Alone(NamedTuple):
    """Frames that are coded as pictures."""

    y: Tensor
    """Latents (frames, rows, columns, latent)."""
    shown: list[Tensor]
    """Decoded, each (1, rows, columns, 3), -0.5..0.5."""
    bits: Tensor
    """Of each, (frames,)."""
    first: Past
    """The first, as another may know it."""


class ChainMaker:
    """Chains of crops of videos.

    Args:
        image: name of the image model.
        frames: of a chain.
        crop: side in pixels, a multiple of 16.
    """

    def __init__(self, files: list[Path], image: str, frames: int, crop: int) -> None:
        self.files, self.frames, self.crop = files, frames, crop
        self.codec = ImageCodec.load(model=image, device="cpu")

    def __call__(self, random: np.random.Generator, quality: int) -> Chain:
        """A random chain.

        Raises:
            InputError: hardly a video is long and large enough.
        """
        if random.random() < BETWEEN_SHARE:
            lift = int(random.integers(*BETWEEN_LIFTS))
            return self.chain_between(drawn(self.files, random, self.frames + 1, self.crop), quality, lift)
        return self.chain(drawn(self.files, random, self.frames, self.crop), quality)

    @torch.inference_mode()
    def chain_between(self, pixels: Tensor, quality: int, lift: int) -> Chain:
        """Of frames that are each made of both of their neighbours, uint8 (frames + 1, rows, columns, 3).

        Args:
            lift: quality of the neighbours beyond that of the frame.
        """
        alone, better = self._alone(pixels[:-1], quality), self._alone(pixels, min(quality + lift, QUALITY_MAX))
        frames = to_signal(pixels)[1:-1, None]
        after_motion = []
        for before, frame, after in zip(better.shown[:-2], frames, better.shown[2:], strict=True):
            field = searched(frame, before, still_of(frame), quality)
            back = searched(frame, after, -field, quality)
            pictures = moved(before, field), moved(after, back)
            after_motion.append(blended(*pictures, searched_shares(frame, *pictures, quality)))
        return self._chain(alone, after_motion, better.first, quality)

    @torch.inference_mode()
    def chain(self, pixels: Tensor, quality: int) -> Chain:
        """Of frames that are each made of the one before, uint8 (frames, rows, columns, 3)."""
        alone, field = self._alone(pixels, quality), still_of(pixels[:1])
        after_motion = []
        for before, frame in zip(alone.shown[:-1], to_signal(pixels)[1:, None], strict=True):
            field = searched(frame, before, field, quality)
            after_motion.append(moved(before, field))
        return self._chain(alone, after_motion, alone.first, quality)

    def _alone(self, pixels: Tensor, quality: int) -> Alone:
        """Frames as pictures, uint8 (frames, rows, columns, 3)."""
        network, qualities = self.codec.network, torch.tensor([quality])
        y, shown, bits, past = [], [], [], []
        for frame in to_signal(pixels)[:, None]:
            y.append(network.to_latent(frame, qualities))
            measure = Measure(self.codec.tables)
            coder = Remembered(measure)
            y_hat = network.coding_pass(coder, y[-1], qualities)
            bits.append(float(measure.bits[0]))
            shown.append(to_signal(to_pixels(network.to_image(y_hat, qualities))))
            past.append(coder.past(y_hat))
        return Alone(torch.cat(y), shown, torch.tensor(bits), past[0])

    def _chain(self, alone: Alone, after_motion: list[Tensor], first: Past, quality: int) -> Chain:
        """A chain.

        Args:
            after_motion: pictures that the frames but the first are made of.
            first: the first frame, as the second may know it.
        """
        qualities = torch.tensor([quality])
        latents = [self.codec.network.to_latent(picture, qualities) for picture in after_motion]
        return Chain(
            torch.tensor(quality), alone.y.half(), torch.cat(latents).half(), first.y_hat[0].half(),
            first.symbols[0].clamp(-32768, 32767).short(), first.levels[0].byte(), alone.bits,
        )  # fmt: skip


def still_of(pictures: Tensor) -> Tensor:
    """Vectors of no motion, of pictures (batch, rows, columns, 3)."""
    return torch.zeros(1, pictures.shape[1] // LATENT_STRIDE, pictures.shape[2] // LATENT_STRIDE, 2)


def drawn(files: list[Path], random: np.random.Generator, frames: int, crop: int) -> Tensor:
    """Pixels of a crop of frames that follow one another, uint8 (frames, crop, crop, 3), turned and mirrored at random.

    Raises:
        InputError: hardly a video is long and large enough.
    """
    for _ in range(DRAWS_MAX):
        clip = clip_of(files[random.integers(len(files))])
        skip = min(int(random.choice(SKIPS, p=SKIP_SHARES)), (len(clip) - 1) // (frames - 1))
        if skip and min(clip.shape[1:3]) >= crop:
            break
    else:
        raise InputError(f"no video of at least {frames} frames and {crop}x{crop} pixels was found")
    start = random.integers(len(clip) - skip * (frames - 1))
    part = clip[start : start + skip * (frames - 1) + 1 : skip][:: random.choice([-1, 1])]
    top, left = (random.integers(size - crop + 1) for size in clip.shape[1:3])
    part = part[:, top : top + crop, left : left + crop]
    part = part[:, :, :: random.choice([-1, 1])][:, :: random.choice([-1, 1])]
    return torch.from_numpy(np.ascontiguousarray(part))


def chain_cache(
    source: Path, folder: Path, *, count: int, image: str, frames: int, crop: int, seed: int
) -> RecordCache[Chain]:
    """Chains of a source, made when they are first asked for, and kept."""
    files = files_of(source, SUFFIXES, "videos")
    side, channels = crop // LATENT_STRIDE, StemConfig().latent_channels
    latent = (side, side, channels)
    kind = np.dtype(
        [
            ("quality", "i8"), ("y", "f2", (frames, *latent)), ("moved", "f2", (frames - 1, *latent)),
            ("y_hat", "f2", latent), ("symbols", "i2", latent), ("levels", "u1", latent),
            ("intra_bits", "f4", (frames,)),
        ]
    )  # fmt: skip

    def maker() -> Make[Chain]:
        make = ChainMaker(files, image, frames, crop)
        return lambda random, index: [make(random, quality_at(index, seed))]

    return RecordCache(
        Chain, kind, folder, ["between", image, frames, crop, *states_of(files)], draws=count, seed=seed,
        description="coding chains of frames", maker=maker,
    )  # fmt: skip


def states_of(files: list[Path]) -> list[tuple[str, int]]:
    """What tells files from others."""
    return [(str(path.resolve()), path.stat().st_size) for path in files]


def quality_at(index: int, seed: int) -> int:
    """Qualities that fill 0..100 evenly, however many there are."""
    return int((index * 0.6180339887 + seed * 0.37) % 1 * (QUALITY_MAX + 1))


@lru_cache(maxsize=64)
def clip_of(path: Path) -> np.ndarray:
    """All frames of a short video, uint8 (frames, height, width, 3).

    Raises:
        InputError: it cannot be read.
    """
    try:
        with av.open(str(path)) as file:
            return np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])
    except (av.FFmpegError, ValueError) as error:
        raise InputError(f"{path}: {error}") from None
