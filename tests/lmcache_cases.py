"""A stand-in of LMCache 0.5's interface, and chunks for it. No tests here."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from rdcodec.codecs.kv_cache.lmcache.serde import (
    KvDeserializer,
    KvSerializer,
    settings_of,
)

LAYERS, HEADS, TOKENS, DIM = 3, 2, 40, 16


@dataclass(frozen=True)
class ObjectKey:
    """As lmcache.v1.distributed.api.ObjectKey."""

    chunk_hash: bytes = b"\1\2\3\4"
    model_name: str = "org/model"
    kv_rank: int = 0x01000100
    object_group_id: int = 0
    cache_salt: str = ""


@dataclass(frozen=True)
class MemoryLayoutDesc:
    """As lmcache.v1.distributed.api.MemoryLayoutDesc."""

    shapes: list
    dtypes: list


class MemoryObj:
    """The part of lmcache.v1.memory_management.TensorMemoryObj that serdes touch."""

    def __init__(self, tensor):
        self._tensor, self._used = tensor, None

    def get_shapes(self):
        return [self._tensor.shape]

    @property
    def tensor(self):
        return self._tensor if self._used is None else self._tensor.flatten()[: self._used]

    def set_used_size(self, count):
        assert 0 < count <= self._tensor.numel() * self._tensor.element_size()
        self._used = count


class SeveralTensors:
    """A `MemoryObj` of several groups of layers: ``tensor`` is of none of them."""

    def __init__(self, tensors):
        self.tensors = tensors

    @property
    def tensor(self):
        raise AssertionError("a chunk of several tensors has no one tensor")

    def get_shapes(self):
        return [x.shape for x in self.tensors]

    def get_tensor(self, index):
        return self.tensors[index]


KEY = ObjectKey()


def chunk_of(seed=0, dtype=torch.bfloat16, layout="2LTD"):
    x = torch.randn(2, LAYERS, TOKENS, HEADS * DIM, generator=torch.Generator().manual_seed(seed)).cumsum(2) / 4
    if layout == "L2THD":
        x = x.reshape(2, LAYERS, TOKENS, HEADS, DIM).transpose(0, 1)
    return x.to(dtype).contiguous()


def serde_of(head_dim=DIM, **options):
    return KvSerializer(settings_of(options), head_dim), KvDeserializer(head_dim)


def stored(serializer, chunk, key=KEY):
    """What LMCache keeps: a buffer of the estimated size, narrowed to what `serialize` returned."""
    layout = MemoryLayoutDesc([chunk.shape], [chunk.dtype])
    buffer = MemoryObj(torch.full((serializer.estimate_serialized_size(layout),), 0xA5, dtype=torch.uint8))
    buffer.set_used_size(serializer.serialize(MemoryObj(chunk), buffer, key))
    return buffer


def restored(deserializer, buffer, like, key=KEY):
    out = MemoryObj(torch.full_like(like, 7.0))
    deserializer.deserialize(buffer, out, key)
    return out.tensor
