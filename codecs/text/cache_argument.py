"""The name under which a transformers model takes its cache: ``past_key_values`` has become ``cache``."""

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

    renamed = "cache" in CausalLMOutputWithPast.__dataclass_fields__
    old = not renamed or "past_key_values" in inspect.signature(model.forward).parameters
    return {"past_key_values" if old else "cache": cache}
