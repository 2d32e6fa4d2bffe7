"""What the command line asks of the image codec: bytes in, bytes and facts out."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.progress import Progress as Bar
from rich.table import Table

from ..container import MAGIC, write_file
from ..terminal.files import check_folder, show_size
from . import evaluation, references
from .codec import ImageCodec, Progress
from .header import parse
from .pictures import check_sides, fitting, format_of, looks_like_image, read_picture, write_picture
from .rate_control import encode_to_bytes
from .tiles import Box

Codecs = dict[str, ImageCodec]
"""Codecs that are loaded already, by whatever named them."""


def encode_bytes(
    codecs: Codecs,
    data: bytes,
    *,
    quality: int,
    bpp: float | None,
    size: int | None,
    model: str | None,
    device: str,
    progress: Progress,
) -> tuple[bytes, dict[str, Any]]:
    """An image file's bytes to a stream and what to report.

    Raises:
        ValueError: not an image, or a target out of reach.
        KeyError: no such model.
    """
    if not data:
        raise ValueError("the input is empty; expected an image or a KV cache in safetensors")
    if data.startswith(MAGIC):
        raise ValueError("is an .rdc file already; `codec decode` reads it")
    if not looks_like_image(data):
        raise ValueError(f"starts with {data[:8]!r}: neither an image nor a KV cache in safetensors")
    picture = read_picture(data)
    if "encode" not in codecs:
        codecs["encode"] = ImageCodec.load(model=model, device=device)
    codec = codecs["encode"]
    pixels = picture.pixels.shape[0] * picture.pixels.shape[1]
    if bpp is not None:
        size = int(bpp * pixels / 8)
    if size is not None:
        stream, quality = encode_to_bytes(codec, picture, size, progress)
    else:
        stream = codec.encode(picture, quality, progress)
    rate_bpp = len(stream) * 8 / pixels
    raw_bytes = picture.pixels.size + (picture.alpha.size if picture.alpha is not None else 0)
    facts = {"codec": "image", "quality": quality, "rate_bpp": rate_bpp, "rate": f"{rate_bpp:.3f} bpp"}
    notices = picture.notices
    if len(stream) > len(data):
        notices += (f"larger than the input of {show_size(len(data))}; keep that, or take a lower quality",)
    return stream, facts | {"raw_bytes": raw_bytes, "notices": notices}


def _codec_for(codecs: Codecs, stream_hash: bytes, device: str) -> ImageCodec:
    """The codec with the weights that a stream names."""
    key = stream_hash.hex()
    if key not in codecs:
        codecs[key] = ImageCodec.load(stream_hash=stream_hash, device=device)
    return codecs[key]


def decode_bytes(
    codecs: Codecs,
    data: bytes,
    target: Path | None,
    *,
    image_format: str | None,
    crop: str | None,
    salvage: bool,
    device: str,
    progress: Progress,
) -> tuple[bytes, dict[str, Any]]:
    """A stream to an image file in ``image_format``; None: the one that ``target`` names, PNG for standard output.

    Raises:
        BitstreamError: anything wrong with the data.
        ValueError: a crop outside the image, or a format that cannot hold it.
    """
    image_format = image_format or (format_of(target) if target else "PNG")
    box = parse_crop(crop) if crop else None
    stream, header = parse(data, salvage=salvage)
    if box is None:
        check_sides(header.height, header.width, image_format)
    codec = _codec_for(codecs, stream.weights, device)
    picture = fitting(codec.decode_picture(data, crop=box, salvage=salvage, progress=progress), image_format)
    height, width = picture.pixels.shape[:2]
    facts: dict[str, Any] = {"codec": "image", "width": width, "height": height, "shape": f"{width}x{height}"}
    facts |= {"notices": picture.notices, "lost_tiles": picture.lost_tiles}
    return write_picture(picture, image_format), facts


def verify_bytes(codecs: Codecs, data: bytes, *, device: str) -> None:
    """Check everything in a stream; decodes every symbol, no pixels.

    Raises:
        BitstreamError: anything wrong with the data.
    """
    _codec_for(codecs, parse(data)[0].weights, device).verify(data)


def parse_crop(text: str) -> Box:
    """``X,Y,W,H`` to (top, left, bottom, right).

    >>> parse_crop("10,20,30,40")
    (20, 10, 60, 40)

    Raises:
        ValueError: not four whole numbers, or an empty crop.
    """
    try:
        x, y, width, height = (int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"crop {text!r}; write X,Y,W,H in whole pixels, like 0,0,256,256") from None
    if width < 1 or height < 1 or x < 0 or y < 0:
        raise ValueError(f"crop {text!r}; X and Y start at 0, W and H at 1")
    return y, x, y + height, x + width


def evaluate_folder(
    folder: Path,
    names: str,
    output: Path,
    qualities: str | None,
    model: str | None,
    device: str,
    progress: Bar,
) -> Table:
    """Run the evaluation, write its files, and return the table of BD-rates.

    Raises:
        ValueError: no images, unknown anchors, or bad qualities.
    """
    if not folder.exists():
        raise ValueError(f"{folder}: no such file or folder")
    wanted, ours = _curves(names, qualities)
    evaluation.check_packages()
    check_folder(output)

    def left_out(path: Path, error: Exception) -> None:
        progress.console.print(f"codec: {path}: {error}; left out", markup=False)

    own = output.resolve()  # an earlier report holds a picture, too
    found = [p for p in folder.rglob("*") if p.is_file() and own not in p.resolve().parents] if folder.is_dir() else [folder]
    paths = _readable(sorted(found), left_out)
    if not paths:
        raise ValueError(f"{folder}: no images there")
    output.mkdir(parents=True, exist_ok=True)  # what cannot be written is found out before hours are spent
    total = len(paths) * (len(ours) + sum(len(references.ANCHORS[name].qualities) for name in wanted))
    task = progress.add_task("loading", total=total)

    def advance(text: str) -> None:
        progress.update(task, description=text, advance=1)

    codec = ImageCodec.load(model=model, device=device)
    points = evaluation.evaluate(codec, paths, wanted, ours, advance, left_out)
    if small := {point.file for point in points if math.isnan(point.ms_ssim)}:
        progress.console.print(f"codec: note: without MS-SSIM, for at most 160 pixels a side: {', '.join(sorted(small))}")
    return write_report(output, points, wanted, f"{folder.name}: {len({point.file for point in points})} images")


def _curves(names: str, qualities: str | None) -> tuple[list[str], tuple[int, ...]]:
    """The anchors asked for, each of which can run here, and our qualities, enough to compare with them."""
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    for name in wanted:
        references.check(name)
    ours = parse_qualities(qualities) if qualities else evaluation.QUALITIES
    if wanted and len(ours) < 4:
        raise ValueError(f"{len(ours)} qualities; a BD-rate needs 4 (or give --anchors '')")
    return wanted, ours


def _readable(paths: list[Path], left_out: Callable[[Path, Exception], None]) -> list[Path]:
    """The images among the files; a damaged one is reported and left out, before hours are spent on the others."""
    kept = []
    for path in paths:
        data = path.read_bytes()
        if not looks_like_image(data):
            continue
        try:
            read_picture(data)
            kept.append(path)
        except ValueError as error:
            left_out(path, error)
    return kept


def parse_qualities(text: str) -> tuple[int, ...]:
    """Qualities of a curve.

    >>> parse_qualities("5, 30,60")
    (5, 30, 60)

    Raises:
        ValueError: not whole numbers from 0 to 100.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) <= 100 for part in parts):
        raise ValueError(f"qualities {text!r}; need whole numbers 0..100 with commas, like 10,30,60,90")
    return tuple(dict.fromkeys(int(part) for part in parts))


def write_report(output: Path, points: list[evaluation.Point], names: list[str], title: str) -> Table:
    """points.csv, means.csv, bd_rate.csv and rate_distortion.png in ``output``."""
    output.mkdir(parents=True, exist_ok=True)
    curves = evaluation.curves(points)
    evaluation.write_csv(output / "points.csv", points)
    evaluation.write_csv(output / "means.csv", evaluation.means(points))
    evaluation.plot(output / "rate_distortion.png", curves, title)
    table = Table("against", "BD-rate PSNR", "BD-rate MS-SSIM", title="rdcodec: rate at equal quality")
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["anchor", "bd_rate_psnr_percent", "bd_rate_ms_ssim_percent"])
    for name in names:
        figures = [evaluation.bd_rate(rows, name, metric) for metric, rows in curves.items()]
        writer.writerow([name, *(f"{value:.2f}" for value in figures)])
        table.add_row(name, *("too few points" if math.isnan(v) else f"{v:+.1f} %" for v in figures))
    write_file(output / "bd_rate.csv", buffer.getvalue().encode())
    return table
