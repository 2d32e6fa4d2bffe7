"""What a store holds where it has not what was asked for, for the error of a command."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..kv_cache.format.identity import fields_in
from ..kv_cache.hf.mismatch import cause
from .backends import Backend
from .index import namespaces, record_key


def held_instead(backend: Backend, namespace: str, load: Callable[[], Any] | None = None, dtype: str | None = None) -> str:
    """A hint at what a store holds instead of a namespace that lacks it: a clause for an error of a command, or nothing.

    Args:
        backend: of the store.
        namespace: in which nothing was found.
        load: gives the transformers model of that namespace, if there is one; called only where it can tell more.
        dtype: element type that was asked for in place of the model's own.
    """
    found = namespaces(backend)
    name, _, salt = namespace.partition("-")
    models = sorted({other.partition("-")[0] for other in found if other.endswith(salt)} - {name})
    if namespace in found:
        return f"; caches of {len(models)} other models or element types (--dtype) are there" if models else ""
    if any(other.startswith(name) for other in found):
        return "; this model's caches are there under another salt"
    if len(models) != 1:
        return f"; the store holds caches of {len(models)} other models" if models else ""
    why = ""
    if load:
        held, key = bytes.fromhex(models[0]), next(iter(backend.list(f"blocks/{models[0]}-{salt}/"))).key
        fields = fields_in(backend.get(record_key(held)), held)
        why = f": {cause(load(), held, backend.get(key), fields=fields, remedy='give --dtype {}', asked=dtype)}"
    return f"; what the store holds is of model {models[0]}, this one is {name}{why}"
