"""Cache files of this format version decode for ever: bit for bit where the mode is exact, else to a hair.

``python tests/kv_cache/test_golden.py`` writes fixtures that are missing; the test never does.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from rdcodec.codecs.kv_cache import KvSettings
from rdcodec.codecs.kv_cache.codec import Cache, KvCodec

GOLDEN = Path(__file__).parents[1] / "golden" / "kv"
MODES = ("lossless", "fp8", "turboquant", "turboquant-ec", "quantized", "quantized-small")
HEADS, TOKENS, DIM, LAYERS = 2, 37, 12, 2


def golden_cache() -> Cache:
    """bf16 numbers from integer arithmetic: the same on every machine; a mean, an outlier, a constant channel."""
    at = np.arange(LAYERS * 2 * HEADS * TOKENS * DIM, dtype=np.int64).reshape(LAYERS, 2, HEADS, TOKENS, DIM)
    x = (at * 7919 + at * at % 8191) % 257 - 128 + 40 * (np.arange(DIM) % 3)
    x[..., 5] = 64
    x[0, 0, 0, 3, 7] = 20_000
    layers = torch.from_numpy(x.astype(np.float32) / 64).to(torch.bfloat16)
    return Cache(np.arange(100, 100 + TOKENS), tuple((layer[0], layer[1]) for layer in layers))


def codec_of(mode: str) -> KvCodec:
    return KvCodec(KvSettings(mode=mode, quality=50, bits=3, block_tokens=16, sinks=2, recent=8))


def test_no_fixture_is_missing_or_forgotten():
    assert {p.stem for p in GOLDEN.glob("*.rdc")} == {p.stem for p in GOLDEN.glob("*.npy")} == set(MODES)


@pytest.mark.parametrize("mode", MODES)
def test_golden_cache_file(mode):
    cache = codec_of(mode).decode((GOLDEN / f"{mode}.rdc").read_bytes())
    assert cache.tokens.tolist() == list(range(100, 100 + TOKENS))
    found = torch.stack([torch.stack(pair) for pair in cache.layers]).float().numpy()
    expected = np.load(GOLDEN / f"{mode}.npy")
    if mode == "lossless":
        assert np.array_equal(found, expected)
    # integers are exact; a factor in float32 may round a bf16 number to its neighbour
    assert np.all(np.abs(found - expected) <= 2.0**-7 * np.abs(expected) + 1e-6)
    assert (found != expected).mean() < 0.02


@pytest.mark.parametrize("mode", MODES)
def test_encoder_still_writes_as_few_bytes(mode):
    again = codec_of(mode).encode(golden_cache())
    assert len(again) <= 1.01 * (GOLDEN / f"{mode}.rdc").stat().st_size


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for missing in [m for m in MODES if not (GOLDEN / f"{m}.rdc").exists()]:
        written = codec_of(missing).encode(golden_cache())
        (GOLDEN / f"{missing}.rdc").write_bytes(written)
        known = codec_of(missing).decode(written).layers
        np.save(GOLDEN / f"{missing}.npy", torch.stack([torch.stack(pair) for pair in known]).float().numpy())
