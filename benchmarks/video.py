"""Rate-distortion of video: ours beside x264, x265 and SVT-AV1, at the presets and frames a group in their names.

    python benchmarks/video.py FOLDER -o benchmarks/results --references-from benchmarks/results/video_anchors_points.csv

Writes video_points.csv (every clip), video_means.csv and video.png, and video_bd_rate.csv: a line for each reference, of the
means and of each clip. One reference more is ours with every frame on its own (``--alone-qualities ''`` leaves it out).
video_effort_bd_rate.csv is the same of an encoder with effort, which costs seconds a frame (``--effort-qualities ''``).
The references do not depend on our weights: ``--references-only`` measures them once into video_anchors_points.csv and
their means into video_anchors_means.csv (and goes on where it was interrupted), ``--references-from`` takes them from
there. Clips of one scene (`SCENES`) count once in means. Times are the processor's, of all threads together, so that
neighbours on the machine do not count.
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
from rdcodec.codecs.evaluation.points import OURS, Point, curves, write_csv
from rdcodec.codecs.evaluation.report import against_references, table_of
from rdcodec.codecs.evaluation.task import Reference
from rdcodec.codecs.video.codec import VideoCodec
from rdcodec.codecs.video.evaluation import QUALITIES, TASK, reference_of
from rdcodec.codecs.video.footage import Footage
from references import (
    RESULTS,
    Device,
    Effort,
    EffortAt,
    From,
    Model,
    Names,
    Only,
    Output,
    Qualities,
    files_for,
    listed,
    measure_references,
    measured,
    refined,
    write_curves,
)
from rich.console import Console

NAMES, OURS_AT = ",".join(TASK.references), ",".join(map(str, QUALITIES))
EFFORT_AT = "10,30,50,70"
ALONE, ALONE_AT = "every frame on its own", "0,15,30,45,60"
"""Groups of one frame, which has the quality of a group's first."""
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


def write_bd_rates(path: Path, points: Sequence[Point], names: Sequence[str], ours: str = OURS) -> None:
    """BD-rates of ours against each reference, of the means over scenes (clip ``all``) and of each clip."""
    parts = {"all": by_scene(points)} | {file: [p for p in points if p.file == file] for file in {p.file for p in points}}
    columns = [f"bd_rate_{metric.name}_percent" for metric in TASK.metrics]
    rows = []
    for name in names:
        for clip in sorted(parts, key=lambda part: (part != "all", part)):
            rates = against_references(TASK, curves(parts[clip], TASK.metrics), [name], ours)[name]
            rows.append({"anchor": name, "clip": clip} | {c: f"{v:.2f}" for c, v in zip(columns, rates, strict=True)})
    write_csv(path, rows, ["anchor", "clip", *columns])


def alone(model: str | None, device: str, qualities: str) -> dict[str, Reference[Footage]]:
    """Ours with every frame on its own, by its name in files; nothing where no qualities are asked for."""
    if not qualities:
        return {}
    settings = tuple(map(int, listed(qualities)))
    return {ALONE: reference_of(VideoCodec.load(model=model, device=device), settings, group=1)}


def main(
    folder: Annotated[Path, typer.Argument(help="Folder with the clips.")],
    output: Output = RESULTS,
    names: Names = NAMES,
    only: Only = False,
    source: From = None,
    qualities: Qualities = OURS_AT,
    model: Model = None,
    device: Device = "cpu",
    effort: Effort = 3,
    effort_qualities: EffortAt = EFFORT_AT,
    alone_qualities: Annotated[str, typer.Option(help="Ours with every frame on its own.")] = ALONE_AT,
) -> None:
    """Measure, and write points, means, BD-rates and a plot."""
    files, wanted = files_for(TASK, folder, output, "videos"), listed(names)
    if only:
        paths = output / ANCHORS[0], output / ANCHORS[1]
        measure_references(TASK, files, wanted, paths, averaged=by_scene, clock=time.process_time)
        return
    more = alone(model, device, alone_qualities) | refined(TASK, model, device, effort, effort_qualities)
    points = measured(
        TASK, files, wanted, source, "videos",
        qualities=qualities, model=model, device=device, clock=time.process_time, more=more,
    )  # fmt: skip
    scenes = {SCENES.get(point.file, point.file) for point in points}
    title = f"{len(scenes)} scenes, means over scenes"
    by_metric = write_curves(TASK, points, output, "video", title, averaged=by_scene)
    write_bd_rates(output / "video_bd_rate.csv", points, [*wanted, *([ALONE] if ALONE in more else [])])
    for name in more.keys() - {ALONE}:
        write_bd_rates(output / "video_effort_bd_rate.csv", points, [OURS, *wanted], name)
    Console().print(table_of(TASK, against_references(TASK, by_metric, wanted), points))


if __name__ == "__main__":
    typer.run(main)
