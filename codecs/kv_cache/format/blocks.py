"""One block: a run of tokens with its keys and values, to bytes and back.

A block is an .rdc file (`rdcodec.codecs.container`) of stream id 4. Its id is the hash of what determines the cache:

    id = sha256(parent id, fingerprint, sha256(salt), tokens as int64)[:16]        parent of the first block: zeros

so equal prefixes under one model and one tenant meet in one block, and no others do.

The header and the chunks are specified in `header`, a chunk in `rows`, its content in the modes' files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from ....entropy_models.errors import BitstreamError, InputError, Mismatch
from ... import container
from ..modes.place import KEY, KIND_NAMES, VALUE, Choices, type_name
from ..modes.profiles import Profile, profile_named
from ..modes.rope import Rope, rope_in
from ..modes.table import MODES, OFFERED
from ..splice import Layers
from .at_once import layers_at_once
from .coding_pass import coding_pass
from .header import (
    ELEMENT_TYPES,
    FIRST,
    LAYERS_MAX,
    ROOT,
    START_MAX,
    STREAM_ID,
    TOKENS_MAX,
    BlockHeader,
    block_id,
    check_sizes,
    pack,
    parse,
    stored_layers,
)
from .states import pack_states, unpack_states


@dataclass(frozen=True)
class KvBlock:
    """``tokens`` int64, shape (n,); ``layers``: keys and values, each of shape (kv_heads, n, head_dim)."""

    tokens: np.ndarray
    layers: Layers
    states: Mapping[str, Tensor] = field(default_factory=dict)
    """Recurrent states after the last token, as `states.pack_states` takes them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KvSettings:
    """Settings of an encoder. A decoder needs none of this, only the profile where a mode was calibrated."""

    mode: str = "quantized"
    """A key of `modes.table.MODES`."""
    quality: int = 60
    """0..100; ten points halve the step, which costs about one bit per element."""
    bits: int = 4
    """Bits of TurboQuant's codes, 1..5."""
    block_tokens: int = 256
    """Tokens of a block, 1..65536; the last block of a sequence may be shorter."""
    sinks: int = 4
    """First tokens of a sequence that get finer steps."""
    recent: int = 128
    """Last tokens of a sequence that get finer steps, where its length is known."""
    edge: int = 2
    """Layers at each end that get finer steps."""
    rope: Rope | None = None
    """RoPE of the model (`hf.model.rope_of`); None leaves keys as they are."""
    profile: Profile | None = None
    """Calibration of the model (`rdcodec.codecs.kv_cache.calibrate`): step allocation, bases, predictors."""

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise InputError(f"no mode {self.mode!r}; there are {', '.join(OFFERED)}")
        limits = {"quality": (0, 100), "bits": (1, 5), "block_tokens": (1, TOKENS_MAX), "sinks": (0, 1 << 16)}
        limits |= {"recent": (0, 1 << 31), "edge": (0, LAYERS_MAX)}
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if not isinstance(value, int) or not low <= value <= high:
                raise InputError(f"{name} is {value!r}; need a whole number {low}..{high}")
        if MODES[self.mode].needs_profile and self.profile is None:
            raise InputError(f"mode {self.mode} needs a calibrated profile (rdcodec.codecs.kv_cache.calibrate)")

    @property
    def choices(self) -> Choices:
        """What a tensor's steps follow from, beside the tensor."""
        return Choices(self.quality, self.edge)


def settings_for(layers: Layers, settings: KvSettings) -> KvSettings:
    """What a block of these layers is written with: one without any holds its tokens and states, exactly."""
    return settings if layers else replace(settings, mode="lossless", profile=None)


def encode_block(
    block: KvBlock,
    *,
    parent: bytes,
    fingerprint: bytes,
    salt: bytes,
    start: int,
    settings: KvSettings,
    total: int | None = None,
    threads: int | None = None,
) -> bytes:
    """A block's bytes. The same block and settings always give the same bytes.

    Args:
        block: keys and values in bf16, fp16 or fp32, on any device; not needed for mode ``tokens``. One without is of mode
            ``lossless``, whose only layers have windows or recurrent states.
        parent: id of the block before, 16 zero bytes for the first.
        fingerprint: 16 bytes of the model (`hf.fingerprint.fingerprint`).
        salt: the tenant's; blocks of different salts never match.
        start: position of the first token.
        settings: mode and quality.
        total: length of the whole sequence, for the finer steps of its last tokens; None: unknown, none are finer.
        threads: that code layers at once (`layers_at_once`); None: one. The bytes are the same.

    Raises:
        ValueError: shapes, types or limits; the message has found and expected.
    """
    head = _header_of(block, settings, parent=parent, fingerprint=fingerprint, salt=salt, start=start, total=total)
    rope = _rope_chunk(settings, head.key_dim) if block.layers else b""
    mode = MODES[settings.mode]
    coders = [mode.coders.write() for _ in range(2 * stored_layers(head))]

    def code(part: range) -> None:
        coding_pass(
            coders[2 * part.start : 2 * part.stop], head, rope=settings.rope, profile=settings.profile,
            layers=block.layers, choices=settings.choices, chosen=part, wanted=mode.needs_earlier_layers,
        )  # fmt: skip

    layers_at_once(code, range(stored_layers(head)), head, threads)
    states = [pack_states(block.states)] if block.states else []
    return assembled(head, rope, [*(coder.chunk() for coder in coders), *states])


