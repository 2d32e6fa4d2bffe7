"""Codecs: signal to bytes and back. Nothing heavy is imported until a codec is loaded.

>>> from rdcodec.codecs import load
>>> codec = load("image")                       # doctest: +SKIP
>>> data = codec.encode("photo.png", quality=60)  # doctest: +SKIP
>>> image = codec.decode(data).array()          # doctest: +SKIP
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ..entropy_models.errors import BitstreamError, Corrupt, InputError, Mismatch, Truncated, UnknownName, Unsupported

if TYPE_CHECKING:
    from .contract import Face
    from .evaluation.task import Command, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """A codec's line in the table. Objects are named ``module:name`` under ``rdcodec.codecs``, and imported when needed."""

    stream_id: int
    """The codec's number in files. Pinned for ever: never change one, never reuse one."""
    summary: str
    codec: str
    """A class after `contract.Codec`."""
    face: str
    """An instance after `contract.Face`."""
    task: str = ""
    """An `evaluation.task.Task` or `Command`, for ``codec eval``."""
    group: str = ""
    """A typer app of more commands, ``codec NAME ...``."""


REGISTRY = {
    "image": Registered(
        stream_id=1,
        codec="image.codec:ImageCodec",
        face="image.face:FACE",
        task="image.evaluation:TASK",
        summary="photographs, quality 0..100, any size",
    ),
    "video": Registered(
        stream_id=3,
        codec="video.codec:VideoCodec",
        face="video.face:FACE",
        task="video.evaluation:TASK",
        summary="video, quality 0..100, any frame to be had",
    ),
    "speech": Registered(
        stream_id=2,
        codec="speech.codec:SpeechCodec",
        face="speech.face:FACE",
        task="speech.evaluation:TASK",
        summary="speech, quality 0..100, live or in files",
    ),
    "kv": Registered(
        stream_id=4,
        codec="kv_cache.codec:KvCodec",
        face="kv_cache.face:FACE",
        task="kv_cache.evaluation.command:COMMAND",
        group="kv_store.commands.main:app",
        summary="key-value caches of language models",
    ),
    "tensor": Registered(
        stream_id=5,
        codec="tensor.codec:TensorCodec",
        face="tensor.face:FACE",
        summary="model weights and other tensors: safetensors, torch and numpy files",
    ),
}

EVALUATIONS = {"tensors": "tensor.evaluation.command:COMMAND", "capacity": "tensor.evaluation.capacity:COMMAND"}
"""What ``codec eval`` measures under names of their own: `evaluation.task.Command` by name."""


def load(name: str, **options: Any) -> Any:
    """The codec of that name, ready to encode and decode (`contract.Codec`).

    Args:
        name: a key of `REGISTRY`.
        options: passed to the codec's ``load``, e.g. ``device="cuda"``.

    Raises:
        KeyError: no such codec; the message lists them.
    """
    return found(registered(name).codec).load(**options)


def load_face(name: str) -> Face:
    """The codec of that name on the command line; errors as `load`."""
    face: Face = found(registered(name).face)
    return face


def evaluations() -> list[str]:
    """Names that `load_task` takes."""
    return [*(name for name, line in REGISTRY.items() if line.task), *EVALUATIONS]


def load_task(name: str) -> Task[Any] | Command:
    """What is measured of the codec of that name, or under one of `EVALUATIONS`; imports no numpy and no torch.

    Raises:
        KeyError: no such codec, or one without an evaluation.
    """
    if not (target := EVALUATIONS.get(name) or registered(name).task):
        raise UnknownName(f"codec {name} has no evaluation")
    task: Task[Any] | Command = found(target)
    return task


def registered(name: str) -> Registered:
    """The line of that name.

    Raises:
        KeyError: there is none; the message lists them.
    """
    if name not in REGISTRY:
        raise UnknownName(f"no codec {name!r}; there are {', '.join(sorted(REGISTRY))}")
    return REGISTRY[name]


def found(target: str, package: str = __name__) -> Any:
    """The object ``module:name``; of a module under ``package``, or else of another one, named whole."""
    module, name = target.split(":")
    inside = f"{package}.{module}"
    try:
        return getattr(import_module(inside), name)
    except ModuleNotFoundError as error:
        if not error.name or not inside.startswith(error.name):
            raise
    return getattr(import_module(module), name)


def name_of(stream_id: int) -> str:
    """Registry key of a stream id.

    Raises:
        Unsupported: the id is not in the table.
    """
    for name, line in REGISTRY.items():
        if line.stream_id == stream_id:
            return name
    raise Unsupported(f"stream id {stream_id}; this program knows {[r.stream_id for r in REGISTRY.values()]}")


__all__ = [
    "BitstreamError",
    "Corrupt",
    "InputError",
    "Mismatch",
    "REGISTRY",
    "Truncated",
    "UnknownName",
    "Unsupported",
    "load",
    "load_face",
    "load_task",
    "name_of",
]
