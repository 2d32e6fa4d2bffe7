"""What an image's .rdc file holds beyond the container (`rdcodec.codecs.container`). No torch here.

Signal header (little-endian, 12 bytes)::

    offset  size  field
    0       4     width in pixels, 1..2^20
    4       4     height in pixels, 1..2^20; width * height at most 2^27
    8       1     quality, 0..100
    9       1     channels: 1 grey, 3 RGB (sRGB unless an ICC profile says otherwise)
    10      1     flags: 1 = an alpha chunk follows the tiles; 2 = something is drawn; 4 = in one layer of all tiles;
                    8 = some tiles are sketches
    11      1     bits per channel, 8 or 16: the pixels' range; latents and symbols know none

Chunks: one of kind 0 per tile (`tiles.TileGrid`, row by row): the CRC-32 of its symbols, started with the CRC-32 of
the signal header (4 bytes), then the entropy-coded symbols of `ImageNetwork.coding_pass` and, if the weights hold
corrections, of `Correction.code`.

With flag 2 a tile begins with a drawn layer (`drawn`): the length L of its WebP file (4 bytes), the CRC-32 of its pixels
and mask, started with that of the signal header (4), and the lossless file, whose alpha is the mask (L); zeros, where the
tile has none. Symbols follow; a tile all of which is drawn may have none, and its latent is zeros for its neighbours. With
flags 2 and 4, which pictures of up to 2^23 pixels may have, a chunk of kind 3 after the tiles is one layer of the whole
picture instead.

The CRC is of RGB with zeros where nothing is drawn, then of the mask, a bit a pixel. Of 16 bits the file has the low bytes,
and below them the high ones: twice the height. A file of r x c pixels that is smaller than these R x C is enlarged n times
both ways, and what is more is cut off: n is the larger of R / r and C / c, rounded up, and r and c must be R / n and C / n,
rounded up.

With flag 8, of 8 bits, there follows before the symbols a sketch (`sketch`): the length L of its WebP file (4 bytes), the
CRC-32 of the file, started with that of the signal header (4), and the lossy file (L), over which the layer is drawn; zeros,
where the tile has none. It has the tile's size; colours are libwebp's, with chroma that it upsamples smoothly ("fancy"), of
grey pictures red. Of symbols there may be none then, as where all is drawn.

Then, if flagged, one of kind 2: the CRC-32 of the alpha plane (4 bytes) and the plane as a grey PNG of as many bits, or of 8
bits and at most 2^23 pixels as a WebP, in red. Then any of kind 1: a 4-byte tag and its bytes (``ICCP`` an ICC profile,
``EXIF``, ``XMP_``, ``IPTC`` IPTC-IIM records, ``TEXT`` a JSON object of names and texts in UTF-8). A tag in small letters
has its bytes deflated (zlib), of `INFLATED_MAX` at most.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from ...entropy_models.errors import Corrupt, InputError, Unsupported
from .. import container
from ..rate_control import checked_quality
from .tiles import Box, TileGrid, area, clip

STREAM_ID = 1
QUALITY = 60
"""Where none is asked for."""
ALPHA, LAYER = 2, 3
"""Kinds of chunks."""
TAGS = {b"ICCP": "icc", b"EXIF": "exif", b"XMP_": "xmp", b"IPTC": "iptc", b"TEXT": "texts"}
INFLATED_MAX = 1 << 26
"""Bytes of metadata that was deflated."""
DEPTHS = 8, 16
SIDE_MAX = 1 << 20
PIXELS_MAX = 1 << 27
TOGETHER_MAX = 1 << 23
"""Pixels of a picture whose tiles have one drawn layer together, or whose alpha is a WebP: it is in memory as a whole."""
_SIGNAL = struct.Struct("<IIBBBB")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageHeader:
    """The signal header. Raises Corrupt on a value out of range."""

    width: int
    height: int
    quality: int
    channels: int
    alpha: bool
    depth: int = 8
    """Bits per channel."""
    layers: bool = False
    """Whether something is drawn: each tile begins with a layer, or none."""
    together: bool = False
    """Whether it is one layer of the whole picture, in a chunk of its own."""
    sketches: bool = False
    """Whether tiles have sketches, or none, before their symbols."""

    def __post_init__(self) -> None:
        if not (1 <= self.width <= SIDE_MAX and 1 <= self.height <= SIDE_MAX):
            raise Corrupt(f"size {self.width}x{self.height}; each side must be 1..{SIDE_MAX}")
        if self.width * self.height > PIXELS_MAX:
            raise Corrupt(f"size {self.width}x{self.height} is more than {PIXELS_MAX} pixels")
        if self.together and not (self.layers and self.width * self.height <= TOGETHER_MAX):
            raise Corrupt(
                f"one drawn layer of {self.width}x{self.height} pixels, layers={self.layers}; at most {TOGETHER_MAX}"
            )
        if self.sketches and self.depth != 8:
            raise Corrupt(f"sketches of {self.depth} bits a channel; they have 8")
        if self.quality > 100 or self.channels not in (1, 3):
            raise Corrupt(f"quality {self.quality}, {self.channels} channels; need 0..100 and 1 or 3")

    def pack(self) -> bytes:
        flags = self.alpha | 2 * self.layers | 4 * self.together | 8 * self.sketches
        return _SIGNAL.pack(self.width, self.height, self.quality, self.channels, flags, self.depth)

    @classmethod
    def unpack(cls, signal: bytes) -> ImageHeader:
        if len(signal) != _SIGNAL.size:
            raise Corrupt(f"an image's signal header has {_SIGNAL.size} bytes, this one {len(signal)}")
        width, height, quality, channels, flags, depth = _SIGNAL.unpack(signal)
        if flags > 15 or depth not in DEPTHS:
            raise Unsupported(
                f"flags {flags:#x}, {depth} bits per channel; this program knows flags 1, 2, 4 and 8, and 8 and 16 bits"
            )
        fields = {"width": width, "height": height, "quality": quality, "channels": channels, "depth": depth}
        alpha, layers, together, sketches = (bool(flags & flag) for flag in (1, 2, 4, 8))
        return cls(**fields, alpha=alpha, layers=layers, together=together, sketches=sketches)

    @property
    def grid(self) -> TileGrid:
        return TileGrid(self.height, self.width)

    def tile_name(self, index: int) -> str:
        """A tile for people, counted from 0 as the chunks are: tile i is chunk i."""
        return f"tile {index} (of 0..{len(self.grid) - 1})"


def header_of(shape: tuple[int, ...], *, alpha: bool, quality: int | None, depth: int = 8) -> ImageHeader:
    """The signal header of pixels of a shape (height, width, channels) and a depth, at a quality; None: `QUALITY`.

    Raises:
        ValueError: there are too many pixels, or that is no quality.
    """
    quality = checked_quality(quality, QUALITY)
    height, width, channels = shape
    if max(height, width) > SIDE_MAX or height * width > PIXELS_MAX:
        raise InputError(f"{width}x{height} pixels; at most {PIXELS_MAX} in all and {SIDE_MAX} a side")
    return ImageHeader(width=width, height=height, quality=quality, channels=channels, alpha=alpha, depth=depth)


def parse(data: bytes | memoryview | container.Stream, *, salvage: bool = False) -> tuple[container.Stream, ImageHeader]:
    """Container, header, and the checks that tie them together; nothing is decoded."""
    stream = container.parse(data, salvage=salvage)
    if stream.stream_id != STREAM_ID:
        raise Unsupported(f"stream id {stream.stream_id}, the image codec is {STREAM_ID}")
    header = ImageHeader.unpack(stream.signal)
    kinds = [entry.kind for entry in stream.entries]
    expected = [container.DATA] * len(header.grid) + [LAYER] * header.together + [ALPHA] * header.alpha
    rest = kinds[len(expected) :]
    if kinds[: len(expected)] != expected or set(rest) - {container.METADATA} or len(rest) > len(TAGS):
        raise Corrupt(f"{len(kinds)} chunks do not fit {header.width}x{header.height} pixels with alpha={header.alpha}")
    return stream, header


def checked_crop(crop: Box | None, header: ImageHeader) -> Box:
    """The crop, or the whole image.

    Raises:
        ValueError: it is empty or leaves the image.
    """
    whole = (0, 0, header.height, header.width)
    if crop is None:
        return whole
    if area(crop) <= 0 or crop[2] <= crop[0] or clip(crop, whole) != crop:
        top, left, bottom, right = crop
        size = f"{right - left}x{bottom - top} at ({left}, {top})"
        raise InputError(f"crop {size} does not lie in the image of {header.width}x{header.height}")
    return crop
