"""``codec demo``: one photograph at three qualities, beside JPEG at equal bytes, on one sheet."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from rich.table import Column, Table

from ...entropy_models.errors import InputError
from ..container import write_file
from ..evaluation.metrics import psnr_db
from . import references
from .codec import ImageCodec
from .formats import ORIGINAL, QUALITIES, SHEET
from .picture_writing import upright, write_picture
from .pictures import Picture, read_picture

PANEL_MAX = 640
"""Longest side of a panel on the sheet, in pixels."""
CELL_MIN = 340
"""Pixels that a caption takes across."""
DIVIDER = 4
"""White columns between ours and JPEG where both are halves of one detail."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoRow:
    """One quality: our file and the JPEG closest to it in bytes."""

    quality: int
    file: Path
    bytes: int
    rate_bpp: float
    psnr_db: float
    jpeg_quality: float
    jpeg_bytes: int
    jpeg_rate_bpp: float
    jpeg_psnr_db: float
    encode_s: float
    decode_s: float


def sample_photograph() -> Path:
    """A photograph that matplotlib ships (Grace Hopper, public domain)."""
    from matplotlib import cbook

    return Path(str(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)))


def run(
    codec: ImageCodec,
    photograph: Path,
    folder: Path,
    progress: Callable[[str], None] = lambda text: None,
    effort: int = 0,
) -> tuple[list[DemoRow], Path]:
    """Write files, pictures and ``sheet.png`` into ``folder``; returns a row per quality and the sheet's path.

    Args:
        effort: that of the codec, for the captions.

    Raises:
        ValueError: not an image.
    """
    try:
        picture = read_picture(photograph.read_bytes())
    except ValueError as error:
        raise InputError(f"{photograph}: {error}") from None
    picture = Picture(upright(picture).rgb())
    original = picture.pixels
    folder.mkdir(parents=True, exist_ok=True)
    write_file(folder / ORIGINAL, write_picture(picture))
    panels, rows = [], []
    for quality in QUALITIES:
        progress(f"quality {quality}")
        row, ours, jpeg = _one(codec, picture, folder, quality)
        rows.append(row)
        name = f"rdcodec q{quality}" + (f", effort {effort}" if effort else "")
        theirs = f"{row.jpeg_bytes} B, {row.jpeg_rate_bpp:.3f} bpp, {row.jpeg_psnr_db:.2f} dB"
        panels.append(
            [
                (ours, f"{name}: {row.bytes} B, {row.rate_bpp:.3f} bpp, {row.psnr_db:.2f} dB"),
                (jpeg, f"JPEG q{row.jpeg_quality:.1f}: {theirs}"),
            ]
        )
    sheet = folder / SHEET
    write_file(sheet, write_picture(Picture(_sheet(original, panels, rows))))
    return rows, sheet


def figures(rows: list[DemoRow]) -> Table:
    """What `run` measured, for people."""
    file = Column("file", no_wrap=True, overflow="fold")
    table = Table(file, "bytes", "bpp", "PSNR (dB)", "JPEG bytes", "JPEG PSNR (dB)", "encode (s)", "decode (s)")
    for row in rows:
        cells = f"{row.rate_bpp:.3f}", f"{row.psnr_db:.2f}", str(row.jpeg_bytes), f"{row.jpeg_psnr_db:.2f}"
        table.add_row(row.file.name, str(row.bytes), *cells, f"{row.encode_s:.2f}", f"{row.decode_s:.2f}")
    return table


