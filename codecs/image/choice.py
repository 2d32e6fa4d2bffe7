"""The encoder's choice of what of a tile is drawn (`drawn`) and what is learned, by rate and distortion.

A block of 16 x 16 pixels has a price either way: bits, and squared error in the bits it is worth at the quality asked for.
Most photographs are told by their pixels, at almost no cost, and coded as ever, but for areas of one colour. Else the
learned codec tells what each block costs it, a lossless format what all drawn blocks cost together, and both are asked again
with the blocks divided between them. At low rates drawn blocks may lose colours. What is not drawn may be a sketch instead
of learned: of text with noise around it that takes fewer bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from einops import rearrange
from PIL import Image

from .distortion import bits_per_square
from .drawn import BLOCK, Layer, blocks, filled, webp
from .sketch import Sketch, cost_of, quality_for, squares, written

NEW_BITS = 10.0
"""What a pixel costs losslessly that neither its left nor its upper neighbour tells, about: all that is known of a block
before it is coded. The bits of the blocks that were chosen correct it."""
CANDIDATE_BITS = 5.0 * BLOCK**2
"""Of a block: more is a photograph, which costs latents less at any quality."""
CERTAIN_BITS, CERTAIN_LEAST = 1.0 * BLOCK**2, 0.05
"""Of blocks that are drawn beyond doubt, and their share of a tile below which it may be a photograph: one of Kodak's has
more, and every screenshot."""
TEXT_BITS = 3.0 * BLOCK**2
"""Mean of a tile's blocks, below which it is no photograph however dense its text is, and may be drawn as a whole. Text all
over has 2.7 a pixel, enlarged photographs in grey 4 and more."""
FLAT_WEIGHT = 16.0
"""Weight of squared error where a block has one colour: eyes see it there first."""
COLOURS = 128, 64, 32, 16, 8, 4
"""Numbers of colours to which those of drawn blocks may be reduced, below `EXACT`: what antialiasing adds to text and lines
costs most of their bits."""
EXACT = 100
"""Quality at which drawn blocks keep all colours."""
ONE_COLOUR = 20
"""Quality from which areas of one colour keep it whatever that costs: 25 bytes for a picture, some 50 for a patch in one,
more for many small ones."""
ONE_COLOUR_WEIGHT = 1e6
"""Bits that a unit of squared error in such an area is worth then."""
FEW_COLOURS = 64
"""Of a tile, up to which it is no photograph: dithers, whose pixels tell little of each other."""
SMOOTH_SPAN, SMOOTH_EVEN = 6, 0.9
"""Levels that blocks of a gradient span at most, and the share of them that may have one colour: it would come back in parts
that are exact, with lines between them."""
PAPER_LEVELS, PAPER_LEAST = 24, 0.42
"""Share of a tile that lies within so many levels where it may be a page with noise; see `EDGES_LEAST`."""
EDGE_LEVELS, EDGES_LEAST = 48, 0.01
"""Share of its pixels that differ by so many levels from the next then. One photograph in ten has both."""
CELL, CELL_LEAST, CELLS_LEAST = 64, 0.5, 0.36
"""Paper that is lit unevenly has both in cells of so many pixels a side, with this share in place of `PAPER_LEAST`; share of
cells that have. Of such pages it is 0.38 and more, of one photograph in fifty."""
SKETCH_GAIN = 0.95
"""What a sketch's bits are divided by: a photograph that is about as well learned stays that."""
ROUNDS = 3
DRAWN_LEAST = 0.015
"""Share of a tile's cost that drawing must promise before it is tried, which takes ten times as long as the rest. Pages have
2 % and more, nine in ten renderings and enlarged photographs less."""
PROBE, PROBE_MOST = 256, 1.1
"""The square of so many pixels a side that looks most like a page tells whether sketches are tried: unless one costs so many
times what is learned. Where a sketch pays it is at most 1.06, of most photographs 1.1 and more."""


class Learned(NamedTuple):
    """What the learned codec makes of a tile."""

    bits: np.ndarray
    """Of each block, float64 (rows, columns)."""
    pixels: np.ndarray
    """What a decoder shows, uint8 (height, width, channels)."""


Learn = Callable[[np.ndarray], Learned]


