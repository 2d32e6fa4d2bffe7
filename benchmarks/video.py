"""Rate-distortion of video: ours beside x264, x265 and SVT-AV1, at the presets and frames a group in their names.

    python benchmarks/video.py FOLDER -o benchmarks/results --references-from benchmarks/results/video_anchors_points.csv

Writes video_points.csv (every clip), video_means.csv and video.png, and video_bd_rate.csv: a line for each reference, of the
means and of each clip. The references do not depend on our weights: ``--references-only`` measures them once into
video_anchors_points.csv and their means into video_anchors_means.csv (and goes on where it was interrupted),
``--references-from`` takes them from there. Clips of one scene (`SCENES`) count once in means. Times are the processor's, of
all threads together, so that neighbours on the machine do not count.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Annotated

import typer
from rdcodec.codecs.evaluation.points import (
    OURS,
    Point,
    curves,
    means,
    read_points,
    write_csv,
    write_means,
    write_points,
)
from rdcodec.codecs.evaluation.report import against_references, plot_curves, table_of
from rdcodec.codecs.evaluation.run import chosen, evaluate
from rdcodec.codecs.video.evaluation import QUALITIES, TASK
from rich.console import Console
from rich.progress import track

ANCHORS = "video_anchors_points.csv", "video_anchors_means.csv"
SCENES = {"mobile_cif.mkv": "mobile, calendar", "vid4_calendar_352x288.mkv": "mobile, calendar"}
"""Scenes by the names of their clips, where they have several."""


def by_scene(points: Iterable[Point]) -> list[Point]:
    """Points with those of one scene, codec and setting averaged into one."""
    groups: dict[tuple[str, float, str], list[Point]] = defaultdict(list)
    for point in points:
        groups[point.codec, point.setting, SCENES.get(point.file, point.file)].append(point)
    return [_averaged(scene, group) for (_, _, scene), group in groups.items()]


def _averaged(scene: str, group: list[Point]) -> Point:
    """One point for clips of a scene."""
    columns = group[0].metrics
    defined = {name: [p.metrics[name] for p in group if not math.isnan(p.metrics[name])] for name in columns}
    return replace(
        group[0],
        file=scene,
        rate=fmean(p.rate for p in group),
        metrics={name: fmean(values) if values else math.nan for name, values in defined.items()},
        encode_s=fmean(p.encode_s for p in group),
        decode_s=fmean(p.decode_s for p in group),
    )


def measure_references(files: Sequence[Path], names: Sequence[str], output: Path) -> None:
    """Points and means of the references, kept after every clip and codec, so that a second call goes on."""
    path = output / ANCHORS[0]
    points = read_points(path, TASK) if path.exists() else []
    done = {(point.codec, point.file) for point in points}
    for name, reference in chosen(TASK, names).items():
        for file in track(files, name):
            if (name, file.name) not in done:
                points += evaluate(TASK, {name: reference}, [file], clock=time.process_time)
                write_points(path, TASK, points)
    write_means(output / ANCHORS[1], TASK, means(by_scene(points)))


def write_bd_rates(path: Path, points: Sequence[Point], names: Sequence[str]) -> None:
    """BD-rates of ours against each reference, of the means over scenes (clip ``all``) and of each clip."""
    parts = {"all": by_scene(points)} | {file: [p for p in points if p.file == file] for file in {p.file for p in points}}
    columns = [f"bd_rate_{metric.name}_percent" for metric in TASK.metrics]
    rows = []
    for name in names:
        for clip in sorted(parts, key=lambda part: (part != "all", part)):
            rates = against_references(TASK, curves(parts[clip], TASK.metrics), [name])[name]
            rows.append({"anchor": name, "clip": clip} | {c: f"{v:.2f}" for c, v in zip(columns, rates, strict=True)})
    write_csv(path, rows, ["anchor", "clip", *columns])


def main(
    folder: Annotated[Path, typer.Argument(help="Folder with the clips.")],
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
    """Measure, and write video_points.csv, video_means.csv, video_bd_rate.csv and video.png."""
    files = TASK.find(folder)
    if not files:
        raise typer.BadParameter(f"{folder} holds no videos")
    output.mkdir(parents=True, exist_ok=True)
    wanted = [name for name in names.split(",") if name]
    if only:
        measure_references(files, wanted, output)
        return
    ours = replace(TASK.ours(model, device), settings=tuple(int(quality) for quality in qualities.split(",")))
    codecs = {OURS: ours} | ({} if source else chosen(TASK, wanted))
    points = [point for file in track(files, "videos") for point in evaluate(TASK, codecs, [file], clock=time.process_time)]
    if source:
        own = {file.name for file in files}
        points += [p for p in read_points(source, TASK) if p.codec in wanted and p.file in own]
    scenes = by_scene(points)
    by_metric = curves(scenes, TASK.metrics)
    write_points(output / "video_points.csv", TASK, points)
    write_means(output / "video_means.csv", TASK, means(scenes))
    title = f"{len({p.file for p in scenes})} scenes, means over scenes"
    plot_curves(output / "video.png", TASK, by_metric, title, rates=TASK.rate.plotted)
    write_bd_rates(output / "video_bd_rate.csv", points, wanted)
    Console().print(table_of(TASK, against_references(TASK, by_metric, wanted), points))


if __name__ == "__main__":
    typer.run(main)
