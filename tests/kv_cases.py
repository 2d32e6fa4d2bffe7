"""Blocks, settings and profiles that several tests of the cache codec use. No tests here."""

from __future__ import annotations

import numpy as np
import torch
from rdcodec.codecs import container
from rdcodec.codecs.kv_cache.format.blocks import (
    KvBlock,
    KvSettings,
    decode_block,
    encode_block,
)
from rdcodec.codecs.kv_cache.hf import calibration
from rdcodec.codecs.kv_cache.modes.profiles import Profile
from rdcodec.codecs.kv_cache.modes.rope import Rope
from rdcodec.codecs.kv_cache.modes.table import MODES

PLAIN = ["lossless", "lossless-1", "fp8", "turboquant", "turboquant-ec", "quantized", "quantized-small", "quantized-lanes"]
LOSSY = ["fp8", "turboquant", "turboquant-ec", *PLAIN[-3:], "transform", "predictive"]
ALL = [*PLAIN, "transform", "predictive"]
DTYPES = [torch.bfloat16, torch.float16, torch.float32]
LAYERS = 3


def rope_for(dim: int) -> Rope | None:
    return Rope((10000.0 ** (-np.arange(0, dim // 2 * 2, 2) / dim)).astype(np.float32)) if dim > 1 else None


def make_block(heads: int, n: int, dim: int, dtype: torch.dtype = torch.bfloat16, seed: int = 0) -> KvBlock:
    """Channels of very different scale and mean, as keys have."""
    g = torch.Generator().manual_seed(seed)

    def tensor(spread: float) -> torch.Tensor:
        scale = torch.exp(spread * torch.randn(heads, 1, dim, generator=g))
        return (torch.randn(heads, n, dim, generator=g) * scale + scale * torch.randn(heads, 1, dim, generator=g)).to(dtype)

    tokens = torch.randint(0, 50, (n,), generator=g).numpy()
    return KvBlock(tokens, tuple((tensor(0.8), tensor(0.3)) for _ in range(LAYERS)))


def make_profile(heads: int, dim: int, exponent: int = -12) -> Profile:
    """Calibrated on blocks of the same kind, without a model."""
    blocks = [make_block(heads, 200, dim, torch.float32, seed) for seed in (0, 1)]
    rows_of = {
        (layer, kind): torch.cat([b.layers[layer][kind].transpose(1, 2).reshape(heads * dim, -1) for b in blocks], 1)
        for layer in range(LAYERS)
        for kind in (0, 1)
    }
    importance = {at: torch.ones(heads * dim) for at in rows_of}
    exponents = np.full((LAYERS, 2), exponent)
    tensors = {"exponents": torch.tensor(exponents, dtype=torch.int32)}
    for at, x in rows_of.items():
        tensors[f"offsets.{at[0]}.{at[1]}"] = torch.zeros(heads * dim, dtype=torch.int32)
        calibration._put_basis(tensors, "", at, x, importance[at])
    ids = torch.from_numpy(np.concatenate([b.tokens for b in blocks]))
    calibration._put_predictors(tensors, rows_of, importance, ids, np.full((LAYERS, 2), 0.3))
    return Profile.of(tensors)


def settings_for(mode: str, heads: int, dim: int, **options) -> KvSettings:
    profile = make_profile(heads, dim) if MODES[mode].needs_profile else None
    return KvSettings(mode=mode, rope=rope_for(dim), profile=profile, **options)


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    integer = torch.int16 if a.dtype.itemsize == 2 else torch.int32
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.view(integer), b.view(integer))


def all_same(a, b) -> bool:
    return len(a) == len(b) and all(same_bits(x, y) for p, q in zip(a, b, strict=True) for x, y in zip(p, q, strict=True))


def forged(data: bytes, change) -> bytes:
    """A block with changed chunks or signal and right checksums: what a hostile writer would make."""
    stream = container.parse(data)
    signal, chunks = bytearray(stream.signal), [bytearray(stream.chunk(i)) for i in range(len(stream.entries))]
    change(signal, chunks)
    return container.write(
        stream_id=stream.stream_id,
        weights=stream.weights,
        signal=bytes(signal),
        chunks=[(entry.kind, bytes(c)) for entry, c in zip(stream.entries, chunks, strict=True)],
    )


ROOT, MODEL, SALT = bytes(16), bytes(range(16)), b"tenant"


def encode(block: KvBlock, settings: KvSettings, start: int = 0, **options) -> bytes:
    return encode_block(block, parent=ROOT, fingerprint=MODEL, salt=SALT, start=start, settings=settings, **options)


def decode(data: bytes, settings: KvSettings, **options) -> KvBlock:
    return decode_block(data, fingerprint=MODEL, salt=SALT, profile=settings.profile, **options)
