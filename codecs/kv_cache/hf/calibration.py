"""Calibrate a model on a little text: steps by attention-output error, bases, predictors. Minutes at most on a CPU.

Importance of a channel, the square of what an error in it does to the attention output:

    keys     a logit moves by q . dk / sqrt(d): the mean square of the query channels that read it, over the heads
             of its group, before RoPE; RoPE turns channels i and i + d/2 into each other, so the two share their mean
    values   the output moves by W_o dv: the squared norm of the columns of W_o that read it

Importance of a layer and of keys against values: the next-token KL that white noise of a known size (in channels
weighted as above) in that tensor alone causes, measured. With D_i = s_i step_i^2 and a rate of -log2 step_i, the sum
of D at a
given rate is least where s_i step_i^2 is the same everywhere (reverse water-filling), so step_i ~ 1 / sqrt(s_i).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ....entropy_models.errors import InputError
from ....entropy_models.tables import scale_ratio
from ...text.cache_argument import cache_argument
from ..modes.place import KEY
from ..modes.predictive import sources
from ..modes.profiles import Profile
from ..modes.rope import Rope
from .cache_io import filled_cache
from .model import check_full_attention, rope_of

TARGET_KL = 0.002
"""Mean next-token KL in nats at quality 60 that the steps are scaled to, all tensors together."""
PROBE_NOISE = 0.1
"""Noise over the root mean square of a tensor: large enough to measure, small enough to be in the quadratic range."""
MAX_OFFSET = 20
"""Largest step offset of a channel (a factor of 7.5): importance is measured on little text."""
RIDGE = 1e-4
SHRINKAGE = 2.0
"""A token's mean counts as if so many average tokens had been seen with it."""
TABLE_TOKENS = 4096
TAIL = 64
"""Tokens at the end of each context on which the KL is measured."""


@torch.no_grad()
def calibrate(model: Any, contexts: Tensor, progress: Callable[[str], None] = lambda _: None) -> Profile:
    """A profile of a model.

    Args:
        model: a transformers decoder with full attention; float32 measures most exactly.
        contexts: int64, shape (contexts, tokens), tokens > 64; 16 of 1,024 tokens are enough for 128 channels (the
            covariance of C channels wants some 20 C tokens).
        progress: called with a line of text now and then.

    Raises:
        InputError: contexts of another kind or shape.
        Unsupported: a model with other than full-attention layers, or with latent ones.
    """
    check_full_attention(model)
    _check_contexts(contexts)
    rope = rope_of(model)
    progress("running the model")
    caches, power = _observe(model, contexts[:, :-TAIL])
    rows = _rows(caches, rope)
    importance = _importances(model, rows, power)
    progress("measuring the effect of noise")
    exponents = _allocate(model, contexts, caches, rope, rows, importance)
    tensors: dict[str, Tensor] = {"exponents": torch.tensor(exponents, dtype=torch.int32)}
    progress("bases and predictors")
    for at, weight in importance.items():
        tensors[f"offsets.{at[0]}.{at[1]}"] = torch.from_numpy(_offsets(weight))
        _put_basis(tensors, "", at, rows[at], weight)
    ids = contexts[:, :-TAIL].reshape(-1)
    _put_predictors(tensors, rows, importance, ids, np.exp(exponents * scale_ratio()))
    return Profile.of(tensors)


def _check_contexts(contexts: Any) -> None:
    """InputError for what is no tensor of token ids in rows of more than `TAIL`."""
    found = f"type {type(contexts).__name__}"
    if isinstance(contexts, Tensor):
        found = f"shape {tuple(contexts.shape)}, {contexts.dtype}"
        whole = contexts.dtype in (torch.int32, torch.int64)  # what embeddings take
        if whole and contexts.ndim == 2 and len(contexts) and contexts.shape[1] > TAIL:
            return
    raise InputError(f"contexts of {found}; need a tensor of token ids, shape (contexts, tokens), tokens > {TAIL}")


