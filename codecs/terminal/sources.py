"""What a command reads: files, folders, patterns, lists and URLs on its line, to single files."""

from __future__ import annotations

import glob
import os
import re
import tarfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from ...entropy_models.errors import InputError
from .paths import find, is_url, path_of

STDIO = "-"
RDC, TAR = ".rdc", ".tar"
LIST = ".txt"
"""Suffix of files that list inputs."""
APPLE_DOUBLE = "._"
"""Beginning of names under which macOS keeps what a file system cannot: no file of a folder."""
_SHOWN = 5
"""Suffixes in a message."""

NUMBERED = re.compile(r"%(?:0?(\d+))?d")
"""In the names of files that are numbered, and one signal together."""


@dataclass(frozen=True, slots=True)
class Source:
    """One file to read."""

    path: Path | None
    """None: standard input. A name with `NUMBERED` in it may be that of many files."""
    place: str = ""
    """Folder below the output's where its result goes: as below the folder, pattern or list that named it."""
    one_of_many: bool = False
    """Whether it was named by a folder or a list, however many that holds."""
    folder: str = ""
    """The folder that named it."""


def expand(
    inputs: Iterable[str], suffixes: frozenset[str] | None, note: Callable[[str], None] = lambda text: None
) -> list[Source]:
    """Files, folders, globs and lists to single files, each once; below folders those with one of ``suffixes`` (None: all).

    ``@names``, and ``names.txt`` where ``.txt`` is not among ``suffixes``, list files and URLs, one a line. What a list
    names is not looked for before its turn comes. ``note`` is told how many files of a folder have other suffixes.

    Raises:
        ValueError: a name matches nothing.
    """
    found: dict[Path | None, Source] = {}
    folders = []
    for name in inputs:
        sources = list(_expanded(name, suffixes, note))
        folders += [name] if any(source.folder for source in sources) else []
        for source in sources:
            found.setdefault(source.path, source)
    return list(found.values()) if len(folders) < 2 else _kept_apart(list(found.values()), folders)


def expand_rdc(inputs: Iterable[str], note: Callable[[str], None]) -> list[Source]:
    """.rdc files as `expand` finds them, and those in tars, at the places that their names in the tars say.

    Raises:
        ValueError: a name matches nothing, or a tar is damaged or holds none.
    """
    found: dict[Path | None, Source] = {}
    for source in expand(inputs, frozenset({RDC, TAR}), note):
        inside = _of_tar(source) if source.path and source.path.suffix.lower() == TAR else [source]
        found |= {file.path: file for file in inside}
    return list(found.values())


def _of_tar(source: Source) -> list[Source]:
    name = str(source.path)
    try:
        inside = _of_pattern(f"tar://**/*{RDC}::{name}")
    except InputError:
        raise InputError(f"{name}: the tar holds no {RDC} files") from None
    except (tarfile.TarError, EOFError) as error:
        raise InputError(f"{name}: a damaged tar ({error})") from None
    return [replace(file, place="/".join(filter(None, [source.place, file.place])), one_of_many=True) for file in inside]


def _kept_apart(sources: list[Source], folders: list[str]) -> list[Source]:
    """Files of several folders below these folders' names, so that equal names keep apart: as ``cp -r`` puts them."""
    parts = [_parts(name if is_url(name) else os.path.abspath(name)) for name in folders]
    shared = len(os.path.commonprefix([above for *above, _ in parts]))
    below = {name: part[shared:] for name, part in zip(folders, parts, strict=True)}
    return [replace(s, place="/".join([*below.get(s.folder, []), *filter(None, [s.place])])) for s in sources]


