"""``codec demo``: one photograph at three qualities, beside JPEG at equal bytes, on one sheet."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageDraw, ImageFont, ImageOps

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
    picture = Picture(_upright(picture))
    original = picture.pixels
    folder.mkdir(parents=True, exist_ok=True)
    write_file(folder / "original.png", write_picture(picture))
    panels = [[(original, f"original, {original.shape[1]}x{original.shape[0]}"), (original, "the same")]]
    rows = []
    for quality in QUALITIES:
        progress(f"quality {quality}")
        row, ours, jpeg = _one(codec, picture, folder, quality)
        rows.append(row)
        jpeg_bpp = row.rate_bpp * row.jpeg_bytes / row.bytes
        panels.append(
            [
                (ours, f"rdcodec q{quality}: {row.bytes} B, {row.rate_bpp:.3f} bpp, {row.psnr_db:.2f} dB"),
                (jpeg, f"JPEG q{row.jpeg_quality}: {row.jpeg_bytes} B, {jpeg_bpp:.3f} bpp, {row.jpeg_psnr_db:.2f} dB"),
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


def _upright(picture: Picture) -> np.ndarray:
    """RGB pixels turned as the picture's EXIF orientation says."""
    exif = Image.Exif()
    exif.load(picture.exif or b"")
    image = Image.fromarray(np.broadcast_to(picture.pixels[..., :3], (*picture.pixels.shape[:2], 3)).copy())
    image.getexif()[ExifTags.Base.Orientation] = exif.get(ExifTags.Base.Orientation, 1)
    return np.asarray(ImageOps.exif_transpose(image))


def _sheet(columns: list[list[tuple[np.ndarray, str]]]) -> np.ndarray:
    """Panels side by side, ours above JPEG, each with a caption; below them the middle at 1:1, half ours and half JPEG."""
    height, width = columns[0][0][0].shape[:2]
    shrink = min(1.0, PANEL_MAX / max(height, width))
    small = max(1, round(width * shrink)), max(1, round(height * shrink))
    cell, gap, caption = max(small[0], 340), 12, 26
    detail_rows = min(height, cell // 2)
    row = small[1] + caption + gap
    sheet = Image.new("RGB", (len(columns) * (cell + gap) + gap, 2 * row + detail_rows + caption + 2 * gap), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for i, panels in enumerate(columns):
        x = gap + i * (cell + gap)
        for j, (pixels, text) in enumerate(panels if i else panels[:1]):
            draw.text((x, gap + j * row), text, fill="black", font=font)
            panel = Image.fromarray(pixels)
            sheet.paste(panel.resize(small, Image.Resampling.LANCZOS) if shrink < 1 else panel, (x, gap + j * row + caption))
        draw.text((x, gap + 2 * row), "1:1, left rdcodec, right JPEG" if i else "1:1", fill="black", font=font)
        sheet.paste(_detail(panels[0][0], panels[1][0], cell, detail_rows), (x, gap + 2 * row + caption))
    return np.asarray(sheet)


def _detail(left: np.ndarray, right: np.ndarray, columns: int, rows: int) -> Image.Image:
    """The middle of a picture at its own size: the left half of one, the right half of the other."""
    height, width = left.shape[:2]
    columns = min(columns, width)
    top, start, middle = (height - rows) // 2, (width - columns) // 2, columns // 2
    part = np.s_[top : top + rows, start : start + columns]
    return Image.fromarray(np.concatenate([left[part][:, :middle], right[part][:, middle:]], 1))
