"""Where a tensor stands: everything about it that both sides know before its chunk is read."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ....entropy_models.errors import InputError
from .rope import Rope

if TYPE_CHECKING:
    from .profiles import Profile

KEY, VALUE = 0, 1
KIND_NAMES = ("keys", "values")


@dataclass(frozen=True, slots=True)
class Choices:
    """What the encoder alone decides; the decoder finds the outcome in the chunk."""

    quality: int = 60
    """0..100: ten points double the step's fineness."""
    edge: int = 0
    """Layers at each end that get finer steps."""


@dataclass(slots=True)
class Place:
    """One tensor of a block, shape (heads, tokens, dim)."""

    layer: int
    layers: int
    """Layers of the whole block."""
    kind: int
    """`KEY` or `VALUE`."""
    heads: int
    tokens: int
    dim: int
    dtype: torch.dtype
    start: int
    """Position of the first token in its sequence."""
    sinks: int
    """Tokens at the block's start that get finer steps."""
    recent: int
    """Tokens at the block's end that get finer steps."""
    bits: int
    """Bits of a TurboQuant code."""
    rope: Rope | None
    profile: Profile | None
    choices: Choices = field(default_factory=Choices)
    known: dict[tuple[int, int], Tensor] = field(default_factory=dict)
    """Reconstructions so far by (layer, kind), float32 with RoPE undone: the context of predictions."""
    token_ids: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    """int64, shape (tokens,)."""
    wanted: bool = True
    """Whether anyone will look at the reconstruction: a writer without predictions does not."""

    @property
    def calibration(self) -> Profile:
        """The profile of a mode that cannot do without."""
        if self.profile is None:
            raise InputError("this mode needs a calibrated profile")
        return self.profile

    @property
    def shape(self) -> tuple[int, int, int]:
        """(heads, tokens, dim)."""
        return self.heads, self.tokens, self.dim

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.heads * self.tokens * self.dim


def type_name(dtype: torch.dtype) -> str:
    """An element type as files and people name it: ``bfloat16``."""
    return str(dtype).removeprefix("torch.")


def finite(x: Tensor, place: Place) -> Tensor:
    """float32 of a tensor; ValueError if a number is not finite (a sum is finite only if all its terms are)."""
    y = x.to(torch.float32)
    if not math.isfinite(float(y.sum())) and not bool(torch.isfinite(y).all()):
        raise InputError(f"{KIND_NAMES[place.kind]} of layer {place.layer} are not all finite; mode lossless takes them")
    return y
