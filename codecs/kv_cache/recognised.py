"""Whether a safetensors file holds a KV cache or something else, judged by names, shapes and metadata. No torch here."""

from __future__ import annotations

import json
import re
from typing import Any

from ..container import FileBytes

LAYOUTS = (
    (
        "multi-head latent attention (MLA)",
        r"(?:compressed_kv|kv_compressed|kv_latent|latent|c_?kv|kv_c|kv_a|k_?pe|k_rope|pe_cache)(?:_cache)?",
        "; name the latent layers.{i}.k and what RoPE turns layers.{i}.v, shape (1, tokens, width) each",
    ),
    ("linear-attention or state-space (SSM) layers", r"(?:conv|ssm|recurrent|temporal)_?states?", ""),
)
"""Layouts that a cache may have beside keys and values: what it is, names of its tensors, what to do about it."""
_KIND = r"(?:^|[._/])(?:k|keys?|v|values?)(?:$|[._/])"
_LAYER = r"(?:^|[._/])\d+(?:$|[._/])"
_MLX = r"\d+\.[01](?:\.\d)?"
_PARAMETER = r"(?:^|[._/])(?:weight|bias)$"


def part_of(name: str, regex: str) -> bool:
    """Whether a tensor's name, or a part of it, fits."""
    return bool(re.search(rf"(?:^|[._/]){regex}(?:$|[._/])", name, re.IGNORECASE))


def holds_cache(data: bytes | memoryview | FileBytes) -> bool:
    """Whether a safetensors file holds a cache: keys or values of a numbered layer, of 3 or 4 dimensions, or another
    layout's tensors. Weights of a model have other names, or fewer dimensions. False for other files as well."""
    size = int.from_bytes(data[:8], "little")
    if len(data) < 9 or data[8:9] != b"{" or size > len(data) - 8:
        return False
    try:
        fields: dict[str, Any] = json.loads(bytes(data[8 : 8 + size]))
        metadata = fields.pop("__metadata__", None) or {}
        shapes = {name: len(line["shape"]) for name, line in fields.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return False
    return any(re.fullmatch(r"2\.\d+", key) for key in metadata) or any(
        _of_cache(name, dimensions) for name, dimensions in shapes.items() if not re.search(_PARAMETER, name)
    )


def _of_cache(name: str, dimensions: int) -> bool:
    if dimensions in (3, 4) and (re.fullmatch(_MLX, name) or re.search(_KIND, name) and re.search(_LAYER, name)):
        return True
    return dimensions >= 2 and any(part_of(name, regex) for _, regex, _ in LAYOUTS)
