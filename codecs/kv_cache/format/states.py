"""Recurrent states of a cache's layers, to bytes and back without loss: tensors ``{layer}.{name}`` in a tensor file."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ...tensor.codec import TensorCodec
from ...tensor.sources import Tensors
from ...tensor.writing import TensorSettings


def pack_states(states: Mapping[str, Tensor]) -> bytes:
    """The bytes of states by ``{layer}.{name}``, of any shape and type."""
    found = {name: x.detach().cpu().contiguous() for name, x in states.items()}
    return TensorCodec(TensorSettings(mode="lossless")).encode(Tensors(found, {}))


def unpack_states(data: bytes) -> dict[str, Tensor]:
    """Inverse of `pack_states`; BitstreamError for damage."""
    return dict(TensorCodec().decode(data).tensors)


def states_of(states: Mapping[str, Tensor], layer: int) -> dict[str, Tensor]:
    """The states of one layer, by name."""
    return {name.partition(".")[2]: x for name, x in states.items() if name.partition(".")[0] == str(layer)}