def assembled(head: BlockHeader, rope: bytes, data: list[bytes]) -> bytes:
    """A block's bytes from those of its RoPE frequencies, of its tensors, and of recurrent states if it has any."""
    chunks = [(container.METADATA, head.ids), (container.METADATA, rope)]
    chunks += [(container.DATA, body) for body in data]
    return container.write(stream_id=STREAM_ID, weights=head.profile, signal=pack(head), chunks=chunks)


def estimate_block(block: KvBlock, *, start: int, settings: KvSettings, total: int | None = None) -> tuple[Layers, float]:
    """Reconstruction and ideal bits of a block, without writing it.

    Returns:
        (layers as `decode_block` will return them, bits of all chunks without container and header).
    """
    head = _header_of(block, settings, parent=ROOT, fingerprint=bytes(16), salt=b"", start=start, total=total)
    coders = [MODES[settings.mode].coders.measure() for _ in range(2 * stored_layers(head))]
    layers = coding_pass(
        coders, head, rope=settings.rope, profile=settings.profile, layers=block.layers, choices=settings.choices
    )
    return layers, float(sum(coder.bits[0] for coder in coders))


def read_block_header(data: bytes | memoryview | container.Stream) -> BlockHeader:
    """Header, token ids and sizes; no tensor is decoded.

    Raises:
        BitstreamError: not a block, or damaged.
    """
    return parse(data)[1]


def decode_block(
    data: bytes | memoryview | container.Stream,
    *,
    fingerprint: bytes | None = None,
    salt: bytes | None = None,
    layers: range | None = None,
    profile: Profile | None = None,
    threads: int | None = None,
) -> KvBlock:
    """Inverse of `encode_block`.

    Args:
        data: a block's bytes.
        fingerprint: refuse blocks of another model.
        salt: refuse blocks of another tenant, and any whose tokens do not hash to its id.
        layers: decode only these; ``layers`` of the result holds them in order. Others' chunks are not even checked
            (mode ``predictive`` decodes from layer 0 all the same).
        profile: the one that the block was made with, of modes that need one; others do not look at it.
        threads: as for `encode_block`.

    Returns:
        The block; without layers for mode ``tokens``; with one input tensor per layer, (1, n, d_model), and an
        empty value tensor for mode ``residual``.

    Raises:
        BitstreamError: anything wrong with the bytes, model, salt or profile.
        ValueError: ``layers`` is outside the block.
    """
    return decode_parsed(*parse(data), fingerprint=fingerprint, salt=salt, layers=layers, profile=profile, threads=threads)


def decode_parsed(
    stream: container.Stream,
    head: BlockHeader,
    *,
    fingerprint: bytes | None = None,
    salt: bytes | None = None,
    layers: range | None = None,
    profile: Profile | None = None,
    threads: int | None = None,
) -> KvBlock:
    """`decode_block` of what `header.parse` returned."""
    if fingerprint is not None and head.fingerprint != fingerprint:
        raise Mismatch(f"the block is of model {head.fingerprint.hex()}, expected {fingerprint.hex()}")
    if salt is not None and block_id(head.parent, head.fingerprint, salt, head.tokens) != head.id:
        raise Mismatch("it was written under another salt (--salt) than the one given, or its token ids were changed")
    stored = stored_layers(head)
    want = range(stored) if layers is None else layers
    if len(want) and not (stored and want.step == 1 and 0 <= want.start and want.stop <= stored):
        raise InputError(f"layers {want}; need successive ones of the {stored} in the block")
    mode = MODES[head.mode]
    profile = profile_named(head.profile, profile) if mode.needs_profile else None
    rope = rope_in(stream.chunk(1), head.key_dim)
    first = 0 if mode.needs_earlier_layers else want.start
    chosen = range(first, want.stop) if len(want) else range(0)

    def code(part: range) -> Layers:
        coders = [mode.coders.read(stream.chunk(FIRST + 2 * i + kind)) for i in part for kind in (KEY, VALUE)]
        return coding_pass(coders, head, rope=rope, profile=profile, chosen=part)

    decoded = tuple(pair for part in layers_at_once(code, chosen, head, threads) for pair in part)
    states = unpack_states(stream.chunk(FIRST + 2 * stored)) if head.has_states else {}
    return KvBlock(head.tokens, decoded[want.start - first :] if len(want) else (), states)


