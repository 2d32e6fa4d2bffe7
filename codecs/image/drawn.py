"""A drawn layer: pixels of a tile or a picture that are stored as they are, in lossless WebP, where that is cheaper than
latents.

Text, diagrams and flat areas cost a transform codec many bits and come back unsharp; a lossless format repeats them for
almost nothing. The layer covers some blocks of 16 x 16 pixels. Its alpha says which: 255 drawn, 0 learned. Latents stand for
the rest, or a sketch; an encoder may give them something smooth in place of what is drawn (`filled`).
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ...entropy_models.errors import Corrupt, Truncated

WEBP_SIDE_MAX = 16383
BLOCK = 16
"""Side of a block in pixels: of a latent position."""
HEAD = struct.Struct("<II")
"""Of what a chunk begins with: bytes of a file, and a checksum."""
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
        """Pixels (height, width, 1 or 3) with what is drawn in its place; of grey, red."""
        return np.where(self.mask[..., None], self.pixels[..., : shown.shape[-1]], shown)

    def part(self, rows: slice, columns: slice) -> Layer:
        return Layer(self.pixels[rows, columns], self.mask[rows, columns])

    def chunk(self, file: bytes, header: bytes) -> bytes:
        """Length of its WebP file, CRC-32 of pixels and mask, started with the signal header's, and the file."""
        return HEAD.pack(len(file), self._check(header)) + file

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
    body, check, rest = cut(chunk, "a drawn layer")
    if not body:
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


def cut(chunk: bytes, what: str) -> tuple[bytes, int, bytes]:
    """The file that a chunk begins with, its checksum, and the rest of the chunk. Empty, if it has none.

    Raises:
        BitstreamError: the chunk is shorter than that.
    """
    if len(chunk) < HEAD.size:
        raise Truncated(f"a tile of {len(chunk)} bytes; the head of {what} alone has {HEAD.size}")
    length, check = HEAD.unpack_from(chunk)
    body, rest = chunk[HEAD.size : HEAD.size + length], chunk[HEAD.size + length :]
    if len(body) < length:
        raise Truncated(f"{what} of {length} bytes in a chunk of {len(chunk)}")
    if not length and check:
        raise Corrupt(f"{what} without bytes that has a checksum")
    return body, check, rest


def opened_webp(body: bytes, what: str, pixels_max: int) -> Image.Image:
    """A WebP file, of whose pixels nothing is decoded yet.

    Raises:
        BitstreamError: it is none, or one that moves, or has more pixels.
    """
    if (pixels := _pixels_of(body)) > pixels_max:  # Pillow gets memory for all of them when it opens a file
        raise Corrupt(f"{what} of {pixels} pixels; it should have {pixels_max} at most")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(body), formats=["WEBP"])
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise Corrupt(f"{what}: {error}") from None
    if getattr(image, "n_frames", 1) > 1:
        raise Corrupt(f"{what} of {image.size} that moves; it should have one picture")
    return image


def colours(image: Image.Image, mode: str, what: str) -> np.ndarray:
    """Pixels of an opened file in one of Pillow's modes, uint8 (height, width, channels).

    Raises:
        BitstreamError: it is damaged.
    """
    try:
        return np.asarray(image.convert(mode))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise Corrupt(f"{what}: {error}") from None


def _pixels_of(body: bytes) -> int:
    """Pixels of a WebP file, as its first chunk tells; 0 where it is none that is known."""
    kind, head = body[12:16], body[20:30].ljust(10, b"\0")
    if kind == b"VP8L":
        sides = int.from_bytes(head[1:5], "little")
        return ((sides & 0x3FFF) + 1) * ((sides >> 14 & 0x3FFF) + 1)
    if kind == b"VP8X":
        return (int.from_bytes(head[4:7], "little") + 1) * (int.from_bytes(head[7:10], "little") + 1)
    sides = int.from_bytes(head[6:10], "little")
    return (sides & 0x3FFF) * (sides >> 16 & 0x3FFF) if kind == b"VP8 " else 0


def _shown(body: bytes, height: int, width: int) -> np.ndarray:
    """Colours and alpha of a WebP file of the size, or of one that is enlarged to it; uint8 (height, width, 4)."""
    image = opened_webp(body, "a drawn layer", height * width)
    times = _times(image.height, image.width, height, width)
    if not times:
        raise Corrupt(f"a drawn layer of {image.size}; it should have {width}x{height}")
    return colours(image, "RGBA", "a drawn layer")[np.arange(height) // times][:, np.arange(width) // times]


NONE = HEAD.pack(0, 0)
"""Where a tile has none, in a picture of which some have."""


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


def blocks(plane: np.ndarray, of: np.ufunc = np.add) -> np.ndarray:
    """Sums over blocks of 16 x 16 pixels, or what another function makes of them; the last ones may be smaller."""
    rows, columns = (list(range(0, size, BLOCK)) for size in plane.shape[:2])
    found: np.ndarray = of.reduceat(of.reduceat(plane, rows, axis=0), columns, axis=1)
    return found


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
