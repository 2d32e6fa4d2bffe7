"""The headers of cache files: fields and bounds of a block, and of a sequence of blocks. Imports no numpy or torch.

Signal header of a block, little-endian, 90 bytes:

======  ====  =======================================================================================
offset  size  field
======  ====  =======================================================================================
0       1     record, 0: block (1: a sequence of blocks, see below)
1       1     mode (`modes.table.MODES`)
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
the container keeps for a weights hash name the calibrated profile, zeros for none (of mode quantized also in files
before 2026-11-22). layers x heads x widths x n is at most 2^31. One chunk more holds recurrent states after the block's
tokens: a tensor file (stream id 5), lossless.

Signal header of a sequence (record 1), little-endian, 44 bytes; `sequence` gives its chunks:

======  ====  =================================================================================
offset  size  field
======  ====  =================================================================================
0       1     record, 1: a sequence
1       1     content: 0 blocks, 1 token ids for recomputation, 2 layers of any kinds (`whole`)
2       2     of token ids: threads of PyTorch whose probabilities coded them, 0 for not known; of others zeros
4       8     tokens of the whole sequence, below 2^40
12      16    model fingerprint
28      16    id of the last block
======  ====  =================================================================================
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ....entropy_models.errors import Corrupt, InputError, Unsupported
from ... import container
from ..modes.table import MODES, mode_of

if TYPE_CHECKING:
    import numpy as np
    import torch

STREAM_ID = 4
BLOCK, SEQUENCE = 0, 1
ROOT = bytes(16)
TOKENS_MAX = 1 << 16
LAYERS_MAX, HEADS_MAX, WIDTH_MAX, START_MAX, ELEMENTS_MAX = 1024, 1024, 4096, 1 << 40, 1 << 31
THREADS_MAX = 256
ELEMENT_TYPES = {1: "bfloat16", 2: "float16", 3: "float32"}
"""Number in the file of each element type, by its name in torch. Pinned."""
_SIGNAL = struct.Struct("<BBBBHHHHIQIIBB8s16s16s16s")
FIRST = 2
BLOCKS, TOKEN_IDS, WHOLE = 0, 1, 2
_SEQUENCE = struct.Struct("<BBHQ16s16s")


@dataclass(frozen=True, kw_only=True)
class BlockHeader:
    """Header of a block: what it says about itself before any tensor is decoded."""

    mode: str
    quality: int
    element_type: str
    """Number of the element type, a key of `ELEMENT_TYPES`."""
    layers: int
    heads: int
    key_dim: int
    value_dim: int
    ids: bytes
    """Token ids, each 4 bytes."""
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
    has_states: bool = False
    """Whether the last chunk holds recurrent states."""

    @property
    def count(self) -> int:
        """Number of tokens."""
        return len(self.ids) // 4

    @cached_property
    def tokens(self) -> np.ndarray:
        """Token ids, int64, shape (n,)."""
        import numpy as np

        return np.frombuffer(self.ids, "<u4").astype(np.int64)

    @property
    def dtype(self) -> torch.dtype:
        """The element type."""
        import torch

        dtype: torch.dtype = getattr(torch, self.element_type)
        return dtype

    def width(self, kind: int) -> int:
        """Width of keys (0) or values (1)."""
        return self.value_dim if kind else self.key_dim

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one layer's keys: (kv_heads, n, head_dim)."""
        return self.heads, self.count, self.key_dim

    @property
    def raw_bytes(self) -> int:
        """Bytes of the cache that this block stands for."""
        per_token = self.heads * (self.key_dim + self.value_dim) * self.dtype.itemsize
        return self.layers * per_token * self.count


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceHeader:
    """Header of a whole file."""

    content: int
    """`BLOCKS`, `TOKEN_IDS` or `WHOLE`."""
    tokens: int
    fingerprint: bytes
    last_id: bytes
    threads: int = 0
    """Threads of PyTorch when ids were coded; 0: not known."""


def check_salt(salt: bytes) -> None:
    """TypeError where a salt is no bytes."""
    if not isinstance(salt, bytes):
        raise TypeError(f"a salt of type {type(salt).__name__}; need bytes, like b'tenant' or name.encode()")


def block_id(parent: bytes, fingerprint: bytes, salt: bytes, tokens: Any) -> bytes:
    """16 bytes that name a block, a hash of what determines its cache; `blocks` gives the formula.

    ``tokens``: integers, shape (n,).
    """
    import numpy as np

    if len(parent) != 16 or len(fingerprint) != 16:
        raise InputError(f"parent id of {len(parent)} and fingerprint of {len(fingerprint)} bytes; need 16 and 16")
    check_salt(salt)
    ids = np.ascontiguousarray(tokens, "<i8")
    return hashlib.sha256(parent + fingerprint + hashlib.sha256(salt).digest() + ids.tobytes()).digest()[:16]


def stored_layers(head: BlockHeader) -> int:
    """Layers that have chunks."""
    return head.layers if MODES[head.mode].target else 0


def check_sizes(layers: int, heads: int, key_dim: int, value_dim: int, n: int, error: type[ValueError]) -> None:
    """``error`` where a size is out of the range that the module's table gives."""
    sane = layers <= LAYERS_MAX and 1 <= heads <= HEADS_MAX and 1 <= key_dim <= WIDTH_MAX and value_dim <= WIDTH_MAX
    if not sane or not 1 <= n <= TOKENS_MAX or layers * heads * (key_dim + value_dim) * n > ELEMENTS_MAX:
        raise error(f"{layers} layers, {heads} heads, widths {key_dim} and {value_dim}, {n} tokens: out of range")


