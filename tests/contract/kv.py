"""Cases of the cache codec: every mode that needs neither a model nor a profile."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from contract.subject import Cases, Golden, Variant
from kv_cases import PLAIN, all_same, make_block, rope_for
from rdcodec.codecs.kv_cache import MODES, Cache, KvCodec, KvSettings


def made(heads: int, tokens: int, width: int, dtype: torch.dtype = torch.bfloat16, layers: int | None = None) -> Cache:
    block = make_block(heads, tokens, width, dtype)
    return Cache(block.tokens, block.layers[:layers])


def same(a: Cache, b: Cache) -> bool:
    return np.array_equal(a.tokens, b.tokens) and all_same(a.layers, b.layers)


def array(cache: Cache) -> np.ndarray:
    """Shape (layers, 2, kv_heads, n, head_dim)."""
    return torch.stack([torch.stack(pair) for pair in cache.layers]).float().numpy()


def golden_cache() -> Cache:
    """bf16 numbers from integer arithmetic: the same on every machine; a mean, an outlier, a constant channel."""
    layers, heads, tokens, width = 2, 2, 37, 12
    at = np.arange(layers * 2 * heads * tokens * width, dtype=np.int64).reshape(layers, 2, heads, tokens, width)
    x = (at * 7919 + at * at % 8191) % 257 - 128 + 40 * (np.arange(width) % 3)
    x[..., 5] = 64
    x[0, 0, 0, 3, 7] = 20_000
    pairs = torch.from_numpy(x.astype(np.float32) / 64).to(torch.bfloat16)
    return Cache(np.arange(100, 100 + tokens), tuple((keys, values) for keys, values in pairs))


def near(found: np.ndarray, expected: np.ndarray) -> bool:
    """Integers are exact; a factor in float32 may round a bf16 number to its neighbour."""
    return bool(np.all(np.abs(found - expected) <= 2.0**-7 * np.abs(expected) + 1e-6)) and (found != expected).mean() < 0.02


def settings_of(mode: str) -> KvSettings:
    """Blocks so short that small caches have several; RoPE of the narrowest of them."""
    return KvSettings(mode=mode, block_tokens=32, sinks=2, recent=8, rope=rope_for(4))


def qualities_of(mode: str) -> tuple[int | None, ...]:
    return (0, 20, 60, 100) if MODES[mode].option == "quality" else (None,)


STEMS = {"lossless-1": "lossless", "lossless": "lossless-2"}
"""Names of golden streams that are not their mode's: a stream keeps the name that it was written under."""

KV = Cases(
    stream_id=4,
    variants={mode: Variant(load=partial(KvCodec, settings_of(mode)), qualities=qualities_of(mode)) for mode in PLAIN},
    signals={
        "1 token": lambda: made(1, 1, 4, layers=1),
        "5 tokens, width 7": lambda: made(1, 5, 7, torch.float16),
        "33 tokens": lambda: made(3, 33, 10),
        "70 tokens": lambda: made(2, 70, 16, torch.float32),
    },
    small=lambda: made(1, 34, 4, layers=1),
    large=lambda: made(8, 256, 64),
    same=same,
    array=array,
    golden={
        f"kv/{STEMS.get(mode, mode)}": Golden(
            load=partial(KvCodec, KvSettings(mode=mode, quality=50, bits=3, block_tokens=16, sinks=2, recent=8)),
            signal=golden_cache,
            near=np.array_equal if mode.startswith("lossless") else near,
        )
        for mode in PLAIN
    },
)
