"""What scripts that measure ours beside references share: options, references measured once, and points of both."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rdcodec.codecs.evaluation.points import OURS, MeanPoint, Point, curves, means, read_points, write_means, write_points
from rdcodec.codecs.evaluation.report import plot_curves
from rdcodec.codecs.evaluation.run import chosen, evaluate
from rdcodec.codecs.evaluation.task import Reference, Task
from rich.progress import track

RESULTS = Path("benchmarks/results")
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder of the results.")]
Names = Annotated[str, typer.Option("--references", help="Comma-separated.")]
Only = Annotated[bool, typer.Option("--references-only", help="Only measure the references, or go on.")]
From = Annotated[Path | None, typer.Option("--references-from", help="Take the references' points from this file.")]
Qualities = Annotated[str, typer.Option(help="Ours.")]
Model = Annotated[str | None, typer.Option(help="Weights by name; default: the shipped ones.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Effort = Annotated[int, typer.Option(min=1, max=9, help="Of the second curve of ours.")]
EffortAt = Annotated[str, typer.Option("--effort-qualities", help="Of that curve; empty: without it.")]


def files_for(task: Task[Any], folder: Path, output: Path, kind: str) -> list[Path]:
    """Files of a folder, when there is one for the results."""
    files = task.find(folder)
    if not files:
        raise typer.BadParameter(f"{folder} holds no {kind}")
    output.mkdir(parents=True, exist_ok=True)
    return files


def listed(names: str) -> list[str]:
    """Names between commas."""
    return [name for name in names.split(",") if name]


def refined(task: Task[Any], model: str | None, device: str, effort: int, qualities: str) -> dict[str, Reference[Any]]:
    """Ours at an effort, by its name in files; nothing where no qualities are asked for."""
    if not qualities or task.ours_at is None:
        return {}
    settings = tuple(map(int, listed(qualities)))
    return {f"{OURS} effort {effort}": replace(task.ours_at(model, device, effort), settings=settings)}


def measure_references(
    task: Task[Any],
    files: Sequence[Path],
    names: Sequence[str],
    paths: tuple[Path, Path],
    *,
    averaged: Callable[[Iterable[Point]], list[Point]] = list,
    clock: Callable[[], float] = time.perf_counter,
) -> None:
    """Points and means of the references, kept after every file and codec, so that a second call goes on.

    Args:
        paths: of points and of means.
        averaged: what means are taken of.
    """
    points = read_points(paths[0], task) if paths[0].exists() else []
    done = {(point.codec, point.file) for point in points}
    for name, reference in chosen(task, names).items():
        for file in track(files, name):
            if (name, file.name) not in done:
                points += evaluate(task, {name: reference}, [file], clock=clock)
                write_points(paths[0], task, points)
    write_means(paths[1], task, means(averaged(points)))


def write_curves(
    task: Task[Any],
    points: Sequence[Point],
    output: Path,
    name: str,
    title: str,
    *,
    averaged: Callable[[Iterable[Point]], list[Point]] = list,
) -> dict[str, list[MeanPoint]]:
    """``name``_points.csv, and of the averaged points ``name``_means.csv and ``name``.png; the curves by metric."""
    means_of = averaged(points)
    by_metric = curves(means_of, task.metrics)
    write_points(output / f"{name}_points.csv", task, points)
    write_means(output / f"{name}_means.csv", task, means(means_of))
    plot_curves(output / f"{name}.png", task, by_metric, title, rates=task.rate.plotted)
    return by_metric


def measured(
    task: Task[Any],
    files: Sequence[Path],
    names: Sequence[str],
    source: Path | None,
    kind: str,
    *,
    qualities: str,
    model: str | None,
    device: str,
    more: dict[str, Reference[Any]] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Point]:
    """Points of ours, of ours in other ways by name, and of the references: measured as well, or from a file of points."""
    ours = replace(task.ours(model, device), settings=tuple(int(quality) for quality in qualities.split(",")))
    codecs = {OURS: ours} | (more or {}) | ({} if source else chosen(task, names))
    points = [point for file in track(files, kind) for point in evaluate(task, codecs, [file], clock=clock)]
    if source:
        own = {file.name for file in files}
        points += [point for point in read_points(source, task) if point.codec in names and point.file in own]
    return points
