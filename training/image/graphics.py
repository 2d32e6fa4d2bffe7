"""Text, lines and flat shapes, drawn: what screenshots hold and photographs lack."""

from __future__ import annotations

import string
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

CHARACTERS = string.ascii_letters + string.digits + " " * 12 + ".,;:-()/"
SIZES = 10, 40
"""Sizes of letters, in pixels; small ones are drawn more often."""


def with_graphics(photograph: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A crop, uint8 (rows, columns, 3), with graphics on a flat ground, or, one time in three, on the crop itself."""
    rows, columns = photograph.shape[:2]
    on_photograph = rng.random() < 1 / 3
    image = Image.fromarray(photograph) if on_photograph else Image.new("RGB", (columns, rows), _colour(rng, ground=True))
    draw = ImageDraw.Draw(image)
    for _ in range(rng.integers(0, 5)):
        _shape(draw, rng, rows, columns)
    if rng.random() < 0.8:
        _text(draw, rng, rows, columns)
    return np.array(image)


def _text(draw: ImageDraw.ImageDraw, rng: np.random.Generator, rows: int, columns: int) -> None:
    """Lines of random letters from a random height down."""
    size = float(np.exp(rng.uniform(*np.log(SIZES))))
    font, colour = _font(round(size)), _colour(rng)
    left, spacing = rng.uniform(-size, size), rng.uniform(1.1, 1.7) * size
    for top in np.arange(rng.uniform(-size, rows / 2), rows, spacing):
        letters = rng.choice(list(CHARACTERS), int(rng.uniform(0.3, 1) * columns / size * 2) + 1)
        draw.text((left, top), "".join(letters), fill=colour, font=font)


@lru_cache(maxsize=SIZES[1])
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own typeface."""
    return ImageFont.load_default(size)


def _shape(draw: ImageDraw.ImageDraw, rng: np.random.Generator, rows: int, columns: int) -> None:
    x, y = np.sort(rng.integers(-columns // 4, columns * 5 // 4, 2)), np.sort(rng.integers(-rows // 4, rows * 5 // 4, 2))
    box, colour, width = (x[0], y[0], x[1], y[1]), _colour(rng), int(rng.integers(1, 4))
    match rng.integers(4):
        case 0:
            draw.rounded_rectangle(box, radius=float(rng.uniform(0, 12)), fill=colour)
        case 1:
            draw.rectangle(box, outline=colour, width=width)
        case 2:
            ends = (x[0], y[0], x[1], y[0]), (x[0], y[0], x[0], y[1]), (x[0], y[0], x[1], y[1]), (x[0], y[1], x[1], y[0])
            draw.line(ends[rng.integers(4)], fill=colour, width=width)
        case 3:
            draw.ellipse(box, fill=colour)


def _colour(rng: np.random.Generator, *, ground: bool = False) -> tuple[int, int, int]:
    """Black and white more often than anything between; grounds are light more often than dark."""
    if rng.random() < 0.5:
        return (255,) * 3 if rng.random() < (0.75 if ground else 0.25) else (0,) * 3
    red, green, blue = (int(v) for v in rng.integers(0, 256, 3))
    return red, green, blue