def pack(head: BlockHeader) -> bytes:
    """The signal header of a block."""
    element = next(number for number, name in ELEMENT_TYPES.items() if name == head.element_type)
    return _SIGNAL.pack(
        BLOCK, MODES[head.mode].number, element, head.quality, head.layers, head.heads, head.key_dim, head.value_dim,
        head.count, head.start, head.sinks, head.recent, head.bits, 0, bytes(8), head.id, head.parent,
        head.fingerprint,
    )  # fmt: skip


def parse(data: bytes | memoryview | container.Stream) -> tuple[container.Stream, BlockHeader]:
    """Header of a block; its chunks are checked when read, but for the token ids.

    Raises:
        BitstreamError: not a block, or its header or ids are damaged.
    """
    stream = container.parse(data)
    if stream.stream_id != STREAM_ID:
        raise Unsupported(f"stream id {stream.stream_id}; a cache block has {STREAM_ID}")
    if len(stream.signal) != _SIGNAL.size or stream.signal[0] != BLOCK:
        raise Unsupported(f"not one block: record {stream.signal[:1].hex()}, header of {len(stream.signal)} bytes")
    _, number, element, *fields, token_coding, zeros, block, parent, fingerprint = _SIGNAL.unpack(stream.signal)
    quality, layers, heads, key_dim, value_dim, n, start, sinks, recent, bits = fields
    mode = mode_of(number)
    if mode is None or element not in ELEMENT_TYPES or token_coding or zeros != bytes(8):
        raise Unsupported(f"mode {number}, element type {element}, token coding {token_coding}: not known to this version")
    check_sizes(layers, heads, key_dim, value_dim, n, Corrupt)
    if quality > 100 or start >= START_MAX or sinks + recent > n or not 1 <= bits <= 5:
        raise Corrupt(f"quality {quality}, start {start}, {sinks} + {recent} of {n} tokens, {bits} bits: out of range")
    chunk_bytes, has_states, ids = *_chunk_bytes(stream, mode, layers), stream.chunk(0)
    if len(ids) != 4 * n:
        raise Corrupt(f"token ids of {len(ids)} bytes; {n} tokens need {4 * n}")
    return stream, BlockHeader(
        mode=mode, quality=quality, element_type=ELEMENT_TYPES[element], layers=layers, heads=heads, key_dim=key_dim,
        value_dim=value_dim, ids=ids, start=start, sinks=sinks, recent=recent, bits=bits, id=block, parent=parent,
        fingerprint=fingerprint, profile=stream.weights, chunk_bytes=chunk_bytes, has_states=has_states,
    )  # fmt: skip


def _chunk_bytes(stream: container.Stream, mode: str, layers: int) -> tuple[tuple[tuple[int, int], ...], bool]:
    """Bytes of each layer's keys and values, and whether a chunk of recurrent states follows."""
    count = FIRST + (2 * layers if MODES[mode].target else 0)
    if len(stream.entries) not in (count, count + 1):
        raise Corrupt(f"{len(stream.entries)} chunks; {layers} layers of mode {mode} make {count}, and one may hold states")
    sizes = [entry.length for entry in stream.entries[FIRST:count]]
    return tuple(zip(sizes[::2], sizes[1::2], strict=True)), len(stream.entries) > count


def pack_sequence(head: SequenceHeader) -> bytes:
    """The signal header of a whole cache."""
    return _SEQUENCE.pack(SEQUENCE, head.content, head.threads, head.tokens, head.fingerprint, head.last_id)


def parse_sequence(data: bytes | memoryview | container.Stream) -> tuple[container.Stream, SequenceHeader]:
    """Header of a file of a whole cache; chunks are checked when read.

    Raises:
        BitstreamError: not a cache file, or its header is damaged.
    """
    stream = container.parse(data)
    if stream.stream_id != STREAM_ID or not stream.signal or stream.signal[0] != SEQUENCE:
        raise Unsupported(f"stream id {stream.stream_id}, record {stream.signal[:1].hex()}: not a cache file")
    if len(stream.signal) != _SEQUENCE.size:
        raise Corrupt(f"a signal header of {len(stream.signal)} bytes; a cache file has {_SEQUENCE.size}")
    _, content, threads, count, fingerprint, last = _SEQUENCE.unpack(stream.signal)
    if content > WHOLE or threads > (THREADS_MAX if content == TOKEN_IDS else 0) or count >= START_MAX:
        raise Corrupt(f"content {content}, {threads} threads, {count} tokens: out of range")
    return stream, SequenceHeader(content=content, tokens=count, fingerprint=fingerprint, last_id=last, threads=threads)


def chunk_count(stream: container.Stream) -> int:
    """Chunks of a sequence's tokens: all but the record of an identity after them."""
    entries = stream.entries
    return len(entries) - (len(entries) > 0 and entries[-1].kind == container.METADATA)


def width_text(key_dim: int, value_dim: int) -> str:
    """Head widths for people: one number where keys and values have the same."""
    return str(key_dim) if key_dim == value_dim else f"{key_dim} (values {value_dim})"
