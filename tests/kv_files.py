"""The cache codec's face, called as the command calls it. No tests here."""

from __future__ import annotations

from typing import Any

from rdcodec.codecs import container
from rdcodec.codecs.contract import Desk
from rdcodec.codecs.kv_cache.face import FACE


def encode_bytes(data: bytes, **options: Any) -> tuple[bytes, dict[str, Any]]:
    """A safetensors file to a stream, and what is told of it."""
    result = FACE.encode(data, FACE.Encode(**options), Desk())
    return result.data, {**result.facts, "rate": result.line, "notices": result.notices}


def decode_bytes(data: bytes, **options: Any) -> tuple[bytes, dict[str, Any]]:
    """A stream to a safetensors file, and what is told of it."""
    result = FACE.decode(container.parse(data), None, FACE.Decode(**options), Desk())
    return result.data, {**result.facts, "shape": result.line, "notices": result.notices}


def verify_bytes(data: bytes, **options: Any) -> list[str]:
    """What could not be checked of a stream."""
    return FACE.verify(container.parse(data), FACE.Verify(**options), Desk())