class Divided(NamedTuple):
    """A tile of which something is drawn, or a sketch."""

    layer: Layer | None
    filled: np.ndarray | None = None
    """Pixels that its latent stands for, with something smooth in place of what is drawn; None: those of the tile."""
    sketch: Sketch | None = None
    """In place of a latent."""


def divided(pixels: np.ndarray, areas: np.ndarray, quality: int, learn: Learn) -> Divided | None:
    """A tile between drawn, learned and a sketch; None: all is learned.

    Of a photograph, and of what has 16 bits, areas of one colour alone are drawn; of gradients nothing. Else at first all
    that may be drawn; then, with the bits of that known, what is dearer drawn than not no longer is.

    Args:
        pixels: uint8 or uint16 (height, width, 1 or 3).
        areas: blocks that keep their colour, bool (rows, columns).
        learn: codes pixels of any shape.
    """
    if areas.all():
        return Divided(_layer(pixels, areas))
    if _gradient(pixels):
        return None
    price = drawn_bits(pixels)
    few_colours = _has_few_colours(pixels)
    text = few_colours or bool(price.mean() <= TEXT_BITS)
    drawing = text or (price <= CERTAIN_BITS).mean() >= CERTAIN_LEAST
    drawing = drawing and pixels.itemsize == 1
    page = pixels.itemsize == 1 and (drawing or _paper(pixels))
    sketching = page and (quality < EXACT or not drawing) and _sketch_promises(pixels, areas, quality, learn)
    if not (drawing or sketching):
        return Divided(_layer(pixels, areas)) if areas.any() else None
    choice = _Choice(pixels, areas, quality, learn)
    if drawing:
        choice.try_drawn(price, text, few_colours)
    if sketching:
        choice.try_sketches()
    return choice.best


class _Tried(NamedTuple):
    """A layer that may lie over something else."""

    layer: Layer
    blocks: np.ndarray
    """What it covers, bool (rows, columns)."""
    cost: float
    """Its bits, and its error in bits."""


class _Choice:
    """The cheapest of what was tried for a tile that may be no photograph. At first it is learned but for areas of one
    colour."""

    def __init__(self, pixels: np.ndarray, areas: np.ndarray, quality: int, learn: Learn) -> None:
        self.best: Divided | None = None
        self._pixels, self._areas, self._quality, self._learn = pixels, areas, quality, learn
        self._plain = _weights(even_blocks(pixels), quality, pixels.shape[-1])
        self._weight = self._plain + ONE_COLOUR_WEIGHT * areas
        self._least, self._tried = np.inf, list[_Tried]()
        whole = learn(pixels)
        error = squares(whole.pixels, pixels) * self._weight
        self._learned = whole.bits + error
        self._offer(None, float(self._learned.sum()))
        if areas.any():
            layer = _layer(pixels, areas)
            tried = _Tried(layer, areas, 8.0 * len(webp(layer.pixels, layer.mask)))
            self._tried.append(tried)
            self._offer(Divided(layer), tried.cost + float((self._learned - error * areas).sum()))

    def try_drawn(self, price: np.ndarray, text: bool, few_colours: bool) -> None:
        """Try to draw blocks.

        Args:
            price: `drawn_bits`.
            text: whether all of the tile may be drawn.
            few_colours: whether it is to be tried in any case: prices say nothing of dithers.
        """
        pixels, weight, chosen = self._pixels, self._weight, self._areas | (price <= CANDIDATE_BITS)
        if not self._drawing_promises(price, chosen) and not few_colours:
            return
        if text:
            layer = _layer(pixels, np.ones_like(self._areas))
            self._offer(Divided(layer), 8.0 * len(webp(layer.pixels, layer.mask)))
        for _ in range(ROUNDS if chosen.any() else 0):
            layer, bits, error = _cheapest(pixels, chosen, weight, () if self._quality >= EXACT else COLOURS)
            total = bits + float(error.sum())
            if layer.whole:
                self._offer(Divided(layer), total)
            else:
                smooth = filled(pixels, layer.mask)
                rest = self._learn(smooth)
                learned = float((rest.bits + squares(rest.pixels, pixels) * weight * ~chosen).sum())
                self._offer(Divided(layer, smooth), total + learned)
                self._tried.append(_Tried(layer, chosen, total))
            kept = self._areas | (chosen & (price * (bits / price[chosen].sum()) + error < self._learned))
            if not kept.any() or (kept == chosen).all():
                break
            chosen = kept

    def try_sketches(self) -> None:
        """Try a sketch alone, if it has areas of one colour right, and with each layer that was tried over it."""
        nothing = np.zeros_like(self._areas)
        quality = quality_for(self._pixels, self._plain * ~self._areas)
        for layer, covered, total in ((None, nothing, 0.0), *self._tried):
            pixels = self._pixels
            if (busy := covered & ~self._areas).any():  # areas of one colour take WebP hardly any bits
                pixels = filled(pixels, spread(busy, *pixels.shape[:2]))
            sketch = written(pixels, quality)
            error = squares(sketch.pixels, self._pixels) * ~covered
            if not error[self._areas].any():
                bits = 8.0 * len(sketch.file) / SKETCH_GAIN
                self._offer(Divided(layer, None, sketch), total + bits + float((error * self._plain).sum()))

    def _drawing_promises(self, price: np.ndarray, chosen: np.ndarray) -> bool:
        """Whether some blocks are so much cheaper drawn, if losing colours halves their bits."""
        layer, others = _layer(self._pixels, chosen), ~self._areas
        ratio = 8.0 * len(webp(layer.pixels, layer.mask)) / max(price[chosen].sum(), 1.0)
        saved = (self._learned - 0.5 * ratio * price)[chosen & others].clip(0).sum()
        return bool(saved >= DRAWN_LEAST * self._learned[others].sum())

    def _offer(self, candidate: Divided | None, total: float) -> None:
        if total < self._least:
            self.best, self._least = candidate, total


