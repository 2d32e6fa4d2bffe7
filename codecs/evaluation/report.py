"""What ``codec eval`` writes: points.csv, means.csv, bd_rate.csv, rate_distortion.png, and the table it shows."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Column, Table

from ...entropy_models.errors import MissingPackage
from .bd_rate import ANY_RATE, Rates, bd_rate, curve
from .plot import Panel, plot
from .points import OURS, MeanPoint, Point, curves, means, write_csv, write_means, write_points
from .task import Metric, S, Task

POINTS, MEANS, BD_RATE, PLOT = "points.csv", "means.csv", "bd_rate.csv", "rate_distortion.png"
FILES = POINTS, MEANS, BD_RATE, PLOT
"""Files of a report, beside a task's own page."""
TITLE = f"{OURS}: rate at equal quality"
CELL_MIN = len("-100.0 %")
WIDTH_MAX = 10_000
"""Columns of a console that hold any table."""


def files_of(task: Task[Any]) -> tuple[str, ...]:
    """Names of the files of a task's report."""
    return (*FILES, task.page.name) if task.page else FILES


def check_packages(modules: Iterable[str] = ()) -> None:
    """Whether everything a report needs is installed, and these modules.

    Raises:
        ImportError: it is not; says what to install.
    """
    from importlib import import_module

    try:
        for module in ("bjontegaard", "scipy.interpolate", "matplotlib", *modules):
            import_module(module)
    except ImportError as error:
        raise MissingPackage(f"a report needs more packages ({error}): pip install 'rdcodec[eval]'") from None


def with_installed_metrics(task: Task[S]) -> tuple[Task[S], list[str]]:
    """A task with the metrics that can run here, and a line for each extra that would bring more.

    Raises:
        MissingPackage: none can.
    """
    from importlib.util import find_spec

    missing: dict[str, list[str]] = {}
    for metric in task.metrics:
        if not all(find_spec(module) for module in metric.modules):
            missing.setdefault(metric.extra, []).append(metric.title)
    absent = [title for titles in missing.values() for title in titles]
    lines = [f"without {', '.join(titles)}: pip install 'rdcodec[{extra}]'" for extra, titles in missing.items()]
    metrics = tuple(metric for metric in task.metrics if metric.title not in absent)
    if not metrics:
        raise MissingPackage("no metric is installed; " + "; ".join(lines))
    return replace(task, metrics=metrics), lines


def write_report(
    output: Path, task: Task[Any], points: Sequence[Point], references: Sequence[str], title: str
) -> Comparison:
    """The files of a report, in a folder that exists; returns the table of BD-rates and speeds."""
    by_metric = curves(points, task.metrics)
    write_points(output / POINTS, task, points)
    write_means(output / MEANS, task, means(points))
    plot_curves(output / PLOT, task, by_metric, title, rates=task.rate.plotted)
    rates = against_references(task, by_metric, references)
    write_bd_rates(output / BD_RATE, task, rates)
    return table_of(task, rates, points)


def against_references(
    task: Task[Any], by_metric: dict[str, list[MeanPoint]], references: Iterable[str], ours: str = OURS
) -> dict[str, list[float]]:
    """BD-rates against each reference, one for each metric, over the reference's rates that the task compares."""

    def against(name: str, metric: Metric[Any]) -> float:
        return bd_rate(by_metric[metric.column], name, metric, task.rate.compared, ours, our_rates=ANY_RATE)

    return {name: [against(name, metric) for metric in task.metrics] for name in references}


def write_bd_rates(path: Path, task: Task[Any], rates: dict[str, list[float]]) -> None:
    """BD-rates in percent against each reference; the column ``anchor`` names it, as BD-rate's own literature does."""
    columns = [f"bd_rate_{metric.name}_percent" for metric in task.metrics]
    rows = [{"anchor": name} | {c: f"{v:.2f}" for c, v in zip(columns, row, strict=True)} for name, row in rates.items()]
    write_csv(path, rows, ["anchor", *columns])


