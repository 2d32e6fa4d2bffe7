"""Frames as a decoder has them before fusion: what the synthesis made of their latents, and the moved frame before.

They come from the codec itself, at work with the networks as they are: what fusion meets depends on how frames before were
coded, copied and fused.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...codecs.image.tiles import LATENT_STRIDE
from ...codecs.video.clip import RATE
from ...codecs.video.codec import VideoCodec
from ...codecs.video.fusion import activity_of
from ...codecs.video.groups import INTER, GroupEncoder, GroupPass
from ...codecs.video.header import VideoHeader
from ...codecs.video.stem import Past
from ...entropy_models.coder import Measure
from ..files import files_of
from .cache import Make, RecordCache
from .chains import SUFFIXES, drawn, quality_at, states_of

LIFTS = 25
"""Qualities that a first frame may have above the others."""


class Observation(NamedTuple):
    """A frame, or a batch of them with one more axis at the front."""

    quality: Tensor
    """Integer 0..100."""
    original: Tensor
    """uint8 (rows, columns, 3)."""
    coded: Tensor
    """What the synthesis makes of its latent, -0.5..0.5, float16."""
    moved: Tensor
    """The decoded frame before after motion, the same."""
    activity: Tensor
    """`fusion.activity_of`, float16 (rows, columns, 2)."""
    copies: Tensor
    """Blocks that are copied, uint8 (rows, columns)."""


class _Observing(GroupPass):
    """A coding pass that keeps what fusion is given for the last frame."""

    seen: Observation | None = None

    def joined(self, coded: Tensor, moved: Tensor, past: Past, copies: Tensor, quality: Tensor) -> Tensor:
        activity = activity_of(past.symbols, past.levels)
        self.seen = Observation(
            quality[0], torch.empty(0), coded[0].half(), moved[0].half(), activity[0].half(), copies[0].byte()
        )
        return super().joined(coded, moved, past, copies, quality)


class ObservationMaker:
    """Observations of crops of videos.

    Args:
        model: name of the installed model that codes them.
        frames: of a group, one more than there are observations.
        crop: side in pixels, a multiple of 16.
    """

    def __init__(self, files: list[Path], model: str, frames: int, crop: int) -> None:
        self.files, self.frames, self.crop = files, frames, crop
        self.codec = VideoCodec.load(model=model, device="cpu")

    def __call__(self, random: np.random.Generator, quality: int) -> list[Observation]:
        """Of a group whose first frame is up to `LIFTS` above the others.

        Raises:
            InputError: hardly a video is long and large enough.
        """
        pixels = drawn(self.files, random, self.frames, self.crop)
        header = VideoHeader(
            width=self.crop,
            height=self.crop,
            frames=self.frames,
            quality=quality,
            rate=RATE,
            lifts=(int(random.integers(LIFTS)), 0),
        )
        encoder = GroupEncoder(self.codec.image, self.codec.stem, self.codec.tables, header, _Observing)
        measure, found = Measure(self.codec.tables), []
        for frame in pixels:
            if encoder.code(measure, frame.numpy())[0].kind == INTER:
                assert isinstance(encoder.group, _Observing) and encoder.group.seen is not None
                found.append(encoder.group.seen._replace(original=frame))
        return found or self(random, quality)


def observation_cache(
    source: Path, folder: Path, *, count: int, model: str, frames: int, crop: int, seed: int
) -> RecordCache[Observation]:
    """Observations of a source, made when they are first asked for, and kept."""
    files = files_of(source, SUFFIXES, "videos")
    side = crop // LATENT_STRIDE
    kind = np.dtype(
        [
            ("quality", "i8"), ("original", "u1", (crop, crop, 3)), ("coded", "f2", (crop, crop, 3)),
            ("moved", "f2", (crop, crop, 3)), ("activity", "f2", (side, side, 2)), ("copies", "u1", (side, side)),
        ]
    )  # fmt: skip

    def maker() -> Make[Observation]:
        make = ObservationMaker(files, model, frames, crop)

        def drawn_at(random: np.random.Generator, index: int) -> list[Observation]:
            found = make(random, quality_at(index, seed))
            return [found[i % len(found)] for i in range(frames - 1)]

        return drawn_at

    return RecordCache(
        Observation, kind, folder, ["fusion", model, frames, crop, *states_of(files)], draws=-(-count // (frames - 1)),
        each=frames - 1, seed=seed, description="coding frames", maker=maker,
    )  # fmt: skip
