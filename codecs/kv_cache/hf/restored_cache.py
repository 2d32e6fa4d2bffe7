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
"""Values of the same tokens differ by less than this part of what neighbouring tokens differ by; of others by some 1."""


class RestoredCache(DynamicCache):
    """A ``DynamicCache`` that looks at what it is gone on with, once."""

    _restored = True

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """As of ``DynamicCache``: keys and values of shape (batch, kv_heads, n, head_dim).

        Warns:
            UserWarning: the first that is added are as many values as there are, and of the same tokens.
        """
        if self._restored and layer_idx == 0 and len(self.layers):
            self._restored = False
            values = getattr(self.layers[0], "values", None)
            if isinstance(values, Tensor) and _of_same_tokens(values, value_states):
                warnings.warn(
                    f"the {values.shape[-2]} tokens of this cache are run once more, on top of it: give generate a longer "
                    "prompt, or a cache that lacks the last token, load_cache(..., prompt=prompt) or prefix=n - 1",
                    stacklevel=2,
                )
        return super().update(key_states, value_states, layer_idx, *args, **kwargs)


def _of_same_tokens(values: Tensor, added: Tensor) -> bool:
    """Whether values of the first layer, which the tokens alone decide there, are of one sequence; a lossy copy counts."""
    if values.shape != added.shape or values.shape[-2] < 2:
        return False
    kept, new = values.float(), added.to(values.device).float()
    return bool((new - kept).norm() < _SAME_PROMPT * (new - kept.roll(1, -2)).norm())
