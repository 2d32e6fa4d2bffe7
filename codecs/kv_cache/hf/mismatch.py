"""Why a cache is of another model than the one at hand, as far as its file and the model tell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ....entropy_models.errors import BitstreamError, Mismatch
from ...kv_store.backends import Backend
from ...kv_store.index import namespaces
from ..format.header import ELEMENT_TYPES, BlockHeader, parse
from ..layout import check_fits, differences, stored_layout
from ..modes.place import type_name
from ..modes.rope import Rope, rope_in
from .model import fingerprint, rope_of


def cause(
    model: Any,
    stored: bytes,
    block: bytes | memoryview | None = None,
    remedy: str = "load it with dtype=torch.{}",
    asked: str | None = None,
) -> str:
    """The likely reason for another fingerprint, one clause.

    Args:
        model: a transformers decoder whose fingerprint is another.
        stored: the cache's fingerprint.
        block: the bytes of one of its blocks; None: there is none, as in a file of token ids.
        remedy: what to do where only the element type is another, which takes the place of {}.
        asked: element type that the model is taken to run in; None: its own.
    """
    here = type_name(model.dtype)
    for name in ELEMENT_TYPES.values():
        if fingerprint(model, name) == stored:  # maybe that of the model's own type, where another was asked for
            return f"it was made with this model in {name}, here it is {asked or here}; {remedy.format(name)}"
    try:
        head, rope = _told(block)
    except BitstreamError:
        head, rope = None, None
    if head is None:
        return "other weights, another config, or another element type"
    differ = differences(stored_layout(head), model)
    if set(differ) == {"element type"}:
        return f"it was made with {head.element_type}, this model is {here}"
    if differ:
        has, expects = (", ".join(f"{name} {pair[i]}" for name, pair in differ.items()) for i in (0, 1))
        return f"it has {has}; this model has {expects}"
    turned = rope_of(model)
    if rope is not None and (turned is None or not rope.alike(turned)):
        return "its RoPE frequencies are others (rope_theta or scaling), and perhaps its weights"
    return "layers, heads, widths and element type agree, so other weights (another revision, an adapter) or another config"


def check_block(block: bytes, model: Any, what: str) -> None:
    """Mismatch for a block that a model cannot go on from: another layout, or keys turned by other angles.

    A fingerprint does not know the angles: PyTorch converts them along with the weights, and a model loaded in float32
    and then converted to bfloat16 turns its keys otherwise than one loaded in bfloat16.
    """
    head, rope = _told(block)
    assert head is not None
    check_fits(stored_layout(head), model, what)
    here = rope_of(model)
    if rope is not None and here is not None and not rope.alike(here):
        raise Mismatch(
            f"{what} has keys of other RoPE frequencies than the model's. Was one of them loaded in another element type "
            "and converted (model.to(...))? Load with dtype=torch." + type_name(model.dtype)
        )


def _told(block: bytes | memoryview | None) -> tuple[BlockHeader | None, Rope | None]:
    if block is None:
        return None, None
    stream, head = parse(block)
    return head, rope_in(stream.chunk(1), head.key_dim)


def elsewhere(backend: Backend, namespace: str, load: Callable[[], Any] | None = None, dtype: str | None = None) -> str:
    """What a store holds instead of a namespace that lacks it: a clause for an error of a command, or nothing.

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
    key = next(iter(backend.list(f"blocks/{models[0]}-{salt}/"))).key
    why = f": {cause(load(), bytes.fromhex(models[0]), backend.get(key), 'give --dtype {}', dtype)}" if load else ""
    return f"; what the store holds is of model {models[0]}, this one is {name}{why}"
