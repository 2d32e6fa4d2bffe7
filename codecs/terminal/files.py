"""Paths on the command line: expand, sniff, name outputs, refuse to overwrite."""

from __future__ import annotations

import glob
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path

from ...entropy_models.errors import InputError
from .. import container

STDIO = "-"
PREFIXES = ("", "k", "m", "g", "t")
_SIZE = re.compile(r"(?P<number>\d+(\.\d+)?)\s*((?P<prefix>[kmgt])(?P<binary>i)?)?b?", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True, slots=True)
class Job:
    """One input and where its result goes; None stands for standard input or output."""

    source: Path | None
    target: Path | None

    @property
    def name(self) -> str:
        return str(self.source) if self.source else "standard input"

    def read(self) -> bytes:
        """The input's bytes.

        Raises:
            OSError: it cannot be read.
        """
        if self.source is None and sys.stdin is None:
            raise OSError("it is closed")
        return self.source.read_bytes() if self.source else sys.stdin.buffer.read()

    def write(self, data: bytes) -> None:
        """Write the result, whole or not at all.

        Raises:
            OSError: it cannot be written.
        """
        if self.target is None and sys.stdout is None:
            raise OSError("standard output is closed")
        if self.target is None:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
        else:
            self.target.parent.mkdir(parents=True, exist_ok=True)
            container.write_file(self.target, data)


def expand(
    inputs: Iterable[str], suffixes: frozenset[str] | None, note: Callable[[str], None] = lambda text: None
) -> list[Path | None]:
    """Files, globs and folders to files, each once. In folders, those with one of ``suffixes`` (None: all), recursively.

    ``note`` is told how many files of a folder have other suffixes.

    Raises:
        ValueError: a name matches nothing.
    """
    found: list[Path | None] = []
    for name in inputs:
        path = Path(name)
        if not name:
            raise InputError("an input's name is empty; the current folder is .")
        if name == STDIO:
            found.append(None)
        elif path.is_dir():
            every = sorted(p for p in path.rglob("*") if p.is_file())
            inside = [p for p in every if suffixes is None or p.suffix.lower() in suffixes]
            if not inside:
                raise InputError(f"{name}: the folder holds none of {', '.join(sorted(suffixes or ()))}")
            if len(inside) < len(every):
                others = sorted({p.suffix or "no suffix" for p in every} - {p.suffix for p in inside})
                note(f"{name}: {len(every) - len(inside)} of {len(every)} files left out ({', '.join(others)})")
            found += inside
        elif path.exists():
            found.append(path)
        else:
            matches = sorted(p for p in glob.glob(name, recursive=True) if Path(p).is_file())
            if not matches:
                raise InputError(f"{name}: no such file")
            found += [Path(match) for match in matches]
    return list(dict.fromkeys(found))


def jobs(
    sources: list[Path | None],
    output: str | None,
    suffix_of: Callable[[Path | None], str],
    *,
    roots: Sequence[str] = (),
    force: bool,
    suffixes: frozenset[str] = frozenset(),
) -> list[Job]:
    """Give every input its output: beside it, in the folder ``output``, or the file ``output`` for a single input.

    What lies in a folder of ``roots`` keeps its place below it; beside ``g.tiff``, ``g.png`` becomes ``g.png.rdc``.

    Args:
        sources: None is standard input.
        roots: the inputs as given; two of them, or a folder, need a folder for the output even if they are one file.
        output: file, folder or ``-``; None: beside the inputs.
        suffix_of: an input's output suffix; not called where ``output`` names the file.
        force: outputs may exist.
        suffixes: of files, so that such an ``output`` is no folder that is not there yet.

    Raises:
        ValueError: many inputs for one file, two inputs for one output, or an output that cannot be (`check_target`).
    """
    if output == "":
        raise InputError("the output's name is empty; the current folder is .")
    planned = []
    folders = [Path(root) for root in roots if Path(root).is_dir()]
    inputs = max(len(sources), len(roots))
    many = inputs > 1 or bool(folders)
    count = f"{inputs} inputs" if inputs > 1 else "an input folder"
    for source in sources:
        if output == STDIO or (source is None and output is None):
            target = None
        elif output is None:
            target = source.with_suffix(suffix_of(source))  # type: ignore[union-attr]
        elif many and (Path(output).is_file() or Path(output).suffix.lower() in suffixes):
            raise InputError(f"{output} is one file, and -o takes a folder for {count}, like {output}/")
        elif Path(output).is_dir() or output.endswith(("/", "\\")) or many:
            target = Path(output) / _place(source, folders) / ((source.stem if source else "stdin") + suffix_of(source))
        else:
            target = Path(output)
        planned.append(Job(source, target))
    planned = _apart(planned)
    for job in planned:
        if job.target:
            check_target(job.source, job.target, force)
    return planned


