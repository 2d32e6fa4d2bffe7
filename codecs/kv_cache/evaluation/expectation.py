"""The predictor of "Sequential KV Cache Compression" (2604.15356), section "predictive delta coding", read literally:

    guess of the keys and values at position t + 1 =
        sum over the top-k next tokens a of P(a | context) KV(a | context)

It needs k + 1 forward passes per position at both ends, and its residual keeps the variance over next tokens, which is
dense: the paper's bound, the entropy of the token, is reached by coding the token (`text.token_model`), not by this.
It is here to be measured (benchmarks/kv_predictors.py), closed loop: it sees the decoder's reconstruction of the cache.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...text.cache_argument import cache_argument
from ..hf.cache_io import filled_cache
from ..splice import Layers

_QUERIES = 256
"""Candidate tokens of one forward pass: bounds the attention mask."""


@torch.no_grad()
def expected_next(model: Any, tokens: Tensor, layers: Layers, k: int = 4) -> list[tuple[Tensor, Tensor]]:
    """Expectation over the k most probable next tokens.

    Args:
        model: a transformers decoder.
        tokens: int64, shape (n,).
        layers: the cache that the decoder has, (kv_heads, n, head_dim) each.
        k: candidates, renormalised to a sum of 1.

    Returns:
        (keys, values) per layer, float32 (kv_heads, n, head_dim); position 0, which nothing precedes, is zero.
    """
    logits, _ = _branches(model, tokens[:, None], torch.arange(len(tokens)), layers)
    share, candidates = torch.softmax(logits.float()[:, 0], -1).topk(k)
    share = share / share.sum(1, keepdim=True)
    _, branches = _branches(model, candidates[:-1], torch.arange(1, len(tokens)), layers)
    out = []
    for (keys, values), (known, _) in zip(branches, layers, strict=True):
        weighted = [(x.float() * share[:-1, :, None]).sum(2) for x in (keys, values)]
        zero = torch.zeros(known.shape[0], 1, known.shape[2])
        out.append((torch.cat([zero, weighted[0]], 1), torch.cat([zero, weighted[1]], 1)))
    return out


def _branches(model: Any, candidates: Tensor, positions: Tensor, layers: Layers) -> tuple[Tensor, list[tuple[Tensor, ...]]]:
    """Run candidate tokens, each after the cache before its position and blind to the others.

    Returns:
        Logits (positions, k, vocabulary), and per layer keys and values, (kv_heads, positions, k, head_dim) each.
    """
    k, known = candidates.shape[1], layers[0][0].shape[1]
    logits, found = [], []
    for at in range(0, len(positions), max(_QUERIES // k, 1)):
        part = slice(at, at + max(_QUERIES // k, 1))
        ids, where = candidates[part].reshape(1, -1), positions[part].repeat_interleave(k)
        mask = torch.full((len(where), known + len(where)), torch.finfo(model.dtype).min, dtype=model.dtype)
        mask[:, :known][torch.arange(known)[None] < where[:, None]] = 0
        mask[:, known:].fill_diagonal_(0)
        cache = filled_cache([(x.to(model.dtype), y.to(model.dtype)) for x, y in layers], known)
        result = model(
            ids, attention_mask=mask[None, None], position_ids=where[None], use_cache=True, **cache_argument(model, cache)
        )
        logits.append(result.logits[0].view(-1, k, result.logits.shape[-1]))
        found.append([(layer.keys[0, :, known:], layer.values[0, :, known:]) for layer in cache.layers])
    joined = [
        tuple(torch.cat([f[i][t] for f in found], 1).unflatten(1, (-1, k)) for t in (0, 1)) for i in range(len(layers))
    ]
    return torch.cat(logits), joined
