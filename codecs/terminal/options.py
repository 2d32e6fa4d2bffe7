"""Options that several commands or codecs have, each declared once."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated

import typer

from ...entropy_models.errors import InputError
from .files import parse_size

_TIME = re.compile(r"(?:(?:(\d+):)?(\d+):)?(\d+\.?\d*|\.\d+)", re.ASCII)


def parse_time(text: str) -> float:
    """Seconds of ``90``, ``12.5``, ``1:30`` (minutes) or ``1:02:03.5`` (hours).

    >>> parse_time("12.5"), parse_time("1:30"), parse_time("1:02:03.5")
    (12.5, 90.0, 3723.5)

    Raises:
        BadParameter: not such a time.
    """
    match = _TIME.fullmatch(text.strip())
    hours, minutes, seconds = match.groups(default="0") if match else ("", "", "")
    if not match or (":" in text and float(seconds) >= 60) or (match[1] and int(minutes) >= 60):
        raise typer.BadParameter(f"{text!r}; need seconds, like 12.5, or minutes and seconds, like 1:30 or 1:02:03.5")
    return (int(hours) * 60 + int(minutes)) * 60 + float(seconds)


Inputs = Annotated[
    list[str], typer.Argument(metavar="INPUT", help="Files, folders, globs, URLs, lists.txt; - is standard input.")
]
Output = Annotated[str | None, typer.Option("--output", "-o", metavar="OUT", help="File, folder, URL, or - (stdout).")]
Force = Annotated[bool, typer.Option("--force", "-f", help="Overwrite outputs that exist.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object per file.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda. Files are the same to every decoder.")]
Quality = Annotated[int | None, typer.Option("--quality", "-q", min=0, max=100, help="0 (smallest) to 100.")]
Size = Annotated[str | None, typer.Option(help="The highest whole quality of at most this file size, like 50kB.")]
Threads = Annotated[
    int | None, typer.Option(min=1, help="CPU threads of one file; by default one for small files, else as many as cores.")
]
Effort = Annotated[
    int | None,
    typer.Option(min=0, max=9, help="Time for refining what is written, 0 (none, the default) to 9. Same decoder."),
]
From = Annotated[
    float | None,
    typer.Option("--from", metavar="TIME", parser=parse_time, help="Only from this second on, like 12.5 or 1:30 (minutes)."),
]
To = Annotated[
    float | None, typer.Option("--to", metavar="TIME", parser=parse_time, help="Only up to this second, given alike.")
]
Model = Annotated[
    str | None,
    typer.Option(help="Weights by name (`codec models`) or kind, as eyes; of a cache: the folder of its model."),
]


def check_targets(quality: int | None, rate: tuple[str, float | None], size: str | None) -> None:
    """Refuse more than one of quality, rate and size, and such a size as cannot be.

    Args:
        rate: the rate's option, ``--bpp``, and its value, which `check_rate` checks.
    """
    name, value = rate
    targets = {"--quality": quality, name: value, "--size": size}
    given = [option for option, asked in targets.items() if asked is not None]
    if len(given) > 1:
        raise InputError(f"give --quality, {name} or --size, not {' and '.join(given)}")
    if size is not None and not parse_size(size):
        raise InputError(f"--size {size}; need a size above 0, like 50kB")


def check_rate(name: str, value: float | None, most: float, example: str) -> None:
    """Refuse a rate that cannot be. Where several codecs have the option, each checks it once a file is known to be its own.

    Args:
        name: the option, ``--bpp``.
        example: a sane value of it.
    """
    if value is not None and not 0 < value <= most:
        raise InputError(f"{name} {value:g}; need a number above 0 and at most {most:.0f}, like {example}")


def check_written(target: Path | None, suffix: str, written: Collection[str]) -> None:
    """Refuse an output, ``target`` or one that gets ``suffix``, whose format is none of those that a codec writes."""
    if suffix not in written:
        raise InputError(f"the output {target or suffix}; its name must end in one of {', '.join(written)}")


def names_of(suffixes: Collection[str]) -> str:
    """Formats by their suffixes, as ``--format`` takes them: ``png, jpg``."""
    return ", ".join(suffix.removeprefix(".") for suffix in suffixes)


def suffix_for(name: str | None, written: Mapping[str, str], people: str, default: str) -> str:
    """The suffix that ``--format`` names, ``PNG`` and ``.png`` alike.

    Args:
        written: formats by suffix.
        people: what the formats are of, for the message.
        default: where no name is given.
    """
    if not name:
        return default
    suffix = f".{name.lower().removeprefix('.')}"
    if suffix not in written:
        raise InputError(f"--format {name}; need one of {names_of(written)} for {people}")
    return suffix