def _observe(model: Any, contexts: Tensor) -> tuple[list[list[tuple[Tensor, Tensor]]], dict[int, Tensor]]:
    """Caches of each context, and per layer the mean square of each query channel before RoPE, (heads, head_dim)."""
    from transformers.cache_utils import DynamicCache

    power: dict[int, list[Tensor]] = {}
    hooks = []
    for name, module in model.named_modules():
        if name.endswith("self_attn.q_norm" if _has(model, "q_norm") else "self_attn.q_proj"):
            layer = int(name.split(".layers.")[1].split(".")[0])
            hooks.append(
                module.register_forward_hook(
                    lambda m, a, out, layer=layer: power.setdefault(layer, []).append(out.float().square().mean((0, 1)))
                )
            )
    caches = []
    for context in contexts:
        cache: Any = DynamicCache()
        getattr(model, "model", model)(context[None].to(model.device), use_cache=True, **cache_argument(model, cache))
        caches.append([(layer.keys[0].cpu(), layer.values[0].cpu()) for layer in cache.layers])
    for hook in hooks:
        hook.remove()
    return caches, {layer: torch.stack(seen).mean(0).flatten().cpu() for layer, seen in power.items()}


def _has(model: Any, name: str) -> bool:
    return any(n.endswith(f"self_attn.{name}") for n, _ in model.named_modules())


def _rows(caches: list, rope: Rope | None) -> dict[tuple[int, int], Tensor]:
    """(channels, all tokens) of each (layer, kind), RoPE undone."""
    rows = {}
    for layer in range(len(caches[0])):
        for kind in (0, 1):
            parts = [cache[layer][kind].float().transpose(1, 2).contiguous() for cache in caches]
            if kind == KEY and rope:
                parts = [rope.turned(part, 0, -1.0) for part in parts]
            rows[layer, kind] = torch.cat([part.reshape(-1, part.shape[2]) for part in parts], 1)
    return rows


