"""What callers give: token ids and caches in any of their forms, checked, as the forms that the codec takes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from torch import Tensor

from ....entropy_models.errors import InputError, Unsupported
from ..splice import Layers
from .layer_kinds import EVERY_POSITION, check_class, every_position


def as_token_ids(tokens: Any) -> np.ndarray:
    """Token ids as int64, shape (n,), from a list, an array or a tensor.

    Raises:
        ValueError: not a flat run of integers that are at least 0.
    """
    array = np.asarray(tokens.cpu() if isinstance(tokens, Tensor) else tokens)
    if array.size == 0 and array.ndim == 1:
        return np.zeros(0, np.int64)
    if array.ndim == 2 and array.shape[0] == 1:
        array = array[0]
    if array.ndim != 1 or array.dtype.kind not in "iu" or array.min() < 0 or array.max() >= 1 << 63:
        raise InputError(f"tokens of shape {array.shape}, type {array.dtype}; need a flat run of ids, each 0 to 2^63 - 1")
    return array.astype(np.int64)


def held_ids(ids: np.ndarray, layers: Layers) -> np.ndarray:
    """Ids of a cache's positions. One id more is cut: generation ends on a token whose keys are not there yet.

    Raises:
        ValueError: too few ids, or more than one too many; or no layers.
    """
    if not layers:
        raise InputError("a cache without layers")
    held = layers[0][0].shape[1]
    if not held <= len(ids) <= held + 1:
        hint = f". Is it of sliding-window layers, which hold only the last? {EVERY_POSITION}" if held < len(ids) else ""
        raise InputError(f"{len(ids)} token ids for a cache of {held} tokens; need one for each{hint}")
    return ids[:held]


def as_layers(cache: Any) -> Layers:
    """Keys and values of every layer of a cache, checked.

    Args:
        cache: a transformers ``Cache`` (``cache.layers[i].keys`` and ``.values``), or a sequence of (keys, values):
            tensors of shape (kv_heads, n, head_dim), or with a batch of 1 before. None has no layers.

    Raises:
        ValueError: another shape or batch, or a layer that does not hold every position (`Unsupported` names its kind).
        TypeError: no cache, or a layer without tensors, e.g. of an empty cache.
    """
    if cache is None:
        return ()
    if hasattr(cache, "layers") or hasattr(cache, "cross_attention_cache"):
        check_class(cache)
        if not len(cache.layers):
            raise Unsupported("the cache has no layers; run the model on a prompt first")
        pairs = [every_position(layer, i) for i, layer in enumerate(cache.layers)]
    elif isinstance(cache, Iterable):
        pairs = [tuple(pair) for pair in cache]
    else:
        raise TypeError(f"a cache of type {type(cache).__name__}; need a transformers Cache or (keys, values) per layer")
    if not pairs:
        raise InputError("the cache has no layers")
    if any(len(pair) != 2 for pair in pairs):
        raise InputError(f"layers of {sorted({len(pair) for pair in pairs})} tensors; need 2, keys and values")
    count = max((int(x.shape[-2]) for pair in pairs for x in pair if isinstance(x, Tensor) and x.ndim > 1), default=0)
    return tuple((_flat(k, i, "keys", count), _flat(v, i, "values", count)) for i, (k, v) in enumerate(pairs))


def _flat(tensor: Any, layer: int, name: str, count: int) -> Tensor:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} of layer {layer} are {type(tensor).__name__}, need a tensor; is the cache empty?")
    if tensor.ndim == 4:
        if tensor.shape[0] != 1:
            raise InputError(f"{name} of layer {layer} hold a batch of {tensor.shape[0]}; put one sequence at a time")
        tensor = tensor[0]
    if tensor.ndim != 3:
        raise InputError(f"{name} of layer {layer} have shape {tuple(tensor.shape)}, need (kv_heads, tokens, head_dim)")
    if tensor.shape[1] != count:
        hint = f"; is it a sliding-window layer? {EVERY_POSITION}" if tensor.shape[1] < count else ""
        raise InputError(f"{name} of layer {layer} hold {tensor.shape[1]} positions for {count} tokens{hint}")
    if not tensor.shape[2]:
        raise InputError(
            f"{name} of layer {layer} have width 0; of multi-head latent attention (MLA) give the latent as keys and "
            "what RoPE turns as values, as a DynamicCache holds them"
        )
    return tensor
