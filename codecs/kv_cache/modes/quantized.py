"""Modes quantized (the default) and quantized-small: `tensor.quantized` of keys without RoPE and of values.

    keys --undo RoPE--+
                      +--> rows of channels --> integers --> bits
    values -----------+

Keys go by channel. Values go by channel or by token, whichever is cheaper for the tensor (KIVI, 2402.02750, section 3,
explains why keys go by channel). The first tokens, to which every query attends, the last ones, and the first and last
layers get finer steps.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from ....entropy_models.row_coders import RowCoder
from ...tensor import quantized
from ...tensor.quantized import EXPONENT_MAX, Steps, quality_exponents, relative_exponent
from ...tensor.spec import finite, in_type
from .place import KEY, Place

FINER_EDGE = 2
"""Exponents by which the step of the first and last layers is finer (a factor of 1.22)."""


def code(coder: RowCoder, x: Tensor | None, place: Place) -> Tensor:
    """The coding pass of one tensor, shape (heads, tokens, dim)."""
    t = channel_rows(x, place) if x is not None else None
    known = quantized.code(coder, t, place, steps_of(t, place) if t is not None else None)
    return from_channel_rows(known, place) if place.wanted else known


def code_inputs(coder: RowCoder, x: Tensor | None, place: Place) -> Tensor:
    """The coding pass of layer inputs, which carry no RoPE and have no profile."""
    plain = replace(place, rope=None, profile=None)
    return code(coder, x, plain)


def channel_rows(x: Tensor, place: Place) -> Tensor:
    """A cache tensor as rows of channels, RoPE undone: float32, shape (heads * dim, tokens).

    Raises:
        InputError: a number is not finite.
    """
    t = finite(x.transpose(1, 2).contiguous(), place)
    if place.rope and place.kind == KEY:
        t = place.rope.turned(t, place.start, -1.0)
    return t.view(-1, place.vectors)


def from_channel_rows(t: Tensor, place: Place) -> Tensor:
    """Inverse of `channel_rows`, in the cache's type."""
    t = t.view(place.groups, place.width, place.vectors)
    if place.rope and place.kind == KEY:
        t = place.rope.turned(t, place.start, 1.0)
    return in_type(t, place.dtype).transpose(1, 2).contiguous()


def steps_of(t: Tensor, place: Place) -> Steps:
    """Steps of a tensor's rows: from the profile where there is one, else in proportion to its spread."""
    keys, profile = place.kind == KEY, place.profile
    if profile is None:
        exponent = relative_exponent(t, place.choices.quality)
        if not place.choices.edge <= place.layer < place.layers - place.choices.edge:
            exponent = max(exponent - FINER_EDGE, -EXPONENT_MAX)
        return Steps(exponent=exponent, channels_only=keys)
    exponent = int(profile.exponents[place.layer][place.kind]) + quality_exponents(place.choices.quality)
    return Steps(exponent=exponent, offsets=profile.offsets[place.layer][place.kind], channels_only=keys)
