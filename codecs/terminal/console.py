"""Where the command line prints, and how it tells of errors. No torch here."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ...entropy_models.errors import BitstreamError
from .files import one_line

# names of files are shown as they are: no markup, no emoji
errors = Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)
out = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)


def bar() -> Progress:
    """Progress on standard error, where that is a terminal, that leaves nothing behind."""
    text = TextColumn("{task.description}", markup=False)
    columns = text, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    return Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal)


def message(error: BaseException) -> str:
    """What one line says of an error; of bad data also the kind."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    if isinstance(error, OSError) and error.strerror and error.filename:
        text = f"{error.filename}: {error.strerror}"
    kind = f"{type(error).__name__.lower()}: " if isinstance(error, BitstreamError) else ""
    return kind + text


def fail(error: BaseException, name: str = "", program: str = "codec") -> None:
    """One line on standard error about what went wrong with the file ``name``."""
    text = message(error)
    errors.print(one_line(f"{program}: {name + ': ' if name and not text.startswith(f'{name}: ') else ''}{text}"))
