"""What a cache needs to know of its model: a fingerprint, RoPE, and whether its layers can be stored."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...entropy_models.errors import Unsupported
from .rope import Rope

HALF_ROTATION = frozenset(
    (
        "llama",
        "mistral",
        "mixtral",
        "qwen2",
        "qwen2_moe",
        "qwen3",
        "qwen3_moe",
        "phi",
        "phi3",
        "gemma",
        "granite",
        "olmo2",
    )
    + ("smollm3", "stablelm")
)
"""Model types whose RoPE pairs channel i with i + rotary_dim / 2. Others keep their keys as they are."""
STATIC_ROPE = frozenset(("default", "linear", "llama3", "yarn"))
"""RoPE types whose frequencies do not depend on the length of the sequence."""
_IGNORED_CONFIG = frozenset(("transformers_version", "_name_or_path", "_attn_implementation", "use_cache", "dtype"))
_SAMPLES = 4096


def fingerprint(model: Any) -> bytes:
    """16 bytes that change with the config (RoPE, layer kinds, head layout), any weight tensor, or an adapter.

    The hash covers the config, and of every parameter its name, shape, type and 4,096 evenly spaced elements:
    a fraction of a second where hashing 16 GB of weights would take many.

    Args:
        model: a transformers model, on any device.
    """
    config = {k: v for k, v in model.config.to_dict().items() if k not in _IGNORED_CONFIG}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        flat = tensor.detach().reshape(-1)
        at = torch.linspace(0, max(flat.numel() - 1, 0), min(_SAMPLES, flat.numel()), dtype=torch.float64).long()
        sample = flat[at.to(flat.device)].cpu().contiguous().view(torch.uint8)
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode() + sample.numpy().tobytes())
    return digest.digest()[:16]


def rope_of(model: Any) -> Rope | None:
    """RoPE to undo before quantising keys, or None where that would not be known to be right.

    None for types that are not in `HALF_ROTATION`, for frequencies that change with the length, and for models whose
    layers do not share one table. Leaving RoPE in costs bits, never correctness.
    """
    config = text_config(model)
    parameters = getattr(config, "rope_parameters", None) or {}
    if config.model_type not in HALF_ROTATION or parameters.get("rope_type", "default") not in STATIC_ROPE:
        return None
    tables = [m.inv_freq for m in model.modules() if isinstance(getattr(m, "inv_freq", None), Tensor)]
    if not tables or any(not torch.equal(t, tables[0]) for t in tables):
        return None
    return Rope(tables[0].detach().float().cpu().numpy().astype(np.float32))


def text_config(model: Any) -> Any:
    """The language model's part of the config."""
    return model.config.get_text_config(decoder=True)


def check_cache(cache: Any) -> None:
    """Refuse, by name, cache layers that a run of tokens does not determine position by position.

    Raises:
        Unsupported: sliding-window, linear-attention, quantised or otherwise unknown layers, or an empty cache.
    """
    from transformers.cache_utils import DynamicLayer

    if not len(cache.layers):
        raise Unsupported("the cache has no layers; run the model on a prompt first")
    for i, layer in enumerate(cache.layers):
        name = type(layer).__name__
        if getattr(layer, "is_sliding", False):
            raise Unsupported(f"layer {i} is a sliding-window layer ({name}), which no longer holds all positions")
        if type(layer) is not DynamicLayer:
            raise Unsupported(f"layer {i} is a {name}; only DynamicLayer (full attention) can be stored")
        if not isinstance(layer.keys, Tensor) or layer.keys.ndim != 4:
            raise Unsupported(f"layer {i} holds no keys of shape (batch, kv_heads, tokens, head_dim); is it filled?")


def check_model(model: Any) -> None:
    """Refuse, by name, models whose cache cannot be restored from keys and values of every position.

    Raises:
        Unsupported: sliding-window or linear-attention layers.
    """
    config = text_config(model)
    windowed = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    default = ["sliding_attention" if windowed else "full_attention"]
    kinds = set(getattr(config, "layer_types", None) or default)
    if kinds != {"full_attention"}:
        raise Unsupported(f"{config.model_type} has {', '.join(sorted(kinds))} layers; need full_attention")