def drawn_bits(pixels: np.ndarray) -> np.ndarray:
    """What each block costs losslessly, about; float64 (rows, columns)."""
    new = np.ones(pixels.shape[:2], bool)
    new[:, 1:] &= (pixels[:, 1:] != pixels[:, :-1]).any(-1)
    new[1:] &= (pixels[1:] != pixels[:-1]).any(-1)
    new[0, 0] = False
    return NEW_BITS * blocks(new.astype(np.float64)) + 1.0


def spread(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """A mask of blocks as one of pixels."""
    return mask.repeat(BLOCK, 0).repeat(BLOCK, 1)[:height, :width]


def even_blocks(pixels: np.ndarray) -> np.ndarray:
    """Which blocks have one colour; bool (rows, columns)."""
    even: np.ndarray = _spans(pixels) == 0
    return even


def _spans(pixels: np.ndarray) -> np.ndarray:
    """Levels that each block spans in one of its channels at most; (rows, columns)."""
    spans: np.ndarray = (blocks(pixels, np.maximum) - blocks(pixels, np.minimum)).max(-1)
    return spans


def _gradient(pixels: np.ndarray) -> bool:
    """Whether there are no edges, and colours that change."""
    spans, most = _spans(pixels), SMOOTH_SPAN if pixels.itemsize == 1 else SMOOTH_SPAN << 8
    return bool(spans.max() <= most and (spans == 0).mean() < SMOOTH_EVEN)


def _has_few_colours(pixels: np.ndarray) -> bool:
    """Whether a tile has at most `FEW_COLOURS`; of most photographs a part of it tells."""
    return all(
        len(np.unique(part.reshape(-1, part.shape[-1]), axis=0)) <= FEW_COLOURS for part in (pixels[::16, ::16], pixels)
    )


def _edges(pixels: np.ndarray) -> np.ndarray:
    """Which pixels differ much from their left neighbour; bool (height, width)."""
    plane = pixels[..., pixels.shape[-1] // 2].astype(np.int16)
    edges: np.ndarray = np.abs(np.diff(plane, axis=1, prepend=plane[:, :1])) >= EDGE_LEVELS
    return edges


def _paper(pixels: np.ndarray) -> bool:
    """Whether most of a tile, or of many parts of it, is about as bright, and some of it has hard edges."""
    plane, edges = pixels[..., pixels.shape[-1] // 2], _edges(pixels)
    if edges.mean() < EDGES_LEAST:
        return False
    near = np.convolve(np.bincount(plane.ravel(), minlength=256), np.ones(PAPER_LEVELS, int)).max()
    return bool(near >= PAPER_LEAST * plane.size) or _paper_cells(plane, edges) >= CELLS_LEAST


def _sketch_promises(pixels: np.ndarray, areas: np.ndarray, quality: int, learn: Learn) -> bool:
    """Whether a sketch costs about as little as what is learned, where a tile looks most like a page."""
    height, width = pixels.shape[:2]
    if max(height, width) <= PROBE:
        return True  # as quickly tried
    tops, lefts = ({*range(0, side - PROBE + 1, PROBE), max(side - PROBE, 0) // BLOCK * BLOCK} for side in (height, width))
    parts = [np.s_[top : top + PROBE, left : left + PROBE] for top in sorted(tops) for left in sorted(lefts)]
    part = max(parts, key=lambda part: (_paper(pixels[part]), _edges(pixels[part]).sum()))
    square, others = pixels[part], ~areas[tuple(slice(side.start // BLOCK, side.stop // BLOCK) for side in part)]
    price = _weights(even_blocks(square), quality, square.shape[-1]) * others
    found = learn(square)
    learned = (found.bits * others + squares(found.pixels, square) * price).sum()
    return bool(cost_of(square, price) <= PROBE_MOST * learned)


def _paper_cells(plane: np.ndarray, edges: np.ndarray) -> float:
    """Share of a tile's cells that are paper with something on it."""
    height, width = (size // CELL * CELL for size in plane.shape)
    shape = "(rows high) (columns wide) -> (rows columns) (high wide)"
    edged, levels = (rearrange(of[:height, :width], shape, high=CELL, wide=CELL) for of in (edges, plane))
    chosen = edged.mean(1) >= EDGES_LEAST
    if not chosen.any():
        return 0.0
    levels = np.sort(levels[chosen, ::3].astype(np.int16))  # a third of them tells
    near = round(CELL_LEAST * levels.shape[1])
    return float(((levels[:, near:] - levels[:, :-near]).min(1) < PAPER_LEVELS).sum() / len(chosen))


def opened(mask: np.ndarray) -> np.ndarray:
    """What of a mask of blocks is part of two by two that are all of it."""
    corners = mask[:-1, :-1] & mask[1:, :-1] & mask[:-1, 1:] & mask[1:, 1:]
    around = np.pad(corners, 1)
    return around[:-1, :-1] | around[1:, :-1] | around[:-1, 1:] | around[1:, 1:]


def _layer(pixels: np.ndarray, chosen: np.ndarray) -> Layer:
    """The chosen blocks with all their colours."""
    mask = spread(chosen, *pixels.shape[:2])
    return Layer(np.broadcast_to(pixels, (*mask.shape, 3)) * mask[..., None].astype(pixels.dtype), mask)


def _weights(even: np.ndarray, quality: int, channels: int) -> np.ndarray:
    """Bits that a unit of squared error of 0..255 is worth in each block."""
    return np.where(even, FLAT_WEIGHT, 1.0) * bits_per_square(quality) * 3 / channels / 255**2


def _cheapest(
    pixels: np.ndarray, chosen: np.ndarray, weight: np.ndarray, counts: tuple[int, ...]
) -> tuple[Layer, float, np.ndarray]:
    """The layer of the chosen blocks with so many colours as cost least, its bits, and its error in each block in bits."""
    exact = _layer(pixels, chosen)
    colours, mask = exact.pixels, exact.mask
    drawn, error = colours, np.zeros(chosen.shape)
    bits = 8.0 * len(webp(drawn, mask))
    for count in counts:
        fewer = _reduced(colours, mask, count)
        its_error = squares(fewer, pixels) * weight * chosen
        its_bits = 8.0 * len(webp(fewer, mask))
        if its_bits + its_error.sum() > bits + error.sum():
            break
        drawn, error, bits = fewer, its_error, its_bits
    return Layer(np.ascontiguousarray(drawn), mask), bits, error


def _reduced(colours: np.ndarray, mask: np.ndarray, count: int) -> np.ndarray:
    """The colours inside the mask by the nearest of so many; deterministic."""
    inside = np.ascontiguousarray(colours[mask][None])
    image = Image.fromarray(inside).quantize(count, Image.Quantize.MEDIANCUT, kmeans=2, dither=Image.Dither.NONE)
    out = np.zeros_like(colours)
    out[mask] = np.asarray(image.convert("RGB"))[0]
    return out
