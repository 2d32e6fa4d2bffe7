"""One block: a run of tokens with its keys and values, to bytes and back.

A block is an .rdc file (`rdcodec.codecs.container`) of codec id 4. Its id is the hash of what determines the cache:

    id = sha256(parent id, fingerprint, sha256(salt), tokens as int64)[:16]        parent of the first block: zeros

so equal prefixes under one model and one tenant meet in one block, and no others do.

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
for each layer, a chunk of keys and one of values (`rows` gives the layout), none in mode ``tokens``. The 8 bytes that the
container keeps for a weights hash name the calibrated profile. layers x heads x widths x n is at most 2^31.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import container
from ...entropy_models.errors import BitstreamError, Corrupt, Unsupported
from .modes import MODES, mode_of
from .place import DTYPES, KEY, KIND_NAMES, VALUE, Choices, Place
from .profile import Profile, find_profile
from .rope import FREQUENCIES_MAX, Rope
from .rows import MeasureRows, ReadRows, WriteRows

CODEC_ID = 4
BLOCK, SEQUENCE = 0, 1
ROOT = bytes(16)
TOKENS_MAX = 1 << 16
LAYERS_MAX, HEADS_MAX, WIDTH_MAX, START_MAX, ELEMENTS_MAX = 1024, 1024, 4096, 1 << 40, 1 << 31
_SIGNAL = struct.Struct("<BBBBHHHHIQIIBB8s16s16s16s")
_FIRST = 2


@dataclass(frozen=True)
class KvBlock:
    """``tokens`` int64, shape (n,); ``layers``: keys and values, each of shape (kv_heads, n, head_dim)."""

    tokens: np.ndarray
    layers: tuple[tuple[Tensor, Tensor], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class KvSettings:
    """How to encode. A decoder needs none of this, only the profile where a mode was calibrated."""

    mode: str = "quantized"
    """A key of `modes.MODES`."""
    quality: int = 60
    """0..100; ten points halve the step, which costs about one bit per element."""
    bits: int = 4
    """Of TurboQuant's codes, 1..5."""
    block_tokens: int = 256
    """Tokens of a block, 1..65536; the last block of a sequence may be shorter."""
    sinks: int = 4
    """First tokens of a sequence that get finer steps."""
    recent: int = 128
    """Last tokens of a sequence that get finer steps, where its length is known."""
    edge: int = 2
    """Layers at each end that get finer steps."""
    rope: Rope | None = None
    """Of the model (`model.rope_of`); None leaves keys as they are."""
    profile: Profile | None = None
    """Calibration of the model (`profile.calibrate`): step allocation, bases, predictors."""

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"no mode {self.mode!r}; there are {', '.join(MODES)}")
        limits = {"quality": (0, 100), "bits": (1, 5), "block_tokens": (1, TOKENS_MAX), "sinks": (0, 1 << 16)}
        limits |= {"recent": (0, 1 << 31), "edge": (0, LAYERS_MAX)}
        for name, (low, high) in limits.items():
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} is {getattr(self, name)}; need {low}..{high}")
        if MODES[self.mode].needs_profile and self.profile is None:
            raise ValueError(f"mode {self.mode} needs a calibrated profile (rdcodec.codecs.kv_cache.profile.calibrate)")


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
    ids = np.ascontiguousarray(tokens, "<i8")
    return hashlib.sha256(parent + fingerprint + hashlib.sha256(salt).digest() + ids.tobytes()).digest()[:16]


def encode_block(
    block: KvBlock,
    *,
    parent: bytes,
    fingerprint: bytes,
    salt: bytes,
    start: int,
    settings: KvSettings,
    total: int | None = None,
) -> bytes:
    """A block's bytes. The same block and settings always give the same bytes.

    Args:
        block: keys and values in bf16, fp16 or fp32, on any device; not needed for mode ``tokens``.
        parent: id of the block before, 16 zero bytes for the first.
        fingerprint: 16 bytes of the model (`model.fingerprint`).
        salt: the tenant's; blocks of different salts never match.
        start: position of the first token.
        settings: mode and quality.
        total: length of the whole sequence, for the finer steps of its last tokens; None: unknown, none are finer.

    Raises:
        ValueError: shapes, types or limits; the message has found and expected.
    """
    head = _header_of(block, parent, fingerprint, salt, start, settings, total)
    coders = [WriteRows() for _ in range(2 * _stored_layers(head))]
    run(coders, head, settings.rope, settings.profile, block.layers, settings)
    ids = np.ascontiguousarray(block.tokens, "<u4").tobytes()
    rope = settings.rope.frequencies.astype("<f4").tobytes() if settings.rope else b""
    chunks = [(container.METADATA, ids), (container.METADATA, rope)]
    chunks += [(container.DATA, coder.chunk()) for coder in coders]
    return container.write(codec_id=CODEC_ID, weights=head.profile, signal=_pack(head), chunks=chunks)


