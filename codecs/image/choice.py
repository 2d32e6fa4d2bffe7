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
"""Quality from which a tile of one colour keeps it whatever that costs: some 25 bytes, more than a small one is worth."""
ROUNDS = 3


class Learned(NamedTuple):
    """What the learned codec makes of a tile."""

    bits: np.ndarray
    """Of each block, float64 (rows, columns)."""
    pixels: np.ndarray
    """What a decoder shows, uint8 (height, width, channels)."""


Learn = Callable[[np.ndarray], Learned]


def layer_of(pixels: np.ndarray, quality: int, learn: Learn) -> Layer | None:
    """What of a tile is drawn; None: nothing.

    At first all that may be; then, with the bits of that known, what is dearer drawn than learned no longer is.

    Args:
        pixels: uint8 (height, width, 1 or 3).
        learn: codes pixels of the tile's shape.
    """
    if quality >= ONE_COLOUR and (pixels == pixels[:1, :1]).all():
        return Layer(np.repeat(pixels, 3 // pixels.shape[-1], -1), np.ones(pixels.shape[:2], bool))
    price = drawn_bits(pixels)
    candidates = price <= CANDIDATE_BITS
    if (price <= CERTAIN_BITS).mean() < CERTAIN_LEAST:
        return None
    weight = _weights(pixels, quality)
    whole = learn(pixels)
    cost = whole.bits + _error(whole.pixels, pixels, weight)
    best, least, chosen = None, float(cost.sum()), candidates
    for _ in range(ROUNDS):
        layer, bits, error = _cheapest(pixels, chosen, weight, () if quality >= EXACT else COLOURS)
        rest = _rest(pixels, layer, learn)
        total = bits + error.sum() + float((rest.bits + _error(rest.pixels, pixels, weight) * ~chosen).sum())
        if total < least:
            best, least = layer, total
        kept = chosen & (price * (bits / price[chosen].sum()) + error < cost)
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


def _weights(pixels: np.ndarray, quality: int) -> np.ndarray:
    """Bits that a unit of squared error of 0..255 is worth in each block."""
    flat = np.ones(pixels.shape[:2], bool)
    flat[:, 1:] &= (pixels[:, 1:] == pixels[:, :-1]).all(-1)
    flat[1:] &= (pixels[1:] == pixels[:-1]).all(-1)
    one_colour = blocks((~flat).astype(np.float64)) == 0
    return np.where(one_colour, FLAT_WEIGHT, 1.0) * bits_per_square(quality) * 3 / pixels.shape[-1] / 255**2


def _error(shown: np.ndarray, pixels: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Squared error of each block in bits."""
    squares = np.square(shown.astype(np.float32) - pixels).sum(-1, dtype=np.float64)
    return weight * blocks(squares)


def _cheapest(
    pixels: np.ndarray, chosen: np.ndarray, weight: np.ndarray, counts: tuple[int, ...]
) -> tuple[Layer, float, np.ndarray]:
    """The layer of the chosen blocks with so many colours as cost least, its bits, and its error in each block in bits."""
    mask = spread(chosen, *pixels.shape[:2])
    colours = np.broadcast_to(pixels, (*pixels.shape[:2], 3)) * mask[..., None].astype(np.uint8)
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


def _rest(pixels: np.ndarray, layer: Layer, learn: Learn) -> Learned:
    """What the learned codec makes of a tile whose drawn part is filled; nothing of one that is all drawn."""
    if layer.whole:
        return Learned(np.zeros(blocks(np.zeros(pixels.shape[:2])).shape), pixels)
    return learn(filled(pixels, layer.mask))
