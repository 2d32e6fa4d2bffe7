"""Files of tensors: what they are by their first bytes, and how they are read and written. No torch at the top."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from ...entropy_models.errors import InputError
from ..container import FileBytes

if TYPE_CHECKING:
    from .sources import Source

READS = frozenset({".safetensors", ".pt", ".npy", ".npz"})
"""Suffixes that folders are searched for; a file that is named may have any."""
WRITES = {".safetensors": "safetensors", ".pt": "torch", ".npz": "numpy", ".npy": "numpy"}
_NPY, _ZIP = b"\x93NUMPY", b"PK\x03\x04"
_OLD_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""A pickle of torch's magic number: .pt files of versions before 1.6."""
Bytes = bytes | memoryview | FileBytes
_WHOLE = "array"
"""Name of the tensor of an .npy file, which has none."""


def kind_of(data: Bytes) -> str:
    """``safetensors``, ``npy``, ``npz``, ``torch``, ``shards``, or nothing for other files."""
    head = bytes(data[: len(_OLD_TORCH)])
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= len(data) - 8:
        return "safetensors"
    if head.startswith(_NPY):
        return "npy"
    if head == _OLD_TORCH:
        return "torch"
    if head.startswith(_ZIP):
        return _kind_of_archive(data)
    if head.startswith(b"{") and len(data) < 1 << 28:
        try:
            return "shards" if "weight_map" in json.loads(bytes(data[:])) else ""
        except (ValueError, RecursionError):
            return ""
    return ""


def _kind_of_archive(data: Bytes) -> str:
    """By the name of its first file."""
    length = int.from_bytes(data[26:28], "little")
    name = bytes(data[30 : 30 + length])
    if name.endswith((b"/data.pkl", b"/.format_version")):
        return "torch"
    return "npz" if name.endswith(b".npy") else ""


def source_of(data: Bytes, path: Path | None = None) -> Source:
    """The tensors in a file.

    Args:
        data: its bytes, in memory, mapped into it, or in an open file.
        path: its path, which shards are looked for beside.

    Raises:
        InputError: no file of tensors, or one that holds other things than tensors.
    """
    from .sources import SafetensorsSource, TorchSource, shards_of

    kind = kind_of(data)
    if kind == "safetensors":
        return SafetensorsSource(data)
    if kind == "shards":
        if path is None:
            raise InputError("an index of shards; it has to be a file beside them")
        return shards_of(path)
    if kind == "torch":
        from .torch_files import read_torch

        return TorchSource(*read_torch(data[:]))
    if kind in ("npy", "npz"):
        return TorchSource(_numpy_tensors(data[:], kind))
    raise InputError(f"starts with {bytes(data[:8])!r}: no safetensors, .pt, .npy or .npz file")


def source_at(path: str | Path) -> Source:
    """The tensors in a file, mapped into memory, or of a folder of shards.

    Raises:
        InputError, OSError: there are none.
    """
    from .sources import mapped

    path = Path(path)
    if path.is_dir():
        found = sorted(path.glob("*.safetensors.index.json")) or sorted(path.glob("*.safetensors"))
        if len(found) != 1:
            raise InputError(f"{len(found)} safetensors files; need one, or their index")
        path = found[0]
    return source_of(mapped(path), path)


def _numpy_tensors(data: bytes | memoryview, kind: str) -> dict[str, Any]:
    import numpy as np
    import torch

    try:
        held = np.load(io.BytesIO(data), allow_pickle=False)
        arrays = {_WHOLE: held} if kind == "npy" else {name: held[name] for name in held.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"numpy does not take it: {error}") from None
    tensors = {}
    for name, array in arrays.items():
        try:
            tensors[name] = torch.from_numpy(np.array(array.astype(array.dtype.newbyteorder("="), order="C")))
        except TypeError:
            raise InputError(f"{name}: numbers of type {array.dtype}, which torch does not have") from None
    return tensors


def write_tensors(tensors: Mapping[str, Any], metadata: Mapping[str, str], suffix: str, file: BinaryIO) -> None:
    """Write a torch or numpy file of tensors.

    Raises:
        InputError: a type that the format does not have, or several tensors for one array.
        Corrupt: metadata of a torch file that do not fit its tensors.
    """
    import numpy as np

    if suffix == ".pt":
        from .torch_files import write_torch

        write_torch(tensors, metadata, file)
        return
    if suffix == ".npy" and len(tensors) != 1:
        raise InputError(f"{len(tensors)} tensors; an .npy file has one, .npz and .safetensors several")
    try:
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    except TypeError as error:
        raise InputError(f"numpy does not take it: {error}; .safetensors does") from None
    if suffix == ".npy":
        np.save(file, next(iter(arrays.values())))
        return
    with zipfile.ZipFile(file, "w") as archive:  # np.savez takes names for arguments of its own, like file
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as part:
                np.lib.format.write_array(part, array, allow_pickle=False)


def read_energy(path: Path) -> dict[str, Any]:
    """Mean squares of inputs by the tensor they meet, float32, of a safetensors file.

    Raises:
        InputError, OSError: it is none.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return {name: tensor.float().numpy() for name, tensor in load_file(path).items()}
    except SafetensorError as error:
        raise InputError(f"{path}: no safetensors file: {error}") from None
