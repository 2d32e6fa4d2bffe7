"""The header of a block: fields, bounds, and the id that names it.

Signal header, little-endian, 90 bytes:

======  ====  =======================================================================================
offset  size  field
======  ====  =======================================================================================
0       1     record, 0: block (1: a sequence of blocks, see `cache_io`)
1       1     mode (`modes.MODES`)
2       1     element type: 1 bf16, 2 fp16, 3 fp32
3       1     quality, 0..100
4       2     L, layers, 0..1024
6       2     key and value heads, 1..1024
8       2     key width, 1..4096
10      2     value width, 0..4096
12      4     n, tokens, 1..65536
16      8     position of the first token, below 2^40
24      4     tokens at the start with finer steps
28      4     tokens at the end with finer steps; both together at most n
32      1     bits of TurboQuant's codes, 1..5
33      1     token coding: 0 plain
34      8     zeros, for later use
42      16    id
58      16    parent id
74      16    model fingerprint
======  ====  =======================================================================================

Chunk 0 (metadata): token ids, each 4 bytes. Chunk 1 (metadata): RoPE frequencies, float32, or nothing. Then,
for each layer, a chunk of keys and one of values (`rows` gives the layout), none in mode ``tokens``. The 8 bytes that
the container keeps for a weights hash name the calibrated profile. layers x heads x widths x n is at most 2^31.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ...entropy_models.errors import Corrupt, Unsupported
from .. import container
from .modes import MODES, mode_of
from .place import DTYPES
from .rope import FREQUENCIES_MAX, Rope

CODEC_ID = 4
BLOCK, SEQUENCE = 0, 1
ROOT = bytes(16)
TOKENS_MAX = 1 << 16
LAYERS_MAX, HEADS_MAX, WIDTH_MAX, START_MAX, ELEMENTS_MAX = 1024, 1024, 4096, 1 << 40, 1 << 31
_SIGNAL = struct.Struct("<BBBBHHHHIQIIBB8s16s16s16s")
FIRST = 2


@dataclass(frozen=True, slots=True)
class BlockHeader:
    """What a block says about itself before any tensor is decoded."""

    mode: str
    quality: int
    dtype: torch.dtype
    layers: int
    heads: int
    key_dim: int
    value_dim: int
    tokens: np.ndarray
    start: int
    sinks: int
    recent: int
    bits: int
    id: bytes
    parent: bytes
    fingerprint: bytes
    profile: bytes
    chunk_bytes: tuple[tuple[int, int], ...]
    """Bytes of each layer's keys and values."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of one layer's keys: (kv_heads, n, head_dim)."""
        return self.heads, len(self.tokens), self.key_dim

    @property
    def raw_bytes(self) -> int:
        """Of the cache this block stands for."""
        per_token = self.heads * (self.key_dim + self.value_dim) * self.dtype.itemsize
        return self.layers * per_token * len(self.tokens)


def block_id(parent: bytes, fingerprint: bytes, salt: bytes, tokens: Any) -> bytes:
    """16 bytes that name a block; see the module's docstring."""
    if len(parent) != 16 or len(fingerprint) != 16:
        raise ValueError(f"parent id of {len(parent)} and fingerprint of {len(fingerprint)} bytes; need 16 and 16")
    check_salt(salt)
    ids = np.ascontiguousarray(tokens, "<i8")
    return hashlib.sha256(parent + fingerprint + hashlib.sha256(salt).digest() + ids.tobytes()).digest()[:16]


def check_salt(salt: bytes) -> None:
    """TypeError where a salt is no bytes."""
    if not isinstance(salt, bytes):
        raise TypeError(f"a salt of type {type(salt).__name__}; need bytes, like b'tenant' or name.encode()")


def stored_layers(head: BlockHeader) -> int:
    return head.layers if MODES[head.mode].code else 0


def check_sizes(layers: int, heads: int, key_dim: int, value_dim: int, n: int, error: type[ValueError]) -> None:
    sane = layers <= LAYERS_MAX and 1 <= heads <= HEADS_MAX and 1 <= key_dim <= WIDTH_MAX and value_dim <= WIDTH_MAX
    if not sane or not 1 <= n <= TOKENS_MAX or layers * heads * (key_dim + value_dim) * n > ELEMENTS_MAX:
        raise error(f"{layers} layers, {heads} heads, widths {key_dim} and {value_dim}, {n} tokens: out of range")


def pack(head: BlockHeader) -> bytes:
    dtype = next(number for number, d in DTYPES.items() if d == head.dtype)
    return _SIGNAL.pack(
        BLOCK, MODES[head.mode].number, dtype, head.quality, head.layers, head.heads, head.key_dim, head.value_dim,
        len(head.tokens), head.start, head.sinks, head.recent, head.bits, 0, bytes(8), head.id, head.parent,
        head.fingerprint,
    )  # fmt: skip


def parse(data: bytes | memoryview) -> tuple[container.Stream, BlockHeader]:
    stream = container.parse(data)
    if stream.codec_id != CODEC_ID:
        raise Unsupported(f"codec id {stream.codec_id}; a cache block has {CODEC_ID}")
    if len(stream.signal) != _SIGNAL.size or stream.signal[0] != BLOCK:
        raise Unsupported(f"not one block: record {stream.signal[:1].hex()}, header of {len(stream.signal)} bytes")
    f = _SIGNAL.unpack(stream.signal)
    _, number, dtype, quality, layers, heads, key_dim, value_dim, n, start, sinks, recent, bits, ids, zero = f[:15]
    mode = mode_of(number)
    if mode is None or dtype not in DTYPES or ids or zero != bytes(8):
        raise Unsupported(f"mode {number}, element type {dtype}, token coding {ids}: not known to this version")
    check_sizes(layers, heads, key_dim, value_dim, n, Corrupt)
    if quality > 100 or start >= START_MAX or sinks + recent > n or not 1 <= bits <= 5:
        raise Corrupt(f"quality {quality}, start {start}, {sinks} + {recent} of {n} tokens, {bits} bits: out of range")
    tail = 2 * layers if MODES[mode].code else 0
    if len(stream.entries) != FIRST + tail:
        raise Corrupt(f"{len(stream.entries)} chunks; {layers} layers of mode {mode} make {FIRST + tail}")
    body = stream.chunk(0)
    if len(body) != 4 * n:
        raise Corrupt(f"token ids of {len(body)} bytes; {n} tokens need {4 * n}")
    sizes = [entry.length for entry in stream.entries[FIRST:]]
    pairs = tuple(zip(sizes[::2], sizes[1::2], strict=True))
    tokens = np.frombuffer(body, "<u4").astype(np.int64)
    return stream, BlockHeader(
        mode, quality, DTYPES[dtype], layers, heads, key_dim, value_dim, tokens, start, sinks, recent, bits,
        f[15], f[16], f[17], stream.weights, pairs,
    )  # fmt: skip


def rope_in(body: bytes, head: BlockHeader) -> Rope | None:
    if not body:
        return None
    frequencies = np.frombuffer(body[: len(body) // 4 * 4], "<f4")
    if (
        len(body) % 4
        or len(frequencies) > min(FREQUENCIES_MAX, head.key_dim // 2)
        or not np.isfinite(frequencies).all()
    ):
        raise Corrupt(f"RoPE frequencies of {len(body)} bytes for keys of width {head.key_dim}")
    return Rope(frequencies)


def width_text(key_dim: int, value_dim: int) -> str:
    """Head widths for people: one number where keys and values have the same."""
    return str(key_dim) if key_dim == value_dim else f"{key_dim} (values {value_dim})"