def _one(codec: ImageCodec, picture: Picture, folder: Path, quality: int) -> tuple[DemoRow, np.ndarray, np.ndarray]:
    path = folder / f"q{quality}.rdc"
    start = time.perf_counter()
    data = codec.encode(picture, quality=quality)
    middle = time.perf_counter()
    ours = codec.decode(data).array()
    end = time.perf_counter()
    jpeg_quality, jpeg_data = references.jpeg_of_bytes(picture.pixels, len(data))
    jpeg = references.decode(jpeg_data)
    bpp_per_byte = 8 / (ours.shape[0] * ours.shape[1])
    write_file(path, data)
    write_file(folder / f"q{quality}.png", write_picture(Picture(ours)))
    write_file(folder / f"q{quality}_equal_bytes.jpg", jpeg_data)
    row = DemoRow(
        quality=quality,
        file=path,
        bytes=len(data),
        rate_bpp=len(data) * bpp_per_byte,
        psnr_db=psnr_db(picture.pixels, ours),
        jpeg_quality=jpeg_quality,
        jpeg_bytes=len(jpeg_data),
        jpeg_rate_bpp=len(jpeg_data) * bpp_per_byte,
        jpeg_psnr_db=psnr_db(picture.pixels, jpeg),
        encode_s=middle - start,
        decode_s=end - middle,
    )
    return row, ours, jpeg


def _sheet(original: np.ndarray, columns: list[list[tuple[np.ndarray, str]]], rows: list[DemoRow]) -> np.ndarray:
    """Panels side by side, each with a caption.

    The first column is the original above the chart, the others ours above JPEG; below them the middle at 1:1, half
    ours and half JPEG.
    """
    height, width = original.shape[:2]
    shrink = min(1.0, PANEL_MAX / max(height, width))
    small = max(1, round(width * shrink)), max(1, round(height * shrink))
    cell, gap, caption = (max(small[0], CELL_MIN), max(small[1], CELL_MIN * 3 // 4)), 12, 26
    detail_rows, row = min(height, cell[0] // 2), cell[1] + caption + gap
    size = (len(columns) + 1) * (cell[0] + gap) + gap, 2 * row + detail_rows + caption + 2 * gap
    sheet = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)

    def place(column: int, line: int, text: str, panel: Image.Image) -> None:
        x, y = gap + column * (cell[0] + gap), gap + line * row
        draw.text((x, y), text, fill="black", font=font)
        sheet.paste(panel, (x, y + caption))

    def reduced(pixels: np.ndarray) -> Image.Image:
        return Image.fromarray(pixels).resize(small, Image.Resampling.LANCZOS)  # a copy where the sizes are equal

    place(0, 0, f"original, {width}x{height}", reduced(original))
    place(0, 1, "PSNR over rate", _chart(rows, cell))
    place(0, 2, "1:1", Image.fromarray(_middle(original, cell[0], detail_rows)))
    for column, ((ours, ours_text), (jpeg, jpeg_text)) in enumerate(columns, 1):
        place(column, 0, ours_text, reduced(ours))
        place(column, 1, jpeg_text, reduced(jpeg))
        place(column, 2, "1:1, left rdcodec, right JPEG", _halves(ours, jpeg, cell[0], detail_rows))
    return np.asarray(sheet)


def _chart(rows: list[DemoRow], size: tuple[int, int]) -> Image.Image:
    """PSNR over rate of both codecs, ``size`` pixels (width, height)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(size[0] / 100, size[1] / 100), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.plot([row.rate_bpp for row in rows], [row.psnr_db for row in rows], marker="o", label="rdcodec")
    axes.plot([row.jpeg_rate_bpp for row in rows], [row.jpeg_psnr_db for row in rows], marker="s", label="JPEG")
    axes.set(xlabel="rate (bits per pixel)", ylabel="PSNR (dB)")
    axes.grid(alpha=0.3)
    axes.legend()
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())


def _middle(pixels: np.ndarray, columns: int, rows: int) -> np.ndarray:
    """The middle of a picture, at most so many pixels of it, at its own size."""
    height, width = pixels.shape[:2]
    columns = min(columns, width)
    top, start = (height - rows) // 2, (width - columns) // 2
    return pixels[top : top + rows, start : start + columns]


def _halves(left: np.ndarray, right: np.ndarray, columns: int, rows: int) -> Image.Image:
    """The middle: the left half of one picture, the right half of the other, and white between them."""
    left, right = (_middle(pixels, columns - DIVIDER, rows) for pixels in (left, right))
    half, white = left.shape[1] // 2, np.full((len(left), DIVIDER, 3), 255, np.uint8)
    return Image.fromarray(np.concatenate([left[:, :half], white, right[:, half:]], 1))