def _expanded(name: str, suffixes: frozenset[str] | None, note: Callable[[str], None]) -> Iterable[Source]:
    if not name:
        raise InputError("an input's name is empty; the current folder is .")
    if name == STDIO:
        return [Source(None)]
    if name.startswith("@"):
        return _of_list(path_of(name[1:]).read_bytes().decode())
    path = path_of(name)
    if path.is_dir():
        return _of_folder(name, path, suffixes, note)
    if is_url(name) and glob.has_magic(name):
        return _of_pattern(name)
    if path.suffix.lower() == LIST and LIST not in (suffixes or ()) and path.is_file():
        text = _text(path.read_bytes())
        return [Source(path)] if text is None else _found_in(name, _of_list(text))
    return [Source(path)] if path.exists() or NUMBERED.search(path.name) else _of_pattern(name)


def _of_folder(name: str, folder: Path, suffixes: frozenset[str] | None, note: Callable[[str], None]) -> list[Source]:
    every = [file for file in find(folder) if not file.rpartition("/")[2].startswith(APPLE_DOUBLE)]
    endings = [os.path.splitext(file)[1] for file in every]
    inside = [file for file, ending in zip(every, endings, strict=True) if suffixes is None or ending.lower() in suffixes]
    if not every:
        raise InputError(f"{name}: the folder is empty")
    if not inside:
        found = ", ".join(sorted({ending or "no suffix" for ending in endings})[:_SHOWN])
        wanted = f"; need {' or '.join(sorted(suffixes))}" if suffixes and len(suffixes) <= _SHOWN else ""
        raise InputError(f"{name}: none of the folder's {len(every)} files can be read ({found}){wanted}")
    if len(inside) < len(every):
        others = sorted({ending or "no suffix" for ending in endings} - {os.path.splitext(file)[1] for file in inside})
        note(f"{name}: {len(every) - len(inside)} of {len(every)} files left out ({', '.join(others)})")
    return [Source(folder / file, file.rpartition("/")[0], one_of_many=True, folder=name) for file in inside]


def _of_pattern(name: str) -> list[Source]:
    """Files that match; their places are below the last folder that the pattern names in full."""
    if is_url(name):
        pattern, _, outer = name.partition("::")  # zip://*.png::s3://bucket/photos.zip
        start = re.match(r"[^*?\[]*/", pattern)
        assert start, "a URL has slashes"
        root = path_of(start[0] + (f"::{outer}" if outer else ""))
        matches = [path for path in root.glob(pattern[start.end() :]) if path.is_file()]
        texts, above = [path.path for path in matches], root.path  # type: ignore[attr-defined]
    else:
        texts = [match for match in glob.glob(name, recursive=True) if Path(match).is_file()]
        matches, above = [Path(text) for text in texts], re.match(r"([^*?\[]*[/\\])?", name)[0]  # type: ignore[index]
    if not matches:
        raise InputError(f"{name}: no such file")
    places = ["/".join(_parts(text)[len(_parts(above)) : -1]) for text in texts]
    return [Source(path, place) for _, path, place in sorted(zip(texts, matches, places, strict=True))]


def _of_list(text: str) -> list[Source]:
    """The files that a list names, one a line; places below the folder that holds all of them."""
    lines = [line.strip() for line in text.splitlines()]
    names = [line for line in lines if line and not line.startswith("#")]
    if not names:
        raise InputError("the list of inputs is empty")
    folders = [_parts(name if is_url(name) else os.path.abspath(name))[:-1] for name in names]
    shared = len(os.path.commonprefix(folders))
    places = ["/".join(folder[shared:]) for folder in folders]
    return [Source(path_of(name), place, one_of_many=True) for name, place in zip(names, places, strict=True)]


def _found_in(name: str, sources: list[Source]) -> list[Source]:
    """What a list by its suffix alone names; ValueError if nothing of it is there: it may be no list."""
    if not any(is_url(source.path or "") or Path(source.path or "").exists() for source in sources):
        raise InputError(f"{name}: read as a list of inputs, one a line, and there is no {str(sources[0].path)!r:.80}")
    return sources


def _parts(text: str) -> list[str]:
    """Names between the slashes of a path or URL; none that leads up."""
    return [part for part in re.split(r"[\\/:]+", text) if part not in ("", ".", "..")]


def _text(data: bytes) -> str | None:
    """The bytes as text, if that is what they are."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else text
