"""Weights files and their lines in the manifest, whole or not at all."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from ..codecs.container import write_file


def lines_in(folder: Path) -> dict[str, dict[str, Any]]:
    """The manifest's lines by name; none where there is no manifest yet."""
    path = folder / "manifest.json"
    return json.loads(path.read_text()) if path.exists() else {}


def write_lines(folder: Path, lines: dict[str, dict[str, Any]]) -> None:
    """The manifest anew."""
    write_file(folder / "manifest.json", (json.dumps(lines, indent=1) + "\n").encode())


def write_weights(folder: Path, file: str, blob: bytes) -> dict[str, Any]:
    """Write a weights file; returns what its line says of it."""
    write_file(folder / file, blob)
    return {"file": file, "file_bytes": len(blob), "sha256": hashlib.sha256(blob).hexdigest()}
