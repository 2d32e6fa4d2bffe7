"""The coding pass of a block: which tensors follow each other, what each knows of its place, and which are read as one."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ....entropy_models.row_coders import RowCoder
from ....entropy_models.rows import ReadGroup
from ..modes.place import KEY, VALUE, Choices, Place, tensor_name
from ..modes.profiles import Profile
from ..modes.rope import Rope
from ..modes.table import MODES
from ..splice import Layers
from .header import BlockHeader, stored_layers

GROUP_SIZE = 1 << 18
"""Elements that are read in one go: many enough that calls cost little, few enough for the processor's cache."""
GROUP_CHUNKS = 256
"""Chunks at most, so that chunk and level fit in 16 bits."""


def coding_pass(
    coders: Sequence[RowCoder],
    head: BlockHeader,
    *,
    rope: Rope | None = None,
    profile: Profile | None = None,
    layers: Layers | None = None,
    choices: Choices | None = None,
    chosen: range | None = None,
    wanted: bool = True,
) -> Layers:
    """The coding pass of a block: the same for writing, measuring and reading.

    Args:
        coders: of the keys and the values of each chosen layer, in turn.
        head: sizes, mode, and what else both sides know.
        rope, profile: of the model, where the mode has a use for them.
        layers: what to write or measure, all of the block's; None to read.
        choices: the writer's.
        chosen: layers to code; None: all.
        wanted: whether the result will be looked at. Where it is not, chunks are not read together either.

    Returns:
        What a reader gets to know of the chosen layers.
    """
    mode, chosen = MODES[head.mode], range(stored_layers(head)) if chosen is None else chosen
    if profile is not None:
        profile.check(head.layers, (head.heads * head.key_dim, head.heads * head.value_dim))
    first = _place(head, rope, profile, choices or Choices(), wanted)
    out: dict[tuple[int, int], Tensor] = {}
    for kind, group in _groups(coders, head, layers is None and wanted):
        layer, width, heads = chosen[group[0]], head.width(kind), head.heads * len(group)
        place = replace(first, name=tensor_name(layer, kind), layer=layer, kind=kind, width=width, groups=heads)
        coder = coders[2 * group[0] + kind] if len(group) == 1 else ReadGroup([coders[2 * i + kind] for i in group])
        if width and mode.target:
            known = mode.code(coder, layers[layer][kind] if layers is not None else None, place)
        else:
            known = torch.zeros(place.shape, dtype=place.dtype)
        coder.finish()
        parts = known.chunk(len(group)) if len(group) > 1 else (known,)
        out.update(((i, kind), part) for i, part in zip(group, parts, strict=True))
    return tuple((out[i, KEY], out[i, VALUE]) for i in range(len(chosen)))


def _place(head: BlockHeader, rope: Rope | None, profile: Profile | None, choices: Choices, wanted: bool) -> Place:
    """Place of the keys of layer 0."""
    return Place(
        name=tensor_name(0, KEY), layer=0, layers=head.layers, kind=KEY, groups=head.heads, vectors=head.count,
        width=head.key_dim, dtype=head.dtype, start=head.start, finer_first=head.sinks, finer_last=head.recent,
        bits=head.bits, rope=rope, profile=profile, choices=choices, token_ids=torch.from_numpy(head.tokens), wanted=wanted,
    )  # fmt: skip


def _groups(coders: Sequence[Any], head: BlockHeader, together: bool) -> Iterator[tuple[int, list[int]]]:
    """Kind, and index among the layers, of the tensors that are coded as one; writers take one each."""
    mode = MODES[head.mode]
    waiting: dict[tuple[int, Any], list[int]] = {}
    for i, kind in itertools.product(range(len(coders) // 2), (KEY, VALUE)):
        width = head.width(kind)
        key = mode.read_together(coders[2 * i + kind]) if together and width else None
        if key is None:
            yield kind, [i]
            continue
        group = waiting.setdefault((kind, key), [])
        group.append(i)
        if len(group) * head.heads * head.count * width >= GROUP_SIZE or len(group) == GROUP_CHUNKS:
            yield kind, waiting.pop((kind, key))
    yield from ((kind, group) for (kind, _), group in waiting.items())
