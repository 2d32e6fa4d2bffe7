"""Runs of tokens of a cache: cut, and joined to a cache again."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Layers = tuple[tuple[Tensor, Tensor], ...]
"""Keys and values of each layer, shape (kv_heads, n, head_dim)."""


def cut(layers: Layers, first: int, last: int) -> Layers:
    """Positions ``first`` to ``last`` of every layer, as views."""
    return tuple((k[:, first:last], v[:, first:last]) for k, v in layers)


def can_be_joined(a: Layers, b: Layers) -> bool:
    """Whether two runs have the same layers, heads, widths and types."""
    if len(a) != len(b):
        return False
    pairs = [(x, y) for p, q in zip(a, b, strict=True) for x, y in zip(p, q, strict=True)]
    return all((x.shape[0], x.shape[2], x.dtype) == (y.shape[0], y.shape[2], y.dtype) for x, y in pairs)


def join(runs: Sequence[Layers]) -> Layers:
    """One cache out of successive runs that `can_be_joined`; a copy, of one run as well. No runs, no layers."""
    layers = range(len(runs[0]) if runs else 0)
    return tuple((torch.cat([run[i][0] for run in runs], 1), torch.cat([run[i][1] for run in runs], 1)) for i in layers)
