"""Rate-distortion on the 24 Kodak images: ours beside JPEG, WebP and AVIF, and beside published curves.

    python benchmarks/kodak.py FOLDER -o benchmarks/results --anchors-from benchmarks/results/kodak_anchors_points.csv

Writes kodak_points.csv (every file), kodak_means.csv (every curve), kodak_bd_rate.csv and kodak.png. The anchors do
not depend on our weights: ``--anchors-only`` measures them once into kodak_anchors_points.csv (and goes on where it
was interrupted), ``--anchors-from`` takes them from there.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import matplotlib.pyplot as plt
import typer
from rdcodec.codecs import load
from rdcodec.codecs.image import evaluation
from rdcodec.codecs.image.evaluation import METRICS, MeanPoint, Point
from rdcodec.codecs.image.references import ANCHORS
from rich.console import Console
from rich.progress import track
from rich.table import Table

OURS = "rdcodec"
KODAK_IMAGES = 24
RATES_BPP = (0.12, 1.2)
"""BD-rates are over this range (and where both curves exist)."""
CURVES = "avif_s4_444_psnr,x265_intra_444_10b,bmshj2018-hyperprior,mbt2018-mean,cheng2020-anchor,vtm"
"""Curves taken from ``--anchor-csv`` files unless others are named."""


def read_points(path: Path) -> list[Point]:
    """Points that `evaluation.write_csv` wrote."""
    with path.open(newline="") as file:
        return [
            Point(
                codec=row["codec"], quality=int(row["quality"]), file=row["file"], width=int(row["width"]),
                height=int(row["height"]), bytes=int(row["bytes"]), rate_bpp=float(row["rate_bpp"]),
                psnr_db=float(row["psnr_db"]), ms_ssim=float(row["ms_ssim"]), encode_s=float(row["encode_s"]),
                decode_s=float(row["decode_s"]),
            )
            for row in csv.DictReader(file)
        ]  # fmt: skip


def measure_anchors(files: Sequence[Path], names: Sequence[str], path: Path) -> list[Point]:
    """Points of the anchors, kept in ``path`` after every file and codec, so that a second call goes on."""
    points = read_points(path) if path.exists() else []
    done = {(point.codec, point.file) for point in points}
    for file in track(files, "anchors"):
        for name in names:
            if (name, file.name) not in done:
                points += evaluation.evaluate(None, [file], [name], qualities=())  # type: ignore[arg-type]  # not ours
                evaluation.write_csv(path, points)
    return points


def read_curves(path: Path, names: Sequence[str]) -> list[MeanPoint]:
    """Curves of a CSV file with columns codec, bpp, psnr, ms_ssim; times are unknown (nan)."""
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["codec"] in names]
    return [
        MeanPoint(row["codec"], i, float(row["bpp"]), float(row["psnr"]), float(row["ms_ssim"] or "nan"), math.nan, math.nan)
        for i, row in enumerate(rows)
    ]


def bd_rates(rows: Sequence[MeanPoint]) -> list[tuple[str, float, float]]:
    """Each anchor's name and our BD-rate against it in PSNR and in MS-SSIM, in percent; nan where a curve lacks points."""
    names = [name for name in dict.fromkeys(row.codec for row in rows) if name != OURS]
    known = {metric: [row for row in rows if not math.isnan(getattr(row, metric))] for metric in METRICS}
    figures = {m: [evaluation.bd_rate(known[m], name, m, RATES_BPP) for name in names] for m in METRICS}
    return list(zip(names, figures["psnr_db"], figures["ms_ssim"], strict=True))


def write_bd_rates(path: Path, rates: Sequence[tuple[str, float, float]]) -> Table:
    """The CSV, and a table for the eye."""
    table = Table("against", "PSNR", "MS-SSIM", title=f"BD-rate of rdcodec, {RATES_BPP[0]} to {RATES_BPP[1]} bpp")
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["anchor", "bd_rate_psnr_percent", "bd_rate_ms_ssim_percent"])
        for name, *figures in rates:
            writer.writerow([name, *(f"{value:.2f}" for value in figures)])
            table.add_row(name, *("too few points" if math.isnan(v) else f"{v:+.1f} %" for v in figures))
    return table


