"""What training sees, computed once with frozen networks: records of one kind in a memory-mapped file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

R = TypeVar("R", bound=tuple[Tensor, ...])
Make = Callable[[np.random.Generator, int], Iterable[R]]
"""Records of one draw, by its number."""


class RecordCache(Generic[R]):
    """Records of a source; made when they are first asked for, and kept.

    Args:
        record: a named tuple's class.
        kind: of a record, with the fields of ``record`` by name.
        folder: where the file lies.
        state: what the records depend on.
        draws: how many calls of ``make`` there are.
        each: records of a call.
        maker: gives ``make``; called where some are missing.
    """

    def __init__(
        self,
        record: Callable[..., R],
        kind: np.dtype,
        folder: Path,
        state: Iterable[Any],
        *,
        draws: int,
        each: int = 1,
        seed: int,
        description: str,
        maker: Callable[[], Make[R]],
    ) -> None:
        self.kind, self._record = kind, record
        key = hashlib.sha256(repr([*state, seed]).encode()).hexdigest()[:16]
        path, size = folder / f"video-{key}.bin", kind.itemsize * each
        done = path.stat().st_size // size if path.exists() else 0
        if done < draws:
            folder.mkdir(parents=True, exist_ok=True)
            make, random = maker(), np.random.default_rng([seed, done])
            with path.open("ab") as file:
                file.truncate(done * size)
                for index in track(range(done, draws), description):
                    made = [tuple(x.numpy() for x in record) for record in make(random, index)]
                    file.write(np.array(made, kind).tobytes())
        self._records: np.ndarray = np.memmap(path, kind, "r", shape=(draws * each,))

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> R:
        return self._record(*(torch.from_numpy(np.array(self._records[index][name])) for name in self.kind.names or ()))