def check_target(source: Path | None, target: Path, force: bool) -> None:
    """Check before hours are spent: ValueError for an output below a file, for the input itself, or one that exists."""
    if not (above := nearest(target.parent)).is_dir():
        raise InputError(f"{above} is a file, and {target} needs a folder there")
    if source and target.exists() and target.samefile(source):
        raise InputError(f"{target} is the input itself; give -o another name")
    if target.is_dir():
        raise InputError(f"{target} is a folder; -o takes a file")
    if target.is_file() and not force:
        raise InputError(f"{target} exists; --force overwrites it")


def check_folder(path: Path) -> None:
    """ValueError for a folder of results that cannot be: ``path``, or what it should lie in, is a file."""
    if not (above := nearest(path)).is_dir():
        raise InputError(f"{above} is a file, and -o takes a folder")


def check_outputs(folder: Path, names: Iterable[str], force: bool) -> None:
    """ValueError for a folder of results that cannot be (`check_folder`), or that holds earlier ones; others may lie there.

    Args:
        names: of the files that will be written.
        force: they may exist.
    """
    check_folder(folder)
    if not force and (found := [name for name in names if (folder / name).exists()]):
        raise InputError(f"{folder / found[0]} exists; --force overwrites it, -o takes another folder")


def nearest(path: Path) -> Path:
    """The path itself if it exists, else the first folder above it that does."""
    return next(p for p in (path, *path.parents) if p.exists())


def _place(source: Path | None, folders: list[Path]) -> Path:
    """Path of a file below the first of ``folders`` that holds it."""
    for folder in folders:
        if source and source.is_relative_to(folder):
            return source.relative_to(folder).parent
    return Path()


def _apart(planned: list[Job]) -> list[Job]:
    """Jobs of one output get their inputs' whole names; ValueError if that does not tell them apart."""
    taken = Counter(job.target for job in planned)
    renamed = [
        replace(job, target=job.target.with_name(job.source.name + job.target.suffix))
        if job.source and job.target and taken[job.target] > 1
        else job
        for job in planned
    ]
    taken = Counter(job.target for job in renamed)
    if clashing := [job for job in renamed if taken[job.target] > 1]:
        target = clashing[0].target
        names = ", ".join(job.name for job in clashing if job.target == target)
        raise InputError(f"{names} share the output {target or 'stdout'}; give -o a folder, and inputs with different names")
    return renamed


def one_line(text: str) -> str:
    r"""The text with line breaks, control characters and undecodable bytes, as names of files may hold, escaped.

    >>> one_line("a\nb.png")
    'a\\nb.png'
    """
    hidden = {c for c in text if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")}
    return "".join(c.encode("unicode_escape").decode() if c in hidden else c for c in text)


def parse_size(text: str) -> int:
    """Whole bytes of ``50kB``, ``1.5 MB``, ``2GiB``, ``4096``; units of 1000 up to TB and of 1024 up to TiB, in any case.

    >>> parse_size("50kB"), parse_size("1.5 MB"), parse_size("2KiB"), parse_size("1T"), parse_size("4096")
    (50000, 1500000, 2048, 1000000000000, 4096)

    Raises:
        ValueError: not such a size.
    """
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise InputError(f"size {text!r}; need a number and a unit: 4096, 50kB, 1.5MB, 20GB, 2TB, or KiB, MiB, GiB, TiB")
    prefix = (match["prefix"] or "").lower()
    base = 1024 if match["binary"] else 1000
    return int(Decimal(match["number"]) * base ** PREFIXES.index(prefix))  # as a float, 1.001kB would be 1000 bytes


def show_size(size: float) -> str:
    """Bytes for people.

    >>> show_size(999), show_size(12345), show_size(999_990), show_size(2.5e6), show_size(3 * 10**12)
    ('999 B', '12.3 kB', '1.0 MB', '2.5 MB', '3.0 TB')
    """
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= 0.99995 * scale:  # what rounds to 1000.0 is shown as 1.0 of the next unit
            return f"{size / scale:.1f} {unit}"
    return f"{size:.0f} B"
