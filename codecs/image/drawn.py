"""The drawn layer of a tile: pixels that are stored as they are, in lossless WebP, where that is cheaper than latents.

Text, diagrams and flat areas cost a transform codec many bits and come back unsharp; a lossless format repeats them for
almost nothing. The layer covers some of a tile's blocks of 16 x 16 pixels. Its alpha says which: 255 drawn, 0 learned. The
latent of a tile stands for the rest, and has seen a smooth filling in place of what is drawn (`filled`).
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ...entropy_models.errors import BitstreamError, Corrupt, Truncated

BLOCK = 16
"""Side of a block in pixels: of a latent position."""
_HEAD = struct.Struct("<II")
_FAST, _BEST = {"quality": 50, "method": 2}, {"quality": 100, "method": 6}
"""Efforts of Pillow's WebP writer: to choose by, and to write."""


@dataclass(frozen=True, slots=True)
class Layer:
    """What is drawn of a tile."""

    pixels: np.ndarray
    """uint8 (height, width, 3); zeros where nothing is."""
    mask: np.ndarray
    """Where it is, bool (height, width)."""

    @property
    def whole(self) -> bool:
        """Whether all of the tile is drawn, so that it has no latent."""
        return bool(self.mask.all())

    def over(self, shown: np.ndarray) -> np.ndarray:
        """Pixels of the tile (height, width, 1 or 3) with what is drawn in its place; of three equal channels, one."""
        return np.where(self.mask[..., None], self.pixels[..., : shown.shape[-1]], shown)

    def part(self, rows: slice, columns: slice) -> Layer:
        return Layer(self.pixels[rows, columns], self.mask[rows, columns])

    def write(self, header: bytes) -> bytes:
        """Length of the WebP file, CRC-32 of pixels and mask, started with the signal header's, and the file."""
        body = webp(self.pixels, self.mask, best=True)
        return _HEAD.pack(len(body), self._check(header)) + body

    def _check(self, header: bytes) -> int:
        return zlib.crc32(np.packbits(self.mask).tobytes(), zlib.crc32(self.pixels.tobytes(), zlib.crc32(header)))


def read(chunk: bytes, header: bytes, height: int, width: int) -> tuple[Layer | None, bytes]:
    """The layer at the beginning of a tile's chunk, None if it has none, and the rest of the chunk.

    Raises:
        BitstreamError: it is damaged, or of another size.
    """
    if len(chunk) < _HEAD.size:
        raise Truncated(f"a tile of {len(chunk)} bytes; its drawn layer's head alone has {_HEAD.size}")
    length, check = _HEAD.unpack_from(chunk)
    body, rest = chunk[_HEAD.size : _HEAD.size + length], chunk[_HEAD.size + length :]
    if len(body) < length:
        raise Truncated(f"a drawn layer of {length} bytes in a chunk of {len(chunk)}")
    if not length:
        if check:
            raise Corrupt("a drawn layer without bytes that has a checksum")
        return None, rest
    try:
        with Image.open(io.BytesIO(body), formats=["WEBP"]) as image:
            if image.size != (width, height) or getattr(image, "n_frames", 1) > 1:
                raise Corrupt(f"a drawn layer of {image.size}, the tile has {width}x{height}")
            rgba = np.asarray(image.convert("RGBA"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise error if isinstance(error, BitstreamError) else Corrupt(f"drawn layer: {error}") from None
    mask = rgba[..., 3] > 0
    layer = Layer(np.where(mask[..., None], rgba[..., :3], np.uint8(0)), mask)
    if layer._check(header) != check:
        raise Corrupt("the drawn layer does not match its checksum")
    return layer, rest


NONE = _HEAD.pack(0, 0)
"""Beginning of the chunk of a tile without a layer, in a picture that has some."""


def webp(pixels: np.ndarray, mask: np.ndarray, *, best: bool = False) -> bytes:
    """A lossless WebP of the pixels inside the mask, made in little time, or as small as can be."""
    buffer = io.BytesIO()
    alpha = mask.astype(np.uint8)[..., None] * np.uint8(255)
    image = Image.fromarray(pixels if mask.all() else np.concatenate([pixels, alpha], axis=-1))
    image.save(buffer, "WEBP", lossless=True, exact=False, **(_BEST if best else _FAST))
    return buffer.getvalue()


def filled(pixels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Pixels with something smooth where the mask is: means of what lies around, from coarse to fine. uint8."""
    known = (~mask).astype(np.float32)[..., None]
    levels = [(pixels * known, known)]
    while max(levels[-1][1].shape[:2]) > 1:
        levels.append(tuple(_halved(part) for part in levels[-1]))  # type: ignore[arg-type]
    coarse = np.full((1, 1, pixels.shape[-1]), 128, np.float32)
    for total, weight in reversed(levels):
        height, width = weight.shape[:2]
        coarse = coarse.repeat(2, 0).repeat(2, 1)[:height, :width] if coarse.shape[:2] != (height, width) else coarse
        coarse = np.where(weight > 0, total / np.maximum(weight, 1e-9), coarse)
    return np.where(mask[..., None], np.rint(coarse).clip(0, 255).astype(np.uint8), pixels)


def _halved(plane: np.ndarray) -> np.ndarray:
    """Sums of 2 x 2 entries."""
    plane = np.pad(plane, [(0, plane.shape[0] % 2), (0, plane.shape[1] % 2), (0, 0)])
    return plane[::2, ::2] + plane[1::2, ::2] + plane[::2, 1::2] + plane[1::2, 1::2]
