"""Files of a command: what goes where, and what is not overwritten."""

from __future__ import annotations

import errno
import io
import os
import re
import select
import shutil
import stat
import sys
import tempfile
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import BinaryIO, TextIO

from ...entropy_models.errors import InputError
from .paths import find, is_url, path_of, whole_file, write_whole
from .sources import NUMBERED, STDIO, Source

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
CLOSED = 128 + 13
"""Exit status that shells give for SIGPIPE."""
PREFIXES = ("", "k", "m", "g", "t")
_SIZE = re.compile(r"(?P<number>\d+(\.\d+)?)\s*((?P<prefix>[kmgt])(?P<binary>i)?)?b?", re.IGNORECASE | re.ASCII)


class Pipe:
    """Standard input that is no file: it gives what has come so far, and its beginning can be looked at before."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._ahead = getattr(file, "raw", file), b""
        self.taken = 0
        """Bytes that were read."""

    def head(self, size: int) -> bytes:
        """The next bytes, which stay to be read; waits for so many, or the end."""
        while len(self._ahead) < size and (more := self._file.read(size - len(self._ahead))):
            self._ahead += more
        return self._ahead

    def waits(self, seconds: float) -> bool:
        """Whether nothing comes within so many seconds, not even the end; False where that cannot be told."""
        try:
            return not self._ahead and not select.select([self._file], [], [], seconds)[0]
        except (OSError, ValueError):  # no file of the system's; Windows asks sockets alone
            return False

    def read(self, size: int = -1) -> bytes:
        """At most ``size`` bytes, those that are there; -1: all up to the end."""
        if size < 0:
            data, self._ahead = self._ahead + self._file.read(), b""
        elif self._ahead:
            data, self._ahead = self._ahead[:size], self._ahead[size:]
        else:
            data = self._file.read(size) or b""
        self.taken += len(data)
        return data

    def seekable(self) -> bool:
        return False


class Outlet:
    """Standard output that what is written leaves at once."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.given = file, 0

    def write(self, data: bytes) -> int:
        with until_closed():
            self._file.write(data)
            self._file.flush()
        self.given += len(data)
        return len(data)

    def flush(self) -> None:
        with until_closed():
            self._file.flush()

    def seekable(self) -> bool:
        return False


@dataclass(frozen=True, slots=True)
class Job:
    """One input and where its result goes; None stands for standard input or output."""

    source: Path | None
    target: Path | None
    refused: str = ""
    """Why it cannot be done, where that is known before: the jobs beside it go on."""
    parts: tuple[Path, ...] = ()
    """Files that are the input together; ``source`` names them then."""

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

    def pipes(self) -> tuple[Pipe, Outlet] | None:
        """Standard input and output, where one goes into the other and the first is no file."""
        if self.source or self.target or not sys.stdin or not sys.stdout or _is_whole_file(sys.stdin):
            return None
        return Pipe(sys.stdin.buffer), Outlet(sys.stdout.buffer)

    @contextmanager
    def opened(self, pipe: Pipe | None = None) -> Iterator[BinaryIO]:
        """The input as a file that can seek; what comes through a pipe or from a URL is in memory.

        Args:
            pipe: standard input, where something has been read of it.

        Raises:
            OSError: it cannot be read.
        """
        if isinstance(self.source, Path) and self.source.is_file():
            with self.source.open("rb") as file:
                yield file
        elif self.source is None and _is_whole_file(sys.stdin):
            yield sys.stdin.buffer
        else:
            yield io.BytesIO(pipe.read() if pipe else self.read())

    @contextmanager
    def written(self) -> Iterator[BinaryIO]:
        """A file to write the result into, which can seek: it goes where it belongs when all is written, or nowhere.

        Raises:
            OSError: it cannot be written.
        """
        _check_output(self.target)
        if self.target:
            with _named_errors(self.target), whole_file(self.target) as file:
                yield file
            return
        with tempfile.TemporaryFile() as file:
            yield file
            file.seek(0)
            with until_closed():
                shutil.copyfileobj(file, sys.stdout.buffer)
                sys.stdout.buffer.flush()

    def write(self, data: bytes) -> None:
        """Write the result, whole or not at all.

        Raises:
            OSError: it cannot be written.
        """
        _check_output(self.target)
        if self.target is None:
            with until_closed():
                sys.stdout.buffer.write(data)
                sys.stdout.buffer.flush()
        else:
            with _named_errors(self.target):
                write_whole(self.target, data)

    def keep_time(self) -> None:
        """Give the output the input's modification time, where both are files of this machine's."""
        if (
            isinstance(self.source, Path)
            and isinstance(self.target, Path)
            and self.source.is_file()
            and self.target.is_file()
        ):
            os.utime(self.target, ns=(self.target.stat().st_atime_ns, self.source.stat().st_mtime_ns))


@contextmanager
def until_closed() -> Iterator[None]:
    """Writes standard output, which `head` and players close when they have enough: the command ends then, without a word.

    Raises:
        SystemExit: as if SIGPIPE had ended it, as other tools are.
    """
    try:
        yield
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is buffered would be an error at the exit
        raise SystemExit(CLOSED) from None


