"""Data sets of .rdc files for PyTorch's DataLoader: folders, URLs and WebDataset shards, of any codec.

>>> from torch.utils.data import DataLoader
>>> data = RdcDataset("packed", part=RandomCrop(128, 128))  # doctest: +SKIP
>>> loader = DataLoader(data, batch_size=32, shuffle=True, num_workers=8)  # doctest: +SKIP
>>> for batch in loader:  # doctest: +SKIP
...     train(batch)  # uint8 (32, 3, 128, 128)

`RdcDataset` has a length and takes samples by number; `RdcIterableDataset` reads shards from beginning to end. Both run in
workers that are forked or spawned, and load codecs there.
"""

from __future__ import annotations

import os
import random
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from ..entropy_models.errors import BitstreamError, InputError
from . import container, found, load_face, name_of, registered
from .terminal.sources import RDC, TAR, Source, expand

Where = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]
"""Folders, files, patterns, lists and URLs of .rdc files and of tar files that hold them."""
Part = Mapping[str, Any] | Callable[[dict[str, Any]], Mapping[str, Any]]
"""Options of ``decode`` that take a part of a signal, or a function that makes them of what `codec info` tells of a file."""


@dataclass(frozen=True, slots=True)
class RandomCrop:
    """A part of pictures at random, drawn by torch's generator; nothing else is decoded to pixels."""

    height: int
    width: int

    def __call__(self, facts: dict[str, Any]) -> dict[str, Any]:
        """The crop of a picture of ``facts``.

        Raises:
            ValueError: it is smaller.
        """
        height, width = facts["height"], facts["width"]
        if height < self.height or width < self.width:
            raise InputError(f"{width}x{height} pixels; the crop needs {self.width}x{self.height}")
        top = int(torch.randint(height - self.height + 1, ()))
        left = int(torch.randint(width - self.width + 1, ()))
        return {"crop": (top, left, top + self.height, left + self.width)}