def estimate_block(block: KvBlock, *, start: int, settings: KvSettings, total: int | None = None):
    """What decoding will give, and the ideal bits, without writing.

    Returns:
        (layers as `decode_block` will return them, bits of all chunks without container and header).
    """
    head = _header_of(block, ROOT, bytes(16), b"", start, settings, total)
    coders = [MeasureRows() for _ in range(2 * _stored_layers(head))]
    layers = run(coders, head, settings.rope, settings.profile, block.layers, settings)
    return layers, float(sum(coder.bits[0] for coder in coders))


def read_block_header(data: bytes | memoryview) -> BlockHeader:
    """Header, token ids and sizes; no tensor is decoded.

    Raises:
        BitstreamError: not a block, or damaged.
    """
    return _parse(data)[1]


def decode_block(
    data: bytes | memoryview,
    *,
    fingerprint: bytes | None = None,
    salt: bytes | None = None,
    layers: range | None = None,
    profile: Profile | None = None,
) -> KvBlock:
    """Inverse of `encode_block`.

    Args:
        data: a block's bytes.
        fingerprint: refuse blocks of another model.
        salt: refuse blocks of another tenant, and any whose tokens do not hash to its id.
        layers: decode only these; ``layers`` of the result holds them in order. Others' chunks are not even checked
            (mode ``predictive`` decodes from layer 0 all the same).
        profile: of modes that need one; else it is looked up among those in use (`profile.use_profile`).

    Returns:
        The block; without layers for mode ``tokens``; with one input tensor per layer, (1, n, d_model), and an
        empty value tensor for mode ``residual``.

    Raises:
        BitstreamError: anything wrong with the bytes, model, salt or profile.
        ValueError: ``layers`` is outside the block.
    """
    stream, head = _parse(data)
    if fingerprint is not None and head.fingerprint != fingerprint:
        raise Unsupported(f"the block is of model {head.fingerprint.hex()}, expected {fingerprint.hex()}")
    if salt is not None and block_id(head.parent, head.fingerprint, salt, head.tokens) != head.id:
        raise Unsupported(f"block {head.id.hex()} was written under another salt, or its tokens are not its own")
    stored = _stored_layers(head)
    want = range(stored) if layers is None else layers
    if len(want) and not (stored and want.step == 1 and 0 <= want.start and want.stop <= stored):
        raise ValueError(f"layers {want}; the block has {stored}")
    if MODES[head.mode].needs_profile and profile is None:
        profile = find_profile(head.profile)
    rope = _rope_of(stream.chunk(1), head)
    first = 0 if MODES[head.mode].needs_earlier_layers else want.start
    chosen = range(first, want.stop) if len(want) else range(0)
    coders = [ReadRows(stream.chunk(_FIRST + 2 * i + kind)) for i in chosen for kind in (KEY, VALUE)]
    decoded = run(coders, head, rope, profile, None, None, chosen)
    for coder in coders:
        coder.finish()
    return KvBlock(head.tokens, decoded[want.start - first :] if len(want) else ())


def run(coders, head: BlockHeader, rope, profile, tensors, settings, chosen: range | None = None):
    """The coding pass of a block: the same for writing, measuring and reading (``tensors`` None)."""
    code, known, out = MODES[head.mode].code, {}, []
    if profile is not None:
        profile.check(head.layers, (head.heads * head.key_dim, head.heads * head.value_dim))
    token_ids = torch.from_numpy(head.tokens)
    edge = settings.edge if settings else 0
    choices = Choices(settings.quality if settings else 0, edge)
    for i, layer in enumerate(chosen if chosen is not None else range(_stored_layers(head))):
        pair = []
        for kind, dim in ((KEY, head.key_dim), (VALUE, head.value_dim)):
            place = Place(
                layer, head.layers, kind, head.heads, len(head.tokens), dim, head.dtype, head.start,
                head.sinks, head.recent, head.bits, rope, profile, choices, known, token_ids,
            )  # fmt: skip
            x = tensors[layer][kind] if tensors is not None else None
            if dim == 0:
                pair.append(torch.zeros(place.shape, dtype=head.dtype))
            else:
                pair.append(code(coders[2 * i + kind], x, place))
        out.append((pair[0], pair[1]))
    return tuple(out)


def _stored_layers(head: BlockHeader) -> int:
    return head.layers if MODES[head.mode].code else 0


