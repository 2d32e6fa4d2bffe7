"""A whole cache of layers of any kind in one .rdc file: windows and recurrent states as they are, so that it cannot be cut.

A sequence (`header`) of content 2. Its chunks:

    0           JSON: {"layers": [{"kind", "seen", "window", "run"}, ...]} (`manifest`); the layers of one ``run`` are in its
                order, those without have no keys and values
    1           token ids, each 4 bytes
    2, ...      runs: each a cache file of content 0, of the last so many tokens; its layers hold so many, in one shape
    then        recurrent states, if there are any: a tensor file (stream id 5), lossless, of tensors ``{layer}.{name}``

The id of the last block is that of one block of all tokens. A chunk of kind metadata may follow, as in other sequences.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch import Tensor

from ....entropy_models.errors import BitstreamError, Corrupt, InputError, Mismatch, Unsupported
from ... import container
from ...contract import Progress
from ..modes.table import MODES
from ..splice import Layers
from .blocks import KvSettings, block_id
from .header import ROOT, WHOLE, SequenceHeader, chunk_count, parse_sequence
from .identity import Fingerprint
from .manifest import FIRST_RUN, layers_of
from .sequence import decode_blocks, encode_sequence, join_blocks, write_sequence
from .states import pack_states, states_of, unpack_states


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LayerState:
    """What one layer of a cache holds."""

    kind: str
    """One of `manifest.KINDS`."""
    seen: int = 0
    """Tokens that its attention has seen, of which it holds the last ones."""
    window: int = 0
    """Tokens of its window; 0: it has none."""
    pair: tuple[Tensor, Tensor] | None = None
    """Keys and values, shape (kv_heads, n, head_dim)."""
    states: dict[str, Tensor] = field(default_factory=dict)
    """Recurrent states by name, any shape."""


def encode_whole(
    tokens: np.ndarray,
    layers: list[LayerState],
    settings: KvSettings,
    *,
    fingerprint: bytes = bytes(16),
    salt: bytes = b"",
    progress: Progress | None = None,
) -> bytes:
    """A file of a whole cache; states are stored without loss in every mode.

    Raises:
        ValueError: shapes or types, or a mode that needs the model or a profile.
    """
    if MODES[settings.mode].needs_model or MODES[settings.mode].needs_profile:
        others = ", ".join(name for name, mode in MODES.items() if not mode.needs_model and not mode.needs_profile)
        raise InputError(f"mode {settings.mode} takes full-attention layers alone; this cache has others: one of {others}")
    settings = replace(settings, rope=None)  # positions of a run are not those of its tokens
    runs = dict[Any, list[tuple[Tensor, Tensor]]]()
    lines, states = [], dict[str, Tensor]()
    for i, layer in enumerate(layers):
        line: dict[str, Any] = {"kind": layer.kind, "seen": layer.seen, "window": layer.window}
        if layer.pair:
            keys, values = layer.pair
            shape = (keys.shape[0], keys.shape[1], keys.shape[2], values.shape[2], keys.dtype)
            runs.setdefault(shape, []).append(layer.pair)
            line["run"] = list(runs).index(shape)
        states |= {f"{i}.{name}": x for name, x in layer.states.items()}
        lines.append(line)
    chunks = [json.dumps({"layers": lines}).encode(), tokens.astype("<u4").tobytes()]
    for shape, pairs in runs.items():
        held = tokens[len(tokens) - shape[1] :]
        chunks.append(
            encode_sequence(held, tuple(pairs), settings, fingerprint=bytes(fingerprint), salt=salt, progress=progress)
        )
    if states:
        chunks.append(pack_states(states))
    last = block_id(ROOT, fingerprint, salt, tokens)
    head = SequenceHeader(content=WHOLE, tokens=len(tokens), fingerprint=bytes(fingerprint), last_id=last)
    return write_sequence(head, chunks, fingerprint.record() if isinstance(fingerprint, Fingerprint) else None)


def decode_whole(
    data: bytes | memoryview | container.Stream, *, salt: bytes | None = None, progress: Progress | None = None
) -> tuple[np.ndarray, list[LayerState]]:
    """Token ids and layers of a file of content 2.

    Raises:
        BitstreamError: damage, another salt, or a file of another content.
    """
    stream, head = parse_sequence(data)
    if head.content != WHOLE:
        raise Unsupported("not a file of a whole cache with windows or recurrent states")
    lines, tokens = layers_of(stream), np.frombuffer(stream.chunk(1), "<u4").astype(np.int64)
    if len(tokens) != head.tokens:
        raise Corrupt(f"{len(tokens)} token ids, the header says {head.tokens}")
    if salt is not None and block_id(ROOT, head.fingerprint, salt, tokens) != head.last_id:
        raise Mismatch("it was written under another salt (--salt) than the one given, or its token ids were changed")
    count = 1 + max((line["run"] for line in lines if "run" in line), default=-1)
    states = _states(stream, FIRST_RUN + count)
    runs = [iter(_run(stream, FIRST_RUN + i, tokens, salt, progress)) for i in range(count)]
    layers = []
    for i, line in enumerate(lines):
        pair = next(runs[line["run"]], None) if "run" in line else None
        if "run" in line and pair is None:
            raise Corrupt(f"layer {i} is not in its run")
        own = states_of(states, i)
        layers.append(LayerState(kind=line["kind"], seen=line["seen"], window=line["window"], pair=pair, states=own))
    return tokens, layers


def _states(stream: container.Stream, at: int) -> dict[str, Tensor]:
    """Recurrent states, by layer and name; none where the runs are the last chunks."""
    if chunk_count(stream) not in (at, at + 1):
        raise Corrupt(f"{chunk_count(stream)} chunks; {at} hold the runs, and one may hold states")
    if chunk_count(stream) == at:
        return {}
    return unpack_states(stream.chunk(at))


def _run(stream: container.Stream, at: int, tokens: np.ndarray, salt: bytes | None, progress: Progress | None) -> Layers:
    """Keys and values of the layers of one run, of the last tokens."""
    try:
        ids, layers = join_blocks(decode_blocks(stream.chunk(at), salt=salt, progress=progress))
    except BitstreamError as error:
        raise type(error)(f"run {at - FIRST_RUN}: {error}") from error
    if not np.array_equal(ids, tokens[len(tokens) - len(ids) :]):
        raise Corrupt(f"run {at - FIRST_RUN} is of other tokens than the cache's last")
    return layers