class _Reader:
    """Files' bytes to samples: what both data sets share."""

    def __init__(
        self,
        where: Where,
        *,
        part: Part | None = None,
        transform: Callable[[Any], Any] | None = None,
        target: Callable[[str], Any] | None = None,
        device: str = "cpu",
    ) -> None:
        self.part, self.transform, self.target, self.device = part, transform, target, device
        places = [where] if isinstance(where, str | os.PathLike) else where
        self.sources = expand([os.fspath(place) for place in places], frozenset({RDC, TAR}))
        if not self.sources:
            raise InputError("a data set of no files; need a folder, files, patterns or URLs")
        self._codecs: dict[tuple[int, bytes], Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_codecs": {}}

    def sample(self, data: bytes, name: str) -> Any:
        """The sample of a file.

        Raises:
            BitstreamError: anything wrong with it; names it.
        """
        try:
            stream = container.parse(data)
            codec = self._codec(stream)
            signal = codec.decode(stream, **self._options(stream))
        except BitstreamError as error:
            raise type(error)(f"{name}: {error}") from None
        except InputError as error:
            raise InputError(f"{name}: {error}") from None
        value = self.transform(signal) if self.transform else _tensor_of(signal)
        return (value, self.target(name)) if self.target else value

    def _options(self, stream: container.Stream) -> Mapping[str, Any]:
        if callable(self.part):
            return self.part(load_face(name_of(stream.stream_id)).describe(stream))
        return self.part or {}

    def _codec(self, stream: container.Stream) -> Any:
        key = stream.stream_id, stream.weights
        if key not in self._codecs:
            kind = found(registered(name_of(stream.stream_id)).codec)
            self._codecs[key] = kind.load(stream_hash=stream.weights, device=self.device)
        return self._codecs[key]


@dataclass(frozen=True, slots=True)
class _Entry:
    """Where the bytes of a file lie."""

    path: Path
    name: str
    start: int = 0
    end: int | None = None

    def read(self) -> bytes:
        if not isinstance(self.path, Path):
            return bytes(self.path.fs.cat_file(self.path.path, start=self.start, end=self.end))
        with self.path.open("rb") as file:
            file.seek(self.start)
            return file.read() if self.end is None else file.read(self.end - self.start)


class RdcDataset(_Reader, Dataset[Any]):
    """Samples by number, in the order of their names; tars are searched once, and their files read alone.

    Args:
        where: see `Where`.
        part: see `Part`; None: whole signals.
        transform: signal to sample; None: a tensor of ``signal.sample()``, or the signal itself where it has none.
        target: name of a file, like ``cats/1.rdc`` below its folder or in its tar, to a label; samples are then pairs.
        device: where codecs run. CUDA needs workers that are spawned, or none.

    Raises:
        ValueError: nothing is found there.
    """

    def __init__(self, where: Where, **options: Any) -> None:
        super().__init__(where, **options)
        self._entries = [entry for source in self.sources for entry in _entries(source)]
        if not self._entries:
            raise InputError(f"{', '.join(str(source.path) for source in self.sources)}: no .rdc files there")

    @property
    def names(self) -> list[str]:
        """Names of the files below their folders or in their tars."""
        return [entry.name for entry in self._entries]

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> Any:
        entry = self._entries[index]
        return self.sample(entry.read(), entry.name)


class RdcIterableDataset(_Reader, IterableDataset[Any]):
    """Samples in the order of tars and files, each of which goes to one worker of one process of torch.distributed.

    Args:
        where, options: as of `RdcDataset`.
        shuffle: samples to choose the next one from; 0: none, and files in order.
        seed: of the order, which `set_epoch` changes; alike in all workers.
    """

    def __init__(self, where: Where, *, shuffle: int = 0, seed: int = 0, **options: Any) -> None:
        super().__init__(where, **options)
        self.shuffle, self.seed, self.epoch = shuffle, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Let the next passes be in another order."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Any]:
        order = random.Random(f"{self.seed} {self.epoch}")
        sources = list(self.sources)
        if self.shuffle:
            order.shuffle(sources)
        share, shares = _share()
        files = (file for source in sources[share::shares] for file in _files(source))
        for data, name in _shuffled(files, self.shuffle, order):
            yield self.sample(data, name)


def _tensor_of(signal: Any) -> Any:
    return torch.from_numpy(signal.sample()) if hasattr(signal, "sample") else signal


def _path_of(source: Source) -> Path:
    if source.path is None:
        raise InputError("a data set is not read from standard input")
    return source.path


def _name_of(source: Source) -> str:
    return f"{source.place}/{_path_of(source).name}".lstrip("/")


def _entries(source: Source) -> Iterator[_Entry]:
    path = _path_of(source)
    if path.suffix.lower() != TAR:
        yield _Entry(path, _name_of(source))
        return
    with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
        for member in tar:
            if member.isfile() and member.name.endswith(RDC):
                yield _Entry(path, member.name, member.offset_data, member.offset_data + member.size)


def _files(source: Source) -> Iterator[tuple[bytes, str]]:
    """Bytes and names of a file, or of the files of a tar, which is read once from beginning to end."""
    path = _path_of(source)
    if path.suffix.lower() != TAR:
        yield path.read_bytes(), _name_of(source)
        return
    with path.open("rb") as file, tarfile.open(fileobj=file, mode="r|") as tar:
        for member in tar:
            if member.name.endswith(RDC) and (content := tar.extractfile(member)):
                yield content.read(), member.name


def _share() -> tuple[int, int]:
    """Which of how many shares of the files this worker of this process reads."""
    worker, rank, world = get_worker_info(), 0, 1
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
    return number * world + rank, world * workers  # so that processes get as many files as one another


def _shuffled(files: Iterator[tuple[bytes, str]], ahead: int, order: random.Random) -> Iterator[tuple[bytes, str]]:
    """One of the next ``ahead`` at a time; what is kept are coded files, not samples."""
    held: list[tuple[bytes, str]] = []
    for file in files:
        held.append(file)
        if len(held) > ahead:
            index = order.randrange(len(held))
            held[index], held[-1] = held[-1], held[index]
            yield held.pop()
    if ahead:
        order.shuffle(held)
    yield from held