def _header_of(
    block: KvBlock,
    settings: KvSettings,
    *,
    parent: bytes,
    fingerprint: bytes,
    salt: bytes,
    start: int,
    total: int | None,
) -> BlockHeader:
    """Header of a block to write; arguments and errors as `encode_block`."""
    tokens = np.ascontiguousarray(block.tokens, np.int64)
    n = len(tokens)
    if tokens.ndim != 1 or not 1 <= n <= TOKENS_MAX:
        raise InputError(f"tokens of shape {tokens.shape}; need 1..{TOKENS_MAX} in one row")
    if tokens.min() < 0 or tokens.max() >= 1 << 32 or not 0 <= start < START_MAX:
        raise InputError(f"token ids {tokens.min()}..{tokens.max()} at position {start}; need 0..2^32 - 1, 0..2^40 - 1")
    if not block.layers and settings.mode not in ("tokens", "lossless"):
        raise InputError(f"a block without layers has no mode but tokens and lossless, not {settings.mode}")
    heads, key_dim, value_dim, dtype = _shapes(block, n)
    sinks, recent = _finer_tokens(settings, start, n, total)
    profile = settings.profile.hash if settings.profile and MODES[settings.mode].option == "quality" else bytes(8)
    return BlockHeader(
        mode=settings.mode, quality=settings.quality, element_type=type_name(dtype), layers=len(block.layers),
        heads=heads, key_dim=key_dim, value_dim=value_dim, ids=tokens.astype("<u4").tobytes(), start=start, sinks=sinks,
        recent=recent, bits=settings.bits, id=block_id(parent, fingerprint, salt, tokens), parent=parent,
        fingerprint=fingerprint, profile=profile, chunk_bytes=(),
    )  # fmt: skip


def _finer_tokens(settings: KvSettings, start: int, n: int, total: int | None) -> tuple[int, int]:
    """Numbers of tokens with finer steps in a block of n from ``start``: of the sequence's first, and of its last."""
    sinks = min(max(settings.sinks - start, 0), n)
    if total is None:
        return sinks, 0
    recent = min(max(start + n - max(total - settings.recent, sinks + start), 0), n)
    return sinks, min(recent, n - sinks)


def _rope_chunk(settings: KvSettings, key_dim: int) -> bytes:
    """The frequencies, nothing where no key is stored; ValueError for those that a reader would refuse."""
    if settings.rope is None or MODES[settings.mode].needs_model:  # layer inputs carry no RoPE, and may be narrower
        return b""
    if 2 * len(settings.rope.frequencies) > key_dim:
        raise InputError(f"RoPE of {2 * len(settings.rope.frequencies)} channels for keys of width {key_dim}")
    return settings.rope.frequencies.astype("<f4").tobytes()


def _shapes(block: KvBlock, n: int) -> tuple[int, int, int, torch.dtype]:
    """(heads, key width, value width, element type), the same in every layer."""
    if not block.layers:
        return 1, 1, 1, torch.bfloat16
    heads, _, key_dim = block.layers[0][0].shape
    value_dim, dtype = block.layers[0][1].shape[-1], block.layers[0][0].dtype
    for i, pair in enumerate(block.layers):
        for x, name, dim in zip(pair, KIND_NAMES, (key_dim, value_dim), strict=True):
            if tuple(x.shape) != (heads, n, dim) or x.dtype != dtype:
                raise InputError(
                    f"{name} of layer {i}: {tuple(x.shape)} {type_name(x.dtype)}; expected {(heads, n, dim)} "
                    f"{type_name(dtype)} as in layer 0"
                )
    if type_name(dtype) not in ELEMENT_TYPES.values():
        raise InputError(f"element type {type_name(dtype)}; need one of {', '.join(ELEMENT_TYPES.values())}")
    check_sizes(len(block.layers), heads, key_dim, value_dim, n, ValueError)
    return heads, key_dim, value_dim, dtype


__all__ = [
    "BitstreamError", "BlockHeader", "KvBlock", "KvSettings", "block_id", "decode_block", "encode_block",
    "estimate_block", "read_block_header",
]  # fmt: skip
