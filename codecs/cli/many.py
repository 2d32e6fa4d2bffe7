"""Many files: the options that commands on them share, and the loop that reports each and sums up."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.progress import Progress

from ...entropy_models.errors import InputError
from ..terminal.console import TRACEBACK, bar, errors, fail_text, plain
from ..terminal.files import Job, one_line, parse_size, show_size
from .conversion import Conversion, Report
from .engines import Done, one_process, processes

PANEL = "Many files"
MANY = 64
"""Files that justify processes, each of which takes seconds to start."""
_PROCESS_BYTES = 3 << 30
"""Of memory for each process that is started unasked."""
Engine = Literal["local", "ray"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """Options of a command that reads many files."""

    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs",
            "-j",
            metavar="N",
            min=0,
            help=f"N processes of one thread each, or 0: this one, with all threads. Default: of {MANY} files and more "
            "one for each CPU.",
            rich_help_panel=PANEL,
        ),
    ] = None
    failures: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a line of JSON for each file that fails.", rich_help_panel=PANEL),
    ] = None
    engine: Annotated[
        Engine,
        typer.Option(
            help="local, or ray: N actors of a Ray cluster, which all read and write the same places.", rich_help_panel=PANEL
        ),
    ] = "local"
    gpus: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE", min=0, help="Of a GPU for each actor of a Ray cluster, like 0.25.", rich_help_panel=PANEL
        ),
    ] = None

    @property
    def others(self) -> bool:
        """Whether other processes are asked for."""
        return bool(self.jobs) or self.engine != "local"

    def __post_init__(self) -> None:
        if self.gpus is not None and self.engine != "ray":
            raise InputError("--gpus is for --engine ray; others take --device")


@dataclass(frozen=True, slots=True, kw_only=True)
class ManyFiles(Workers):
    """Options of a command that also writes many."""

    skip_existing: Annotated[
        bool,
        typer.Option(
            "--skip-existing",
            help="Leave outputs that exist, as they are: goes on where a run was stopped or killed.",
            rich_help_panel=PANEL,
        ),
    ] = False
    keep_times: Annotated[
        bool,
        typer.Option("--keep-times", help="Outputs get the modification times of their inputs.", rich_help_panel=PANEL),
    ] = False
    shards: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Write into tar files of at most this size, like 1GB, in the folder OUT; for WebDataset.",
            rich_help_panel=PANEL,
        ),
    ] = None

    def __post_init__(self) -> None:
        Workers.__post_init__(self)
        if self.shards is not None and parse_size(self.shards) <= 0:
            raise InputError(f"--shards {self.shards}; need a size like 1GB")


@dataclass(slots=True)
class Summary:
    """What became of all files."""

    skipped: int = 0
    done: int = 0
    failed: int = 0
    read_bytes: int = 0
    written_bytes: int = 0
    raw_bytes: int = 0

    def add(self, report: Report) -> None:
        """Count one more."""
        self.failed += bool(report.error)
        self.done += not report.error
        self.read_bytes += report.read_bytes
        self.written_bytes += report.facts.get("bytes", 0)
        self.raw_bytes += report.facts.get("raw_bytes", 0)

    def line(self, duration_s: float) -> str:
        """For people."""
        sizes = show_size(self.read_bytes) + (f" to {show_size(self.written_bytes)}" if self.written_bytes else "")
        ratio = [f"{self.raw_bytes / self.written_bytes:.1f}:1 of raw"] if self.raw_bytes and self.written_bytes else []
        others = [f"{count} {what}" for count, what in ((self.failed, "failed"), (self.skipped, "skipped")) if count]
        speed = f"{duration_s:.1f} s, {self.done / duration_s:.1f} files/s"
        return "  ".join([f"{self.done} file{'s' * (self.done != 1)}", sizes, *ratio, *others, speed])


def run_all(
    conversion: Conversion,
    planned: Sequence[Job],
    workers: Workers,
    *,
    verb: str,
    as_json: bool,
    to: Console,
    skipped: int = 0,
    store: Callable[[Job, bytes], str] | None = None,
) -> None:
    """Do every job and report each in one line on ``to``; of several also what they add up to. Exits 1 if any failed.

    Args:
        verb: ``encoding``, for the progress bar.
        skipped: how many there would have been more.
        store: takes the outputs that are collected, and tells where they went.

    Raises:
        ValueError: other processes would have to read standard input or write standard output.
    """
    start, summary = time.perf_counter(), Summary(skipped)
    with ExitStack() as stack:
        if workers.engine == "ray":  # whose threads print on standard output, of lost nodes
            to = plain(file=sys.stdout)
            stack.enter_context(redirect_stdout(sys.stderr))
        log = stack.enter_context(workers.failures.open("w")) if workers.failures else None
        progress = stack.enter_context(bar())
        task = progress.add_task(verb, total=len(planned), visible=len(planned) > 1)
        for job, report in started(conversion, planned, workers, progress):
            summary.add(report)
            if report.error:
                progress.stop() if len(planned) == 1 else None
                failed = json.dumps({"input": job.name, "error": report.error})
                tell_failure(job, report)
                print(failed, file=log, flush=True) if log else None
                to.print(failed) if as_json else None
            else:
                for notice in report.notices:
                    errors.print(one_line(f"codec: {job.name}: note: {notice}"))
                if store and report.data is not None:
                    report.facts["output"] = store(job, report.data)
                to.print(json.dumps(report.facts) if as_json else report.shown())
            progress.advance(task)
    if len(planned) + skipped > 1 and not as_json:
        to.print(summary.line(time.perf_counter() - start))
    if summary.failed:
        raise typer.Exit(1)


def started(conversion: Conversion, planned: Sequence[Job], workers: Workers, progress: Progress) -> Done:
    """The engine that was asked for, or the one that suits the jobs, at work."""
    piped = any(job.source is None for job in planned)
    if piped and workers.others:
        raise InputError("standard input cannot be read by other processes; leave out -j and --engine")
    if workers.engine == "ray":
        from .ray_engine import cluster

        return cluster(planned, conversion, workers.jobs, workers.gpus)
    count = workers.jobs
    if count is None:
        count = 0 if piped else processes_for(len(planned), conversion.device)
    if count:
        return processes(planned, conversion, count)
    return one_process(planned, conversion, progress, alone=len(planned) == 1)


def processes_for(files: int, device: str) -> int:
    """Processes for so many files where none are asked for; 0: this one does it all.

    Networks on a GPU want one process, and ``--traceback`` wants the error where it is raised.
    """
    if files < MANY or TRACEBACK in sys.argv or not _is_cpu(device):
        return 0
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else _PROCESS_BYTES
    return max(1, min(cpus, memory // _PROCESS_BYTES, files // (MANY // 2)))


def _is_cpu(device: str) -> bool:
    if device == "auto":
        from ..device import resolve_device  # imports torch

        device = resolve_device(device)
    return device == "cpu"


def tell_failure(job: Job, report: Report) -> None:
    """One line on standard error; with ``--traceback`` where it came from, and the end."""
    if TRACEBACK in sys.argv:
        errors.print(report.trace or report.error)
        raise typer.Exit(1)
    fail_text(report.error, job.name)
