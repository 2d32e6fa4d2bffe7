"""The name under which a transformers model takes its cache: ``cache``, before ``past_key_values`` or ``cache_params``."""

from __future__ import annotations

import inspect
from typing import Any


def cache_argument(model: Any, cache: Any) -> dict[str, Any]:
    """Keyword argument that gives a cache to a model's forward pass, or to its ``generate``; warns of nothing.

    Args:
        model: a transformers decoder, of this library's code or of its own.
        cache: a transformers ``Cache``.
    """
    from transformers.modeling_outputs import CausalLMOutputWithPast

    taken = inspect.signature(model.forward).parameters
    for old in ("past_key_values", "cache_params"):
        if old in taken:
            return {old: cache}
    renamed = "cache" in CausalLMOutputWithPast.__dataclass_fields__
    return {"cache" if renamed else "past_key_values": cache}
