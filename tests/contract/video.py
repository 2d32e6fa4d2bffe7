"""Cases of the video codec."""

from __future__ import annotations

from fractions import Fraction
from functools import cache, partial

import numpy as np
from clips import drawn_clip, golden_clip
from contract.subject import Cases, Golden, Network, Variant
from rdcodec.codecs.video.clip import Clip
from rdcodec.codecs.video.codec import VideoCodec
from rdcodec.codecs.weights import manifest
from torch import nn


class ShortGroups(VideoCodec):
    """The codec with groups of three frames, so that small clips have several."""

    def encode(self, signal, *, group=3, **options):
        return super().encode(signal, group=group, **options)

    def estimate(self, signal, *, group=3, **options):
        return super().estimate(signal, group=group, **options)

    def measurer(self, signal, *, group=3, **options):
        return super().measurer(signal, group=group, **options)


class Pyramids(VideoCodec):
    """The codec with groups of five frames in pyramids, whatever they hold."""

    def encode(self, signal, *, group=5, low_delay=False, **options):
        return super().encode(signal, group=group, low_delay=low_delay, **options)

    def estimate(self, signal, *, group=5, low_delay=False, **options):
        return super().estimate(signal, group=group, low_delay=low_delay, **options)

    def measurer(self, signal, *, group=5, low_delay=False, **options):
        return super().measurer(signal, group=group, low_delay=low_delay, **options)


def with_extras() -> Clip:
    """Two groups of frames, with tags and times."""
    return Clip(
        frames=drawn_clip(4, 17, 33), rate=Fraction(30000, 1001), extras={b"TAGS": b"title", b"TIME": b"\x01\x02"},
        source=b"source",
    )  # fmt: skip


def of_size(frames: int, height: int, width: int) -> Clip:
    return Clip(frames=drawn_clip(frames, height, width))


def with_cut() -> Clip:
    """Frames that repeat, and a cut to another scene."""
    frames = drawn_clip(5, 48, 64)
    frames[1] = frames[0]
    frames[3:] = 255 - frames[3:, ::-1]
    return Clip(frames=frames)


@cache
def large() -> Clip:
    """With grain, so that there is something to tell."""
    grain = np.random.default_rng(0).integers(-8, 9, (5, 240, 320, 1))
    return Clip(frames=(drawn_clip(5, 240, 320) + grain).clip(0, 255).astype(np.uint8))


def some() -> list[Clip]:
    """A dozen clips: slow, fast, turned, dark, noisy ones."""
    clips = [drawn_clip(3, 48, 64, seed=seed, speed=speed) for seed in range(3) for speed in (1, 2, 7)]
    noise = np.random.default_rng(0).integers(0, 256, (2, 48, 64, 3)).astype(np.uint8)
    return [Clip(frames=frames) for frames in [*clips, noise, clips[1] // 8, clips[2][:, ::-1].copy()]]


def same(a: Clip | np.ndarray, b: Clip | np.ndarray) -> bool:
    return np.array_equal(a.frames, b.frames) and (a.rate, a.source) == (b.rate, b.source) and a.extras == b.extras


def near(found: np.ndarray, expected: np.ndarray) -> bool:
    """The pixel path is float: a grey level here and there; symbols are exact."""
    off = np.abs(found.astype(int) - expected)
    return off.max() <= 1 and (off > 0).mean() < 0.01


load = partial(ShortGroups.load, device="cpu")
SIZES = {"one 1x1 frame": (1, 1, 1), "2 of 1x9": (2, 1, 9), "3 of 17x16": (3, 17, 16), "4 of 65x130": (4, 65, 130)}
VIDEO = Cases(
    stream_id=3,
    variants={
        "video": Variant(load=load, qualities=(0, 50, 100)),
        "video pyramids": Variant(load=partial(Pyramids.load, device="cpu"), qualities=(30, 100)),
    },
    signals={name: partial(of_size, *size) for name, size in SIZES.items()}
    | {"with extras": with_extras, "with a cut": with_cut},
    small=with_extras,
    large=large,
    same=same,
    array=Clip.array,
    golden={
        f"{name}-{kind}": Golden(
            load=partial(codec.load, model=name, device="cpu"),
            signal=partial(golden_clip, kind.removeprefix("pyramid-")),
            quality=40,
            near=near,
        )
        for name, line in manifest().items()
        if line.codec == "video"
        for kind, codec in (("pan", ShortGroups), ("cut", ShortGroups), ("pyramid-pan", Pyramids), ("pyramid-cut", Pyramids))
    },
    network=Network(
        module=lambda codec: nn.ModuleList([codec.image, codec.stem]),
        level_layer=lambda codec: codec.image.level_context.level[0],
        signals=some,
        qualities=(5, 50, 95),
    ),
)
