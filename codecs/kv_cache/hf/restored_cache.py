"""`RestoredCache`: the ``DynamicCache`` that was stored, which warns if its own prompt is run on top of it.

``generate(prompt, cache=cache)`` runs the tokens that the cache lacks. Where it lacks none, transformers runs all of them
again, after themselves: other text, and no error.
"""

from __future__ import annotations

import warnings
from typing import Any

from torch import Tensor
from transformers.cache_utils import DynamicCache

_SAME_PROMPT = 0.5
"""The same tokens differ by less than this part of what neighbouring tokens differ by; others by some 1."""


class RestoredCache(DynamicCache):
    """A ``DynamicCache`` that looks at what it is gone on with, once."""

    _restored = True

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """As of ``DynamicCache``: keys and values of shape (batch, kv_heads, n, head_dim).

        Warns:
            UserWarning: the first that are added are as many as there are, and of the same tokens.
        """
        if self._restored and layer_idx == 0 and len(self.layers):
            self._restored = False
            # RoPE turns keys, of latent attention (MLA) what stands for values: the others depend on tokens alone
            added = {"keys": key_states, "values": value_states}
            pairs = [(getattr(self.layers[0], name, None), new) for name, new in added.items()]
            if any(isinstance(old, Tensor) and _of_same_tokens(old, new) for old, new in pairs):
                warnings.warn(
                    f"the {value_states.shape[-2]} tokens of this cache are run once more, on top of it: give generate a "
                    "longer prompt, or a cache that lacks the last token, load_cache(..., prompt=prompt) or prefix=n - 1",
                    stacklevel=2,
                )
        return super().update(key_states, value_states, layer_idx, *args, **kwargs)


def _of_same_tokens(old: Tensor, added: Tensor) -> bool:
    """Whether vectors of the first layer, which the tokens alone decide there, are of one sequence; a lossy copy counts."""
    if old.shape != added.shape or old.shape[-2] < 2:
        return False
    kept, new = old.float(), added.to(old.device).float()
    return bool((new - kept).norm() < _SAME_PROMPT * (new - kept.roll(1, -2)).norm())
