"""The place of a tensor: everything about it that both sides know before its chunk is read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ....entropy_models.errors import InputError
from ...tensor.spec import TensorSpec
from .rope import Rope

if TYPE_CHECKING:
    from .profiles import Profile

KEY, VALUE = 0, 1
KIND_NAMES = ("keys", "values")


@dataclass(frozen=True, slots=True)
class Choices:
    """Choices of the encoder alone; the decoder finds the outcome in the chunk."""

    quality: int = 60
    """0..100: ten points double the step's fineness."""
    edge: int = 0
    """Layers at each end that get finer steps."""


@dataclass(slots=True, kw_only=True)
class Place(TensorSpec):
    """One tensor of a block, shape (heads, tokens, dim): its groups are heads, its vectors tokens.

    Of tensors that are read as one, there are the heads of all, and ``layer`` and ``name`` are those of the first.
    """

    layer: int
    layers: int
    """Layers of the whole block."""
    kind: int
    """`KEY` or `VALUE`."""
    start: int
    """Position of the first token in its sequence."""
    rope: Rope | None
    profile: Profile | None
    choices: Choices = field(default_factory=Choices)
    known: dict[tuple[int, int], Tensor] = field(default_factory=dict)
    """Reconstructions so far by (layer, kind), float32 with RoPE undone: the context of predictions."""
    token_ids: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    """int64, shape (tokens,)."""

    @property
    def calibration(self) -> Profile:
        """The profile of a mode that cannot do without."""
        if self.profile is None:
            raise InputError("this mode needs a calibrated profile")
        return self.profile


def tensor_name(layer: int, kind: int) -> str:
    """Name of a tensor in messages: ``keys of layer 3``."""
    return f"{KIND_NAMES[kind]} of layer {layer}"


def type_name(dtype: torch.dtype) -> str:
    """An element type as files and people name it: ``bfloat16``."""
    return str(dtype).removeprefix("torch.")
