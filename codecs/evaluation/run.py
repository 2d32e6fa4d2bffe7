"""Code files with several codecs at several settings: bytes on disk, quality and time of each."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Generic

from ...entropy_models.errors import BitstreamError, InputError
from .points import Point
from .task import Reference, S, Task

Progress = Callable[[str], None]
"""Told what is coded next."""
Kept = Callable[[Sequence[Point], float], None]
"""Told all points whenever a file is done, and the seconds that it took."""
Clock = Callable[[], float]
LeftOut = Callable[[Path, Exception], None]


@dataclass(frozen=True, slots=True)
class Coded(Generic[S]):
    """One signal's file and what came back from it."""

    data: bytes
    counted_bytes: int
    signal: S
    encode_s: float
    decode_s: float


def chosen(task: Task[S], names: Iterable[str]) -> dict[str, Reference[S]]:
    """References by name, each of which can run here.

    Raises:
        InputError: no such reference, or a package is missing.
    """
    found = {}
    for name in names:
        if name not in task.references:
            raise InputError(f"no reference {name!r}; there are {', '.join(task.references) or 'none'}")
        task.references[name].check()
        found[name] = task.references[name]
    return found


def code(reference: Reference[S], signal: S, setting: float, clock: Clock = time.perf_counter) -> Coded[S]:
    """Encode and decode once, with a stopwatch. Errors as `Reference.encode`."""
    start = clock()
    data = reference.encode(signal, setting)
    middle = clock()
    decoded = reference.decode(data)
    end = clock()
    return Coded(data, reference.counted(data), decoded, middle - start, end - middle)


def point(task: Task[S], codec: str, setting: float, file: str, original: S, coded: Coded[S]) -> Point:
    """Rate, quality and times of one coded signal."""
    facts = task.facts(original)
    return Point(
        codec=codec,
        setting=setting,
        file=file,
        facts=facts,
        bytes=len(coded.data),
        counted_bytes=coded.counted_bytes,
        rate=task.rate.of(coded.counted_bytes, facts),
        metrics={metric.column: metric.of(original, coded.signal) for metric in task.metrics},
        encode_s=coded.encode_s,
        decode_s=coded.decode_s,
    )


def evaluate(
    task: Task[S],
    codecs: Mapping[str, Reference[S]],
    paths: Sequence[Path],
    *,
    runs: int = 1,
    progress: Progress = lambda text: None,
    left_out: LeftOut | None = None,
    clock: Clock = time.perf_counter,
    done: Sequence[Point] = (),
    keep: Kept = lambda points, seconds: None,
) -> list[Point]:
    """Code every file with every codec at each of its settings.

    Args:
        codecs: by name in the points; `OURS` for ours.
        runs: how often each is coded; times are medians, and a run codes with all codecs before the next one.
        left_out: called with a file that is damaged or that some codec cannot take, and the error; none of its points is
            kept, so that every mean is over the same files. None: the error is raised.
        clock: wall time, or ``time.process_time`` where neighbours on the machine would disturb it.
        done: points of files that were coded before, by these codecs at these settings, and are not coded again.

    Raises:
        InputError: no file is left.
    """
    points = list(done)
    coded = {point.file for point in done}
    for path, name in zip(paths, names_of(paths), strict=True):
        if name in coded:
            continue
        start = time.perf_counter()
        try:
            points += points_of(task, codecs, task.read(path), name, runs, progress, clock)
        except (InputError, BitstreamError, OSError) as error:
            if left_out is None:
                raise
            left_out(path, error)
        else:
            keep(points, time.perf_counter() - start)
    if not points:
        raise InputError(f"none of {len(paths)} {task.signals} could be coded")
    return points


def common_folder(paths: Sequence[Path]) -> str:
    """The folder that all paths are below."""
    return os.path.commonpath([path.parent for path in paths]) if paths else ""


def names_of(paths: Sequence[Path]) -> list[str]:
    """Names of files in points: their paths below the folder of all, for two folders may hold files of one name."""
    folder = common_folder(paths)
    return [str(path.relative_to(folder)) for path in paths]


def points_of(
    task: Task[S],
    codecs: Mapping[str, Reference[S]],
    signal: S,
    file: str,
    runs: int,
    progress: Progress,
    clock: Clock = time.perf_counter,
) -> list[Point]:
    """Every point of one file."""
    found: dict[tuple[str, float], Point] = {}
    seconds: dict[tuple[str, float], list[tuple[float, float]]] = defaultdict(list)
    for _ in range(runs):
        for name, reference in codecs.items():
            for setting in reference.settings:
                progress(f"{file} {name} {setting:g}")
                coded = code(reference, signal, setting, clock)
                seconds[name, setting].append((coded.encode_s, coded.decode_s))
                if (name, setting) not in found:
                    found[name, setting] = point(task, name, setting, file, signal, coded)
    return [_timed(one, seconds[key]) for key, one in found.items()]


def _timed(one: Point, seconds: Iterable[tuple[float, float]]) -> Point:
    """A point with the medians of its times."""
    encode_s, decode_s = (median(values) for values in zip(*seconds, strict=True))
    return replace(one, encode_s=encode_s, decode_s=decode_s)
