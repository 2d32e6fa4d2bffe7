"""Where tensors come from: torch, or a safetensors file that is mapped into memory, piece by piece."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ...entropy_models.errors import InputError
from ..container import FileBytes
from .header import WORDS, Entry, Index
from .torch_types import name_of, words_of

_HEADER_BYTES = 8


@dataclass
class Tensors:
    """Named tensors and metadata: the signal of `TensorCodec`."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str] = field(default_factory=dict)


class Source(Protocol):
    """Tensors that are read a piece at a time."""

    @property
    def index(self) -> Index:
        """Names, types and shapes."""

    def words(self, entry: Entry, span: range) -> np.ndarray:
        """Unsigned words of a tensor, shape (len(span),); not to be written to."""


class TorchSource:
    """Tensors in memory, of any device; none is changed."""

    def __init__(self, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
        for name, tensor in tensors.items():
            if not isinstance(name, str) or not isinstance(tensor, Tensor):
                raise InputError(f"{name!r}: {type(tensor).__name__}; need tensors by name")
        shapes = {name: (name_of(tensor, name), tuple(tensor.shape)) for name, tensor in tensors.items()}
        self.index = Index.of(shapes, metadata or {})
        self._tensors, self._kept = tensors, ("", torch.empty(0))

    def words(self, entry: Entry, span: range) -> np.ndarray:
        """Words of a tensor; one that is not contiguous, or on a GPU, is copied when its first piece is asked for."""
        if self._kept[0] != entry.name:
            self._kept = entry.name, self._tensors[entry.name].detach().cpu().contiguous()
        return words_of(self._kept[1], span)


class SafetensorsSource:
    """A safetensors file, in memory, mapped into it, or open."""

    def __init__(self, data: bytes | memoryview | FileBytes) -> None:
        if len(data) < _HEADER_BYTES or (size := int.from_bytes(data[:_HEADER_BYTES], "little")) > len(data) - _HEADER_BYTES:
            raise InputError(f"no safetensors file: {len(data)} bytes, a header that ends beyond them")
        self._start = _HEADER_BYTES + size
        self.index = Index.parse(bytes(data[_HEADER_BYTES : self._start]))
        if self._start + self.index.raw_bytes != len(data):
            expected = self._start + self.index.raw_bytes
            raise InputError(f"a safetensors file of {len(data)} bytes, whose header makes it {expected}")
        self.data = data

    def words(self, entry: Entry, span: range) -> np.ndarray:
        """Words of a tensor, in the file's memory where it is there."""
        kind = np.dtype(f"<u{WORDS[entry.dtype].word}")
        start = self._start + entry.start
        return np.frombuffer(self.data[start + span.start * kind.itemsize : start + span.stop * kind.itemsize], kind)


class Shards:
    """Several sources as one: the shards of a model."""

    def __init__(self, sources: Sequence[Source]) -> None:
        where: dict[str, tuple[Source, Entry]] = {}
        for source in sources:
            for entry in source.index.entries:
                if entry.name in where:
                    raise InputError(f"{entry.name}: in two shards")
                where[entry.name] = source, entry
        metadata = {key: value for source in sources for key, value in source.index.metadata.items()}
        self.index = Index.of({name: (entry.dtype, entry.shape) for name, (_, entry) in where.items()}, metadata)
        self._where = where

    def words(self, entry: Entry, span: range) -> np.ndarray:
        """Words of a tensor of any shard."""
        source, inner = self._where[entry.name]
        return source.words(inner, span)


def mapped(path: Path) -> memoryview:
    """A file's bytes, mapped into memory: only what is looked at is read.

    Raises:
        OSError: it cannot be read.
    """
    if not path.stat().st_size:
        return memoryview(b"")
    return np.memmap(path, np.uint8, "r").data


def shards_of(index_file: Path) -> Shards:
    """The shards that a ``model.safetensors.index.json`` names, beside it.

    Raises:
        InputError: it names none, or others than files beside it.
        OSError: a shard is missing.
    """
    try:
        files = sorted(set(json.loads(index_file.read_bytes())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"no index of shards: {error}") from None
    if not files or any(not isinstance(name, str) or Path(name).name != name for name in files):
        raise InputError(f"shards {files[:3]}; need names of files beside it")
    return Shards([_shard(index_file.parent / name) for name in files])


def _shard(path: Path) -> SafetensorsSource:
    try:
        return SafetensorsSource(mapped(path))
    except InputError as error:
        raise InputError(f"{path.name}: {error}") from None