def _header_of(block: KvBlock, parent, fingerprint, salt, start, settings: KvSettings, total) -> BlockHeader:
    tokens = np.ascontiguousarray(block.tokens, np.int64)
    n = len(tokens)
    if tokens.ndim != 1 or not 1 <= n <= TOKENS_MAX:
        raise ValueError(f"tokens of shape {tokens.shape}; need 1..{TOKENS_MAX} in one row")
    if tokens.min() < 0 or tokens.max() >= 1 << 32 or not 0 <= start < START_MAX:
        raise ValueError(f"token ids {tokens.min()}..{tokens.max()} at position {start}; need 0..2^32 - 1, 0..2^40 - 1")
    if not block.layers and settings.mode != "tokens":
        raise ValueError(f"a block without layers has no mode but tokens, not {settings.mode}")
    heads, key_dim, value_dim, dtype = _shapes(block, n)
    sinks = min(max(settings.sinks - start, 0), n)
    recent = 0 if total is None else min(max(start + n - max(total - settings.recent, sinks + start), 0), n)
    recent = min(recent, n - sinks)
    profile = settings.profile.hash if settings.profile and MODES[settings.mode].needs_profile else bytes(8)
    return BlockHeader(
        settings.mode, settings.quality, dtype, len(block.layers), heads, key_dim, value_dim, tokens, start,
        sinks, recent, settings.bits, block_id(parent, fingerprint, salt, tokens), parent, fingerprint, profile, (),
    )  # fmt: skip


def _shapes(block: KvBlock, n: int) -> tuple[int, int, int, torch.dtype]:
    """(heads, key width, value width, element type), the same in every layer."""
    if not block.layers:
        return 1, 1, 1, torch.bfloat16
    heads, _, key_dim = block.layers[0][0].shape
    value_dim, dtype = block.layers[0][1].shape[-1], block.layers[0][0].dtype
    for i, pair in enumerate(block.layers):
        for x, name, dim in zip(pair, KIND_NAMES, (key_dim, value_dim), strict=True):
            if tuple(x.shape) != (heads, n, dim) or x.dtype != dtype:
                raise ValueError(
                    f"{name} of layer {i}: {tuple(x.shape)} {x.dtype}; expected {(heads, n, dim)} {dtype} as in layer 0"
                )
    if dtype not in DTYPES.values():
        raise ValueError(f"element type {dtype}; need one of {', '.join(str(d) for d in DTYPES.values())}")
    _check_sizes(len(block.layers), heads, key_dim, value_dim, n, ValueError)
    return heads, key_dim, value_dim, dtype


def _check_sizes(layers: int, heads: int, key_dim: int, value_dim: int, n: int, error: type[ValueError]) -> None:
    sane = layers <= LAYERS_MAX and 1 <= heads <= HEADS_MAX and 1 <= key_dim <= WIDTH_MAX and value_dim <= WIDTH_MAX
    if not sane or not 1 <= n <= TOKENS_MAX or layers * heads * (key_dim + value_dim) * n > ELEMENTS_MAX:
        raise error(f"{layers} layers, {heads} heads, widths {key_dim} and {value_dim}, {n} tokens: out of range")


def _pack(head: BlockHeader) -> bytes:
    dtype = next(number for number, d in DTYPES.items() if d == head.dtype)
    return _SIGNAL.pack(
        BLOCK, MODES[head.mode].number, dtype, head.quality, head.layers, head.heads, head.key_dim, head.value_dim,
        len(head.tokens), head.start, head.sinks, head.recent, head.bits, 0, bytes(8), head.id, head.parent,
        head.fingerprint,
    )  # fmt: skip


def _parse(data: bytes | memoryview) -> tuple[container.Stream, BlockHeader]:
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
    _check_sizes(layers, heads, key_dim, value_dim, n, Corrupt)
    if quality > 100 or start >= START_MAX or sinks + recent > n or not 1 <= bits <= 5:
        raise Corrupt(f"quality {quality}, start {start}, {sinks} + {recent} of {n} tokens, {bits} bits: out of range")
    tail = 2 * layers if MODES[mode].code else 0
    if len(stream.entries) != _FIRST + tail:
        raise Corrupt(f"{len(stream.entries)} chunks; {layers} layers of mode {mode} make {_FIRST + tail}")
    body = stream.chunk(0)
    if len(body) != 4 * n:
        raise Corrupt(f"token ids of {len(body)} bytes; {n} tokens need {4 * n}")
    sizes = [entry.length for entry in stream.entries[_FIRST:]]
    pairs = tuple(zip(sizes[::2], sizes[1::2], strict=True))
    tokens = np.frombuffer(body, "<u4").astype(np.int64)
    return stream, BlockHeader(
        mode, quality, DTYPES[dtype], layers, heads, key_dim, value_dim, tokens, start, sinks, recent, bits,
        f[15], f[16], f[17], stream.weights, pairs,
    )  # fmt: skip


def _rope_of(body: bytes, head: BlockHeader) -> Rope | None:
    if not body:
        return None
    frequencies = np.frombuffer(body[: len(body) // 4 * 4], "<f4")
    if len(body) % 4 or len(frequencies) > min(FREQUENCIES_MAX, head.key_dim // 2) or not np.isfinite(frequencies).all():
        raise Corrupt(f"RoPE frequencies of {len(body)} bytes for keys of width {head.key_dim}")
    return Rope(frequencies)


__all__ = [
    "BitstreamError", "BlockHeader", "KvBlock", "KvSettings", "block_id", "decode_block", "encode_block",
    "estimate_block", "read_block_header",
]  # fmt: skip
