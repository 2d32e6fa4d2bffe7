"""What is drawn of a picture: of each tile, and how files have it, one each or one of all; and tiles' sketches."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from .choice import ONE_COLOUR, Learn, divided, even_blocks, opened
from .drawn import NONE, WEBP_SIDE_MAX, Layer, filled
from .header import LAYER, TOGETHER_MAX, ImageHeader
from .sketch import Sketch, chunk
from .tiles import area, clip, grown, inner

TOGETHER_GAIN = 0.99
"""Share of the bytes of tiles' own files that one of all may have: with own files, damage and crops stay within tiles."""
SEEN = 64
"""Pixels of the tiles around one that its filling goes on from."""


@dataclass(frozen=True, slots=True)
class Layers:
    """What is drawn of a picture."""

    drawn: dict[int, Layer]
    """Of each tile that has something."""
    files: dict[int, bytes]
    """WebP files of tiles that have their own."""
    together: tuple[Layer, bytes] | None = None
    """The layer and the file of all."""
    sketches: dict[int, bytes] = field(default_factory=dict)
    """Files of tiles that have them in place of latents."""
    shown: dict[int, Layer] = field(default_factory=dict)
    """What is drawn of tiles, over their sketches."""
    coded: frozenset[int] = frozenset()
    """Tiles that have a latent although all of them is drawn: one beside them shows some of it at its border."""

    @property
    def size(self) -> int:
        """Bytes of the files."""
        alone = sum(map(len, (*self.files.values(), *self.sketches.values())))
        return alone + (len(self.together[1]) if self.together else 0)

    def blank(self, index: int) -> bool:
        """Whether a tile has no symbols: all of it is shown without them, and no tile beside it needs its latent."""
        return index in self.shown and self.shown[index].whole and index not in self.coded

    def beginning(self, index: int, header: bytes) -> bytes:
        """What a tile's chunk begins with."""
        parts = []
        if self.files:
            parts.append(self.drawn[index].chunk(self.files[index], header) if index in self.files else NONE)
        if self.sketches:
            parts.append(chunk(self.sketches[index], header) if index in self.sketches else NONE)
        return b"".join(parts)

    def chunks(self, header: bytes) -> list[tuple[int, bytes]]:
        """Kind and body of the chunk after the tiles, if there is one."""
        return [(LAYER, self.together[0].chunk(self.together[1], header))] if self.together else []

    def over(self, index: int, shown: np.ndarray) -> np.ndarray:
        """A tile's pixels with what is drawn in its place."""
        return self.shown[index].over(shown) if index in self.shown else shown


def layers_of(pixels: np.ndarray, header: ImageHeader, learn: Learn) -> tuple[Layers, np.ndarray]:
    """What is drawn of a picture, and pixels that latents stand for.

    Args:
        pixels: uint8 or uint16 (height, width, 1 or 3).
        learn: codes pixels of any shape.
    """
    areas, tiles, sketches, rest = _areas(pixels, header), dict[int, Layer](), dict[int, Sketch](), pixels
    for index in range(len(header.grid)):
        part, bounds = _parts(header, index)
        if tile := divided(pixels[part], areas[bounds], header.quality, learn):
            if tile.layer:
                tiles[index] = tile.layer
            if tile.sketch:
                sketches[index] = tile.sketch
            if tile.filled is not None:
                rest = rest.copy() if rest is pixels else rest
                rest[part] = tile.filled
    layers = _in_files(tiles, pixels, header)
    shown = layers.drawn | {index: sketch.under(layers.drawn.get(index)) for index, sketch in sketches.items()}
    files = {index: sketch.file for index, sketch in sketches.items()}
    layers = replace(layers, sketches=files, shown=shown, coded=_coded(shown, header))
    for index in layers.coded:
        rest = rest.copy() if rest is pixels else rest
        _fill(rest, shown, header, index)
    return layers, rest


def _coded(tiles: dict[int, Layer], header: ImageHeader) -> frozenset[int]:
    """Tiles all of which is drawn, beside others."""
    whole = {index for index, layer in tiles.items() if layer.whole}
    return frozenset(index for index in whole if not whole.issuperset(_beside(header, index)))


def _beside(header: ImageHeader, index: int) -> list[int]:
    """A tile and those around it."""
    grid = header.grid
    row, column = divmod(index, grid.columns)
    rows, columns = range(max(row - 1, 0), min(row + 2, grid.rows)), range(max(column - 1, 0), min(column + 2, grid.columns))
    return [grid.columns * y + x for y in rows for x in columns]


def _fill(pixels: np.ndarray, tiles: dict[int, Layer], header: ImageHeader, index: int) -> None:
    """Something smooth in place of a tile, that goes on from those beside it."""
    whole = (0, 0, header.height, header.width)
    box = header.grid.pixel_box(index)
    window = clip(grown(box, SEEN), whole)
    drawn = np.zeros((window[2] - window[0], window[3] - window[1]), bool)
    for near in _beside(header, index):
        part = clip(header.grid.pixel_box(near), window)
        if near in tiles and tiles[near].whole and area(part) > 0:
            drawn[inner(part, window)] = True
    pixels[inner(box, whole)] = filled(pixels[inner(window, whole)], drawn)[inner(box, window)]


def _parts(header: ImageHeader, index: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Pixels and blocks of a tile."""
    grid = header.grid
    pixels = inner(grid.pixel_box(index), (0, 0, header.height, header.width))
    return pixels, inner(grid.latent_box(index), grid.latent_bounds)


def _areas(pixels: np.ndarray, header: ImageHeader) -> np.ndarray:
    """Blocks of areas that keep their colour. bool (rows, columns)."""
    even = np.zeros(header.grid.latent_bounds[2:], bool)
    if header.quality < ONE_COLOUR:
        return even
    for index in range(len(header.grid)):
        part, bounds = _parts(header, index)
        even[bounds] = even_blocks(pixels[part])
    return even if even.all() else opened(even)


def _in_files(tiles: dict[int, Layer], pixels: np.ndarray, header: ImageHeader) -> Layers:
    """Layers in the files that take fewer bytes."""
    own = Layers(tiles, {index: layer.file() for index, layer in tiles.items()})
    side = max(header.width, header.depth // 8 * header.height)
    if len(tiles) < 2 or header.width * header.height > TOGETHER_MAX or side > WEBP_SIDE_MAX:
        return own
    best = own
    for layer in _joined(tiles, pixels, header):
        if len(file := layer.file()) < TOGETHER_GAIN * own.size and len(file) < best.size:
            parts = {index: layer.part(*_parts(header, index)[0]) for index in tiles}
            best = Layers(parts, {}, (layer, file))
    return best


def _joined(tiles: dict[int, Layer], pixels: np.ndarray, header: ImageHeader) -> list[Layer]:
    """One layer of all tiles, and if they have lost colours, each its own, one that has not: it may repeat more."""
    colours = np.zeros((header.height, header.width, 3), pixels.dtype)
    mask = np.zeros(colours.shape[:2], bool)
    for index, layer in tiles.items():
        part, _ = _parts(header, index)
        colours[part], mask[part] = layer.pixels, layer.mask
    exact = np.where(mask[..., None], pixels, pixels.dtype.type(0))
    return [Layer(colours, mask)] + ([] if np.array_equal(exact, colours) else [Layer(exact, mask)])
