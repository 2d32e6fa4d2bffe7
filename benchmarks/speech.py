"""Rate-distortion of speech: ours beside Opus (60 and 20 ms frames) and Codec 2.

    python benchmarks/speech.py FOLDER -o benchmarks/results --references-from benchmarks/results/speech_anchors_points.csv

Writes speech_points.csv (every file), speech_means.csv, speech_bd_rate.csv and speech.png. The references do not depend
on our weights: ``--references-only`` measures them once into speech_anchors_points.csv and their means into
speech_anchors_means.csv (and goes on where it was interrupted), ``--references-from`` takes them from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rdcodec.codecs.evaluation.points import OURS, curves, means, read_points, write_means, write_points
from rdcodec.codecs.evaluation.report import against_references, plot_curves, table_of, write_bd_rates
from rdcodec.codecs.evaluation.run import chosen, evaluate
from rdcodec.codecs.speech.evaluation import QUALITIES, TASK
from rich.console import Console
from rich.progress import track

ANCHORS = "speech_anchors_points.csv", "speech_anchors_means.csv"


def measure_references(files: Sequence[Path], names: Sequence[str], output: Path) -> None:
    """Points and means of the references, kept after every file and codec, so that a second call goes on."""
    path = output / ANCHORS[0]
    points = read_points(path, TASK) if path.exists() else []
    done = {(point.codec, point.file) for point in points}
    for name, reference in chosen(TASK, names).items():
        for file in track(files, name):
            if (name, file.name) not in done:
                points += evaluate(TASK, {name: reference}, [file])
                write_points(path, TASK, points)
    write_means(output / ANCHORS[1], TASK, means(points))


def main(
    folder: Annotated[Path, typer.Argument(help="Folder with the sounds.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the results.")] = Path("benchmarks/results"),
    names: Annotated[str, typer.Option("--references", help="Comma-separated.")] = ",".join(TASK.references),
    only: Annotated[bool, typer.Option("--references-only", help="Only measure the references, or go on.")] = False,
    source: Annotated[
        Path | None, typer.Option("--references-from", help="Take the references' points from this file.")
    ] = None,
    qualities: Annotated[str, typer.Option(help="Ours.")] = ",".join(map(str, QUALITIES)),
    model: Annotated[str | None, typer.Option(help="Weights by name; default: the shipped ones.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "cpu",
) -> None:
    """Measure, and write speech_points.csv, speech_means.csv, speech_bd_rate.csv and speech.png."""
    files = TASK.find(folder)
    if not files:
        raise typer.BadParameter(f"{folder} holds no sounds")
    output.mkdir(parents=True, exist_ok=True)
    wanted = [name for name in names.split(",") if name]
    if only:
        measure_references(files, wanted, output)
        return
    ours = replace(TASK.ours(model, device), settings=tuple(int(quality) for quality in qualities.split(",")))
    codecs = {OURS: ours} | ({} if source else chosen(TASK, wanted))
    points = [point for file in track(files, "sounds") for point in evaluate(TASK, codecs, [file])]
    if source:
        own = {file.name for file in files}
        points += [p for p in read_points(source, TASK) if p.codec in wanted and p.file in own]
    by_metric = curves(points, TASK.metrics)
    write_points(output / "speech_points.csv", TASK, points)
    write_means(output / "speech_means.csv", TASK, means(points))
    plot_curves(output / "speech.png", TASK, by_metric, f"{len(files)} sounds, means over sounds", rates=TASK.rate.plotted)
    rates = against_references(TASK, by_metric, wanted)
    write_bd_rates(output / "speech_bd_rate.csv", TASK, rates)
    Console().print(table_of(TASK, rates, points))


if __name__ == "__main__":
    typer.run(main)
