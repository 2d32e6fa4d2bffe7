"""`save_cache` and `load_cache`: a transformers cache to a file and back.

>>> out = model(prompt_ids, use_cache=True)                                # doctest: +SKIP
>>> save_cache(out.cache, prompt_ids, "prompt.rdc", model)                 # doctest: +SKIP
>>> cache = load_cache("prompt.rdc", model, prompt=more_ids)               # doctest: +SKIP
>>> model.generate(more_ids, cache=cache)                                  # doctest: +SKIP
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ....entropy_models.errors import BitstreamError, InputError, Mismatch, Unsupported
from ... import container
from ...contract import Progress
from ...text.cache_argument import cache_argument
from ..format.blocks import KvSettings
from ..format.contents import CONTENT_ID_MIN, check_told_apart, whole_contents
from ..format.header import BLOCKS, WHOLE, SequenceHeader, parse_sequence
from ..format.identity import Fingerprint
from ..format.sequence import decode_blocks, encode_sequence, join_blocks, made_by
from ..format.whole import LayerState, decode_whole, encode_whole
from ..layout import layout_of
from ..modes.profiles import Profile
from ..modes.table import MODES
from ..splice import Layers
from . import residual
from .fingerprint import earlier_fingerprint, fingerprint
from .going_on import goes_on_at_once, run_one_by_one
from .inputs import as_layers, as_token_ids, held_ids
from .layer_kinds import filled, holds_every_position, seen_ids, taken_apart
from .mismatch import cause, check_block, check_fits
from .model import rope_of
from .token_sequence import decode_tokens, encode_tokens
from .weights_digest import has_adapters

_RECOMPUTE_TOKENS = 512
"""Tokens per forward pass when a cache is recomputed: bounds the memory of the activations."""


def save_cache(
    cache: Any,
    tokens: Any,
    path: str | Path,
    model: Any = None,
    *,
    settings: KvSettings | None = None,
    salt: bytes = b"",
    extra_key: bytes = b"",
    progress: Progress | None = None,
) -> int:
    """Write a cache, atomically.

    Args:
        cache: a transformers cache of one sequence, or (keys, values) per layer of shape (kv_heads, n, head_dim); bf16,
            fp16 or fp32, CPU or CUDA. One with windows or recurrent states is kept as it is, and cannot be cut.
        tokens: ids that made it, shape (n,) or (1, n); one more is cut, since generation ends on a token whose keys are
            not there yet. A cache of recurrent states alone does not tell how many it has seen: give just those.
        path: of the file.
        model: the transformers model: its fingerprint protects against loading into another one, and its RoPE is undone
            before quantising. Modes ``tokens`` and ``residual`` need it.
        extra_key: whatever else tells this model's caches apart, as for `fingerprint`.
        settings: mode and quality; `KvSettings` () by default.
        salt: the tenant's.
        progress: called with (tokens done, tokens in all).

    Returns:
        Bytes written.

    Raises:
        ValueError: shapes, types, or a cache or mode that does not fit the model (`Unsupported` names it).
    """
    settings = settings or KvSettings()
    ids = as_token_ids(tokens)
    if hasattr(cache, "layers") and len(cache.layers) and not holds_every_position(cache):
        name = bytes(16) if model is None else fingerprint(model, extra_key=extra_key)
        data = _whole(taken_apart(cache), ids, settings, name, salt, progress)
        container.write_file(Path(path), data)
        return len(data)
    layers = as_layers(cache)
    if not layers:
        raise InputError("no cache to save")
    ids = held_ids(ids, layers)
    name = bytes(16)
    if model is not None:
        check_fits(layout_of(layers), model, "the cache")
        name = fingerprint(model, extra_key=extra_key)
        _check_contents(ids, name, settings.mode)
        settings = settings if settings.rope else replace(settings, rope=rope_of(model))
    elif MODES[settings.mode].needs_model:
        raise InputError(f"mode {settings.mode} needs the model")
    if settings.mode == "tokens":
        _check_recomputes(model, ids, layers)
        data = encode_tokens(model, ids, fingerprint=name, salt=salt, progress=progress)
    else:
        if settings.mode == "residual":
            inputs = residual.capture(model, torch.from_numpy(ids))
            residual.check_restores(model, inputs, layers)
            layers = tuple((h, h.new_zeros(1, len(ids), 0)) for h in inputs)
        data = encode_sequence(ids, layers, settings, fingerprint=name, salt=salt, progress=progress)
    container.write_file(Path(path), data)
    return len(data)


def _whole(
    layers: list[LayerState], ids: np.ndarray, settings: KvSettings, name: bytes, salt: bytes, progress: Progress | None
) -> bytes:
    """The file of a cache with windows or recurrent states."""
    ids = seen_ids(layers, ids)
    if isinstance(name, Fingerprint):
        _check_contents(ids, name, settings.mode)
    return encode_whole(ids, layers, settings, fingerprint=name, salt=salt, progress=progress)


def _check_contents(ids: np.ndarray, name: Fingerprint, mode: str) -> None:
    """Unsupported for pictures and sounds in a prompt where their cache cannot be gone on from, or has no ids to keep."""
    if not np.isin(ids, list(name.placeholders)).any() and not (len(ids) and ids.max() >= CONTENT_ID_MIN):
        return
    if name.no_contents:
        raise Unsupported(f"the prompt holds pictures, sounds or videos: {name.no_contents}")
    if mode == "tokens":
        raise Unsupported("mode tokens keeps the ids alone, and pictures, sounds and videos are not made of them")


def _check_recomputes(model: Any, ids: np.ndarray, layers: Layers) -> None:
    """Unsupported where the model does not make this cache of these ids: only the ids would be kept."""
    if differs := residual.unlike(as_layers(recompute(model, ids)), layers):
        raise Unsupported(
            f"mode tokens keeps the ids alone, and {differs[0]} of this cache are not what the model makes of them (error "
            f"{differs[1]:.2f} of the norm); are the ids those of the cache?"
        )


def load_cache(
    path: str | Path,
    model: Any = None,
    *,
    tokens: Any = None,
    prompt: Any = None,
    prefix: int | None = None,
    salt: bytes = b"",
    extra_key: bytes = b"",
    profile: Profile | None = None,
    device: Any = None,
    progress: Progress | None = None,
) -> Any:
    """A transformers ``DynamicCache`` from a file.

    A file that was written without a model carries no fingerprint: its layers, heads, widths and element type must be
    the model's, but nothing tells whether these weights made it.

    Args:
        path: of the file.
        model: the model that will go on; a cache of another one is refused. None: not checked.
        tokens: ids that the cache must start with, shape (m,) or (1, m): the cache is cut after the last one
            that agrees.
        prompt: ids to generate from, as ``tokens``; the cache is also cut before the last of them, as ``generate`` must
            have a token to run: ``model.generate(prompt, cache=load_cache(path, model, prompt=prompt))``. Where the model's
            code goes on from recurrent states with one token at a time only, those before the last are run here.
        prefix: cut after so many tokens, at least 1.
        salt: the tenant's.
        extra_key: what `save_cache` was given.
        profile: the calibrated one that modes transform and predictive were given.
        device: of the tensors; the model's by default.
        progress: called with (tokens done, tokens wanted).

    Returns:
        The cache; ``cache.get_seq_length()`` tokens of it are filled.

    Raises:
        BitstreamError: damage, another model, layout or salt, a mode that needs a model or profile that is not there, or
            a part of a cache whose part is not that of a shorter prompt (`Unsupported` says why).
        ValueError: ``prefix`` is below 1, or both ``tokens`` and ``prompt``.
        TypeError: the salt is no bytes.
    """
    if prefix is not None and prefix < 1:
        raise InputError(f"a prefix of {prefix} tokens; need at least 1, or None for all")
    if tokens is not None and prompt is not None:
        raise InputError("tokens and prompt: give the ids to generate from as prompt, any others as tokens")
    data = Path(path).read_bytes()
    stream, head = parse_sequence(data)
    here = None
    if model is not None:
        here = _check_made_by(model, stream, head, Path(path).name, extra_key)
    wanted = _Wanted(tokens, prompt, prefix, here)
    if head.content == WHOLE:
        ids, kept = decode_whole(stream, salt=salt, progress=progress)
        wanted.check_whole(ids)
        cache = filled(kept, model, device)
        if prompt is not None and model is not None and any(layer.states for layer in kept):
            between = as_token_ids(prompt)[len(ids) : -1]
            if len(between) and not goes_on_at_once(model):
                if not any(layer.pair for layer in kept):  # nothing would tell the caller how many tokens it has seen
                    raise Unsupported(
                        f"transformers {version('transformers')} forgets the states of this {model.config.model_type} where "
                        "several tokens follow; load without prompt=, and run them one by one"
                    )
                run_one_by_one(model, cache, between)
        return cache
    if head.content != BLOCKS:
        if model is None:
            raise Unsupported(f"{Path(path).name} holds token ids only; give the model that recomputes the cache")
        ids = decode_tokens(data, model, fingerprint=None, salt=salt, prefix=prefix, progress=progress)
        return recompute(model, ids[: wanted.count(ids, head.tokens)])
    if model is not None and stream.entries:
        check_block(stream.chunk(0), model, Path(path).name)
    ids, layers = join_blocks(decode_blocks(data, salt=salt, prefix=prefix, profile=profile, progress=progress))
    if layers and layers[0][1].shape[-1] == 0:
        if model is None:
            raise Unsupported(f"{Path(path).name} holds layer inputs; give the model that projects them")
        layers = tuple(residual.project(model, [h for h, _ in layers], 0))
    return filled_cache(layers, wanted.count(ids, head.tokens), device, model=model)


def _check_made_by(model: Any, stream: container.Stream, head: SequenceHeader, name: str, extra_key: bytes) -> Fingerprint:
    """The model's fingerprint; Mismatch for a file of another one, with the likely reason. A file without may be of any."""
    here = fingerprint(model, extra_key=extra_key)
    if head.fingerprint in (here, bytes(16)):
        return here
    if not has_adapters(model) and not extra_key and head.fingerprint == earlier_fingerprint(model):
        return here
    first = stream.entries[0] if head.content == BLOCKS and stream.entries else None
    block = stream.data[first.offset : first.offset + first.length] if first else None  # damage here is not the reason
    why = cause(model, head.fingerprint, block, fields=made_by(stream, head), extra_key=extra_key)
    raise Mismatch(f"{name} is of model {head.fingerprint.hex()}, this one is {here.hex()}: {why}")


