"""Rate-distortion on the 24 Kodak images: ours beside JPEG, WebP, AVIF and JPEG XL, and beside published curves.

    python benchmarks/kodak.py FOLDER -o benchmarks/results --references-from benchmarks/results/kodak_anchors_points.csv

Writes kodak_points.csv (every file), kodak_means.csv (every curve), kodak_bd_rate.csv and kodak.png. The references do
not depend on our weights: ``--references-only`` measures them once into kodak_anchors_points.csv (and goes on where it
was interrupted), ``--references-from`` takes them from there.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rdcodec.codecs.evaluation.bd_rate import bd_rate
from rdcodec.codecs.evaluation.points import OURS, MeanPoint, Point, means, read_points, write_means, write_points
from rdcodec.codecs.evaluation.report import plot_curves, table_of, write_bd_rates
from rdcodec.codecs.evaluation.run import chosen, evaluate
from rdcodec.codecs.evaluation.task import Reference
from rdcodec.codecs.image.evaluation import QUALITIES, TASK, load_ours
from rich.console import Console
from rich.progress import track

KODAK_IMAGES = 24
RATES_BPP = (0.12, 1.2)
"""BD-rates are over this range (and where both curves exist)."""
PLOTTED_BPP = (0.0, 1.4)
REFERENCES = *TASK.default_references, "jxl"
CURVES = "avif_s4_444_psnr,x265_intra_444_10b,bmshj2018-hyperprior,mbt2018-mean,cheng2020-anchor,vtm"
"""Curves taken from ``--anchor-csv`` files unless others are named."""


def measure_references(files: Sequence[Path], names: Sequence[str], path: Path) -> None:
    """Points of the references, kept in ``path`` after every file and codec, so that a second call goes on."""
    points = read_points(path, TASK) if path.exists() else []
    done = {(point.codec, point.file) for point in points}
    for file in track(files, "references"):
        for name, reference in chosen(TASK, names).items():
            if (name, file.name) not in done:
                points += evaluate(TASK, {name: reference}, [file])
                write_points(path, TASK, points)


def extended(path: Path, name: str, reference: Reference[Any], images: Path) -> list[Point]:
    """All points of a CSV, with those of a codec on a folder's PNG files, which are written there file by file. What it has
    is not coded again."""
    points = read_points(path, TASK) if path.exists() else []
    done = {(point.file, point.setting) for point in points if point.codec == name}
    for file in track(sorted(images.glob("*.png")), description=name):
        if missing := tuple(setting for setting in reference.settings if (file.name, setting) not in done):
            points += evaluate(TASK, {name: replace(reference, settings=missing)}, [file])
            write_points(path, TASK, points)
    return points


def read_curves(path: Path, names: Sequence[str]) -> list[MeanPoint]:
    """Published curves of a CSV file with columns codec, bpp, psnr, ms_ssim; their times are unknown (nan)."""
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["codec"] in names]
    return [
        MeanPoint(
            codec=row["codec"],
            setting=i,
            rate=float(row["bpp"]),
            metrics={"psnr_db": float(row["psnr"]), "ms_ssim": float(row["ms_ssim"] or "nan")},
        )
        for i, row in enumerate(rows)
    ]


def write(output: Path, points: Sequence[Point], published: Sequence[MeanPoint]) -> None:
    """The CSVs, the plot with published curves dashed, and the table of BD-rates."""
    rows = [*means(points), *published]
    write_points(output / "kodak_points.csv", TASK, points)
    write_means(output / "kodak_means.csv", TASK, rows)
    theirs = {row.codec for row in published}
    title = f"{KODAK_IMAGES} Kodak images, means over images" + (
        "; dashed: published or measured elsewhere" if theirs else ""
    )
    by_metric = {metric.column: rows for metric in TASK.metrics}
    plot_curves(output / "kodak.png", TASK, by_metric, title, rates=PLOTTED_BPP, dashed=theirs)
    names = [name for name in dict.fromkeys(row.codec for row in rows) if name != OURS]
    rates = {name: [bd_rate(rows, name, metric, RATES_BPP) for metric in TASK.metrics] for name in names}
    write_bd_rates(output / "kodak_bd_rate.csv", TASK, rates)
    Console().print(table_of(TASK, rates, points))


def main(
    folder: Annotated[Path, typer.Argument(help="Folder with kodim01.png to kodim24.png.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the results.")] = Path("benchmarks/results"),
    names: Annotated[str, typer.Option("--references", help=f"Comma-separated: {', '.join(TASK.references)}.")] = ",".join(
        REFERENCES
    ),
    only: Annotated[bool, typer.Option("--references-only", help="Only measure the references, or go on.")] = False,
    source: Annotated[
        Path | None, typer.Option("--references-from", help="Take the references' points from this file.")
    ] = None,
    anchor_csv: Annotated[list[Path] | None, typer.Option(help="Published curves: codec, bpp, psnr, ms_ssim.")] = None,
    curves: Annotated[str, typer.Option(help="Names to take from --anchor-csv.")] = CURVES,
    qualities: Annotated[str, typer.Option(help="Ours.")] = ",".join(map(str, QUALITIES)),
    model: Annotated[str | None, typer.Option(help="Weights by name; default: the shipped ones.")] = None,
    effort: Annotated[int, typer.Option(min=0, max=9, help="Ours: time for refining, 0 (none) to 9.")] = 0,
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
    if only:
        measure_references(files, wanted, output / "kodak_anchors_points.csv")
        return
    ours = replace(load_ours(model, device, effort), settings=tuple(int(quality) for quality in qualities.split(",")))
    codecs = {OURS: ours} | ({} if source else chosen(TASK, wanted))
    points = [point for file in track(files, "images") for point in evaluate(TASK, codecs, [file])]
    if source:
        names_of_files = {file.name for file in files}
        points += [p for p in read_points(source, TASK) if p.codec in wanted and p.file in names_of_files]
    write(output, points, [row for path in anchor_csv or () for row in read_curves(path, curves.split(","))])


if __name__ == "__main__":
    typer.run(main)
