"""Weights: a manifest line for each file; verified by size and SHA-256 before anything is parsed.

``weights_files/manifest.json`` maps a model's name to its line. Files are safetensors; the first 8 bytes of the
SHA-256 travel in every stream, so a stream names the weights it needs.

The environment variable RDCODEC_WEIGHTS names more folders, as PATH does, with models of one's own: a manifest.json and
files, as `training.export --folder` writes them.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from ..entropy_models.errors import InputError, UnknownName, Unsupported
from .container import WEIGHTS_BYTES

FOLDER = Path(__file__).parent / "weights_files"
MORE = "RDCODEC_WEIGHTS"


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsLine:
    """A line of the manifest: what it says about one file of weights."""

    name: str
    codec: str
    """Key of `rdcodec.codecs.REGISTRY`."""
    file: str
    file_bytes: int
    sha256: str
    licence: str
    data: str
    """Data that trained it."""
    recipe: str
    """The recipe that trains it again."""
    steps: int
    hardware: str
    measured: dict[str, Any] = field(default_factory=dict)
    """Rate-distortion measured with exactly this file."""

    @property
    def path(self) -> Path | None:
        """The file, None where it is not installed."""
        places = [folder / name for folder in folders() for name in (self.file, Path(self.file).name)]
        return next((path for path in places if path.is_file()), None)

    @property
    def stream_hash(self) -> bytes:
        """First bytes of the hash, as a stream's header holds them."""
        return bytes.fromhex(self.sha256)[:WEIGHTS_BYTES]


def folders() -> list[Path]:
    """Folders with weights: the package's, then those of RDCODEC_WEIGHTS.

    Raises:
        ValueError: one of these is no folder.
    """
    more = [Path(part).expanduser() for part in os.environ.get(MORE, "").split(os.pathsep) if part]
    for folder in more:
        if not folder.is_dir():
            raise InputError(f"{MORE}: {folder} is no folder")
    return [FOLDER, *more]


@cache
def manifest() -> dict[str, WeightsLine]:
    """All weights by name, the default model of each codec first; a name in several folders means the first.

    Raises:
        ValueError: a manifest is none.
    """
    lines: dict[str, WeightsLine] = {}
    for path in (folder / "manifest.json" for folder in folders()):
        try:
            for name, line in json.loads(path.read_text()).items() if path.is_file() else ():
                lines.setdefault(name, WeightsLine(name=name, **line))
        except (ValueError, TypeError, AttributeError) as error:
            raise InputError(f"{path}: no manifest of weights, as `training.export --folder` writes one ({error})") from None
    return lines


def line_named(codec: str, name: str | None = None) -> WeightsLine:
    """The manifest line of a model, by its name or its kind: ``eyes`` is the newest ``image-eyes-N``. Without a name, the
    codec's default (its first line).

    Raises:
        KeyError: there is none; the message lists what there is.
    """
    lines = [line for line in manifest().values() if line.codec == codec]
    for line in lines:
        if name in (None, line.name):
            return line
    kind = re.compile(rf"{codec}-{re.escape(name or '')}-(\d+)")
    if numbered := {int(match[1]): line for line in lines if (match := kind.fullmatch(line.name))}:
        return numbered[max(numbered)]
    raise UnknownName(f"no {codec} model {name!r}; there are {', '.join(line.name for line in lines) or 'none'}")


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


def line_for(codec: str, *, model: str | None = None, stream_hash: bytes | None = None) -> WeightsLine:
    """The manifest line that a stream's hash asks for, or else a name. Errors as `line_of_stream` and `line_named`."""
    return line_of_stream(codec, stream_hash) if stream_hash else line_named(codec, model)


def model_of(codec: str, stream_hash: bytes) -> str | None:
    """Name of the weights that wrote a stream; None: they are not here."""
    try:
        return line_of_stream(codec, stream_hash).name
    except Unsupported:
        return None


def shown(model: str | None, stream_hash: str) -> str:
    """Weights for people, by name where it is known and by their hash in hexadecimal."""
    return f"{model} ({stream_hash})" if model else f"{stream_hash}, not installed"


def check_none_asked(codec: str, *, model: str | None, stream_hash: bytes | None) -> None:
    """For a codec without weights.

    Raises:
        KeyError: a model is asked for.
        Unsupported: the hash of weights is.
    """
    if model is not None:
        raise UnknownName(f"no {codec} model {model!r}; the codec has no weights")
    if stream_hash and any(stream_hash):
        raise Unsupported(f"the stream needs weights {stream_hash.hex()}; this codec has none")


def verified_bytes(line: WeightsLine) -> bytes:
    """The safetensors of a line, checked.

    Raises:
        Unsupported: the file is not here.
        ValueError: size or hash differ from the manifest.
    """
    path = line.path
    if path is None:
        raise Unsupported(f"weights {line.name}: {line.file}, which the manifest names, is missing (reinstall the package)")
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if len(data) != line.file_bytes or digest != line.sha256:
        raise InputError(
            f"weights {line.file}: {len(data)} bytes, sha256 {digest[:16]}...; "
            f"the manifest says {line.file_bytes} bytes, {line.sha256[:16]}... (reinstall the package)"
        )
    return data
