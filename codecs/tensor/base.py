"""The base of a delta: another file of tensors, named by its hash."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ...entropy_models.errors import InputError
from .header import PIECE_WORDS, Entry
from .sources import SafetensorsSource, Source

_READ_BYTES = 1 << 24


@dataclass(frozen=True)
class Base:
    """Tensors that others differ from."""

    source: Source
    digest: bytes
    """sha256 of the safetensors file that holds them; of shards and dictionaries, of the one that would."""
    name: str = ""
    """Of its file, for people."""

    @classmethod
    def of(cls, source: Source, name: str = "") -> Base:
        """Tensors as a base; all of them are read, for the hash."""
        return cls(source, _digest(source), name)

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
