"""A serde for LMCache: its chunks of a KV cache as this package's blocks, through LMCache's L2 adapters.

LMCache (0.5, ``lmcache/v1/distributed/serde``) hands a serializer a chunk of 256 tokens and a byte buffer of the size
it estimated, and keeps as many bytes as `KvSerializer.serialize` returns. In an adapter's JSON:

    {"type": "fs", "base_path": "/cache",
     "serde": {"type": "rdcodec", "head_dim": 128, "mode": "quantized", "quality": 60, "max_workers": 4}}

LMCache looks serdes up in a table, by name, and does not scan entry points; so `register` must run in its process once:
``python -m rdcodec.codecs.kv_cache.lmcache server ...`` is ``lmcache server ...`` with that done. The entry point
group ``lmcache.serde`` names `register` for versions, and other programs, that do scan.

``"model": "/folder"`` undoes the RoPE of a transformers model before quantising, ``"profile"`` is the file of a calibrated
one. A chunk does not tell its place in the prompt: its keys are turned back as if it began one, which leaves each channel's
mean and scale as steady along it.

Chunks are ``[2, layers, tokens, hidden]``, ``[layers, 2, tokens, heads, head_dim]``, or ``[1, layers, tokens, width]`` of
multi-head latent attention (MLA): latents are the keys of one head, whose values have width 0. A model whose layers differ
has chunks of several tensors.

In the buffer is a frame for each tensor, little-endian: kind (1 byte: 3 a block, 4 the tensor's raw bytes, where the block
would be longer, a lossy mode met NaN or infinity, or the layout is another; 1 and 2 were frames without a place and are
refused), 3 zeros, length n (8 bytes), CRC-32 of the n bytes (4 bytes), place (16 bytes), then n bytes. The place is a hash
of the chunk's hash, model, rank, group, salt, shape and element type, and of the tensor's number if there are several: one
that lies in another's place is refused, raw or not. A chunk's tokens are not known here, only its hash: the block's parent
field holds a hash of it, its fingerprint one of model, rank and group, its salt is the chunk's.

Nothing that a chunk holds makes a store fail. What cannot be read is an error that LMCache counts as a miss.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ....entropy_models.errors import BitstreamError, Corrupt, InputError, Truncated, Unsupported
from ..format.blocks import KvBlock, KvSettings, decode_block, encode_block, read_block_header
from ..modes.profiles import Profile

NAME = "rdcodec"
FRAME = struct.Struct("<BxxxQI16s")
BLOCK, RAW = 3, 4
_OPTIONS = {"mode": str, "quality": int, "bits": int, "sinks": int, "edge": int}


class KvSerializer:
    """LMCache's ``Serializer``. Holds no state that changes: any number of threads may call it."""

    def __init__(self, settings: KvSettings, head_dim: int | None = None) -> None:
        """``head_dim`` splits the hidden dimension of ``[2, layers, tokens, hidden]`` into heads; None: one head.

        Raises:
            ValueError: a head_dim below 1.
        """
        if head_dim is not None and head_dim < 1:
            raise InputError(f"head_dim {head_dim}; need at least 1")
        self.settings, self.head_dim = settings, head_dim

    def serialize(self, src: Any, dst: Any, key: Any) -> int:
        """Encode the chunk ``src`` into the byte buffer ``dst``.

        Returns:
            bytes written, at most what `estimate_serialized_size` said.

        Raises:
            ValueError: a buffer that is too small.
        """
        chunks, buffer = _tensors(src, "source"), _bytes_of(_tensor(dst, "destination"))
        data = b"".join(self._frame(chunk, _Place(key, i, len(chunks))) for i, chunk in enumerate(chunks))
        if len(data) > buffer.numel():
            raise InputError(f"{len(data)} bytes do not fit the buffer of {buffer.numel()}")
        buffer[: len(data)].copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
        return len(data)

    def _frame(self, chunk: Tensor, place: _Place) -> bytes:
        """A tensor as a block, or as it is where that would not do."""
        chunk, data = chunk.contiguous(), b""
        # lossy modes take no NaN and no 3e38, and none takes fp8
        with contextlib.suppress(ValueError):
            layers = _layers(chunk, self.head_dim)
            settings = replace(self.settings, rope=None) if _is_latent(chunk.shape) else self.settings
            block = KvBlock(np.arange(layers[0][0].shape[1]), layers)
            data = encode_block(block, **place.of_block, start=0, settings=settings)
        kind = BLOCK
        if not data or len(data) > chunk.numel() * chunk.element_size():
            kind, data = RAW, _bytes_of(chunk.cpu()).numpy().tobytes()
        return FRAME.pack(kind, len(data), zlib.crc32(data), place.hash(chunk)) + data

    def estimate_serialized_size(self, layout_desc: Any) -> int:
        """Upper bound in bytes for a chunk of this layout: the raw size of its tensors, and a frame's header for each."""
        sizes = zip(layout_desc.shapes, layout_desc.dtypes, strict=True)
        return sum(math.prod(shape) * dtype.itemsize + FRAME.size for shape, dtype in sizes)


