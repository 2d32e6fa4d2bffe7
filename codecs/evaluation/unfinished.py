"""Points of a report that is being measured, kept after every file, so that a second call goes on where one was interrupted.

Beside ``points.csv`` lies ``unfinished.json`` until the report is whole. It tells what the points depend on: weights,
settings, metrics, and size and modification time of each file. Points of other settings are not gone on with, of a file
that changed since none is kept, and without the record none is read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..container import write_file
from .points import Point, read_points, write_points
from .report import POINTS, files_of
from .task import Reference, Task, files_below

RECORD = "unfinished.json"
Stamps = dict[str, list[list[int]]]
"""Size in bytes and modification time in nanoseconds, by file; of a folder of frames those of all files in it."""


def is_unfinished(output: Path) -> bool:
    """Whether a folder holds a report that was interrupted, which may be gone on with or overwritten."""
    return (output / RECORD).is_file()


def settings_of(task: Task[Any], codecs: Mapping[str, Reference[Any]], **more: Any) -> dict[str, Any]:
    """What points depend on beside their files, for `Unfinished`; ``more`` as well: the folder, runs, effort, device."""
    return {
        "codecs": {name: codec.note for name, codec in codecs.items()},
        "settings": {name: list(codec.settings) for name, codec in codecs.items()},
        "weights": {name: codec.weights for name, codec in codecs.items()},
        "metrics": [metric.column for metric in task.metrics],
        **more,
    }


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A report that is being measured, in a folder that exists."""

    output: Path
    task: Task[Any]
    settings: Mapping[str, Any]
    """As `settings_of`."""
    stamps: Stamps
    """Of the files as they were before the first was coded: one that changes while it is coded is coded again."""

    def begin(self, *, fresh: bool = False) -> tuple[list[Point], list[str]]:
        """Points to go on with, and the settings that differ from those of an interrupted report; what is of other
        settings or files is removed, and of an earlier report everything.

        Args:
            fresh: go on with nothing.

        Raises:
            InputError: points.csv lacks a column.
        """
        record = _record(self.output)
        differing = [name for name, value in self.settings.items() if record and record["settings"].get(name) != value]
        points = list[Point]()
        if record and not differing and not fresh and (self.output / POINTS).is_file():
            same = {name for name, stamp in self.stamps.items() if record["files"].get(name) == stamp}
            points = [point for point in read_points(self.output / POINTS, self.task) if point.file in same]
        for name in (RECORD, *files_of(self.task)):  # the record first: what lies without it is nobody's to go on with
            (self.output / name).unlink(missing_ok=True)
        if points:
            self.keep(points)
        return points, differing

    def keep(self, points: Sequence[Point]) -> None:
        """Write all points up to now, and what they depend on."""
        write_points(self.output / POINTS, self.task, points)
        record = {"settings": self.settings, "files": self.stamps}
        write_file(self.output / RECORD, json.dumps(record, indent=1).encode())

    def end(self) -> None:
        """The report is whole."""
        (self.output / RECORD).unlink(missing_ok=True)


def stamps_of(paths: Iterable[Path], names: Iterable[str]) -> Stamps:
    """`Stamps` of files as they are now, by their names in points."""
    stats = {name: [path.stat() for path in files_below(path)] for path, name in zip(paths, names, strict=True)}
    return {name: [[stat.st_size, stat.st_mtime_ns] for stat in found] for name, found in stats.items()}


def _record(output: Path) -> dict[str, Any] | None:
    """The record in a folder; None: there is none that can be read."""
    try:
        record = json.loads((output / RECORD).read_bytes())
    except (OSError, ValueError):
        return None
    known = isinstance(record, dict) and isinstance(record.get("settings"), dict) and isinstance(record.get("files"), dict)
    return record if known else None
