"""Shipped weights: a manifest line for each file; verified by size and SHA-256 before anything is parsed.

``weights_files/manifest.json`` maps a model's name to its line. Files are safetensors; the first 8 bytes of the
SHA-256 travel in every stream, so a stream names the weights it needs. A model that a better one replaces is retired
(`training.retire`): what its streams need to decode stays for good, cut out and xz-compressed.
"""

from __future__ import annotations

import hashlib
import json
import lzma
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from ..entropy_models.errors import Unsupported
from .container import WEIGHTS_BYTES

FOLDER = Path(__file__).parent / "weights_files"


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsLine:
    """What the manifest says about one file of weights."""

    name: str
    codec: str
    """Key of `rdcodec.codecs.REGISTRY`."""
    file: str
    file_bytes: int
    sha256: str
    licence: str
    data: str
    """What it was trained on."""
    recipe: str
    """The recipe that trains it again."""
    steps: int
    hardware: str
    measured: dict[str, Any] = field(default_factory=dict)
    """Rate-distortion measured with exactly this file."""

    retired_from: str = ""
    """Of a retired model: SHA-256 of the whole file, which streams name."""

    @property
    def stream_hash(self) -> bytes:
        """What a stream's header holds."""
        return bytes.fromhex(self.retired_from or self.sha256)[:WEIGHTS_BYTES]


@cache
def manifest() -> dict[str, WeightsLine]:
    """All shipped weights by name, the default model of each codec first."""
    lines = json.loads((FOLDER / "manifest.json").read_text())
    return {name: WeightsLine(name=name, **line) for name, line in lines.items()}


def line_named(codec: str, name: str | None = None) -> WeightsLine:
    """The manifest line of a model; without a name, the codec's default (its first line).

    Raises:
        KeyError: there is none; the message lists what there is.
    """
    lines = [line for line in manifest().values() if line.codec == codec]
    for line in lines:
        if name in (None, line.name):
            return line
    there = [f"{line.name}{' (only decodes)' if line.retired_from else ''}" for line in lines]
    raise KeyError(f"no {codec} model {name!r}; there are {', '.join(there) or 'none'}")


def line_of_stream(codec: str, stream_hash: bytes) -> WeightsLine:
    """The manifest line whose weights wrote a stream.

    Raises:
        Unsupported: these weights are not here.
    """
    lines = [line for line in manifest().values() if line.codec == codec]
    for line in lines:
        if line.stream_hash == stream_hash:
            return line
    here = ", ".join(f"{line.name} ({line.stream_hash.hex()})" for line in lines)
    raise Unsupported(f"the stream needs {codec} weights {stream_hash.hex()}; here are {here or 'none'}")


def verified_bytes(line: WeightsLine) -> bytes:
    """The safetensors of a line, checked.

    Raises:
        ValueError: size or hash differ from the manifest.
    """
    data = (FOLDER / line.file).read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if len(data) != line.file_bytes or digest != line.sha256:
        raise ValueError(
            f"weights {line.file}: {len(data)} bytes, sha256 {digest[:16]}...; "
            f"the manifest says {line.file_bytes} bytes, {line.sha256[:16]}... (reinstall the package)"
        )
    return lzma.decompress(data) if line.retired_from else data
