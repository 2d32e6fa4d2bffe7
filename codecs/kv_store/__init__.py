"""Caches of prompts, cut into blocks that prompts with a common beginning share: a folder, Redis or any fsspec URL.

>>> from rdcodec.codecs.kv_store import PrefixStore, open_backend
>>> store = PrefixStore(open_backend("store/"), fingerprint=fingerprint(model))  # doctest: +SKIP
"""

from __future__ import annotations

from typing import Any

_EXPORTS = {"PrefixStore": "store", "HybridStore": "hybrid", "open_backend": "backends"}
"""Public name: module. Imported when first used, so that the command's help needs no torch."""


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_EXPORTS[name]}"), name)


__all__ = list(_EXPORTS)
