"""The base of a delta: another file of tensors, named by its hash."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from torch import Tensor

from ...entropy_models.errors import InputError
from .. import container
from .files import source_at
from .header import PIECE_WORDS, STREAM_ID, Entry
from .reading import TensorFile
from .sources import SafetensorsSource, Source, TorchSource, mapped

_READ_BYTES = 1 << 24


@dataclass(frozen=True)
class Base:
    """Tensors that others differ from."""

    source: Source
    digest: bytes
    """sha256 of the safetensors file that holds them; of shards and dictionaries, of the one that would."""

    @classmethod
    def of(cls, base: str | Path | Mapping[str, Tensor] | Base) -> Base:
        """A base in a file (of tensors, or .rdc), a folder of shards, or a dictionary. All of it is read, for its hash.

        Raises:
            InputError, BitstreamError, OSError: none.
        """
        if isinstance(base, Base):
            return base
        if isinstance(base, Mapping):
            source: Source = TorchSource(base)
        elif container.stream_id_at(path := Path(base)) == STREAM_ID:
            source = TensorFile(container.parse(mapped(path)))
        else:
            source = source_at(path)
        return cls(source, _digest(source))

    def words(self, entry: Entry, span: range) -> np.ndarray | None:
        """Words of the tensor of that name; None where the base has none of its type and shape."""
        found = self._like(entry)
        return None if found is None else self.source.words(found, span)

    def _like(self, entry: Entry) -> Entry | None:
        found = self._entries.get(entry.name)
        return found if found and (found.dtype, found.shape) == (entry.dtype, entry.shape) else None

    @cached_property
    def _entries(self) -> dict[str, Entry]:
        return {entry.name: entry for entry in self.source.index.entries}

    def check_worth(self, source: Source) -> None:
        """InputError where no tensor of a source has its like here."""
        if not any(map(self._like, source.index.entries)):
            names = [one.index.entries[0].name if one.index.entries else "nothing" for one in (source, self.source)]
            raise InputError(f"no tensor has its like in the base: {names[0]} ... against {names[1]} ...")


def _digest(source: Source) -> bytes:
    digest, index = hashlib.sha256(), source.index
    if isinstance(source, SafetensorsSource):
        for start in range(0, len(source.data), _READ_BYTES):
            digest.update(source.data[start : start + _READ_BYTES])
        return digest.digest()
    digest.update(len(index.text).to_bytes(8, "little") + index.text)
    for entry in index.entries:
        for start in range(0, entry.words, PIECE_WORDS):
            digest.update(
                np.ascontiguousarray(source.words(entry, range(start, min(start + PIECE_WORDS, entry.words)))).data
            )
    return digest.digest()
