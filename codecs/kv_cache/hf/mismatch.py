"""Whether a cache fits a model, and why it is of another, as far as its file and the model tell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ....entropy_models.errors import BitstreamError, Mismatch
from ..format.header import ELEMENT_TYPES, BlockHeader, parse
from ..format.identity import differing
from ..layout import Layout, stored_layout
from ..modes.place import type_name
from ..modes.rope import Rope, rope_in
from .fingerprint import earlier_fingerprint, fingerprint
from .model import rope_of, text_config

_NAMED = 4
"""Fields that a message names."""


def cause(
    model: Any,
    stored: bytes,
    block: bytes | memoryview | None = None,
    *,
    fields: Mapping[str, str] | None = None,
    remedy: str = "load it with dtype=torch.{}",
    asked: str | None = None,
    extra_key: bytes = b"",
) -> str:
    """The likely reason for another fingerprint, one clause.

    Args:
        model: a transformers decoder whose fingerprint is another.
        stored: the cache's fingerprint.
        block: the bytes of one of its blocks; None: there is none, as in a file of token ids.
        fields: what its fingerprint is a hash of, where that was kept.
        remedy: what to do where only the element type is another, which takes the place of {}.
        asked: element type that the model is taken to run in; None: its own.
        extra_key: as for `fingerprint`.
    """
    here = type_name(model.dtype)
    for name in ELEMENT_TYPES.values():
        if (
            fingerprint(model, name, extra_key=extra_key) == stored
        ):  # maybe that of the model's own type, where another was asked for
            return f"it was made with this model in {name}, here it is {asked or here}; {remedy.format(name)}"
    if any(earlier_fingerprint(model, name) == stored for name in (None, *ELEMENT_TYPES.values())):
        return f"it was made with this model, whose fingerprint was {stored.hex()} then (--fingerprint)"
    if fields:
        mine = fingerprint(model, asked, extra_key=extra_key).fields
        of_types = {"weights"} if fields.get("element type") != mine.get("element type") else set()
        differ = differing({**fields, **{name: mine[name] for name in of_types if name in fields}}, mine)
        return "; ".join(differ[:_NAMED]) + (f"; and {len(differ) - _NAMED} other fields" if len(differ) > _NAMED else "")
    return _cause_by_layout(model, block)


def _cause_by_layout(model: Any, block: bytes | memoryview | None) -> str:
    """The reason as far as a block's header and RoPE tell."""
    unknown, here = "other weights, another config, or another element type", type_name(model.dtype)
    if block is None:
        return unknown
    try:
        head, rope = _header_and_rope(block)
    except BitstreamError:
        return unknown
    differ = differences(stored_layout(head), model)
    if set(differ) == {"element type"}:
        return f"it was made with {head.element_type}, this model is {here}"
    if differ:
        has, expects = (", ".join(f"{name} {pair[i]}" for name, pair in differ.items()) for i in (0, 1))
        return f"it has {has}; this model has {expects}"
    turned = rope_of(model)
    if rope is not None and (turned is None or not rope.turns_as(turned)):
        return "its RoPE frequencies are others (rope_theta or scaling), and perhaps its weights"
    return "layers, heads, widths and element type agree, so other weights (another revision, an adapter) or another config"


def check_block(block: bytes, model: Any, what: str) -> None:
    """Mismatch for a block that a model cannot go on from: another layout, or keys turned by other angles.

    A fingerprint does not know the angles: PyTorch converts them along with the weights, and a model loaded in float32
    and then converted to bfloat16 turns its keys otherwise than one loaded in bfloat16.
    """
    head, rope = _header_and_rope(block)
    check_fits(stored_layout(head), model, what)
    here = rope_of(model)
    if rope is not None and here is not None and not rope.turns_as(here):
        raise Mismatch(
            f"{what} has keys of other RoPE frequencies than the model's. Was one of them loaded in another element type "
            "and converted (model.to(...))? Load with dtype=torch." + type_name(model.dtype)
        )


def _header_and_rope(block: bytes | memoryview) -> tuple[BlockHeader, Rope | None]:
    stream, head = parse(block)
    return head, rope_in(stream.chunk(1), head.key_dim)


def check_fits(found: Layout, model: Any, what: str) -> None:
    """Refuse a cache that a model cannot have made, as far as its config tells.

    Args:
        found: the cache's; a value width of 0: the inputs of layers (mode ``residual``).
        model: a transformers decoder.
        what: holds the cache, for the message.

    Raises:
        Mismatch: with what was found and what the model has.
    """
    if differ := differences(found, model):
        has, expects = (", ".join(f"{name} {pair[i]}" for name, pair in differ.items()) for i in (0, 1))
        raise Mismatch(f"{what} has {has}; the model ({text_config(model).model_type}) has {expects}")


def differences(found: Layout, model: Any) -> dict[str, tuple[str, str]]:
    """Differences between a cache and what a model would make, by field; as far as the model's config tells."""
    wanted = {name: value for name, value in _expected(model, inputs=not found.value_dim).items() if value is not None}
    pairs = {name: (getattr(found, name), value) for name, value in wanted.items() if getattr(found, name) != value}
    return {_FIELDS[n]: (str(a).removeprefix("torch."), str(b).removeprefix("torch.")) for n, (a, b) in pairs.items()}


_FIELDS = {
    "layers": "layers", "heads": "kv heads", "key_dim": "head_dim", "value_dim": "width of values",
    "dtype": "element type",
}  # fmt: skip


def _expected(model: Any, *, inputs: bool) -> dict[str, Any]:
    """Fields of the layout of a model's caches, or of its layers' inputs; None where its config does not tell."""
    config = text_config(model)

    def number(name: str) -> int | None:
        value = getattr(config, name, None)
        return value if isinstance(value, int) else None  # some have a list, by layer

    fields: dict[str, Any] = {"dtype": getattr(model, "dtype", None)}
    if not number("num_kv_shared_layers"):
        fields["layers"] = number("num_hidden_layers")
    if inputs:
        return {**fields, "key_dim": number("hidden_size")}
    if number("kv_lora_rank"):  # latent attention: the widths are those of transformers' form, which has changed
        return fields
    heads, width = number("num_key_value_heads"), number("head_dim")
    hidden, queries = number("hidden_size"), number("num_attention_heads")
    if width is None and heads and hidden and queries:
        width = hidden // queries
    return {**fields, "heads": heads, "key_dim": width, "value_dim": number("v_head_dim") or width}
