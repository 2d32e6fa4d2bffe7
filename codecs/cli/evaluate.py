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
    from ..evaluation.points import Point
    from ..evaluation.report import Comparison
    from ..evaluation.unfinished import Unfinished


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
        fresh: Annotated[bool, typer.Option("--fresh", help="Start anew where a report was interrupted.")] = False,
    ) -> None:
        """Rate-distortion on a folder: points.csv, means.csv, bd_rate.csv, rate_distortion.png, perhaps a page.

        points.csv is written file by file: where it was interrupted, the same command goes on.
        """
        from ..evaluation.bd_rate import POINTS_MIN
        from ..evaluation.report import check_packages, files_of, with_installed_metrics
        from ..evaluation.run import chosen
        from ..evaluation.unfinished import is_unfinished

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
        check_outputs(output, files_of(task), force or is_unfinished(output))
        for line in missing:
            errors.print(one_line(f"codec: note: {line}"))
        ours = partial(task.ours_at, effort=effort) if effort and task.ours_at else task.ours
        title = f"{folder.name}, effort {effort}" if effort else folder.name
        told = {"model": model, "device": device, "effort": effort}
        table = evaluate_folder(
            measured, folder, found, output, settings, partial(ours, model, device), runs, title, told, fresh=fresh
        )
        if table:
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
    told: dict[str, Any],
    *,
    fresh: bool,
) -> "Comparison":
    """Code everything in a folder, or what is left of it, write the report, and return the table of BD-rates.

    Args:
        settings: of ours; None: those of the task.
        title: of the plot and the page, to which numbers are added.
        told: what else points depend on (`settings_of`).
        fresh: whether nothing is kept of a report that was interrupted.

    Raises:
        InputError: no signals, or none that can be coded.
    """
    from ..evaluation.points import OURS
    from ..evaluation.report import write_report
    from ..evaluation.run import common_folder, names_of
    from ..evaluation.unfinished import Unfinished, settings_of, stamps_of

    own = output.resolve()  # an earlier report holds a picture, too
    paths = [path for path in task.find(folder) if own not in path.resolve().parents]
    if not paths:
        raise InputError(f"{folder}: no {task.signals} there")
    output.mkdir(parents=True, exist_ok=True)  # what cannot be written is found out before hours are spent
    with bar() as progress:
        line = progress.add_task("loading", total=None)
        ours = load_ours()
        codecs = {OURS: replace(ours, settings=settings) if settings else ours} | references
        below = str(Path(common_folder(paths)).resolve())
        kept = settings_of(task, codecs, **told, runs=runs, folder=below)
        unfinished = Unfinished(output, task, kept, stamps_of(paths, names_of(paths)))
        points = code_all(unfinished, codecs, paths, runs, fresh, partial(progress.update, line))
    note_undefined(task, points)
    title = f"{title}: {len({point.file for point in points})} {task.signals}"
    table = write_report(output, task, points, list(references), title)
    if task.page:
        task.page.write(output / task.page.name, title, paths, codecs, task.metrics)
    unfinished.end()
    return table


def code_all(
    unfinished: "Unfinished",
    codecs: dict[str, Reference[Any]],
    paths: list[Path],
    runs: int,
    fresh: bool,
    show: Callable[..., None],
) -> "list[Point]":
    """Points of all files, each file's kept when it is done; those that cannot be coded are taken out of ``paths``.

    Args:
        show: the update of a line of `bar`, which only a terminal shows; elsewhere each of several files has a line.
    """
    from ..evaluation.run import evaluate
    from ..evaluation.unfinished import is_unfinished

    done = begun(unfinished, fresh)
    every = runs * sum(len(codec.settings) for codec in codecs.values())
    show(total=len(paths) * every, completed=len({point.file for point in done}) * every)

    def advance(text: str) -> None:
        show(description=one_line(text), advance=1)

    def without(path: Path, error: Exception) -> None:
        paths.remove(path)
        left_out(path, error)

    def keep(points: "Sequence[Point]", seconds: float) -> None:
        unfinished.keep(points)
        if len(unfinished.stamps) > 1 and not errors.is_terminal:
            count = len({point.file for point in points})
            errors.print(one_line(f"codec: {points[-1].file}: {count} of {len(paths)} done, {seconds:.1f} s"))

    task = unfinished.task
    try:
        return evaluate(task, codecs, tuple(paths), runs=runs, progress=advance, left_out=without, done=done, keep=keep)
    except KeyboardInterrupt:
        if is_unfinished(unfinished.output):
            errors.print(one_line(f"codec: note: what is done is kept in {unfinished.output}; the same command goes on"))
        raise


def begun(unfinished: "Unfinished", fresh: bool) -> "list[Point]":
    """Points of an interrupted report to go on with; says so, or why there are none."""
    done, differing = unfinished.begin(fresh=fresh)
    if done:
        count = f"{len({point.file for point in done})} of {len(unfinished.stamps)} {unfinished.task.signals}"
        note = f"goes on after {count}; --fresh starts anew"
    elif differing:
        note = f"starts anew: what was interrupted had other {', '.join(differing)}"
    else:
        return done
    errors.print(one_line(f"codec: note: {unfinished.output}: {note}"))
    return done


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
