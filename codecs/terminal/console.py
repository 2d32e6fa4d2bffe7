"""Consoles where the command line prints, and how it tells of errors. No torch here."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from ...entropy_models.errors import BitstreamError, InputError
from .files import one_line

TRACEBACK = "--traceback"
"""Option of the command, anywhere on its line."""
EXPECTED = BitstreamError, InputError, OSError, FloatingPointError
"""What users can mend, like errors of `STORES`; any other error is a bug."""
STORES = frozenset({"aiohttp", "azure", "botocore", "gcsfs", "google", "huggingface_hub", "ocifs", "ossfs"})
"""Packages behind URLs, whose errors (no credentials, no such bucket) are of no common type."""


def plain(**options: Any) -> Console:
    """A console where names of files are shown as they are: no markup, no emoji."""
    return Console(highlight=False, soft_wrap=True, markup=False, emoji=False, **options)


errors, out = plain(stderr=True), plain()


class RateColumn(ProgressColumn):
    """Parts a second, as what the task's field ``unit`` names them: ``3.4 frames/s``."""

    def render(self, task: Task) -> Text:
        if task.speed is None:
            return Text("")
        return Text(f"{task.speed:.1f} {task.fields.get('unit', '')}".rstrip() + "/s")


def bar() -> Progress:
    """Progress on standard error, where that is a terminal, that leaves nothing behind."""
    text = TextColumn("{task.description}", markup=False)
    columns = text, BarColumn(), MofNCompleteColumn(), RateColumn(), TimeRemainingColumn()
    return Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal)


def message(error: BaseException) -> str:
    """Text of an error for one line; of bad data also the kind, and of a bug that it is one."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror and error.filename:
        text = f"{error.filename}: {error.strerror}"
    if isinstance(error, BitstreamError):
        return f"{type(error).__name__.lower()}: {text}"
    if isinstance(error, EXPECTED):
        return text
    package = type(error).__module__.partition(".")[0]
    if package in STORES:
        return f"{package}: {text}"
    return f"internal error, please report: {type(error).__name__}: {text} (codec --traceback ... shows where)"


def fail(error: BaseException, name: str = "", program: str = "codec") -> None:
    """One line on standard error about what went wrong with the file ``name``."""
    fail_text(message(error), name, program)


def fail_text(text: str, name: str = "", program: str = "codec") -> None:
    """The same of what `message` told."""
    errors.print(one_line(f"{program}: {name + ': ' if name and not text.startswith(f'{name}: ') else ''}{text}"))