@dataclass(frozen=True, slots=True)
class Comparison:
    """The table of a report, for rich: a row for each codec, or where that is too wide, a column."""

    codecs: Sequence[str]
    """Ours last."""
    measures: Mapping[str, Sequence[str]]
    """Titles of BD-rates and speeds, to what is shown of each codec."""

    def __bool__(self) -> bool:
        """Whether ours is compared with anything."""
        return len(self.codecs) > 1

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        def fits(table: Table) -> bool:
            return Measurement.get(console, options.update_width(WIDTH_MAX), table).maximum <= options.max_width

        options = options.update(no_wrap=False)  # a console that wraps softly would cut the cells
        for table in self._tables(fits):
            yield from console.render(table, options)

    def _tables(self, fits: Callable[[Table], bool]) -> Iterator[Table]:
        """The table by codec, or as few by measure as have all codecs."""
        if fits(table := self._by_codec()):
            yield table
            return
        start, count = 0, len(self.codecs)
        while start < count:
            stop = next((n for n in range(count, start + 1, -1) if fits(self._by_measure(start, n))), start + 1)
            yield self._by_measure(start, stop)
            start = stop

    def _by_codec(self) -> Table:
        table = Table("against", *self.measures, title=TITLE)
        for name, *row in zip(self.codecs, *self.measures.values(), strict=True):
            table.add_row(name, *row)
        return table

    def _by_measure(self, start: int, stop: int) -> Table:
        """Of some codecs, whose names wrap at hyphens: ``x265-veryfast-g12``."""
        names = [name.replace("-", "-\n") for name in self.codecs[start:stop]]
        columns = [Column(name, width=max(CELL_MIN, *map(len, name.splitlines()))) for name in names]
        table = Table(Column("against", no_wrap=True), *columns, title=TITLE)
        for title, row in self.measures.items():
            table.add_row(title, *row[start:stop])
        return table


def table_of(task: Task[Any], rates: dict[str, list[float]], points: Sequence[Point]) -> Comparison:
    """BD-rates against each reference, and how fast each codec was, ours last."""
    codecs = [*rates, OURS]
    shown = {name: ["too few points" if math.isnan(v) else f"{v:+.1f} %" for v in row] for name, row in rates.items()}
    cells = [shown.get(name, [""] * len(task.metrics)) + _speeds(task, points, name) for name in codecs]
    titles = [f"BD-rate {metric.title}" for metric in task.metrics]
    titles += [f"{way} ({task.speed.unit})" for way in ("encode", "decode")]
    return Comparison(codecs, dict(zip(titles, zip(*cells, strict=True), strict=True)))


def _speeds(task: Task[Any], points: Sequence[Point], codec: str) -> list[str]:
    """Encoding and decoding speed over all files and settings; nothing for a codec that was not run."""
    own = [point for point in points if point.codec == codec]
    amount = sum(task.speed.amount(point.facts) for point in own)
    seconds = (sum(p.encode_s for p in own), sum(p.decode_s for p in own))
    return [f"{amount / s:.3g}" if s else "" for s in seconds]


def plot_curves(
    path: Path,
    task: Task[Any],
    by_metric: dict[str, list[MeanPoint]],
    title: str,
    *,
    rates: Rates,
    dashed: Collection[str] = (),
) -> None:
    """Quality over rate, a panel for each metric: the rates that matter, and more where else a curve would not be seen."""
    starts = [
        min(row.rate for row in rows if row.codec == name) for rows in by_metric.values() for name in {r.codec for r in rows}
    ]
    rates = rates[0], max([rates[1], *(2 * start for start in starts if start > 0.8 * rates[1])])
    files = max(row.files for rows in by_metric.values() for row in rows)
    panels = [_panel(metric, by_metric[metric.column], rates, files) for metric in task.metrics]
    shown = rates if math.isfinite(rates[1]) else None
    plot(path, panels, f"rate ({task.rate.unit})", title, rates=shown, dashed=dashed)


def _panel(metric: Metric[Any], rows: Sequence[MeanPoint], rates: Rates, files: int) -> Panel:
    """A panel that says so where the metric is of fewer files than others are."""
    lines = {name: curve(rows, name, metric, rates) for name in dict.fromkeys(row.codec for row in rows)}
    measured = max((row.files for row in rows), default=0)
    return Panel(label=metric.label + (f", {measured} of {files} files" if measured < files else ""), lines=lines)
