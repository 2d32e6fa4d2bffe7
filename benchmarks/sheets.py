"""Pictures to look at: crops of our decoded pictures beside AVIF of equal bytes, a sheet for each rate.

    python benchmarks/sheets.py KODAK -o benchmarks/results --model image-eyes-2

Writes sheet_0.15.jpg and so on. A row for each picture: original, ours, AVIF as Pillow writes it by default, of the lowest
quality that takes as many bytes as ours or more.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from rdcodec.codecs import load
from rdcodec.codecs.image import references
from rdcodec.codecs.image.codec import ImageCodec
from rdcodec.codecs.image.pictures import as_picture
from rdcodec.codecs.rate_control import encode_to_size
from rich.progress import track

CROPS = {
    "kodim04": (60, 130), "kodim15": (180, 190), "kodim23": (90, 60), "kodim21": (60, 130), "kodim20": (210, 290),
    "kodim19": (400, 150),
}  # fmt: skip
"""Top and left of what is shown: skin, hair, feathers, sky, letters, a fence."""
SIDE, CAPTION = 256, 20
JPEG = {"quality": 88, "subsampling": 0, "optimize": True}


def row_of(codec: ImageCodec, pixels: np.ndarray, rate_bpp: float) -> list[tuple[str, np.ndarray]]:
    """Captions and pictures: the original, ours at a rate from below, AVIF of as many bytes."""
    data, quality = encode_to_size(codec, as_picture(pixels), int(rate_bpp * pixels.shape[0] * pixels.shape[1] / 8))
    avif = next(file for q in range(100) if len(file := references.encode("AVIF", pixels, quality=q)) >= len(data))
    return [
        ("original", pixels),
        (f"rdcodec, quality {quality}: {len(data)} bytes", codec.decode(data).array()),
        (f"AVIF: {len(avif)} bytes", references.decode(avif)),
    ]


def sheet_of(rows: list[tuple[str, list[tuple[str, np.ndarray]]]]) -> Image.Image:
    """A sheet of rows, each of a picture's name and its captioned pictures, of which a crop is shown."""
    sheet = Image.new("RGB", (3 * SIDE, len(rows) * (SIDE + CAPTION)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for y, (name, row) in enumerate(rows):
        top, left = CROPS[name]
        for x, (caption, pixels) in enumerate(row):
            crop = Image.fromarray(pixels[top : top + SIDE, left : left + SIDE])
            sheet.paste(crop, (x * SIDE, y * (SIDE + CAPTION) + CAPTION))
            draw.text((x * SIDE + 4, y * (SIDE + CAPTION) + 2), f"{name}, {caption}" if x == 0 else caption, "black", font)
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="folder of Kodak's PNG files")
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--model", default="image-eyes-2")
    parser.add_argument("--rates", default="0.15,0.3", help="bits per pixel")
    args = parser.parse_args()
    codec = load("image", model=args.model)
    pictures = {name: np.asarray(Image.open(args.images / f"{name}.png")) for name in CROPS}
    for rate in args.rates.split(","):
        rows = [(name, row_of(codec, pixels, float(rate))) for name, pixels in track(pictures.items(), f"{rate} bpp")]
        sheet_of(rows).save(args.output / f"sheet_{rate}.jpg", **JPEG)


if __name__ == "__main__":
    main()