@contextmanager
def _named_errors(target: Path) -> Iterator[None]:
    """Errors of a full disk, and of stores elsewhere, name no file: it is the output."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise OSError(error.errno, error.strerror, str(target)) from error
        if is_url(target) and str(target) not in str(error):
            raise InputError(f"{target}: {error}") from error
        raise


def _check_output(target: Path | None) -> None:
    if target is None and sys.stdout is None:
        raise OSError("standard output is closed")


def _is_whole_file(stream: TextIO | None) -> bool:
    """Whether standard input is a file, and at its beginning."""
    try:
        return stream is not None and stat.S_ISREG(os.fstat(stream.fileno()).st_mode) and stream.buffer.tell() == 0
    except OSError:  # it is no file of the system's
        return False


def jobs(
    sources: Sequence[Source],
    output: str | None,
    suffix_of: Callable[[Path | None], str],
    *,
    named: int = 0,
    suffixes: frozenset[str] = frozenset(),
    hint: str = "",
) -> list[Job]:
    """Give every input its output: beside it, in the folder ``output``, or the file ``output`` for a single input.

    In a folder each keeps its place; beside ``g.tiff``, ``g.png`` becomes ``g.png.rdc``.

    Args:
        named: how many inputs were named; two, or a folder, need a folder for the output even if they are one file.
        output: file, folder, URL or ``-``; None: beside the inputs.
        suffix_of: an input's output suffix; not called where ``output`` names the file.
        suffixes: of files, so that such an ``output`` is no folder that is not there yet.
        hint: what else can be done with many inputs for one file.

    Raises:
        ValueError: many inputs for one file, or all inputs for one output.
    """
    if output == "":
        raise InputError("the output's name is empty; the current folder is .")
    inputs = max(len(sources), named)
    many = inputs > 1 or any(source.one_of_many for source in sources)
    count = f"{inputs} inputs" if inputs > 1 else "an input folder or list"
    place = None if output in (None, STDIO) else path_of(output or "")
    if place and many and (place.is_file() or place.suffix.lower() in suffixes):
        raise InputError(f"{output} is one file, and -o takes a folder for {count}, like {output}/{hint}")
    in_folder = place and (many or (output or "").endswith(("/", "\\")) or place.is_dir())
    planned = []
    for source in sources:
        target = place
        if place and in_folder:
            folder = place / source.place if source.place else place
            target = folder / _with_suffix(_named(source.path).stem if source.path else "stdin", suffix_of(source.path))
        elif output is None and source.path:
            beside = _named(source.path)
            target = beside.with_name(_with_suffix(beside.stem, suffix_of(source.path)))
        planned.append(Job(source.path, target))
    return _apart(planned)


def _with_suffix(stem: str, suffix: str) -> str:
    """The name of an output: ``a.png`` of ``a.png.rdc``, which has its suffix already."""
    return stem if suffix and stem.lower().endswith(suffix) else stem + suffix


def _named(path: Path) -> Path:
    """The path that an output is named after: of numbered files their folder."""
    numbered = isinstance(path, Path) and NUMBERED.search(path.name) and not path.exists()
    return path.parent if numbered and path.parent.name else path


def check_targets(planned: Iterable[Job], output: str | None, *, force: bool, skip_existing: bool) -> list[Job]:
    """The jobs to do, checked before hours are spent (`check_target`): all, or those whose outputs are not there yet.

    Outputs are written whole or not at all, so that one which is there is done. Of several jobs those whose output is
    refused say so when their turn comes.

    Raises:
        ValueError: the output of the only job, or of all of them, is refused.
    """
    present: set[str] | None = None
    if output and is_url(output):  # one listing instead of a question for each
        root = path_of(output)
        with _named_errors(root):
            present = {str(root / name) for name in find(root)} | ({str(root)} if root.is_file() else set())
    left = []
    for job in planned:
        if job.target:
            exists = job.target.is_file() if present is None else str(job.target) in present
            if exists and skip_existing:
                continue
            try:
                check_target(job.source, job.target, force, exists)
            except InputError as error:
                job = replace(job, refused=job.refused or str(error))
        left.append(job)
    if left and all(job.refused for job in left):
        raise InputError(left[0].refused)
    return left


def check_target(source: Path | None, target: Path, force: bool, exists: bool | None = None) -> None:
    """ValueError for an output below a file, for the input itself, or one that exists, unless ``force``.

    Args:
        exists: whether there is such an output, where that is known.
    """
    if isinstance(target, Path) and not (above := nearest(target.parent)).is_dir():
        raise InputError(f"{above} is a file, and {target} needs a folder there")
    if source == target or (isinstance(target, Path) and isinstance(source, Path) and _same(source, target)):
        read = ", an .rdc file already, which `codec decode` reads" if target.suffix.lower() == ".rdc" else ""
        raise InputError(f"{target} is the input itself{read}; give -o another name")
    if isinstance(target, Path) and target.is_dir():
        raise InputError(f"{target} is a folder; -o takes a file")
    if (target.is_file() if exists is None else exists) and not force:
        raise InputError(f"{target} exists; --force overwrites it")


def _same(source: Path, target: Path) -> bool:
    return target.exists() and source.exists() and target.samefile(source)


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


def _apart(planned: list[Job]) -> list[Job]:
    """Jobs of one output get their inputs' whole names; those that these do not tell apart are refused."""
    planned = list(planned)
    for _ in range(2):  # whole names may be others' outputs in turn: a.jpg beside a.jpg.png and a.png
        for place, job in _clashing(planned):
            if job.source and job.target:
                planned[place] = replace(job, target=job.target.with_name(job.source.name + job.target.suffix))
    clashing, names_of = _clashing(planned), defaultdict[Path | None, list[str]](list)
    for _, job in clashing:
        names_of[job.target].append(job.name)
    for place, job in clashing:
        names = ", ".join(names_of[job.target])
        why = f"{names} share the output {job.target or 'stdout'}; give -o a folder, and inputs with different names"
        planned[place] = replace(job, refused=why)
    if clashing and len(clashing) == len(planned):
        raise InputError(planned[0].refused)
    return planned


def _clashing(planned: list[Job]) -> list[tuple[int, Job]]:
    """Jobs whose output is another's too, with their places."""
    taken = Counter(job.target for job in planned)
    return [(place, job) for place, job in enumerate(planned) if taken[job.target] > 1]


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
