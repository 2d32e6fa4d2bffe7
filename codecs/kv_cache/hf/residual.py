"""Mode ``residual`` (KV-Direct, 2603.19664; HCache, 2410.05004; XQuant): store layer inputs, project on load.

    h_l  --norm, W_k, RoPE-->  keys of layer l
         --norm, W_v------->   values of layer l

One vector of d_model numbers stands for 2 n_kv d_head, so it is smaller only where d_model < 2 n_kv d_head: for
multi-head attention, not for grouped queries, where it is refused. (KV-Direct counts one vector per token, but each
layer needs its own: the layers above cannot be had without attention over all earlier tokens.)

Models build their keys in many ways, so what was captured is projected at once, and a build that this does not restore is
refused before anything is written.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ....entropy_models.errors import Unsupported
from ..modes.place import KIND_NAMES
from ..splice import Layers
from .model import check_full_attention, text_config

ERROR_MAX = 0.1
"""Relative error of keys and values projected while saving; another way to build keys makes some tenths."""


def check_worth(model: Any) -> None:
    """Refuse models whose layer inputs are not smaller than their keys and values.

    Raises:
        Unsupported: d_model >= 2 n_kv d_head, latent attention, or layers of an unknown build.
    """
    check_full_attention(model)
    config = text_config(model)
    attention = _layers(model)[0].self_attn
    kv_width = attention.k_proj.out_features + attention.v_proj.out_features
    if config.hidden_size >= kv_width:
        raise Unsupported(
            f"mode residual would store {config.hidden_size} numbers per token and layer (d_model) for "
            f"{kv_width} of keys and values (2 n_kv d_head); use quantized"
        )


def _layers(model: Any) -> Any:
    layers = getattr(getattr(model, "model", model), "layers", None)
    names = ("input_layernorm", "self_attn")
    if layers is None or not all(hasattr(layers[0], n) for n in names) or not hasattr(layers[0].self_attn, "k_proj"):
        raise Unsupported(f"{type(model).__name__} has no layers with input_layernorm and self_attn.k_proj, v_proj")
    return layers


@torch.no_grad()
def capture(model: Any, tokens: Tensor) -> list[Tensor]:
    """Inputs of every layer on a prompt.

    Args:
        model: a transformers decoder.
        tokens: int64, shape (n,).

    Returns:
        One tensor of shape (1, n, d_model) per layer, in the model's type.
    """
    check_worth(model)
    found: list[Tensor] = []
    hooks = [
        layer.register_forward_pre_hook(
            lambda _, args, kwargs: found.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
        )
        for layer in _layers(model)
    ]
    try:
        model(tokens[None].to(model.device), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return [h.detach() for h in found]


def check_restores(model: Any, inputs: list[Tensor], layers: Layers) -> None:
    """Refuse inputs that do not give a cache back.

    Args:
        model: the model that `capture` ran.
        inputs: what it gave.
        layers: (keys, values) of each layer, shape (n_kv, n, head_dim).

    Raises:
        Unsupported: the model builds keys or values in another way than `project`, or made another cache.
    """
    kind = type(model).__name__
    try:
        found = tuple(project(model, inputs, 0))
    except (RuntimeError, AttributeError, TypeError) as error:
        first = str(error).partition("\n")[0]
        raise Unsupported(f"mode residual cannot project the layer inputs of {kind} ({first}); use quantized") from error
    if differs := unlike(found, layers):
        raise Unsupported(
            f"mode residual would give {differs[0]} back with a relative error of {differs[1]:.2f}: {kind} builds them in "
            "another way, or did not make this cache of these tokens; use quantized"
        )


def unlike(found: Layers, layers: Layers) -> tuple[str, float] | None:
    """The first tensor of ``found`` that is off by more than `ERROR_MAX` of the norm, and by how much."""
    for i, (pair, true) in enumerate(zip(found, layers, strict=True)):
        for name, x, y in zip(KIND_NAMES, pair, true, strict=True):
            y = y.to(x.device).float()
            off = float((x.float() - y).norm() / y.norm().clamp_min(1e-12)) if x.shape == y.shape else 1.0
            if not off <= ERROR_MAX:
                return f"{name} of layer {i}", off
    return None


@torch.no_grad()
def project(model: Any, inputs: list[Tensor], start: int) -> list[tuple[Tensor, Tensor]]:
    """Keys and values of every layer from its inputs.

    Args:
        model: the same model.
        inputs: shape (1, n, d_model) each.
        start: position of the first token.

    Returns:
        (keys, values) per layer, shape (n_kv, n, head_dim).
    """
    layers, out = _layers(model), []
    decoder = getattr(model, "model", model)
    for layer, h in zip(layers, inputs, strict=True):
        h = h.to(model.device, model.dtype)
        attention, normed = layer.self_attn, layer.input_layernorm(h)
        shape = (*h.shape[:2], -1, attention.head_dim)
        keys, values = attention.k_proj(normed).view(shape), attention.v_proj(normed).view(shape)
        if hasattr(attention, "k_norm"):
            keys = attention.k_norm(keys)
        position = torch.arange(start, start + h.shape[1], device=h.device)[None]
        cos, sin = decoder.rotary_emb(h, position)
        out.append((_apply_rope(keys.transpose(1, 2), cos, sin)[0], values.transpose(1, 2)[0]))
    return out


def _apply_rope(k: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    width = cos.shape[-1]
    turning, rest = k[..., :width], k[..., width:]
    half = torch.cat([-turning[..., width // 2 :], turning[..., : width // 2]], -1)
    return torch.cat([turning * cos[:, None] + half * sin[:, None], rest], -1)
