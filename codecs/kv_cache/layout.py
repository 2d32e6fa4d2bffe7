"""The layout of a cache: what must agree before blocks of two caches, or a cache and a model, can go together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ...entropy_models.errors import InputError, Mismatch
from .format.header import BlockHeader, width_text
from .hf.model import text_config
from .modes.place import type_name
from .splice import Layers


@dataclass(frozen=True, slots=True)
class Layout:
    """Layers, key and value heads, widths and element type."""

    layers: int
    heads: int
    key_dim: int
    value_dim: int
    dtype: torch.dtype

    def __str__(self) -> str:
        width = width_text(self.key_dim, self.value_dim)
        return f"{self.layers} layers x {self.heads} kv heads x {width}, {type_name(self.dtype)}"


def layout_of(layers: Layers) -> Layout:
    """Of a cache, (kv_heads, n, head_dim) per layer.

    Raises:
        ValueError: no layers, or layers that differ.
    """
    if not layers:
        raise InputError("a cache without layers")
    found = [Layout(len(layers), k.shape[0], k.shape[2], v.shape[2], k.dtype) for k, v in layers]
    for i, ((keys, values), layout) in enumerate(zip(layers, found, strict=True)):
        if layout != found[0] or values.shape[0] != keys.shape[0] or values.dtype != keys.dtype:
            raise InputError(
                f"layer {i} has keys {tuple(keys.shape)} {type_name(keys.dtype)} and values {tuple(values.shape)} "
                f"{type_name(values.dtype)}, layer 0 {tuple(layers[0][0].shape)} {type_name(layers[0][0].dtype)} and "
                f"{tuple(layers[0][1].shape)}"
            )
    return found[0]


def stored_layout(head: BlockHeader) -> Layout:
    """Of a stored block."""
    return Layout(head.layers, head.heads, head.key_dim, head.value_dim, head.dtype)


def check_fits(found: Layout, model: Any, what: str) -> None:
    """Refuse a cache that a model cannot have made, as far as its config tells.

    Args:
        found: the cache's; a value width of 0: the inputs of layers (mode ``residual``).
        model: a transformers decoder.
        what: holds the cache, for the message.

    Raises:
        Mismatch: with what was found and what the model has.
    """
    if differ := differences(found, model):
        has, expects = (", ".join(f"{name} {pair[i]}" for name, pair in differ.items()) for i in (0, 1))
        raise Mismatch(f"{what} has {has}; the model ({text_config(model).model_type}) has {expects}")


def differences(found: Layout, model: Any) -> dict[str, tuple[str, str]]:
    """What a cache has and a model would make, by field, where they differ; as far as the model's config tells."""
    wanted = {name: value for name, value in _expected(model, inputs=not found.value_dim).items() if value is not None}
    pairs = {name: (getattr(found, name), value) for name, value in wanted.items() if getattr(found, name) != value}
    return {_FIELDS[n]: (str(a).removeprefix("torch."), str(b).removeprefix("torch.")) for n, (a, b) in pairs.items()}


_FIELDS = {
    "layers": "layers", "heads": "kv heads", "key_dim": "head_dim", "value_dim": "width of values",
    "dtype": "element type",
}  # fmt: skip


def _expected(model: Any, *, inputs: bool) -> dict[str, Any]:
    """Fields of the layout of a model's caches, or of its layers' inputs; None where its config does not tell."""
    config = text_config(model)

    def number(name: str) -> int | None:
        value = getattr(config, name, None)
        return value if isinstance(value, int) else None  # some have a list, by layer

    fields: dict[str, Any] = {"dtype": getattr(model, "dtype", None)}
    if not number("num_kv_shared_layers"):
        fields["layers"] = number("num_hidden_layers")
    if inputs:
        return {**fields, "key_dim": number("hidden_size")}
    if number("kv_lora_rank"):  # latent attention: the widths are those of transformers' form, which has changed
        return fields
    heads, width = number("num_key_value_heads"), number("head_dim")
    hidden, queries = number("hidden_size"), number("num_attention_heads")
    if width is None and heads and hidden and queries:
        width = hidden // queries
    return {**fields, "heads": heads, "key_dim": width, "value_dim": number("v_head_dim") or width}
