"""Weights files and their lines in the manifest, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from ..codecs.container import write_file
from ..entropy_models.errors import InputError


def lines_in(folder: Path) -> dict[str, dict[str, Any]]:
    """The manifest's lines by name; none where there is no manifest yet."""
    path = folder / "manifest.json"
    return json.loads(path.read_text()) if path.exists() else {}


def check_name(folder: Path, name: str) -> None:
    """InputError for a name that a model in ``folder`` has or that is none for a file."""
    if name in lines_in(folder):
        raise InputError(f"there is a model {name} already, which its streams need; give --name another")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise InputError(f"no name for a model: {name!r}; need letters, digits, dots, - and _")


def write_line(folder: Path, name: str, codec: str, blob: bytes, **fields: Any) -> Path:
    """Put a weights file in ``folder`` and its line first in the manifest there: the codec's default model from now on.

    Args:
        folder: of weights.
        name: of the model.
        codec: a key of `rdcodec.codecs.REGISTRY`.
        blob: the weights file.
        fields: more of `WeightsLine`.

    Raises:
        InputError: as `check_name`.
    """
    check_name(folder, name)
    path = folder / f"{name}.safetensors"
    write_file(path, blob)
    line = {"codec": codec, "file": path.name, "file_bytes": len(blob), "sha256": hashlib.sha256(blob).hexdigest(), **fields}
    text = json.dumps({name: line} | lines_in(folder), indent=1) + "\n"
    write_file(folder / "manifest.json", text.encode())
    return path
