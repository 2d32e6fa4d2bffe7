"""The encoder's choice of what of a tile is drawn (`drawn`) and what is learned, by rate and distortion.

A block of 16 x 16 pixels has a price either way: bits, and squared error in the bits it is worth at the quality asked for.
Blocks of a photograph are told by their pixels, at almost no cost, so that a photograph is coded as ever, but for areas of
one colour. Else the learned codec tells what each block costs it, a lossless format what all drawn blocks cost together, and
both are asked again with the blocks divided between them. At low rates drawn blocks may lose colours.
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
"""Quality from which areas of one colour keep it whatever that costs: 25 bytes for a picture, some 50 for a patch in one."""
ONE_COLOUR_WEIGHT = 1e6
"""Bits that a unit of squared error in such an area is worth then."""
FEW_COLOURS = 64
"""Of a tile, up to which it is no photograph: dithers, whose pixels tell little of each other."""
SMOOTH_SPAN, SMOOTH_EVEN = 6, 0.9
"""Levels that blocks of a gradient span at most, and the share of them that may have one colour: it would come back in parts
that are exact, with lines between them."""
ROUNDS = 3


class Learned(NamedTuple):
    """What the learned codec makes of a tile."""

    bits: np.ndarray
    """Of each block, float64 (rows, columns)."""
    pixels: np.ndarray
    """What a decoder shows, uint8 (height, width, channels)."""


Learn = Callable[[np.ndarray], Learned]


class Divided(NamedTuple):
    """A tile of which something is drawn."""

    layer: Layer
    filled: np.ndarray | None
    """Pixels that its latent stands for, with something smooth in place of what is drawn; None: those of the tile."""


def divided(pixels: np.ndarray, areas: np.ndarray, quality: int, learn: Learn) -> Divided | None:
    """A tile between drawn and learned; None: nothing is drawn.

    Of a photograph, and of what has 16 bits, areas of one colour alone; of gradients nothing. Else at first all that may be
    drawn; then, with the bits of that known, what is dearer drawn than learned no longer is.

    Args:
        pixels: uint8 or uint16 (height, width, 1 or 3).
        areas: blocks that keep their colour, bool (rows, columns).
        learn: codes pixels of the tile's shape.
    """
    if areas.all():
        return Divided(_layer(pixels, areas), None)
    if _gradient(pixels):
        return None
    price = drawn_bits(pixels)
    text = bool(price.mean() <= TEXT_BITS) or _has_few_colours(pixels)
    if pixels.itemsize > 1 or not (text or (price <= CERTAIN_BITS).mean() >= CERTAIN_LEAST):
        return Divided(_layer(pixels, areas), None) if areas.any() else None
    weight = _weights(even_blocks(pixels), quality, pixels.shape[-1]) + ONE_COLOUR_WEIGHT * areas
    whole = learn(pixels)
    cost = whole.bits + _error(whole.pixels, pixels, weight)
    best, least, chosen = None, float(cost.sum()), areas | (price <= CANDIDATE_BITS)
    if text:
        layer = _layer(pixels, np.ones_like(areas))
        if (bits := 8.0 * len(webp(layer.pixels, layer.mask))) < least:
            best, least = Divided(layer, None), bits
    for _ in range(ROUNDS if chosen.any() else 0):
        layer, bits, error = _cheapest(pixels, chosen, weight, () if quality >= EXACT else COLOURS)
        now, total = Divided(layer, None), bits + float(error.sum())
        if not layer.whole:
            smooth = filled(pixels, layer.mask)
            now, rest = Divided(layer, smooth), learn(smooth)
            total += float((rest.bits + _error(rest.pixels, pixels, weight) * ~chosen).sum())
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


def blocks(plane: np.ndarray, of: np.ufunc = np.add) -> np.ndarray:
    """Sums over blocks of 16 x 16 pixels, or what another function makes of them; the last ones may be smaller."""
    rows, columns = (list(range(0, size, BLOCK)) for size in plane.shape[:2])
    found: np.ndarray = of.reduceat(of.reduceat(plane, rows, axis=0), columns, axis=1)
    return found


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
