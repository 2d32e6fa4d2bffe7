"""``codec eval NAME``: a codec's `Task`, or the command that it brings, found by the registry."""

# annotations are evaluated here: the help of an option is made of the task

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from ...entropy_models.errors import InputError
from .. import evaluations, load_task
from ..evaluation.task import Command, Reference, Task
from ..terminal.console import bar, errors, out
from ..terminal.files import check_outputs, one_line

if TYPE_CHECKING:
    from rich.table import Table

    from ..evaluation.points import Point


class Evaluations(TyperGroup):
    """A command for every codec whose line in the registry names an evaluation, and for what else is measured."""

    def list_commands(self, ctx: Any) -> list[str]:
        return evaluations()

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in self.list_commands(ctx):
            return None
        task = load_task(cmd_name)
        alone = typer.Typer(add_completion=False, rich_markup_mode="markdown")
        run, remark = (task.run, None) if isinstance(task, Command) else (command_of(task), task.remark)
        alone.command(cmd_name, epilog=remark)(run)
        return typer.main.get_command(alone)


app = typer.Typer(
    cls=Evaluations,
    no_args_is_help=True,
    help="Measure a codec against others: real bytes, quality, time; CSV, plot and table.",
)


def command_of(task: Task[Any]) -> Callable[..., None]:
    """The command of a task: a folder of its signals and references to compare with."""
    every, usual = ", ".join(task.references), ",".join(task.default_references)

    def evaluate(
        folder: Annotated[Path, typer.Argument(help=f"Folder of {task.signals}, or one file.")],
        references: Annotated[str, typer.Option(help=f"Comma-separated: {every}.")] = usual,
        output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the report.")] = Path("report"),
        qualities: Annotated[str | None, typer.Option(help="Our qualities, comma-separated.")] = None,
        runs: Annotated[int, typer.Option(min=1, help="How often each is coded; times are medians of the runs.")] = 1,
        model: Annotated[str | None, typer.Option(help="Weights by name.")] = None,
        device: Annotated[str, typer.Option(help="Ours: auto, cpu or cuda.")] = "auto",
        effort: Annotated[int, typer.Option(min=0, max=9, help="Ours: time for refining, 0 (none) to 9.")] = 0,
        force: Annotated[bool, typer.Option("--force", "-f", help="Overwrite a report that is there.")] = False,
    ) -> None:
        """Rate-distortion on a folder: points.csv, means.csv, bd_rate.csv, rate_distortion.png, perhaps a page."""
        from ..evaluation.bd_rate import POINTS_MIN
        from ..evaluation.report import check_packages, files_of, with_installed_metrics
        from ..evaluation.run import chosen

        if effort and not task.ours_at:
            raise InputError(f"effort {effort}; the encoder of {task.signals} has none but 0")
        if not folder.exists():
            raise InputError(f"{folder}: no such file or folder")
        names = [name.strip() for name in references.split(",")]
        found = chosen(task, [name for name in names if name])
        settings = parse_qualities(qualities) if qualities else None
        if found and settings and len(settings) < POINTS_MIN:
            raise InputError(f"{len(settings)} qualities; a BD-rate needs {POINTS_MIN} (or give --references '')")
        check_packages(task.packages)
        measured, missing = with_installed_metrics(task)
        check_outputs(output, files_of(task), force)
        for line in missing:
            errors.print(one_line(f"codec: note: {line}"))
        ours = partial(task.ours_at, effort=effort) if effort and task.ours_at else task.ours
        title = f"{folder.name}, effort {effort}" if effort else folder.name
        table = evaluate_folder(measured, folder, found, output, settings, partial(ours, model, device), runs, title)
        if table.row_count:
            out.print(table)
        out.print(f"written: {output}/{', '.join(files_of(task))}")

    return evaluate


def evaluate_folder(
    task: Task[Any],
    folder: Path,
    references: dict[str, Reference[Any]],
    output: Path,
    settings: tuple[int, ...] | None,
    load_ours: Callable[[], Reference[Any]],
    runs: int,
    title: str,
) -> "Table":
    """Code everything in a folder, write the report, and return the table of BD-rates.

    Args:
        settings: of ours; None: those of the task.
        title: of the plot and the page, to which numbers are added.

    Raises:
        InputError: no signals, or none that can be coded.
    """
    from ..evaluation.points import OURS
    from ..evaluation.report import write_report
    from ..evaluation.run import evaluate

    own = output.resolve()  # an earlier report holds a picture, too
    paths = [path for path in task.find(folder) if own not in path.resolve().parents]
    if not paths:
        raise InputError(f"{folder}: no {task.signals} there")
    output.mkdir(parents=True, exist_ok=True)  # what cannot be written is found out before hours are spent
    with bar() as progress:
        line = progress.add_task("loading", total=None)
        ours = load_ours()
        codecs = {OURS: replace(ours, settings=settings) if settings else ours} | references
        progress.update(line, total=len(paths) * runs * sum(len(codec.settings) for codec in codecs.values()))

        def advance(text: str) -> None:
            progress.update(line, description=one_line(text), advance=1)

        def without(path: Path, error: Exception) -> None:
            paths.remove(path)
            left_out(path, error)

        points = evaluate(task, codecs, tuple(paths), runs=runs, progress=advance, left_out=without)
    note_undefined(task, points)
    title = f"{title}: {len({point.file for point in points})} {task.signals}"
    table = write_report(output, task, points, list(references), title)
    if task.page:
        task.page.write(output / task.page.name, title, paths, codecs, task.metrics)
    return table


def left_out(path: Path, error: Exception) -> None:
    """Say which file counts in no mean, and why."""
    errors.print(one_line(f"codec: {path}: {error}; left out"))


def note_undefined(task: Task[Any], points: "Sequence[Point]") -> None:
    """Say which files lack a metric."""
    for metric in task.metrics:
        if files := sorted({point.file for point in points if math.isnan(point.metrics[metric.column])}):
            text = f"codec: note: {metric.title} is defined {metric.defined}; without it: {', '.join(files)}"
            errors.print(one_line(text))


def parse_qualities(text: str) -> tuple[int, ...]:
    """Qualities of a curve.

    >>> parse_qualities("5, 30,60")
    (5, 30, 60)

    Raises:
        InputError: not whole numbers from 0 to 100.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) <= 100 for part in parts):
        raise InputError(f"qualities {text!r}; need whole numbers 0..100 with commas, like 10,30,60,90")
    return tuple(dict.fromkeys(int(part) for part in parts))
