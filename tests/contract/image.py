"""Cases of the image codec."""

from __future__ import annotations

from functools import cache, partial

import numpy as np
from contract.subject import Cases, Golden, Network, Variant
from PIL import Image
from rdcodec.codecs.image.codec import ImageCodec
from rdcodec.codecs.image.demo import sample_photograph
from rdcodec.codecs.image.pictures import Picture, as_picture
from rdcodec.codecs.weights import manifest
from s2lic_case import tiny_s2lic
from scenes import make_scene


@cache
def photograph() -> np.ndarray:
    """A real photograph, uint8 (600, 512, 3)."""
    return np.asarray(Image.open(sample_photograph()).convert("RGB"))


def crops() -> list[np.ndarray]:
    """A dozen pictures of 120x136: photographs, drawings, an inverted one and a turned one."""
    parts = [photograph()[y : y + 120, x : x + 136] for y in (0, 150, 300, 450) for x in (0, 200)]
    return [*parts, make_scene(120, 136), make_scene(120, 136, seed=3), 255 - parts[1], parts[2][::-1, ::-1]]


def drawn(height: int, width: int, channels: int = 3) -> Picture:
    return as_picture(make_scene(height, width, channels))


def with_metadata() -> Picture:
    pixels = make_scene(9, 11)
    return Picture(pixels, pixels[..., 0].copy(), icc=b"profile", exif=b"exif", xmp=b"<x/>")


def same(a: Picture | np.ndarray, b: Picture | np.ndarray) -> bool:
    a, b = as_picture(a), as_picture(b)
    plain = (a.alpha is None) == (b.alpha is None) and (a.icc, a.exif, a.xmp) == (b.icc, b.exif, b.xmp)
    return plain and np.array_equal(array(a), array(b)) and array(a).dtype == array(b).dtype


def array(picture: Picture | np.ndarray) -> np.ndarray:
    return picture.array() if isinstance(picture, Picture) else picture


def golden_scene(kind: str) -> np.ndarray:
    """Integer arithmetic only: the same on every machine. Some are wider than a tile, ``sliver`` by less than a position of
    latents."""
    width = {"tiles": 1060, "together": 1060, "sliver": 1030}.get(kind)
    y, x = np.mgrid[:12, :width] if width else np.mgrid[:61, :83]
    planes = [(x * 5 + y * 3 + 90 * (x > y)) % 256, (x * y // 7) % 256, 255 - 3 * y, 4 * ((x // 8 + y // 8) % 2) * 63]
    image = np.stack(planes, -1).clip(0, 255).astype(np.uint8)
    squares = np.repeat(255 * ((x // 8 + y // 8) % 2)[..., None], 3, 2).astype(np.uint8)
    if kind == "drawn":
        return np.where(x[..., None] < 48, squares, image[..., :3])
    if kind == "together":
        return np.where((x % 29 > 9)[..., None], squares, image[..., :3] // 64 * 64)
    if kind == "deep":
        return np.where(x[..., None] < 48, np.uint16([65535, 257, 1234]), image[..., :3] * np.uint16(257) + np.uint16(5))
    if kind == "sketch":
        noise = (x * 7919 + y * 104729) * 2654435761 // 8192 % 9
        letters = ((x // 3 * 5 + y // 4 * 3) % 7 < 2) & (y % 16 < 10) & (x > 6)
        return np.repeat((np.where(letters, 30, 240) + noise)[..., None], 3, 2).astype(np.uint8)
    kinds = {
        "rgb": image[..., :3],
        "grey": image[..., 0],
        "alpha": image,
        "alpha-webp": image,
        "corrected": squares,
        "enlarged": squares,
        "tiles": image[..., :3],
        "sliver": image[..., :3],
    }
    return kinds[kind]


def near(found: np.ndarray, expected: np.ndarray) -> bool:
    """The pixel path is float: a grey level here and there, of 16 bits a quarter of one; symbols are exact."""
    off = np.abs(found.astype(int) - expected)
    return off.max() <= 64 if found.dtype == np.uint16 else off.max() <= 1 and (off > 0).mean() < 0.01


def undivided(name: str) -> ImageCodec:
    """An encoder that draws nothing: these pictures are drawings, and the streams hold their latents."""
    return ImageCodec.load(model=name, device="cpu").without_layers()


def refined() -> ImageCodec:
    return ImageCodec.load(device="cpu").with_effort(2)


SIZES = {"1x1": (1, 1), "1x9": (1, 9, 1), "17x1": (17, 1, 4), "16x16": (16, 16), "33x50": (33, 50, 1), "65x130": (65, 130)}
SIZES["two tiles"] = (9, 1031)
IMAGE = Cases(
    stream_id=1,
    variants={
        "image": Variant(load=partial(ImageCodec.load, device="cpu"), qualities=(0, 20, 50, 80, 100)),
        "refined": Variant(load=refined, qualities=(10, 60)),
        "s2lic": Variant(load=tiny_s2lic, qualities=(0, 50, 100), shipped=False),
    },
    signals={name: partial(drawn, *size) for name, size in SIZES.items()} | {"9x11 with metadata": with_metadata},
    small=with_metadata,
    large=photograph,
    same=same,
    array=array,
    golden={
        f"{name}-{kind}": Golden(
            load=partial(undivided, name),
            signal=partial(golden_scene, kind),
            quality=40,
            near=near,
            written=kind != "alpha",
        )
        for name, line in manifest().items()
        if line.codec == "image"
        for kind in ("rgb", "grey", "alpha", "alpha-webp", "corrected", "tiles", "sliver")
    }
    | {
        f"{name}-{kind}": Golden(
            load=partial(ImageCodec.load, model=name, device="cpu"),
            signal=partial(golden_scene, kind),
            quality=40,
            near=near,
        )
        for name, line in manifest().items()
        if line.codec == "image"
        for kind in ("drawn", "deep", "enlarged", "together", "sketch")
    },
    network=Network(
        module=lambda codec: codec.network,
        level_layer=lambda codec: codec.network.level_context.level[0],
        signals=crops,
        qualities=(5, 50, 95),
    ),
)