def filled_cache(layers: Any, count: int, device: Any = None, *, model: Any = None) -> Any:
    """A ``DynamicCache`` of the first ``count`` tokens of (keys, values) per layer.

    Args:
        device: of the tensors; the model's by default.
        model: that will go on. One with M-RoPE keeps what the last prompt's pictures did to positions in itself: that is
            put back to what a prompt of text has.
    """
    from .restored_cache import RestoredCache

    if model is not None:
        device = device or model.device
        for module in model.modules():
            if hasattr(module, "rope_deltas"):  # None would make some versions count from 0 again
                module.rope_deltas = torch.zeros(1, 1, dtype=torch.int64, device=device)
    cache = RestoredCache()
    for i, (keys, values) in enumerate(layers):
        cache.update(keys[None, :, :count].to(device), values[None, :, :count].to(device), i)
    return cache


@torch.no_grad()
def recompute(model: Any, ids: np.ndarray) -> Any:
    """The cache of a prompt, by running the model on it."""
    from transformers.cache_utils import DynamicCache

    cache = DynamicCache()
    for start in range(0, len(ids), _RECOMPUTE_TOKENS):
        part = torch.from_numpy(ids[start : start + _RECOMPUTE_TOKENS])[None].to(model.device)
        getattr(model, "model", model)(part, use_cache=True, **cache_argument(model, cache))
    return cache


