"""Bit-exact tensors: every type and pattern survives, nothing grows, and rates are those of the entropy."""

from __future__ import annotations

import numpy as np
import pytest
import safetensors.torch
import torch
from rdcodec.codecs.tensor import exact
from rdcodec.codecs.tensor.codec import TensorCodec
from rdcodec.codecs.tensor.header import PIECE_WORDS, WORDS
from rdcodec.codecs.tensor.sources import Tensors
from rdcodec.entropy_models.errors import Corrupt
from rdcodec.entropy_models.rows import ReadRows, WriteRows

RANDOM = np.random.default_rng(1)


def chunk_of(words: np.ndarray, dtype: str) -> bytes:
    coder = WriteRows()
    exact.code(coder, words, dtype, len(words))
    return coder.chunk()


def read(chunk: bytes, dtype: str, count: int) -> np.ndarray:
    coder = ReadRows(chunk)
    words = exact.code(coder, None, dtype, count)
    coder.finish()
    return words


@pytest.mark.parametrize("dtype", WORDS)
@pytest.mark.parametrize("count", [1, 2, 3, 511, 513, 70_001])
def test_every_pattern_survives(dtype, count):
    kind = np.dtype(f"<u{WORDS[dtype].word}")
    for words in (
        RANDOM.integers(0, 1 << 8 * kind.itemsize, count, kind, endpoint=False),
        np.arange(count).astype(kind),
        np.full(count, (1 << 8 * kind.itemsize) - 1, kind),
        np.where(RANDOM.random(count) < 0.5, 0, 3 << 8 * kind.itemsize - 4).astype(kind),
    ):
        chunk = chunk_of(words, dtype)
        assert np.array_equal(read(chunk, dtype, count), words)
        assert len(chunk) <= words.nbytes + 5 + 4 * kind.itemsize


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bfloat16, torch.float32, torch.int64])
def test_files_of_random_numbers_grow_by_their_container_alone(dtype):
    """What docs/tensors.md says of them."""

    def growth(count: int, tensors: int) -> int:
        random = RANDOM.integers(0, 256, (tensors, count * dtype.itemsize), np.uint8)
        held = {f"layers.{i}.attention.weight": torch.from_numpy(row).view(dtype) for i, row in enumerate(random)}
        return len(TensorCodec().encode(Tensors(held))) - len(safetensors.torch.save(held))

    assert 80 < growth(1, 1) < 135 and 80 < growth(5000, 1) < 135
    assert 10 < (growth(3 * PIECE_WORDS, 1) - growth(3, 1)) / 2 < 55
    assert growth(1000, 50) < 0


@pytest.mark.parametrize(("dtype", "bits"), [("BF16", 10.6), ("F16", 13.55), ("F32", 26.6), ("F8_E4M3", 6.1)])
def test_gaussian_weights_take_what_their_exponents_have(dtype, bits):
    """Entropy of exponent and two mantissa bits, 4.55, and the rest as it is; of other types alike."""
    name = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F8_E4M3": torch.float8_e4m3fn}[dtype]
    x = torch.randn(300_000, generator=torch.Generator().manual_seed(3)) * 0.05
    words = x.to(name).view(torch.uint8).numpy().view(f"<u{WORDS[dtype].word}")
    assert 0.98 * bits < 8 * len(chunk_of(words, dtype)) / len(words) < bits


@pytest.mark.parametrize("dtype", ["BF16", "F32"])
@pytest.mark.parametrize("count", [512, 515, 4 * exact._BLOCK, 4 * exact._BLOCK + 1, 300_007])
@pytest.mark.parametrize("gaps", [False, True])
def test_heads_come_back(dtype, count, gaps):
    x = torch.randn(count, generator=torch.Generator().manual_seed(count)) * 0.05
    x = torch.where(torch.arange(count) % 97 == 0, 1e30 if gaps else -0.05, x)
    name = {"BF16": torch.bfloat16, "F32": torch.float32}[dtype]
    words = x.to(name).view(torch.uint8).numpy().view(f"<u{WORDS[dtype].word}")
    chunk = chunk_of(words, dtype)
    assert chunk[4] == exact.HEADS and np.array_equal(read(chunk, dtype, count), words)


def test_heads_with_gaps_and_patterns_in_the_mantissa_pay():
    x = torch.randn(100_000, generator=torch.Generator().manual_seed(4)) * 0.05
    with_zeros = torch.where(torch.arange(100_000) % 3 == 0, 0.0, x).to(torch.bfloat16)
    rounded = x.to(torch.float8_e4m3fn).to(torch.bfloat16)
    for tensor, bits in ((with_zeros, 9), (rounded, 7)):
        words = tensor.view(torch.uint8).numpy().view("<u2")
        chunk = chunk_of(words, "BF16")
        assert np.array_equal(read(chunk, "BF16", len(words)), words) and 8 * len(chunk) / len(words) < bits


def test_rows_of_zeros_take_next_to_nothing_in_float32():
    x = torch.randn(300, 300, generator=torch.Generator().manual_seed(5))
    half = x.clone()
    half[150:] = half[150:].half().float()
    sizes = [len(chunk_of(t.flatten().view(torch.uint8).numpy().view("<u4"), "F32")) for t in (x, half)]
    assert sizes[1] < 0.85 * sizes[0]


def test_forged_pieces_are_refused():
    words = np.random.default_rng(2).normal(size=2000).astype(np.float32).view("<u4")
    good = chunk_of(words, "F32")
    assert good[4] == exact.HEADS
    for at, value, message in ((4, 9, "layout 9"), (7, 255, "heads from -"), (5, 0, "a plane of 0 bytes in")):
        forged = bytearray(good)
        forged[at] = value
        with pytest.raises(Corrupt, match=message):
            read(bytes(forged), "F32", len(words))
    with pytest.raises(Corrupt, match="layout 2 of I32"):
        read(good, "I32", len(words))


def test_large_tensors_have_pieces_of_whole_rows_that_decode_alone():
    x = torch.arange(3 * PIECE_WORDS // 2, dtype=torch.int32).reshape(-1, 3 * 64)
    codec = TensorCodec()
    data = codec.encode(Tensors({"x": x, "flat": x.flatten(), "row": x.reshape(1, -1)}))
    assert torch.equal(codec.decode(data).tensors["x"], x)
    damaged = bytearray(data)
    damaged[-10] ^= 1
    with pytest.raises(Corrupt, match="^row: "):
        codec.decode(bytes(damaged))
