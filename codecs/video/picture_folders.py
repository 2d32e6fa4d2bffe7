"""Videos of which each frame is a picture: folders, patterns and numbered names, in the order that people count in."""

from __future__ import annotations

import glob
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np

from ...entropy_models.errors import InputError
from .. import container
from ..image.picture_writing import upright, write_picture
from ..image.pictures import Picture, looks_like_image, read_picture
from ..terminal.sources import NUMBERED
from .colour import guessed_matrix
from .formats import PICTURES
from .frames import Format, Frame

_NAME = "%05d.png"


def names_pictures(source: str | Path) -> bool:
    """Whether a name is a folder, a pattern or ``%05d``, and no file."""
    path = Path(source)
    return path.is_dir() or (not path.exists() and (glob.has_magic(str(source)) or bool(NUMBERED.search(path.name))))


def natural(name: str) -> list[tuple[int, str]]:
    """The key that sorts names as people count.

    >>> sorted(["10.png", "9.png", "a2.png", "a10.png"], key=natural)
    ['a2.png', 'a10.png', '9.png', '10.png']
    """
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name) if part]


class PictureFolder:
    """Pictures of one size as frames, one for each tick.

    Args:
        source: as `names_pictures` knows it, or several, or files.
        rate: frames a second.

    Raises:
        InputError: there are none.
        OSError, InputError: the first cannot be read.
    """

    def __init__(self, source: str | Path | tuple[Path, ...], rate: Fraction) -> None:
        found = _found_all(source) if isinstance(source, tuple) else _found(source)
        self._paths = sorted(found, key=lambda path: natural(path.as_posix()))
        self.tags: Mapping[str, str] = {}
        self.notices: list[str] = []
        if not self._paths:
            raise InputError(f"{source}: no pictures there ({', '.join(sorted(PICTURES))})")
        height, width = self._pixels(self._paths[0]).shape[:2]
        self.count: int | None = len(self._paths)
        self.format = Format(
            width=width,
            height=height,
            time_base=1 / rate,
            rate=rate,
            matrix=guessed_matrix(width, height),
            subsampling="rgb",
        )

    def frames(self) -> Iterator[Frame]:
        return self.frames_from(0, 0)

    def frames_from(self, start: int, time: int) -> Iterator[Frame]:
        """Frames from number ``start``, which is also its time."""
        for number in range(start, len(self._paths)):
            rgb = self._pixels(self._paths[number])
            if rgb.shape[:2] != (self.format.height, self.format.width):
                raise InputError(
                    f"{self._paths[number]} is of {rgb.shape[1]}x{rgb.shape[0]} pixels, and the first picture is of"
                    f" {self.format.width}x{self.format.height}; all must be of one size"
                )
            yield Frame(rgb, number, 1)

    def times(self) -> np.ndarray:
        return np.arange(len(self._paths), dtype=np.int64)

    def sound(self) -> None:
        return None

    def close(self) -> None:
        """Nothing is open."""

    def _pixels(self, path: Path) -> np.ndarray:
        try:
            picture: Picture = upright(read_picture(path.read_bytes()))
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        if picture.alpha is not None:
            raise InputError(f"{path} is not opaque, and the codec holds no alpha channel; lay it on a background first")
        self.notices.extend(notice for notice in picture.notices if notice not in self.notices)
        return picture.rgb()


def _found_all(sources: tuple[Path, ...]) -> list[Path]:
    local = [isinstance(one, Path) and names_pictures(one) for one in sources]
    return [path for one, several in zip(sources, local, strict=True) for path in (_found(one) if several else [one])]


def _found(source: str | Path) -> list[Path]:
    path = Path(source)
    if path.is_dir():
        return [one for one in path.iterdir() if one.suffix.lower() in PICTURES and one.is_file()]
    if match := NUMBERED.search(path.name):
        digits = r"\d{%s,}" % (match[1] or 1)
        name = re.compile(re.escape(path.name[: match.start()]) + digits + re.escape(path.name[match.end() :]))
        folder = path.parent
        return [one for one in folder.iterdir() if name.fullmatch(one.name)] if folder.is_dir() else []
    return [Path(name) for name in glob.glob(str(source), recursive=True) if Path(name).is_file()]


class PictureWriter:
    """Writer of one frame as a PNG into an open file.

    Raises:
        InputError: a second frame comes.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size_bytes = 0

    def write(self, frame: Frame) -> None:
        if self.size_bytes:
            raise InputError("a second frame in one picture; more need a folder, like folder/%05d.png")
        self.size_bytes = self._file.write(write_picture(Picture(frame.rgb)))

    def finish(self) -> None:
        """Nothing is left to write."""


class PictureFolderWriter:
    """Writer of PNG files; a context manager. They are put into the folder when all are written.

    Args:
        target: a folder, made if it is missing, or ``folder/%05d.png``.
        numbers: in the names of the pictures; None: counted from zero.
        force: pictures that are there may be overwritten.

    Raises:
        InputError: there are such pictures already.
        OSError: they cannot be written.
    """

    def __init__(self, target: Path, numbers: Sequence[int] | None = None, *, force: bool = False) -> None:
        if not force:
            check_free(target, numbers)
        self._folder, self._name = _folder_and_name(target)
        beside = Path(os.path.realpath(self._folder))
        self._part = beside.with_name(f".{beside.name}.{secrets.token_hex(4)}{container.PART}")
        self._part.mkdir(parents=True)
        self._numbers: Iterator[int] = count() if numbers is None else iter(numbers)
        self.size_bytes = 0
        """Of all pictures so far."""

    def write(self, frame: Frame) -> None:
        picture = write_picture(Picture(frame.rgb))
        (self._part / _numbered(self._name, next(self._numbers))).write_bytes(picture)
        self.size_bytes += len(picture)

    def finish(self) -> None:
        """Put the pictures into their folder."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(self._part.iterdir()):
            os.replace(path, self._folder / path.name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        shutil.rmtree(self._part, ignore_errors=True)


def check_free(target: Path, numbers: Sequence[int] | None) -> None:
    """InputError if there is a picture of one of these numbers, or where they are not known, of any.

    Args:
        target: as of `PictureFolderWriter`.
    """
    folder, name = _folder_and_name(target)
    there = _found(folder / name)
    if numbers is not None:
        names = {_numbered(name, number) for number in numbers}
        there = [path for path in there if path.name in names]
    if there:
        raise InputError(f"{min(there)} is there already; --force overwrites it, -o takes another folder or other names")


def check_images(paths: tuple[Path, ...]) -> None:
    """InputError for a file that is no image; one with a suffix of `PICTURES` is left to its turn."""
    for path in paths:
        if path.suffix.lower() not in PICTURES and path.is_file() and not looks_like_image(path.read_bytes()):
            raise InputError(f"{path}: not an image; --fps is for pictures, and makes one video of them")


def _folder_and_name(target: Path) -> tuple[Path, str]:
    return (target.parent, target.name) if NUMBERED.search(target.name) else (target, _NAME)


def _numbered(name: str, number: int) -> str:
    return NUMBERED.sub(lambda match: match[0] % number, name, count=1)
