"""What an encoder's effort is worth: the shipped image model at several efforts, real bytes and real decoding.

    python benchmarks/effort.py KODAK -o benchmarks/results

Writes effort_points.csv (every file; a second call goes on where the first was interrupted), effort.csv: rate at equal
PSNR and at equal MS-SSIM against effort 0, of the files and qualities that each effort has, and effort_bd_rate.csv: of those
that have all files, against the curves of kodak_means.csv, which kodak.py writes. With --times effort_times.csv alone: CPU
seconds that encoding takes a megapixel, of one picture and one thread.
"""

from __future__ import annotations

import argparse
import csv
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from kodak import KODAK_IMAGES, RATES_BPP, extended
from models import TIMED, TIMED_QUALITY
from PIL import Image
from rdcodec.codecs import load
from rdcodec.codecs.evaluation.bd_rate import bd_rate
from rdcodec.codecs.evaluation.points import OURS, MeanPoint, Point, means, write_csv
from rdcodec.codecs.evaluation.timing import interleaved
from rdcodec.codecs.image.codec import ImageCodec
from rdcodec.codecs.image.evaluation import TASK, reference_of

QUALITIES = 4, 12, 32, 52, 72, 84
NONE = "effort 0"
EFFORTS, TRIES = (0, 1, 3, 5, 7, 9), 2


def setting(codec: ImageCodec, name: str) -> ImageCodec:
    """The codec at what a curve's name says: ``effort 5``, ``effort 5 eyes``."""
    effort, _, tune = name.removeprefix("effort ").partition(" ")
    return codec.with_effort(int(effort), tune=tune or None)


def write(output: Path, points: list[Point]) -> None:
    """Rates of each effort against effort 0, on the files and at the qualities that it has."""
    names = list(dict.fromkeys(point.codec for point in points))
    table = []
    for name in names[1:]:
        own = {(point.file, point.setting) for point in points if point.codec == name}
        rows = means(point for point in points if point.codec in (NONE, name) and (point.file, point.setting) in own)
        files = {file for file, _ in own}
        psnr, ms_ssim = (round(bd_rate(rows, NONE, metric, RATES_BPP, ours=name), 2) for metric in TASK.metrics)
        table.append({
            "setting": name, "images": len(files), "bd_rate_psnr_percent": psnr, "bd_rate_ms_ssim_percent": ms_ssim,
        })  # fmt: skip
    if table:
        write_csv(output / "effort.csv", table)


def write_bd_rates(output: Path, points: list[Point]) -> None:
    """Each effort against all other codecs; their curves as `kodak` has them."""
    if not (output / "kodak_means.csv").exists():
        return
    with (output / "kodak_means.csv").open(newline="") as file:
        theirs = [
            MeanPoint(
                codec=row["codec"], setting=float(row["quality"]), rate=float(row["rate_bpp"]),
                metrics={metric.column: float(row[metric.column] or "nan") for metric in TASK.metrics},
            )
            for row in csv.DictReader(file)
            if row["codec"] != OURS
        ]  # fmt: skip
    rows, table = [*means(points), *theirs], []
    whole = {name for name in {p.codec for p in points} if len({p.file for p in points if p.codec == name}) == KODAK_IMAGES}
    for name in sorted(whole - {NONE}):
        for anchor in dict.fromkeys(row.codec for row in theirs):
            rates = {m.name: bd_rate(rows, anchor, m, RATES_BPP, ours=name) for m in TASK.metrics}
            table.append(
                {"setting": name, "anchor": anchor} | {f"bd_rate_{m}_percent": f"{v:.2f}" for m, v in rates.items()}
            )
    write_csv(output / "effort_bd_rate.csv", table)


def write_times(output: Path, codec: ImageCodec, picture: Path) -> None:
    """CPU seconds of encoding a megapixel at some efforts, the least of two tries."""
    pixels = np.asarray(Image.open(picture))
    calls = {str(effort): partial(codec.with_effort(effort).encode, pixels, quality=TIMED_QUALITY) for effort in EFFORTS}
    seconds = interleaved(calls, TRIES, clock=time.process_time, figure=min)
    megapixels = pixels.size / 3e6
    table = [{"effort": name, "encode_s_per_megapixel": f"{value / megapixels:.2f}"} for name, value in seconds.items()]
    write_csv(output / "effort_times.csv", table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="folder of PNG files")
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--settings", default="effort 0,effort 5,effort 9,effort 1,effort 5 eyes")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--times", action="store_true", help="measure times alone")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    codec, path = load("image", device="cpu"), args.output / "effort_points.csv"
    if args.times:
        write_times(args.output, codec, args.images / TIMED)
        return
    for name in args.settings.split(","):
        points = extended(path, name, reference_of(setting(codec, name), QUALITIES), args.images)
        write(args.output, points)
        write_bd_rates(args.output, points)


if __name__ == "__main__":
    main()