class KvDeserializer:
    """LMCache's ``Deserializer``. Holds no state that changes."""

    def __init__(self, head_dim: int | None = None, profile: Profile | None = None) -> None:
        """``head_dim``, ``profile``: the serializer's."""
        self.head_dim, self.profile = head_dim, profile

    def deserialize(self, src: Any, dst: Any, key: Any) -> None:
        """Decode the buffer ``src``, which may be longer than what was written, into the chunk ``dst``.

        Raises:
            BitstreamError: damaged, of another chunk, model or salt, or of another layout than ``dst``; ``dst`` is
                not written then, and LMCache counts a miss.
        """
        chunks = _tensors(dst, "destination")
        buffer, found = _bytes_of(_tensor(src, "source").cpu()).numpy(), list[Tensor]()
        for i, chunk in enumerate(chunks):
            place = _Place(key, i, len(chunks))
            kind, data = _unframe(buffer, place.hash(chunk))
            found.append(self._raw(data, chunk) if kind == RAW else self._decoded(data, chunk, place))
            buffer = buffer[FRAME.size + len(data) :]
        for chunk, known in zip(chunks, found, strict=True):
            chunk.copy_(known)

    @staticmethod
    def _raw(data: bytes, like: Tensor) -> Tensor:
        if len(data) != like.numel() * like.element_size():
            raise Corrupt(f"{len(data)} raw bytes for a chunk of {like.numel() * like.element_size()}")
        return torch.frombuffer(bytearray(data), dtype=like.dtype).reshape(like.shape)

    def _decoded(self, data: bytes, like: Tensor, place: _Place) -> Tensor:
        """The tensor of a block, in the shape of ``like``."""
        own = place.of_block
        if read_block_header(data).parent != own["parent"]:
            raise Corrupt("the buffer holds another chunk than the key's")
        block = decode_block(data, fingerprint=own["fingerprint"], salt=own["salt"], profile=self.profile)
        out = torch.empty(like.shape, dtype=like.dtype)
        layers = _layers(out, self.head_dim)
        found, wanted = ([(x.shape, x.dtype) for pair in each for x in pair] for each in (block.layers, layers))
        if found != wanted:
            raise Corrupt(
                f"the buffer holds {len(block.layers)} layers of {set(found)}; the chunk has those of {set(wanted)}"
            )
        for known, view in zip(block.layers, layers, strict=True):
            view[0].copy_(known[0])
            view[1].copy_(known[1])
        return out


def _is_latent(shape: Any) -> bool:
    """Whether a chunk holds latents of MLA, which have no values."""
    return len(shape) == 4 and shape[0] == 1


