"""How a model goes on from a cache with recurrent states: with several tokens at once, or, where it cannot, one by one.

Code of transformers forgets the states of some models where more than one token follows, without a word: up to 5.12 of all
that were tried, in 5.24 still of Mamba, Falcon-Mamba, Jamba and RecurrentGemma. So it is tried, once for each model.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from ...text.cache_argument import cache_argument

_TRIED: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()
_FIRST, _ALL = 8, 12
"""Tokens of the cache, and of the prompt, that are tried."""
_LARGER = 4
"""Times the error of tokens run one by one that is still rounding."""


def goes_on_at_once(model: Any) -> bool:
    """Whether several tokens after a cache with recurrent states give what the whole prompt gives; the model is run."""
    if model not in _TRIED:
        _TRIED[model] = _tried(model)
    return _TRIED[model]


@torch.no_grad()
def _tried(model: Any) -> bool:
    from transformers.cache_utils import DynamicCache

    ids = torch.arange(1, _ALL + 1, device=model.device)[None]

    def last(*parts: Tensor) -> Tensor:
        cache = DynamicCache(config=model.config)
        for part in parts:
            logits = model(part, use_cache=True, **cache_argument(model, cache)).logits
        return logits[0, -1].double()

    whole = last(ids)
    at_once = (last(ids[:, :_FIRST], ids[:, _FIRST:]) - whole).norm()
    one_by_one = (last(*ids.split([_FIRST] + [1] * (_ALL - _FIRST), 1)) - whole).norm()
    return bool(at_once <= max(_LARGER * one_by_one, torch.finfo(model.dtype).eps * whole.norm()))


@torch.no_grad()
def run_one_by_one(model: Any, cache: Any, ids: np.ndarray) -> None:
    """Take tokens into a cache, one after the other; ``ids`` of shape (n,)."""
    for token in torch.from_numpy(ids).to(model.device).view(-1, 1, 1):
        model(token, use_cache=True, **cache_argument(model, cache))
