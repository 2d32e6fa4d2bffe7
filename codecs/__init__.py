"""Codecs: signal to bytes and back. Nothing heavy is imported until a codec is loaded.

>>> from rdcodec.codecs import load
>>> codec = load("image")                       # doctest: +SKIP
>>> data = codec.encode("photo.png", quality=60)  # doctest: +SKIP
>>> image = codec.decode(data)                  # doctest: +SKIP
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

from ..entropy_models.errors import BitstreamError, Corrupt, Mismatch, Truncated, Unsupported


@dataclass(frozen=True, slots=True)
class Registered:
    """A codec's line in the table."""

    stream_id: int
    """Written to files. Pinned for ever: never change one, never reuse one."""
    target: str
    """``module:class`` under ``rdcodec.codecs``, imported by `load`."""
    summary: str


REGISTRY = {
    "image": Registered(1, "image.codec:ImageCodec", "photographs, quality 0..100, any size"),
    "kv": Registered(4, "kv_cache.codec:KvCodec", "key-value caches of language models"),
}


def load(name: str, **options: Any) -> Any:
    """The codec of that name, ready to encode and decode.

    Args:
        name: a key of `REGISTRY`.
        options: passed to the codec's ``load``, e.g. ``device="cuda"``.

    Raises:
        KeyError: no such codec; the message lists them.
    """
    if name not in REGISTRY:
        raise KeyError(f"no codec {name!r}; there are {', '.join(sorted(REGISTRY))}")
    module, attribute = REGISTRY[name].target.split(":")
    return getattr(import_module(f"{__name__}.{module}"), attribute).load(**options)


def name_of(stream_id: int) -> str:
    """Registry key of a stream id.

    Raises:
        Unsupported: the id is not in the table.
    """
    for name, line in REGISTRY.items():
        if line.stream_id == stream_id:
            return name
    raise Unsupported(f"codec id {stream_id}; this program knows {[r.stream_id for r in REGISTRY.values()]}")


__all__ = ["REGISTRY", "BitstreamError", "Corrupt", "Mismatch", "Truncated", "Unsupported", "load", "name_of"]
