"""Cache layers of transformers, of every kind that holds keys, values or recurrent states: taken apart, and filled again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ....entropy_models.errors import InputError, Mismatch, Unsupported
from ..format.whole import LayerState

EVERY_POSITION = (
    "supported are keys and values of every position: caches of full-attention layers, of any layers in a DynamicCache() "
    "without config, which keeps all, static and quantised ones; for others there is HybridStore"
)
_KIND_OF = {
    "DynamicLayer": "full", "DynamicSlidingWindowLayer": "window", "LinearAttentionLayer": "states",
    "LinearAttentionAndFullAttentionLayer": "full+states", "LinearAttentionAndSlidingWindowAttentionLayer": "window+states",
    "DynamicIndexedLayer": "full+states", "DummyLayer": "none",
}  # fmt: skip
_ATTENTION = ("DynamicLayer", "DynamicSlidingWindowLayer", "StaticLayer", "StaticSlidingWindowLayer")
_STATES = ("conv_states", "recurrent_states")
_INDEXER = ("indexer_keys", "indexer_position_ids")


def check_class(cache: Any) -> None:
    """Refuse caches of an encoder and a decoder, and classes of a model's own, which may hold more than their layers.

    Raises:
        Unsupported: with the class's name.
    """
    kind, home = type(cache).__name__, type(cache).__module__
    if hasattr(cache, "cross_attention_cache"):
        raise Unsupported(f"{kind} is an encoder-decoder cache; {EVERY_POSITION}")
    if home.startswith("transformers.") and home != "transformers.cache_utils":
        raise Unsupported(f"{kind} is a cache class of {home.rpartition('.')[2]} alone; {EVERY_POSITION}")


def every_position(layer: Any, index: int) -> tuple[Tensor, Tensor]:
    """Keys and values of a layer that holds those of every position, shape (batch, kv_heads, tokens, head_dim).

    Raises:
        Unsupported: it does not; its kind is named.
    """
    name = type(layer).__name__
    keys: Any = getattr(layer, "keys", None)
    values: Any = getattr(layer, "values", None)
    quantised = hasattr(layer, "_quantized_keys")
    if name in _ATTENTION or quantised:
        if not getattr(layer, "is_initialized", True) or not isinstance(keys, Tensor):
            raise Unsupported(f"layer {index} holds no keys of shape (batch, kv_heads, tokens, head_dim); is it filled?")
        if quantised:
            keys, values = _dequantised(layer)
        seen = int(layer.get_seq_length())
        if keys.ndim != 4 or seen > keys.shape[2]:
            held = keys.shape[2] if keys.ndim == 4 else 0
            raise Unsupported(f"layer {index} is a sliding-window layer with {held} of {seen} positions; {EVERY_POSITION}")
        return keys[:, :, :seen], values[:, :, :seen]
    kind = "linear-attention or state-space (SSM)" if hasattr(layer, "recurrent_states") else "shared or unknown"
    raise Unsupported(f"layer {index} is a {kind} layer ({name}); {EVERY_POSITION}; save_cache keeps such caches whole")


def _dequantised(layer: Any) -> tuple[Tensor, Tensor]:
    """Keys and values of a quantised layer: what it would give attention, so losses are its own."""
    out = []
    for kind in ("keys", "values"):
        known, recent = layer._dequantize(getattr(layer, f"_quantized_{kind}")), getattr(layer, kind)
        out.append(torch.cat([known, recent], 2) if recent.ndim == 4 else known)
    return out[0], out[1]


def holds_every_position(cache: Any) -> bool:
    """Whether all layers of a transformers cache do."""
    try:
        return bool([every_position(layer, i) for i, layer in enumerate(cache.layers)])
    except Unsupported:
        return False


def taken_apart(cache: Any) -> list[LayerState]:
    """What each layer of a transformers cache holds, of one sequence.

    Raises:
        Unsupported: a kind of layer that is not known here, or an empty cache.
        ValueError: a batch.
    """
    check_class(cache)
    layers = [_state_of(layer, i) for i, layer in enumerate(cache.layers)]
    if not any(layer.pair or layer.states for layer in layers):
        raise Unsupported("the cache is empty; run the model on a prompt first")
    return layers


def _state_of(layer: Any, index: int) -> LayerState:
    kind = _KIND_OF.get(type(layer).__name__)
    if kind is None:
        raise Unsupported(f"layer {index} is a {type(layer).__name__}; known are {', '.join(_KIND_OF)}")
    states = dict[str, Tensor]()
    for name in _STATES:
        found = getattr(layer, name, None)
        by_index = found if isinstance(found, dict) else {0: found}
        states |= {f"{name}.{i}": x for i, x in by_index.items() if isinstance(x, Tensor)}
    states |= {name: x for name in _INDEXER if isinstance(x := getattr(layer, name, None), Tensor)}
    pair, seen = None, 0
    if isinstance(getattr(layer, "keys", None), Tensor) and layer.keys.numel():
        pair, seen = (layer.keys[0], layer.values[0]), int(layer.get_seq_length())
    for name, x in {"keys": layer.keys if pair else None, **states}.items():
        batch = 1 if x is None or name == "indexer_position_ids" else x.shape[0]
        if batch != 1:
            raise InputError(f"{name} of layer {index} hold a batch of {batch}; put one sequence at a time (split_batch)")
    window = int(getattr(layer, "sliding_window", 0) or 0) if kind.startswith("window") else 0
    return LayerState(kind=kind, seen=seen, window=window, pair=pair, states=states)


def seen_ids(layers: Sequence[LayerState], ids: np.ndarray) -> np.ndarray:
    """Ids of the tokens that a cache has seen. One id more is cut: generation ends on a token whose keys are not there yet.

    Raises:
        ValueError: too few ids, or more than one too many.
    """
    seen = {layer.seen for layer in layers if layer.pair} or {len(ids)}
    if len(seen) != 1 or not max(seen) <= len(ids) <= max(seen) + 1:
        raise InputError(f"{len(ids)} token ids for a cache whose layers have seen {sorted(seen)} tokens; need one for each")
    return ids[: max(seen)]


def layers_of_model(model: Any) -> list[LayerState]:
    """Kind and window of each layer of a model's own cache, empty.

    Raises:
        Unsupported: a kind of layer that is not known here.
    """
    from transformers import cache_utils

    return [_state_of(layer, i) for i, layer in enumerate(cache_utils.DynamicCache(config=model.config).layers)]


def filled(layers: list[LayerState], model: Any = None, device: Any = None) -> Any:
    """A ``DynamicCache`` of these layers.

    Args:
        model: that will go on: its config makes the layers. None: their kinds do.
        device: of the tensors; the model's by default.

    Raises:
        Mismatch: the model has other layers.
    """
    from transformers import cache_utils

    if model is not None:
        device, cache = device or model.device, cache_utils.DynamicCache(config=model.config)
    else:
        made = [_made(layer, cache_utils) for layer in layers]
        cache = cache_utils.DynamicCache()
        cache.layers, cache.layer_class_to_replicate = made, None
    kinds = [_KIND_OF.get(type(layer).__name__) for layer in cache.layers]
    if kinds != [layer.kind for layer in layers]:
        raise Mismatch(f"the file has layers of kinds {[layer.kind for layer in layers]}, the model {kinds}")
    for target, layer in zip(cache.layers, layers, strict=True):
        _fill(target, layer, device)
    return cache


def _made(layer: LayerState, cache_utils: Any) -> Any:
    indexed = any(name.startswith("indexer") for name in layer.states)
    options = [name for name, kind in _KIND_OF.items() if kind == layer.kind and ("Indexed" in name) == indexed]
    made = getattr(cache_utils, options[0])
    count = sum(name.startswith(_STATES[0]) for name in layer.states) or 1
    arguments = {"sliding_window": layer.window} if layer.window else {}
    return made(**arguments, **({"number_of_states": count} if "states" in layer.kind and count > 1 else {}))


def _fill(target: Any, layer: LayerState, device: Any) -> None:
    """Put what a layer held into an empty one."""
    if layer.pair:
        target.update(*(x[None].to(device) for x in layer.pair))
        if layer.window:
            target.cumulative_length = layer.seen
    for name, x in sorted(layer.states.items()):
        kind, _, index = name.partition(".")
        state = x.to(device)
        if kind == _STATES[0]:
            target.update_conv_state(state, state_idx=int(index))
        elif kind == _STATES[1]:
            target.update_recurrent_state(state, state_idx=int(index))
            if isinstance(target.has_previous_state, dict):
                target.has_previous_state[int(index)] = True
            else:
                target.has_previous_state = True
        elif kind == _INDEXER[0]:
            target.update_indexer(state)
        else:
            setattr(target, kind, state)


def split_batch(cache: Any, attention_mask: Any) -> list[list[tuple[Tensor, Tensor]]]:
    """The caches of a batch's sequences: (keys, values) per layer, shape (kv_heads, n, head_dim), padding cut off.

    Args:
        cache: a transformers cache that holds every position.
        attention_mask: 1 at tokens and 0 at padding, which is all on the left or all on the right, shape (batch, tokens).

    Raises:
        ValueError: padding within a sequence, or a mask of another shape.
    """
    pairs = [every_position(layer, i) for i, layer in enumerate(cache.layers)]
    mask = torch.as_tensor(attention_mask).bool().cpu()
    if not pairs or mask.ndim != 2 or mask.shape[0] != pairs[0][0].shape[0] or mask.shape[1] < pairs[0][0].shape[2]:
        raise InputError(f"a mask of shape {tuple(mask.shape)} for a batch of {pairs[0][0].shape[0] if pairs else 0}")
    out = []
    for i, row in enumerate(mask[:, : pairs[0][0].shape[2]]):
        at = row.nonzero().flatten()
        if not len(at) or len(at) != at[-1] - at[0] + 1:
            raise InputError(f"the mask of sequence {i} has padding within it, or no token at all")
        part = slice(int(at[0]), int(at[-1]) + 1)
        out.append([(keys[i, :, part], values[i, :, part]) for keys, values in pairs])
    return out
