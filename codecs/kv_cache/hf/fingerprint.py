"""The fingerprint of a running model: what shapes its keys and values, and nothing else."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from typing import Any

import torch

from ....entropy_models.errors import InputError, Unsupported
from ..format.identity import Fingerprint
from ..modes.place import type_name
from .config_fields import config_fields
from .weights_digest import digest_weights

STATIC_ROPE = frozenset(("default", "linear", "llama3", "yarn", "proportional"))
"""RoPE types whose frequencies do not depend on the length of the sequence."""
_PLACEHOLDER = re.compile(
    r"""(image|video|audio|vision|speech|sound|modality|frame) _ ((prompt|latent)_)? (token|patch) _ (id|index)
    | document_token_id""",
    re.VERBOSE,
)
"""Names of config fields with the id that stands for a piece of a picture, a sound or a video. A document's may only mark
where one begins (NeoMME); to refuse it is the safe side."""
_SENSES = re.compile(r"(vision|audio|image|video|speech|encoder)(_\w+)?_config")


def fingerprint(model: Any, dtype: str | None = None, *, extra_key: bytes = b"") -> Fingerprint:
    """16 bytes that change with whatever shapes keys and values: weights, active adapters, and fields of the config.

    They are the same under every transformers 5, after ``torch.compile``, on every device, and whatever the config says of
    padding, training or generation. All weights are read: 2.5 GB a second on one core.

    Args:
        model: a transformers model, wrapped or not.
        dtype: as if the model had been loaded in this type, named as in torch; None: as it is. Exact where its own type
            holds all numbers of the checkpoint.
        extra_key: whatever else tells the caches of this model apart: steering vectors, embeddings as input, a picture
            before the first token. With it, placeholder ids are taken to be told apart by it.

    Raises:
        InputError: an extra key that is no bytes.
        Unsupported: weights that are not in memory, prompt tuning, or M-RoPE that takes more than text by no known ids.
    """
    if not isinstance(extra_key, bytes):
        raise InputError(f"an extra key of type {type(extra_key).__name__}; need bytes, like b'steered' or name.encode()")
    model = unwrapped(model)
    no_contents, known = _no_contents(model), placeholders(model.config)
    if no_contents and not known and (senses := _senses(model.config)):  # text and pictures look alike
        raise Unsupported(
            f"{no_contents}; the config has {', '.join(senses)} and names no placeholder ids, like image_token_id, that "
            "would tell prompts with pictures from text"
        )
    found = digest_weights(model, dtype)
    fields = {**config_fields(model.config), "element type": dtype or type_name(model.dtype), "weights": found.weights}
    if found.adapters:
        fields["adapters"] = found.adapters
    if extra_key:
        fields["extra key"] = hashlib.sha256(extra_key).hexdigest()
    ids = frozenset() if extra_key and not no_contents else known
    no_prefix = _no_prefix(model, contents_told_apart=bool(ids or extra_key))
    return Fingerprint.of(fields, placeholders=ids, no_prefix=no_prefix, no_contents=no_contents)


def unwrapped(model: Any) -> Any:
    """The module that `torch.compile` or a data-parallel wrapper holds, or the model itself."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and not hasattr(model, "config"):
            inner = getattr(model, "module", None)
        if inner is None:
            return model
        model = inner


def placeholders(config: Any) -> frozenset[int]:
    """Token ids that stand for pictures, sounds or videos."""
    return frozenset(
        value for part in _parts(config) for name, value in part.items()
        if _PLACEHOLDER.fullmatch(str(name)) and isinstance(value, int) and value >= 0
    )  # fmt: skip


def ropes(config: Any) -> Iterator[dict[str, Any]]:
    """``rope_parameters`` of the language model, one for each kind of layer where they differ by kind."""
    parameters = getattr(config.get_text_config(decoder=True), "rope_parameters", None) or {}
    nested = [part for part in parameters.values() if isinstance(part, dict)]
    yield from nested or [parameters]


def static_rope(config: Any) -> bool:
    """Whether the angles of RoPE do not depend on the length of the sequence."""
    return all(rope.get("rope_type", "default") in STATIC_ROPE for rope in ropes(config))


def _parts(config: Any) -> Iterator[dict[str, Any]]:
    """A config as a dict, and the configs in it."""
    waiting = [config.to_dict()]
    while waiting:
        one = waiting.pop()
        yield one
        waiting += [value for value in one.values() if isinstance(value, dict)]


def _no_prefix(model: Any, *, contents_told_apart: bool) -> str:
    """Why a prefix of a model's cache is not that of a longer prompt; empty: it is."""
    text = model.config.get_text_config(decoder=True)
    kinds = sorted({str(rope.get("rope_type")) for rope in ropes(model.config)} - {"None", *STATIC_ROPE})
    if kinds:
        return f"RoPE of type {', '.join(kinds)} turns keys by angles that depend on the length of the prompt"
    encoder = hasattr(text, "type_vocab_size") and getattr(text, "is_decoder", None) is False  # BERT and its kin
    ahead = getattr(text, "use_bidirectional_attention", None) in (True, "all")
    if encoder or ahead or getattr(text, "is_causal", True) is False:
        return "its attention looks ahead, so keys depend on what follows"
    if not contents_told_apart and (senses := _senses(model.config)):
        return f"it takes more than text ({', '.join(senses)}) and names no placeholder ids (extra_key= tells prompts apart)"
    return ""


def _senses(config: Any) -> list[str]:
    """Names of the configs in a config that are of what is no text."""
    return [name for name, value in config.to_dict().items() if isinstance(value, dict) and _SENSES.fullmatch(name)]


def _no_contents(model: Any) -> str:
    """Why a cache with pictures in it cannot be gone on from; empty: it can."""
    # a config may leave the sections to the model's code; that this keeps differences of positions is then the only sign
    told = any("mrope_section" in rope for rope in ropes(model.config))
    if told or any(hasattr(module, "rope_deltas") for module in model.modules()):
        return "M-RoPE gives pictures fewer positions than tokens, and that difference is not stored"
    return ""


_IGNORED_CONFIG = frozenset(("transformers_version", "_name_or_path", "_attn_implementation", "use_cache", "dtype"))
_SAMPLES = 4096


def earlier_fingerprint(model: Any, dtype: str | None = None) -> bytes:
    """The 16 bytes that this package gave a model before 2026-11-29, to read files and stores of that time.

    They changed with the version of transformers, with any field of the config and with names of weights; and saw no
    adapters in action: caches of all adapters of a model have the same.

    Args:
        model, dtype: as for `fingerprint`.
    """
    config = {k: v for k, v in model.config.to_dict().items() if k not in _IGNORED_CONFIG}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        flat = tensor.detach().reshape(-1)
        at = torch.linspace(0, max(flat.numel() - 1, 0), min(_SAMPLES, flat.numel()), dtype=torch.float64).long()
        sample = flat[at.to(flat.device)].cpu().contiguous()
        if dtype and tensor.is_floating_point():
            sample = sample.to(getattr(torch, dtype))
        digest.update(f"{name} {tuple(tensor.shape)} {sample.dtype}".encode() + sample.view(torch.uint8).numpy().tobytes())
    return digest.digest()[:16]
