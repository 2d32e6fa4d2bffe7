"""A drawn layer: pixels of a tile or a picture that are stored as they are, in lossless WebP, where that is cheaper than
latents.

Text, diagrams and flat areas cost a transform codec many bits and come back unsharp; a lossless format repeats them for
almost nothing. The layer covers some blocks of 16 x 16 pixels. Its alpha says which: 255 drawn, 0 learned. Latents stand for
the rest; an encoder may give them something smooth in place of what is drawn (`filled`).
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ...entropy_models.errors import BitstreamError, Corrupt, Truncated

BLOCK = 16
"""Side of a block in pixels: of a latent position."""
_HEAD = struct.Struct("<II")
_FAST, _BEST = [(80, 4)], [(100, 4), (100, 5), (80, 6)]
"""Qualities and methods of Pillow's WebP writer: to choose by, and to write, of which none is always the smallest. What more
effort takes off, 100 and 6, is nothing on average, for four times the time."""


@dataclass(frozen=True, slots=True)
class Layer:
    """What is drawn."""

    pixels: np.ndarray
    """uint8 or uint16 (height, width, 3); zeros where nothing is."""
    mask: np.ndarray
    """Where it is, bool (height, width)."""

    @property
    def whole(self) -> bool:
        """Whether all is drawn."""
        return bool(self.mask.all())

    def over(self, shown: np.ndarray) -> np.ndarray:
        """Pixels (height, width, 1 or 3) with what is drawn in its place; of three equal channels, one."""
        return np.where(self.mask[..., None], self.pixels[..., : shown.shape[-1]], shown)

    def part(self, rows: slice, columns: slice) -> Layer:
        return Layer(self.pixels[rows, columns], self.mask[rows, columns])

    def chunk(self, file: bytes, header: bytes) -> bytes:
        """Length of its WebP file, CRC-32 of pixels and mask, started with the signal header's, and the file."""
        return _HEAD.pack(len(file), self._check(header)) + file

    def file(self) -> bytes:
        """A lossless WebP, as small as can be."""
        count = self.pixels.itemsize
        shares = [(self.pixels >> 8 * place & 255).astype(np.uint8) for place in range(count)]
        return webp(np.concatenate(shares), np.concatenate([self.mask] * count), best=True)

    def _check(self, header: bytes) -> int:
        pixels = self.pixels.astype(self.pixels.dtype.newbyteorder("<"))
        return zlib.crc32(np.packbits(self.mask).tobytes(), zlib.crc32(pixels.tobytes(), zlib.crc32(header)))


def read(chunk: bytes, header: bytes, height: int, width: int, depth: int = 8) -> tuple[Layer | None, bytes]:
    """The layer at the beginning of a chunk, None if it has none, and the rest of the chunk.

    Args:
        depth: bits of a channel, 8 or 16.

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
    rgba = _shown(body, depth // 8 * height, width)
    masks = (rgba[..., 3] > 0).reshape(-1, height, width)
    if (masks != masks[0]).any():
        raise Corrupt("low and high bytes of a drawn layer that lie in different places")
    shares = rgba[..., :3].reshape(-1, height, width, 3)
    pixels = np.zeros((height, width, 3), f"uint{depth}")
    for place, share in enumerate(shares):
        pixels |= share.astype(pixels.dtype) << 8 * place
    layer = Layer(np.where(masks[0][..., None], pixels, pixels.dtype.type(0)), masks[0])
    if layer._check(header) != check:
        raise Corrupt("the drawn layer does not match its checksum")
    return layer, rest


def _shown(body: bytes, height: int, width: int) -> np.ndarray:
    """Colours and alpha of a WebP file of the size, or of one that is enlarged to it; uint8 (height, width, 4)."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(body), formats=["WEBP"])
        times = _times(image.height, image.width, height, width)
        if not times or getattr(image, "n_frames", 1) > 1:
            raise Corrupt(f"a drawn layer of {image.size}; it should have {width}x{height}")
        return np.asarray(image.convert("RGBA"))[np.arange(height) // times][:, np.arange(width) // times]
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise error if isinstance(error, BitstreamError) else Corrupt(f"drawn layer: {error}") from None


NONE = _HEAD.pack(0, 0)
"""Beginning of the chunk of a tile without a layer, in a picture that has some."""


def webp(pixels: np.ndarray, mask: np.ndarray, *, best: bool = False) -> bytes:
    """A lossless WebP of the pixels inside the mask, made in little time, or as small as can be.

    Of an enlarged drawing, as pixel art is, it has each dot once.
    """
    alpha = mask.astype(np.uint8)[..., None] * np.uint8(255)
    rgba = pixels if mask.all() else np.concatenate([pixels, alpha], axis=-1)
    times = _enlarged_by(rgba)
    image, files = Image.fromarray(rgba[::times, ::times]), list[bytes]()
    for quality, method in _BEST if best else _FAST:
        image.save(buffer := io.BytesIO(), "WEBP", lossless=True, exact=False, quality=quality, method=method)
        files.append(buffer.getvalue())
    return min(files, key=len)


def _enlarged_by(pixels: np.ndarray) -> int:
    """The largest number of which all squares of so many pixels a side, from the upper left corner on, have one colour."""
    height, width = pixels.shape[:2]
    rows = np.flatnonzero((pixels[1:] != pixels[:-1]).any((1, 2)))
    columns = np.flatnonzero((pixels[:, 1:] != pixels[:, :-1]).any((0, 2)))
    times = int(np.gcd.reduce(np.concatenate([rows, columns]) + 1)) or max(height, width)
    return times if times == _times(-(-height // times), -(-width // times), height, width) else 1


def _times(height: int, width: int, shown_height: int, shown_width: int) -> int:
    """How many times a drawing of this height and width is enlarged where it fills those; 0: it is of no such size."""
    times = max(-(-shown_height // height), -(-shown_width // width))
    return times if (-(-shown_height // times), -(-shown_width // times)) == (height, width) else 0


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
