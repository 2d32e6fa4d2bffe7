"""The encoder's choice of what of a tile is drawn (`drawn`) and what is learned, by rate and distortion.

A block of 16 x 16 pixels has a price either way: bits, and squared error in the bits it is worth at the quality asked for.
Blocks of a photograph are told by their pixels, at almost no cost, so that a photograph is coded as ever. Else the learned
codec tells what each block costs it, a lossless format what all drawn blocks cost together, and both are asked again with
the blocks divided between them. At low rates drawn blocks may lose colours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image

from .distortion import bits_per_square
from .drawn import BLOCK, Layer, filled, webp

NEW_BITS = 10.0
"""What a pixel costs losslessly that neither its left nor its upper neighbour tells, about: all that is known of a block
before it is coded. The bits of the blocks that were chosen correct it."""
CANDIDATE_BITS = 5.0 * BLOCK**2
"""Of a block: more is a photograph, which costs latents less at any quality."""
CERTAIN_BITS, CERTAIN_LEAST = 1.0 * BLOCK**2, 0.05
"""Of blocks that are drawn beyond doubt, and their share of a tile below which nothing is tried: one picture of Kodak's has
more, and every screenshot."""
FLAT_WEIGHT = 16.0
"""Weight of squared error where a block has one colour: eyes see it there first."""
COLOURS = 128, 64, 32, 16, 8, 4
"""Numbers of colours to which those of drawn blocks may be reduced, below `EXACT`: what antialiasing adds to text and lines
costs most of their bits."""
EXACT = 100
"""Quality at which drawn blocks keep all colours."""
ONE_COLOUR = 20
"""Quality from which areas of one colour keep it whatever that costs: some 25 bytes for a whole tile."""
ONE_COLOUR_WEIGHT = 1e6
"""Bits that a unit of squared error in such an area is worth then."""
MOSTLY = 0.6
"""Share of a tile's blocks that may be drawn, above which it is no photograph, however dense its text is, and at the highest
quality may be drawn as a whole."""
ROUNDS = 3


class Learned(NamedTuple):
    """What the learned codec makes of a tile."""

    bits: np.ndarray
    """Of each block, float64 (rows, columns)."""
    pixels: np.ndarray
    """What a decoder shows, uint8 (height, width, channels)."""


Learn = Callable[[np.ndarray], Learned]


class Divided(NamedTuple):
    """What of a tile is drawn, and pixels that its latent stands for: of the rest, something in place of what is drawn."""

    layer: Layer
    pixels: np.ndarray


def divided(pixels: np.ndarray, quality: int, learn: Learn) -> Divided | None:
    """A tile between drawn and learned; None: nothing is drawn.

    Of a photograph, and of what has 16 bits, areas of one colour alone. Else at first all that may be drawn; then, with the
    bits of that known, what is dearer drawn than learned no longer is.

    Args:
        pixels: uint8 or uint16 (height, width, 1 or 3).
        learn: codes pixels of the tile's shape.
    """
    even = even_blocks(pixels)
    areas = (even if even.all() else opened(even)) & (quality >= ONE_COLOUR)
    price = drawn_bits(pixels)
    chosen = areas | (price <= CANDIDATE_BITS)
    mostly = chosen.mean() > MOSTLY
    if areas.all() or pixels.itemsize > 1 or not (mostly or (price <= CERTAIN_BITS).mean() >= CERTAIN_LEAST):
        return Divided(_layer(pixels, areas), pixels) if areas.any() else None
    weight = _weights(even, quality, pixels.shape[-1]) + ONE_COLOUR_WEIGHT * areas
    whole = learn(pixels)
    cost = whole.bits + _error(whole.pixels, pixels, weight)
    best, least = None, float(cost.sum())
    if mostly and quality >= EXACT:
        layer = _layer(pixels, np.ones_like(chosen))
        if (bits := 8.0 * len(webp(layer.pixels, layer.mask))) < least:
            best, least = Divided(layer, pixels), bits
    for _ in range(ROUNDS):
        layer, bits, error = _cheapest(pixels, chosen, weight, () if quality >= EXACT else COLOURS)
        now = Divided(layer, filled(pixels, layer.mask))
        rest = _rest(now, learn)
        total = bits + error.sum() + float((rest.bits + _error(rest.pixels, pixels, weight) * ~chosen).sum())
        if total < least:
            best, least = now, total
        kept = areas | (chosen & (price * (bits / price[chosen].sum()) + error < cost))
        if not kept.any() or (kept == chosen).all():
            break
        chosen = kept
    return best


def drawn_bits(pixels: np.ndarray) -> np.ndarray:
    """What each block costs losslessly, about; float64 (rows, columns)."""
    new = np.ones(pixels.shape[:2], bool)
    new[:, 1:] &= (pixels[:, 1:] != pixels[:, :-1]).any(-1)
    new[1:] &= (pixels[1:] != pixels[:-1]).any(-1)
    new[0, 0] = False
    return NEW_BITS * blocks(new.astype(np.float64)) + 1.0


def blocks(plane: np.ndarray) -> np.ndarray:
    """Sums over blocks of 16 x 16 pixels; the last ones may be smaller."""
    rows, columns = (range(0, size, BLOCK) for size in plane.shape)
    return np.add.reduceat(np.add.reduceat(plane, list(rows), axis=0), list(columns), axis=1)


def spread(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """A mask of blocks as one of pixels."""
    return mask.repeat(BLOCK, 0).repeat(BLOCK, 1)[:height, :width]


def even_blocks(pixels: np.ndarray) -> np.ndarray:
    """Which blocks have one colour; bool (rows, columns)."""
    differs = np.zeros(pixels.shape[:2], bool)
    differs[:, 1:] |= (pixels[:, 1:] != pixels[:, :-1]).any(-1) & (np.arange(1, pixels.shape[1]) % BLOCK > 0)
    differs[1:] |= (pixels[1:] != pixels[:-1]).any(-1) & (np.arange(1, pixels.shape[0]) % BLOCK > 0)[:, None]
    return blocks(differs.astype(np.float64)) == 0


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


def _error(shown: np.ndarray, pixels: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Squared error of each block in bits."""
    squares = np.square(shown.astype(np.float32) - pixels).sum(-1, dtype=np.float64)
    return weight * blocks(squares)


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
        its_error = _error(fewer[..., : pixels.shape[-1]], pixels, weight) * chosen
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


def _rest(tile: Divided, learn: Learn) -> Learned:
    """What the learned codec makes of a tile whose drawn part is filled; nothing of one that is all drawn."""
    if tile.layer.whole:
        return Learned(np.zeros(blocks(np.zeros(tile.pixels.shape[:2])).shape), tile.pixels)
    return learn(tile.pixels)
