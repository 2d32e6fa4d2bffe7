"""What is drawn of a picture's tiles, as their chunks begin: each tile's own file, or one of all in the first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .drawn import NONE, Layer
from .header import TOGETHER_MAX, ImageHeader
from .tiles import inner

TOGETHER_GAIN = 0.99
"""Share of the bytes of tiles' own files that one of all may have: with own files, damage and crops stay within tiles."""


@dataclass(frozen=True, slots=True)
class Layers:
    """What is drawn of a picture."""

    tiles: dict[int, Layer]
    """Of each tile that has something."""
    files: dict[int, tuple[Layer, bytes]]
    """Layers as they are stored, and their WebP files, by the tile whose chunk begins with them."""
    together: bool
    """Whether it is one file, in the first tile's chunk."""

    def whole(self, index: int) -> bool:
        """Whether all of a tile is drawn."""
        return index in self.tiles and self.tiles[index].whole

    def beginning(self, index: int, header: bytes) -> bytes:
        """What a tile's chunk begins with."""
        if index in self.files:
            layer, file = self.files[index]
            return layer.head(file, header) + file
        return NONE if self.tiles and not self.together else b""

    def over(self, index: int, shown: np.ndarray) -> np.ndarray:
        """A tile's pixels with what is drawn in its place."""
        return self.tiles[index].over(shown) if index in self.tiles else shown


def layers_of(tiles: dict[int, Layer], header: ImageHeader) -> Layers:
    """The tiles' layers, in the files that take fewer bytes."""
    files = {index: (layer, layer.file()) for index, layer in tiles.items()}
    if len(tiles) > 1 and header.width * header.height <= TOGETHER_MAX:
        layer = _joined(tiles, header)
        if len(file := layer.file()) < TOGETHER_GAIN * sum(len(own) for _, own in files.values()):
            return Layers(tiles, {0: (layer, file)}, together=True)
    return Layers(tiles, files, together=False)


def _joined(tiles: dict[int, Layer], header: ImageHeader) -> Layer:
    whole = (0, 0, header.height, header.width)
    pixels = np.zeros((header.height, header.width, 3), f"uint{header.depth}")
    mask = np.zeros(pixels.shape[:2], bool)
    for index, layer in tiles.items():
        part = inner(header.grid.pixel_box(index), whole)
        pixels[part], mask[part] = layer.pixels, layer.mask
    return Layer(pixels, mask)
