"""Options that several commands or codecs have, each declared once."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated

import typer

from ...entropy_models.errors import InputError
from .files import parse_size

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
Model = Annotated[
    str | None,
    typer.Option(help="Weights by name (`codec models`) or kind, as eyes; of a cache: the folder of its model."),
]


def check_targets(
    quality: int | None, rate: tuple[str, float | None], rate_max: float, example: str, size: str | None
) -> None:
    """Refuse more than one of quality, rate and size, and such a rate or size as cannot be.

    Args:
        rate: the rate's option, ``--bpp``, and its value.
        example: a sane value of it.
    """
    name, value = rate
    targets = {"--quality": quality, name: value, "--size": size}
    given = [option for option, asked in targets.items() if asked is not None]
    if len(given) > 1:
        raise InputError(f"give --quality, {name} or --size, not {' and '.join(given)}")
    if value is not None and not 0 < value <= rate_max:
        raise InputError(f"{name} {value}; need a number above 0 and at most {rate_max:.0f}, like {example}")
    if size is not None and not parse_size(size):
        raise InputError(f"--size {size}; need a size above 0, like 50kB")


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