@dataclass(frozen=True)
class _Wanted:
    """Which part of a file's cache is asked for."""

    tokens: Any
    prompt: Any
    prefix: int | None
    made_by: Fingerprint | None

    def count(self, ids: np.ndarray, total: int) -> int:
        """Number of leading tokens to keep of ``ids``, those that were read of ``total``.

        Raises:
            Unsupported: the ids that agree do not tell their contents, or a part of this model's caches is of no use.
        """
        count = len(ids) if self.prefix is None else min(self.prefix, len(ids))
        given = self.tokens if self.prompt is None else self.prompt
        if given is not None:
            other = as_token_ids(given)
            shared = min(count, len(other))
            differ = np.flatnonzero(ids[:shared] != other[:shared])
            count = int(differ[0]) if len(differ) else shared
            check_told_apart(ids[:count], self.made_by.placeholders if self.made_by else ())
            if self.prompt is not None:
                count = max(min(count, len(other) - 1), 0)
        count = whole_contents(ids, count)
        if self.made_by and self.made_by.no_prefix and count < total - 1:  # the last token may be run again
            raise Unsupported(f"{count} of {total} tokens of a cache that is good only as a whole: {self.made_by.no_prefix}")
        return count

    def check_whole(self, ids: np.ndarray) -> None:
        """Unsupported where a cache with windows or recurrent states would have to be cut."""
        if (count := self.count(ids, len(ids))) < len(ids):
            raise Unsupported(
                f"{count} of the {len(ids)} tokens are asked for, of a cache with windows or recurrent states, which cannot "
                "be cut; generate from it with a prompt that begins with all of them and goes on"
            )


__all__ = ["BitstreamError", "filled_cache", "load_cache", "recompute", "save_cache"]
