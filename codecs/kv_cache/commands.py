"""What `codec encode`, `decode` and `verify` do with caches: safetensors bytes in, safetensors bytes out."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ...entropy_models.errors import BitstreamError
from .blocks import KvSettings, read_block_header
from .codec import KvCodec
from .sequence import BLOCKS, parse_sequence

KEYS = "layers.{i}.{k}"
"""Default pattern of tensor names: {i} the layer, {k} ``k``/``keys``/``key`` or ``v``/``values``/``value``."""
TOKENS_NAME = "tokens"
_KINDS = {"k": 0, "key": 0, "keys": 0, "v": 1, "value": 1, "values": 1}


def encode_bytes(
    data: bytes, *, mode: str | None = None, quality: int | None = None, keys: str | None = None
) -> tuple[bytes, dict[str, Any]]:
    """A cache file from a safetensors file.

    Args:
        data: safetensors with keys and values of shape (kv_heads, n, head_dim) or (1, kv_heads, n, head_dim) for each
            layer, and, if there, ``tokens``, the ids.
        mode: of `modes.MODES`, except those that need the model.
        quality: 0..100.
        keys: pattern of tensor names, with {i} and {k}.

    Returns:
        The file, and fields for the command to print: raw_bytes, rate, shape, notices.

    Raises:
        ValueError: the file does not hold a cache; the message says what it holds.
    """
    tensors, tokens, notices = read_tensors(data, keys or KEYS)
    codec = KvCodec(KvSettings(mode=mode or "quantized", quality=60 if quality is None else quality))
    if codec.settings.mode in ("tokens", "residual"):
        raise ValueError(f"mode {codec.settings.mode} needs the model; use save_cache from Python")
    stream = codec.encode(tensors, tokens)
    raw = sum(x.numel() * x.element_size() for pair in tensors for x in pair)
    elements = sum(x.numel() for pair in tensors for x in pair)
    rate = f"{8 * len(stream) / elements:.3f} bits per element"
    fields = {"raw_bytes": raw, "rate": rate, "shape": _shape_text(tensors), "mode": codec.settings.mode}
    return stream, fields | {"notices": notices}


def read_tensors(data: bytes, pattern: str) -> tuple[tuple[tuple[Tensor, Tensor], ...], np.ndarray, list[str]]:
    """Layers, token ids and notices of a safetensors file."""
    try:
        tensors = load(data)
    except SafetensorError as error:
        raise ValueError(f"not a safetensors file: {error}") from None
    if "{i}" not in pattern or "{k}" not in pattern:
        raise ValueError(f"pattern {pattern!r} of tensor names; it needs {{i}} for the layer and {{k}} for k or v")
    regex = re.escape(pattern).replace(r"\{i\}", r"(?P<i>\d+)").replace(r"\{k\}", r"(?P<k>keys?|values?|k|v)")
    found: dict[int, dict[int, Tensor]] = {}
    for name, tensor in tensors.items():
        match = re.fullmatch(regex, name)
        if match:
            found.setdefault(int(match["i"]), {})[_KINDS[match["k"]]] = tensor
    if not found or sorted(found) != list(range(len(found))) or any(len(pair) != 2 for pair in found.values()):
        names = ", ".join(sorted(tensors)[:4])
        raise ValueError(
            f"no keys and values named {pattern!r} for layers 0, 1, ...; the file has {names} ... (--keys)"
        )
    layers = tuple((_three(found[i][0], i), _three(found[i][1], i)) for i in range(len(found)))
    count = layers[0][0].shape[1]
    if TOKENS_NAME in tensors:
        ids = tensors[TOKENS_NAME].reshape(-1).to(torch.int64).numpy()
        if len(ids) != count:
            raise ValueError(f"{len(ids)} token ids for {count} positions")
        return layers, ids, []
    return layers, np.zeros(count, np.int64), ["no tensor 'tokens': ids are stored as 0, so prefixes cannot be matched"]


def _three(x: Tensor, layer: int) -> Tensor:
    x = x[0] if x.ndim == 4 and x.shape[0] == 1 else x
    if x.ndim != 3:
        raise ValueError(f"layer {layer} has shape {tuple(x.shape)}; need (kv_heads, tokens, head_dim), batch 1")
    return x


def decode_bytes(data: bytes) -> tuple[bytes, dict[str, Any]]:
    """A safetensors file (``layers.{i}.k``, ``layers.{i}.v``, ``tokens``) from a cache file, and fields to print."""
    tokens, layers = KvCodec().decode(data, check=False)
    tensors = {f"layers.{i}.{name}": x for i, pair in enumerate(layers) for name, x in zip("kv", pair, strict=True)}
    out = save({**{n: x.contiguous() for n, x in tensors.items()}, TOKENS_NAME: torch.from_numpy(tokens)})
    return out, {"shape": _shape_text(layers)}


def verify_bytes(data: bytes) -> None:
    """Decode every symbol; BitstreamError if anything is wrong."""
    KvCodec().decode(data, check=False)


def info_fields(data: bytes) -> dict[str, Any]:
    """For `codec info`: header fields and bits per element by layer, from sizes alone."""
    stream, head = parse_sequence(data)
    fields: dict[str, Any] = {"tokens": head.tokens, "fingerprint": head.fingerprint.hex()}
    if head.content != BLOCKS:
        return fields | {"content": "token ids"}
    headers = [read_block_header(stream.chunk(i)) for i in range(len(stream.entries))]
    if not headers:
        raise BitstreamError("a cache file without blocks")
    first = headers[0]
    fields |= {"mode": first.mode, "quality": first.quality, "element_type": str(first.dtype).removeprefix("torch.")}
    fields |= {"blocks": len(headers), "layers": first.layers, "kv_heads": first.heads, "head_dim": first.key_dim}
    for i in range(first.layers if first.chunk_bytes else 0):
        bits = [
            8 * sum(h.chunk_bytes[i][t] for h in headers) / max(head.tokens * first.heads * dim, 1)
            for t, dim in ((0, first.key_dim), (1, first.value_dim))
        ]
        fields[f"layer_{i}_bits_per_element"] = f"keys {bits[0]:.3f}  values {bits[1]:.3f}"
    return fields


def _shape_text(layers: Any) -> str:
    heads, count, width = layers[0][0].shape
    return f"{len(layers)} layers x {heads} heads x {count} tokens x {width}"
