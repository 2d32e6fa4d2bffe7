"""The layout of a cache: what must agree before blocks of two caches, or a cache and a model, can go together."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...entropy_models.errors import InputError
from .format.header import BlockHeader, width_text
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


NO_LAYERS = Layout(0, 1, 1, 1, torch.bfloat16)
"""Of blocks without keys and values."""


def layout_of(layers: Layers) -> Layout:
    """Layout of a cache, (kv_heads, n, head_dim) per layer.

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
    """Layout of a stored block."""
    return Layout(head.layers, head.heads, head.key_dim, head.value_dim, head.dtype)
