"""``codec demo``: one photograph at three qualities, beside JPEG at equal bytes, on one sheet."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..container import write_file
from . import anchors
from .codec import ImageCodec
from .evaluate import psnr_db
from .pictures import Picture, read_picture, write_picture

QUALITIES = (15, 40, 70)
PANEL_MAX = 640
"""Longest side of a panel on the sheet, in pixels."""


@dataclass(frozen=True, slots=True)
class DemoRow:
    """One quality: our file and the JPEG that is at most as large."""

    quality: int
    file: Path
    bytes: int
    rate_bpp: float
    psnr_db: float
    jpeg_quality: int
    jpeg_bytes: int
    jpeg_psnr_db: float
    encode_s: float
    decode_s: float


def sample_photograph() -> Path:
    """A photograph that matplotlib ships (Grace Hopper, public domain)."""
    from matplotlib import cbook

    return Path(str(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)))


def run(
    codec: ImageCodec, photograph: Path, folder: Path, progress: Callable[[str], None] = lambda text: None
) -> tuple[list[DemoRow], Path]:
    """Write files, pictures and ``sheet.png`` into ``folder``; returns a row per quality and the sheet's path.

    Raises:
        ValueError: not an image.
    """
    picture = read_picture(photograph.read_bytes())
    picture = Picture(np.broadcast_to(picture.pixels, (*picture.pixels.shape[:2], 3)).copy())
    original = picture.pixels
    folder.mkdir(parents=True, exist_ok=True)
    write_file(folder / "original.png", write_picture(picture))
    rows, panels = [], [[(original, f"original, {original.shape[1]}x{original.shape[0]}")]]
    for quality in QUALITIES:
        progress(f"quality {quality}")
        row, ours, jpeg = _one(codec, picture, folder, quality)
        rows.append(row)
        panels.append(
            [
                (ours, f"rdcodec q{quality}: {row.bytes} B, {row.rate_bpp:.3f} bpp, {row.psnr_db:.2f} dB"),
                (jpeg, f"JPEG q{row.jpeg_quality}: {row.jpeg_bytes} B, {row.jpeg_psnr_db:.2f} dB"),
            ]
        )
    sheet = folder / "sheet.png"
    write_file(sheet, write_picture(Picture(_sheet(panels))))
    return rows, sheet


def _one(codec: ImageCodec, picture: Picture, folder: Path, quality: int) -> tuple[DemoRow, np.ndarray, np.ndarray]:
    path = folder / f"q{quality}.rdc"
    start = time.perf_counter()
    data = codec.encode(picture, quality)
    middle = time.perf_counter()
    ours = codec.decode(data)
    end = time.perf_counter()
    jpeg_quality, jpeg = anchors.at_most("jpeg", picture.pixels, len(data))
    write_file(path, data)
    write_file(folder / f"q{quality}.png", write_picture(Picture(ours)))
    write_file(folder / f"q{quality}_equal_bytes.jpg", jpeg.data)
    row = DemoRow(
        quality, path, len(data), len(data) * 8 / (ours.shape[0] * ours.shape[1]), psnr_db(picture.pixels, ours),
        jpeg_quality, len(jpeg.data), psnr_db(picture.pixels, jpeg.pixels), middle - start, end - middle,
    )  # fmt: skip
    return row, ours, jpeg.pixels


def _sheet(columns: list[list[tuple[np.ndarray, str]]]) -> np.ndarray:
    """Panels side by side, ours above JPEG, each with a caption."""
    height, width = columns[0][0][0].shape[:2]
    shrink = min(1.0, PANEL_MAX / max(height, width))
    width, height = max(1, round(width * shrink)), max(1, round(height * shrink))
    cell, gap, caption = max(width, 340), 12, 26
    sheet = Image.new("RGB", (len(columns) * (cell + gap) + gap, 2 * (height + caption + gap) + gap), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for i, panels in enumerate(columns):
        for j, (pixels, text) in enumerate(panels):
            x, y = gap + i * (cell + gap), gap + j * (height + caption + gap)
            draw.text((x, y), text, fill="black", font=font)
            panel = Image.fromarray(pixels)
            if shrink < 1:
                panel = panel.resize((width, height), Image.Resampling.LANCZOS)
            sheet.paste(panel, (x, y + caption))
    return np.asarray(sheet)