def plot(path: Path, rows: Sequence[MeanPoint], measured: Sequence[str]) -> None:
    """PSNR and MS-SSIM (in decibels) over rate; curves from other people's tables are dashed."""
    figure, panels = plt.subplots(1, 2, figsize=(13, 6), layout="constrained")
    for axes, (metric, label) in zip(panels, METRICS.items(), strict=True):
        for name in dict.fromkeys(row.codec for row in rows):
            rates, values = evaluation.curve(rows, name, metric, (0.0, RATES_BPP[1]))
            if metric == "ms_ssim":
                values = [-10 * math.log10(1 - value) for value in values]
            style = {"linewidth": 2.6, "color": "black", "zorder": 5} if name == OURS else {"linewidth": 1.2}
            axes.plot(rates, values, "-" if name in measured else "--", marker="o", markersize=3, label=name, **style)
        axes.set(xlabel="rate (bits per pixel)", ylabel=label, xlim=(0, RATES_BPP[1] + 0.2))
        axes.grid(alpha=0.3)
    panels[0].legend(loc="lower right")
    figure.suptitle("24 Kodak images, means over images; dashed: published or measured elsewhere")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(
    folder: Annotated[Path, typer.Argument(help="Folder with kodim01.png to kodim24.png.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the results.")] = Path("benchmarks/results"),
    names: Annotated[str, typer.Option("--anchors", help=f"Comma-separated: {', '.join(ANCHORS)}.")] = "jpeg,webp,avif",
    anchors_only: Annotated[bool, typer.Option("--anchors-only", help="Only measure the anchors, or go on.")] = False,
    anchors_from: Annotated[Path | None, typer.Option(help="Take the anchors' points from this file.")] = None,
    anchor_csv: Annotated[list[Path] | None, typer.Option(help="More curves: codec, bpp, psnr, ms_ssim.")] = None,
    curves: Annotated[str, typer.Option(help="Names to take from --anchor-csv.")] = CURVES,
    qualities: Annotated[str, typer.Option(help="Ours.")] = ",".join(map(str, evaluation.QUALITIES)),
    model: Annotated[str | None, typer.Option(help="Weights by name; default: the shipped ones.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "cpu",
) -> None:
    """Measure, and write kodak_points.csv, kodak_means.csv, kodak_bd_rate.csv and kodak.png."""
    files = sorted(folder.glob("*.png"))
    if not files:
        raise typer.BadParameter(f"{folder} holds no PNG files")
    if anchor_csv and len(files) != KODAK_IMAGES:
        raise typer.BadParameter(f"{len(files)} images; published curves are means over all {KODAK_IMAGES}")
    output.mkdir(parents=True, exist_ok=True)
    wanted = [name for name in names.split(",") if name]
    if anchors_only:
        measure_anchors(files, wanted, output / "kodak_anchors_points.csv")
        return
    codec = load("image", model=model, device=device)
    ours = [int(quality) for quality in qualities.split(",")]
    fresh = [] if anchors_from else wanted
    points = [p for file in track(files, "images") for p in evaluation.evaluate(codec, [file], fresh, ours)]
    if anchors_from:
        names_of_files = {file.name for file in files}
        points += [p for p in read_points(anchors_from) if p.codec in wanted and p.file in names_of_files]
    rows = evaluation.means(points)
    for path in anchor_csv or ():
        rows += read_curves(path, curves.split(","))
    evaluation.write_csv(output / "kodak_points.csv", points)
    evaluation.write_csv(output / "kodak_means.csv", rows)
    plot(output / "kodak.png", rows, [OURS, *wanted])
    Console().print(write_bd_rates(output / "kodak_bd_rate.csv", bd_rates(rows)))


if __name__ == "__main__":
    typer.run(main)