def _layers(chunk: Tensor, head_dim: int | None) -> tuple[tuple[Tensor, Tensor], ...]:
    """Views of keys and values, shape (heads, tokens, width) each: writing to them writes to the chunk.

    Raises:
        ValueError: a layout that is not known, which is kept as it is.
    """
    shape = tuple(int(n) for n in chunk.shape)
    if _is_latent(shape):
        return tuple((latent[None], chunk.new_empty(1, shape[2], 0)) for latent in chunk[0])
    if len(shape) == 5 and shape[1] == 2:
        split = chunk.permute(0, 1, 3, 2, 4)
    elif len(shape) == 4 and shape[0] == 2:
        width = head_dim or shape[3]
        if shape[3] % width:
            raise InputError(f"hidden dimension {shape[3]} is no multiple of head_dim {width}")
        split = chunk.view(2, shape[1], shape[2], shape[3] // width, width).permute(1, 0, 3, 2, 4)
    else:
        raise InputError(f"a chunk of shape {shape}; the module's text has those that are known")
    return tuple((split[i, 0], split[i, 1]) for i in range(len(split)))


def _unframe(buffer: np.ndarray, expected: bytes) -> tuple[int, bytes]:
    """(kind, content) of a frame, which must be of the place whose hash is ``expected``."""
    if len(buffer) < FRAME.size:
        raise Truncated(f"{len(buffer)} bytes, the frame's header has {FRAME.size}")
    kind, length, crc, place = FRAME.unpack(buffer[: FRAME.size].tobytes())
    if kind not in {BLOCK, RAW}:
        raise Unsupported(f"frame kind {kind}; this program reads {BLOCK} and {RAW}")
    if place != expected:
        raise Corrupt(
            f"the buffer is of place {place.hex()}, expected {expected.hex()}: another chunk, model, rank, group or salt, "
            "or another shape or element type"
        )
    if length > len(buffer) - FRAME.size:
        raise Truncated(f"the frame announces {length} bytes, the buffer has {len(buffer) - FRAME.size} more")
    data = buffer[FRAME.size : FRAME.size + length].tobytes()
    if zlib.crc32(data) != crc:
        raise Corrupt(f"checksum {zlib.crc32(data):08x}, the frame says {crc:08x}")
    return kind, data


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a tensor belongs: an LMCache ``ObjectKey``, and which of a chunk's tensors it is."""

    key: Any
    number: int
    count: int

    @property
    def of_block(self) -> dict[str, Any]:
        """Parent, fingerprint and salt of its block."""
        group = getattr(self.key, "object_group_id", 0)
        model = f"{self.key.model_name}\n{self.key.kv_rank}\n{group}".encode()
        return {
            "parent": hashlib.sha256(self.key.chunk_hash).digest()[:16],
            "fingerprint": hashlib.sha256(model).digest()[:16],
            "salt": getattr(self.key, "cache_salt", "").encode(),
        }

    def hash(self, chunk: Tensor) -> bytes:
        """16 bytes that differ for tensors that must not be taken for each other."""
        place = self.of_block
        which = f" {self.number} of {self.count}" if self.count > 1 else ""
        layout = f"{tuple(chunk.shape)} {chunk.dtype}{which}".encode()
        salt = hashlib.sha256(place["salt"]).digest()
        return hashlib.sha256(place["parent"] + place["fingerprint"] + salt + layout).digest()[:16]


def _tensors(memory: Any, name: str) -> list[Tensor]:
    """The tensors of an LMCache ``MemoryObj`` that holds a chunk: one for each group of like layers."""
    count = len(memory.get_shapes()) if hasattr(memory, "get_shapes") else 1
    if count < 2:
        return [_tensor(memory, name)]
    found = [memory.get_tensor(i) for i in range(count)]
    if any(tensor is None for tensor in found):
        raise InputError(f"the {name} lacks a tensor")
    return found


def _tensor(memory: Any, name: str) -> Tensor:
    """The tensor of an LMCache ``MemoryObj``."""
    if memory.tensor is None:
        raise InputError(f"the {name} has no tensor")
    return memory.tensor


def _bytes_of(tensor: Tensor) -> Tensor:
    return tensor.flatten().view(torch.uint8)


def settings_of(options: Mapping[str, Any]) -> KvSettings:
    """Settings from a serde's JSON.

    Raises:
        ValueError: an option that is not known, or out of range; modes that need more than the chunk are refused.
    """
    others = {"head_dim", "max_workers", "model", "profile"}
    unknown = set(options) - set(_OPTIONS) - others - {"type"}
    if unknown:
        raise InputError(f"unknown options {sorted(unknown)}; there are {sorted({*_OPTIONS, *others})}")
    given: dict[str, Any] = {name: kind(options[name]) for name, kind in _OPTIONS.items() if name in options}
    if options.get("profile"):
        given["profile"] = Profile.read(Path(options["profile"]))
    if options.get("model"):
        if not options.get("head_dim"):
            raise InputError("model, to undo its RoPE, but no head_dim: RoPE turns the channels of each head")
        from ..hf.identity import model_in
        from ..hf.model import rope_of

        given["rope"] = rope_of(model_in(str(options["model"])))
    settings = KvSettings(**given)
    if settings.mode in {"tokens", "residual"}:
        raise InputError(f"mode {settings.mode} needs the model to restore a cache; LMCache has none at hand")
    return settings


def create(options: Mapping[str, Any]) -> Any:
    """LMCache's factory: a ``SerdeProcessor`` from the adapter's options."""
    from lmcache.v1.distributed.serde import AsyncSerdeProcessor

    head_dim = int(options["head_dim"]) if options.get("head_dim") else None
    workers = int(options.get("max_workers", 1))
    settings = settings_of(options)
    serializer = KvSerializer(settings, head_dim)
    return AsyncSerdeProcessor(serializer, KvDeserializer(head_dim, settings.profile), max_workers=workers)  # type: ignore[arg-type]


def register() -> None:
    """Make ``"serde": {"type": "rdcodec"}`` known to LMCache in this process; a second call does nothing."""
    from lmcache.v1.distributed.serde import (
        Deserializer,
        Serializer,
        get_registered_serde_types,
        register_serde_factory,
    )

    Serializer.register(KvSerializer)
    Deserializer.register(KvDeserializer)
    if NAME not in get_registered_serde_types():
        register_serde_factory(NAME, create)


__all__ = ["BitstreamError", "KvDeserializer", "KvSerializer", "create", "register", "settings_of"]
