"""Files of tensors by safetensors' own verbs: ``load_file``, ``save_file`` and a lazy ``safe_open``."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from torch import Tensor

from ...entropy_models.errors import BitstreamError, InputError
from .. import container
from ..terminal.paths import path_of
from .base import Base
from .files import Bytes, source_at
from .header import STREAM_ID
from .reading import TensorFile
from .sources import TorchSource, mapped
from .writing import TensorSettings, save_source

BaseLike = str | Path | Mapping[str, Tensor] | Base
"""What stands for a base."""


def base_of(base: BaseLike) -> Base:
    """A base in a file (of tensors, or .rdc), a folder of shards, or a dictionary. All of it is read, for its hash.

    Raises:
        InputError, BitstreamError, OSError: none; the message names the file.
    """
    if isinstance(base, Base):
        return base
    if isinstance(base, Mapping):
        return Base.of(TorchSource(base))
    path = Path(base)
    try:
        held = container.stream_id_at(path) == STREAM_ID
        source = TensorFile(container.parse(mapped(path), salvage=True)).of_right_length() if held else source_at(path)
        return Base.of(source, path.name)
    except (InputError, BitstreamError) as error:
        raise type(error)(f"base {path}: {error}") from None


def save_file(
    tensors: Mapping[str, Tensor], filename: str | Path, metadata: Mapping[str, str] | None = None, **settings: Any
) -> None:
    """Write tensors, which stay as they are, to an .rdc file; warns of those that a lossy mode has to keep exact.

    Args:
        settings: of `writing.TensorSettings`: mode, quality, bits, snr_db, energy, scaling; base, as `load_file` takes
            it, which makes the mode delta.

    Raises:
        InputError: a tensor that the mode does not take.
    """
    if "base" in settings:
        settings = {"mode": "delta"} | settings | {"base": base_of(settings["base"])}
    for notice in save_source(filename, TorchSource(tensors, metadata), TensorSettings(**settings)):
        warnings.warn(notice, stacklevel=2)


def load_file(
    filename: str | Path, device: str = "cpu", *, bits: int | None = None, base: BaseLike | None = None
) -> dict[str, Tensor]:
    """All tensors of an .rdc file.

    Args:
        filename: a path, or a URL of any fsspec file system.
        device: where to put them.
        bits: of a nested file: 2, 4 or 8; None: all that there are.
        base: of a file of mode delta: path of the file (or of an .rdc file of it), or its tensors by name.

    Raises:
        InputError: bits that the file does not have, or of a file that is not nested.
        Mismatch: another base than the file's.
        BitstreamError: anything wrong with the file; the message names the tensor.
    """
    file = safe_open(filename, "pt", device, bits=bits, base=base)
    if bits is None:
        file.check_length()
    return file.get_tensors()


def _bytes_of(filename: str | Path) -> Bytes:
    """The bytes of a file here or at a URL, read when they are asked for."""
    path = path_of(filename)
    return mapped(path) if isinstance(path, Path) else container.FileBytes(path.open("rb"))


class safe_open:  # noqa: N801 (safetensors' name)
    """The lazy twin of safetensors' ``safe_open``: a tensor or some rows of one are decoded when they are asked for.

    The file is mapped into memory, or read in ranges from a URL; a piece that is not needed is never read, nor missed where
    the file ends early.
    """

    def __init__(
        self,
        filename: str | Path,
        framework: str = "pt",
        device: str = "cpu",
        *,
        bits: int | None = None,
        base: BaseLike | None = None,
    ) -> None:
        if framework not in ("pt", "torch", "pytorch"):
            raise InputError(f"framework {framework!r}; need pt")
        stream = container.parse(_bytes_of(filename), salvage=True)
        self._file = TensorFile(stream, bits, None if base is None else base_of(base))
        self._device = device

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        pass

    def check_length(self) -> None:
        """BitstreamError where the file ends early, or goes on after its end; names the first tensor that it lacks."""
        self._file.of_right_length()

    def names(self) -> list[str]:
        """Names of the tensors, in the order of the file."""
        return list(self._file.numbers)

    keys = offset_keys = names

    def metadata(self) -> dict[str, str]:
        """Metadata of the safetensors file."""
        return dict(self._file.index.metadata)

    def get_tensor(self, name: str) -> Tensor:
        """One tensor; KeyError if there is none."""
        return self._file.tensor(name).to(self._device)

    def get_tensors(self) -> dict[str, Tensor]:
        """All tensors by name."""
        return {name: self.get_tensor(name) for name in self.names()}

    def get_slice(self, name: str) -> Slice:
        """A tensor to index: ``get_slice(name)[10:20, :5]`` decodes the pieces that hold rows 10 to 19."""
        return Slice(self._file, name, self._device)


class Slice:
    """A tensor that is decoded when it is indexed, as far as its first index needs."""

    def __init__(self, file: TensorFile, name: str, device: str) -> None:
        self._file, self._entry, self._device = file, file.entry(name), device

    def get_shape(self) -> list[int]:
        """Shape of the whole tensor."""
        return list(self._entry.shape)

    def get_dtype(self) -> str:
        """Type by its name in safetensors."""
        return self._entry.dtype

    def __getitem__(self, index: Any) -> Tensor:
        first, *others = index if isinstance(index, tuple) else (index,)
        if not self._entry.shape or not isinstance(first, int | slice):
            return self._file.tensor(self._entry.name)[index].to(self._device)
        chosen = range(self._entry.shape[0])[first]
        if isinstance(chosen, int):
            part = self._file.rows(self._entry.name, range(chosen, chosen + 1))[0]
            return (part[tuple(others)] if others else part).to(self._device)
        if chosen.step < 0:
            raise InputError(f"a slice with step {chosen.step}; need one above 0")
        rows = range(chosen[0], chosen[-1] + 1) if len(chosen) else range(0)
        part = self._file.rows(self._entry.name, rows)[:: chosen.step]
        return (part[(slice(None), *others)] if others else part).to(self._device)
