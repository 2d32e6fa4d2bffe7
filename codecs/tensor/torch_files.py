"""Torch's .pt files: tensors in dictionaries and lists, under names that join their keys, and the same nesting again.

Where a file is more than a dictionary of tensors by name, what is around them is kept as JSON among the metadata
(`STRUCTURE`): a tensor is its name; ``{"dict": [[key, value], ...]}``, ``{"list": [...]}`` and ``{"tuple": [...]}`` nest,
and ``{"value": ...}`` is a number, a text, a truth value or none.
"""

from __future__ import annotations

import io
import json
import pickle
import re
from collections.abc import Mapping
from typing import Any, BinaryIO

import torch
from torch import Tensor

from ...entropy_models.errors import Corrupt, InputError
from .header import STRUCTURE

_PLAIN = (bool, int, float, str, type(None))


def read_torch(data: bytes | memoryview) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors by name, and metadata, of a torch file; code of its pickle is not run.

    Raises:
        InputError: torch does not load it so, or it holds other things.
    """
    try:
        held = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise InputError(f"torch does not load it with weights_only: {_reason(str(error))}") from None
    tensors: dict[str, Tensor] = {}
    try:
        structure = _taken(held, "", tensors)
    except RecursionError:
        raise InputError("its dictionaries and lists nest too deeply, or hold themselves") from None
    if not tensors:
        raise InputError("it holds no tensor")
    if structure == {"dict": [[name, name] for name in tensors]}:
        return tensors, {}
    return tensors, {STRUCTURE: json.dumps(structure, separators=(",", ":"))}


def _reason(text: str) -> str:
    """What torch says is wrong, without its advice for terminals."""
    if found := re.search(r"GLOBAL (\S+)", text):
        return f"it holds {found[1]}, which is code, not tensors"
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)
    found = re.search(r"WeightsUnpickler error: (.*)", text)
    return (found[1] if found else text.splitlines()[0]).strip()


def _taken(held: Any, prefix: str, tensors: dict[str, Tensor]) -> Any:
    """The structure of what a file holds, whose tensors are added to those found so far."""
    if isinstance(held, Tensor):
        name = prefix or "tensor"
        while name in tensors:  # {"a.b": ..., "a": {"b": ...}}
            name += "'"
        tensors[name] = held
        return name

    def inner(key: Any, value: Any) -> Any:
        return _taken(value, f"{prefix}.{key}" if prefix else str(key), tensors)

    if isinstance(held, Mapping):
        for key in held:
            if type(key) not in (str, int):
                raise InputError(
                    f"{prefix or 'the file'} has a key of type {type(key).__name__}; need texts or whole numbers"
                )
        return {"dict": [[key, inner(key, value)] for key, value in held.items()]}
    if type(held) in (list, tuple):
        return {type(held).__name__: [inner(key, value) for key, value in enumerate(held)]}
    if type(held) in _PLAIN:
        return {"value": held}
    raise InputError(f"{prefix or 'the file'} holds {type(held).__name__}; need tensors, numbers and texts alone")


def write_torch(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], file: BinaryIO) -> None:
    """Write a torch file of tensors, nested as they were in the one that they came from.

    Raises:
        Corrupt: the metadata tell of a nesting that is none of these tensors.
    """
    held: Any = dict(tensors)
    if STRUCTURE in metadata:
        try:
            held = _restored(json.loads(metadata[STRUCTURE]), tensors)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise Corrupt(f"metadata {STRUCTURE} are no nesting of these tensors: {error}") from None
    torch.save(held, file)


def _restored(structure: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Inverse of `_taken`."""
    if isinstance(structure, str):
        return tensors[structure]
    if not isinstance(structure, dict):
        raise TypeError(f"{str(structure)[:40]!r}")
    ((kind, held),) = structure.items()
    if kind == "dict":
        return {key: _restored(value, tensors) for key, value in held}
    if kind in ("list", "tuple"):
        values = [_restored(value, tensors) for value in held]
        return values if kind == "list" else tuple(values)
    if kind == "value" and isinstance(held, _PLAIN):
        return held
    raise ValueError(f"{str(structure)[:40]!r}")
