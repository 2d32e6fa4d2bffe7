"""Points of rate-distortion curves: one file coded once, and means over files; CSV files of them.

A mean counts each file the same whatever its size, in rate and in quality.
"""

from __future__ import annotations

import csv
import io
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from ...entropy_models.errors import InputError
from ..container import write_file
from .task import Facts, Metric, Task

OURS = "rdcodec"
"""Our codec's name in points."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One file, coded once."""

    codec: str
    setting: float
    file: str
    facts: Facts
    bytes: int
    """Bytes of the whole file."""
    counted_bytes: int
    """Those of them that the rate counts (`Reference.counted`)."""
    rate: float
    metrics: Mapping[str, float]
    """Values by column; nan where a metric is not defined."""
    encode_s: float
    decode_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanPoint:
    """Mean over files of one codec at one setting; nan: unknown."""

    codec: str
    setting: float
    rate: float
    metrics: Mapping[str, float]
    encode_s: float = math.nan
    decode_s: float = math.nan
    files: int = 1
    """Files that it is the mean of."""


Curves = dict[str, list[MeanPoint]]
"""Means of every codec and setting, by metric."""


def means(points: Iterable[Point]) -> list[MeanPoint]:
    """Mean over files for each codec and setting, ours first, by rising rate."""
    groups = defaultdict(list)
    for point in points:
        groups[point.codec, point.setting].append(point)
    rows = [
        MeanPoint(
            codec=codec,
            setting=setting,
            rate=fmean(p.rate for p in group),
            metrics={name: _mean(p.metrics[name] for p in group) for name in group[0].metrics},
            encode_s=fmean(p.encode_s for p in group),
            decode_s=fmean(p.decode_s for p in group),
            files=len(group),
        )
        for (codec, setting), group in groups.items()
    ]
    return sorted(rows, key=lambda row: (row.codec != OURS, row.codec, row.rate))


def _mean(values: Iterable[float]) -> float:
    """Mean of the values that are defined; see `curves`."""
    defined = [value for value in values if not math.isnan(value)]
    return fmean(defined) if defined else math.nan


def curves(points: Sequence[Point], metrics: Iterable[Metric[Any]]) -> Curves:
    """Means for each metric, over the files that have it, so that rate and quality are of the same ones."""
    columns = [metric.column for metric in metrics]
    return {column: means(p for p in points if not math.isnan(p.metrics[column])) for column in columns}


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]], columns: Iterable[str] | None = None) -> None:
    """One line per row; floats with six significant digits, nothing where a row has no such column.

    Args:
        columns: None: those of the first row.
    """
    names = list(rows[0] if columns is None else columns)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        values = [row.get(name, "") for name in names]
        writer.writerow([f"{value:.6g}" if isinstance(value, float) else value for value in values])
    write_file(path, buffer.getvalue().encode())


def write_points(path: Path, task: Task[Any], points: Sequence[Point]) -> None:
    """A line per file, codec and setting (column ``quality``); ``counted_bytes`` where they are not all, for some codec."""
    counted = any(p.counted_bytes != p.bytes for p in points)
    write_csv(
        path,
        [
            {"codec": p.codec, "quality": p.setting, "file": p.file, **p.facts, "bytes": p.bytes}
            | ({"counted_bytes": p.counted_bytes} if counted else {})
            | {task.rate.column: p.rate, **p.metrics, "encode_s": p.encode_s, "decode_s": p.decode_s}
            for p in points
        ],
    )


def write_means(path: Path, task: Task[Any], rows: Sequence[MeanPoint]) -> None:
    """A line per codec and setting (column ``quality``)."""
    write_csv(
        path,
        [
            {"codec": r.codec, "quality": r.setting, task.rate.column: r.rate, **r.metrics}
            | {"encode_s": r.encode_s, "decode_s": r.decode_s}
            for r in rows
        ],
    )


def read_points(path: Path, task: Task[Any]) -> list[Point]:
    """Points that `write_points` wrote.

    Raises:
        InputError: a column of the task is missing.
    """
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        rows, names = list(reader), list(reader.fieldnames or ())
    own = ("codec", "quality", "file", "bytes", task.rate.column, *(m.column for m in task.metrics), "encode_s", "decode_s")
    for name in own:
        if name not in names:
            raise InputError(f"{path}: no column {name!r}")
    facts = names[names.index("file") + 1 : names.index("bytes")]
    found = []
    for row in rows:
        found.append(
            Point(
                codec=row["codec"],
                setting=_number(row["quality"]),
                file=row["file"],
                facts={name: _number(row[name]) for name in facts},
                bytes=int(row["bytes"]),
                counted_bytes=int(row.get("counted_bytes", row["bytes"])),
                rate=float(row[task.rate.column]),
                metrics={metric.column: float(row[metric.column]) for metric in task.metrics},
                encode_s=float(row["encode_s"]),
                decode_s=float(row["decode_s"]),
            )
        )
    return found


def _number(text: str) -> float:
    """Whole if it is written so."""
    return int(text) if text.isdecimal() else float(text)