def _importances(model: Any, rows: dict, power: dict[int, Tensor]) -> dict[tuple[int, int], Tensor]:
    """Relative importance of each channel, mean 1, by (layer, kind)."""
    modules = dict(model.named_modules())
    outputs = {int(n.split(".layers.")[1].split(".")[0]): m for n, m in modules.items() if n.endswith("self_attn.o_proj")}
    config = model.config.get_text_config(decoder=True)
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", heads)
    found = {}
    for layer, kind in rows:
        channels = rows[layer, kind].shape[0]
        if kind == KEY:
            weight = power.get(layer)
        else:
            weight = outputs[layer].weight.float().square().sum(0).cpu() if layer in outputs else None
        if weight is None or weight.numel() * kv_heads != channels * heads:
            weight = torch.ones(channels * heads // kv_heads)
        weight = weight.view(kv_heads, heads // kv_heads, -1).mean(1)
        if kind == KEY:
            half = weight.shape[1] // 2
            paired = (weight[:, :half] + weight[:, half : 2 * half]) / 2
            weight = torch.cat([paired, paired, weight[:, 2 * half :]], 1)
        found[layer, kind] = (weight / weight.mean()).clamp_min(1e-3).reshape(-1)
    return found


def _offsets(importance: Tensor) -> np.ndarray:
    """Step offsets: log of 1 / sqrt(importance) in exponents."""
    offset = np.rint(-0.5 * np.log(importance.double().numpy()) / scale_ratio())
    return np.clip(offset, -MAX_OFFSET, MAX_OFFSET).astype(np.int32)


def _allocate(model: Any, contexts: Tensor, caches: list, rope: Rope | None, rows: dict, importance: dict) -> np.ndarray:
    """Step exponents at quality 60, int, shape (layers, 2)."""
    layers = len(caches[0])
    tails = contexts[:, -TAIL:]
    clean = _tail_log_probs(model, caches, tails)
    sensitivity = np.zeros((layers, 2))
    generator = torch.Generator().manual_seed(0)
    for (layer, kind), row in rows.items():
        rms = float(row.square().mean().sqrt())
        deviation = PROBE_NOISE * rms
        noisy = [list(cache) for cache in caches]
        for cache in noisy:
            pair = list(cache[layer])
            pair[kind] = _with_noise(pair[kind], importance[layer, kind], deviation, generator)
            cache[layer] = (pair[0], pair[1])
        found = _tail_log_probs(model, noisy, tails)
        kl = float((clean.exp() * (clean - found)).sum(-1).mean())
        sensitivity[layer, kind] = max(kl, 1e-9) / deviation**2
    # uniform quantisation noise is step^2 / 12; each tensor gets an equal share of the target
    step = np.sqrt(12 * TARGET_KL / sensitivity.size / sensitivity)
    return np.rint(np.log(step) / scale_ratio()).astype(np.int64)


def _with_noise(x: Tensor, importance: Tensor, deviation: float, generator: torch.Generator) -> Tensor:
    """White noise in weighted channels. RoPE only turns it, and weights pair up, so it is added where the keys are."""
    heads, _, dim = x.shape
    noise = torch.randn(x.shape, generator=generator) * importance.view(heads, 1, dim).rsqrt() * deviation
    return (x.float() + noise).to(x.dtype)


def _tail_log_probs(model: Any, caches: list, tails: Tensor) -> Tensor:
    """Next-token log-probabilities after each tail token, float32, (contexts, TAIL, vocabulary)."""
    found = []
    for cache, tail in zip(caches, tails, strict=True):
        filled = filled_cache(cache, cache[0][0].shape[1], model.device)
        logits = model(tail[None].to(model.device), use_cache=True, **cache_argument(model, filled)).logits[0]
        found.append(torch.log_softmax(logits.float(), -1).cpu())
    return torch.stack(found)


def _put_basis(tensors: dict[str, Tensor], name: str, at: tuple[int, int], x: Tensor, importance: Tensor) -> None:
    """Principal components of x (channels, tokens) in weighted channels, and the inverse map."""
    root = importance.clamp_min(math.exp(-2 * MAX_OFFSET * scale_ratio())).sqrt()
    mean = x.mean(1)
    weighted = (x - mean[:, None]) * root[:, None]
    components = torch.linalg.eigh((weighted @ weighted.T).double() / x.shape[1])[1].float().flip(1)
    key = f"{at[0]}.{at[1]}"
    tensors[f"{name}mean.{key}"] = mean
    tensors[f"{name}basis.{key}"] = root[:, None] * components
    tensors[f"{name}unbasis.{key}"] = (components / root[:, None]).T


def _put_predictors(tensors: dict[str, Tensor], rows: dict, importance: dict, ids: Tensor, steps: np.ndarray) -> None:
    """Predictors fitted on inputs with the noise of quantisation, so that they do not amplify it."""
    generator = torch.Generator().manual_seed(1)
    unique, counts = torch.unique(ids, return_counts=True)
    kept = unique[counts.argsort(descending=True)[:TABLE_TOKENS]].sort().values
    tensors["token_ids"] = kept
    index = torch.searchsorted(kept, ids).clamp_max(len(kept) - 1)
    index = torch.where(kept[index] == ids, index, len(kept))
    noisy = {}
    for (layer, kind), x in rows.items():
        # two steps' worth: predictors serve qualities below 60 too
        spread = 2 * steps[layer, kind] / math.sqrt(12) * importance[layer, kind].rsqrt()[:, None]
        noisy[layer, kind] = x + torch.randn(x.shape, generator=generator) * spread
    for (layer, kind), x in rows.items():
        key, guess = f"{layer}.{kind}", torch.zeros_like(x)
        if layer == 0:
            table = _token_means(x, index, len(kept))
            tensors[f"token_mean.{kind}"] = table
            guess = table[index].T.float()
        if layer or kind != KEY:
            inputs = torch.cat([noisy[source] for source in sources(layer, kind)])
            if layer == 0:
                inputs = inputs - tensors["token_mean.0"][index].T.float()
            weight, bias = _ridge(inputs, x - guess, with_bias=bool(layer))
            tensors[f"weight.{key}"], tensors[f"bias.{key}"] = weight, bias
            guess = guess + weight.T @ inputs + bias[:, None]
        _put_basis(tensors, "residual_", (layer, kind), x - guess, importance[layer, kind])
        # the residual's mean is the block's business, as it is for quantized
        tensors[f"residual_mean.{key}"] = torch.zeros(x.shape[0])


def _token_means(x: Tensor, index: Tensor, count: int) -> Tensor:
    """Mean of x (channels, tokens) by token, shrunk towards the mean of all; the last row is that mean."""
    overall = x.mean(1)
    total = torch.zeros(count + 1, x.shape[0]).index_add_(0, index, x.T)
    seen = torch.bincount(index, minlength=count + 1)[:, None]
    table = (total + SHRINKAGE * overall) / (seen + SHRINKAGE)
    table[count] = overall
    return table.half()


def _ridge(inputs: Tensor, target: Tensor, with_bias: bool) -> tuple[Tensor, Tensor]:
    """Weights (inputs, outputs) and bias (outputs,) of a linear map between (channels, tokens) matrices."""
    mean_in = inputs.mean(1) if with_bias else torch.zeros(inputs.shape[0])
    mean_out = target.mean(1) if with_bias else torch.zeros(target.shape[0])
    a, b = (inputs - mean_in[:, None]).double(), (target - mean_out[:, None]).double()
    gram = a @ a.T
    gram += RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.float64)
    weight = torch.linalg.solve(gram, a @ b.T).float()
    return weight, mean_out - weight.T @ mean_in
