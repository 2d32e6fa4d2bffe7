"""Every mode of the cache codec: exactness, size, fidelity, and the settings it takes."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from kv_cases import (
    ALL,
    DTYPES,
    LAYERS,
    LOSSY,
    PLAIN,
    all_same,
    decode,
    encode,
    make_block,
    make_profile,
    rope_for,
    settings_for,
)
from rdcodec.codecs import container
from rdcodec.codecs.kv_cache.format.blocks import (
    KvBlock,
    KvSettings,
    estimate_block,
    read_block_header,
)
from rdcodec.codecs.kv_cache.format.recode import recode_block
from rdcodec.codecs.kv_cache.modes import lossless
from rdcodec.codecs.kv_cache.modes.table import MODES
from rdcodec.codecs.tensor import exact
from rdcodec.codecs.tensor.spec import TensorSpec
from rdcodec.entropy_models.errors import (
    BitstreamError,
)
from rdcodec.entropy_models.rows import ReadRows, WriteRows


@pytest.mark.parametrize("mode", ALL)
@pytest.mark.parametrize(("heads", "n", "dim"), [(4, 33, 16), (2, 256, 64), (1, 5, 7), (1, 1, 1), (3, 130, 10)])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_decoder_gives_the_estimate_exactly(mode, heads, n, dim, dtype):
    block, settings = make_block(heads, n, dim, dtype), settings_for(mode, heads, dim)
    data = encode(block, settings, total=n)
    decoded = decode(data, settings)
    known, bits = estimate_block(block, start=0, settings=settings, total=n)
    assert all_same(decoded.layers, known)
    assert np.array_equal(decoded.tokens, block.tokens)
    stream = container.parse(data)
    chunks = sum(entry.length for entry in stream.entries[2:])
    # two words of the coder, one of length, for each of the chunks
    assert bits / 8 - 1 <= chunks <= 1.01 * bits / 8 + 12 * 2 * LAYERS
    assert encode(block, settings, total=n) == data


@pytest.mark.parametrize("with_profile", [False, True])
@pytest.mark.parametrize(("heads", "n", "dim"), [(2, 256, 64), (1, 5, 7), (1, 1, 1), (3, 130, 10)])
def test_recoding_gives_the_bytes_that_the_other_mode_writes(heads, n, dim, with_profile):
    block, profile = make_block(heads, n, dim), make_profile(heads, dim) if with_profile else None
    coded = {}
    for mode in ("quantized", "quantized-small", "quantized-lanes"):
        settings = replace(settings_for(mode, heads, dim, quality=70), profile=profile)
        coded[mode] = encode(block, settings, total=n)
    for mode, other in itertools.permutations(coded, 2):
        assert recode_block(coded[mode], other) == coded[other] != coded[mode]
    with pytest.raises(BitstreamError):
        recode_block(coded["quantized"][:-3], "quantized-small")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_lossless_keeps_every_bit_pattern(dtype):
    count = 65536
    integer = torch.int16 if dtype.itemsize == 2 else torch.int32
    patterns = np.arange(count, dtype=np.uint32)
    if dtype == torch.float32:
        patterns = patterns << 16 | (patterns * 40503 & 0xFFFF) * (patterns & 1)
    raw = patterns.astype(np.uint16).view(np.int16) if dtype.itemsize == 2 else patterns.view(np.int32)
    x = torch.from_numpy(raw.copy()).view(dtype).reshape(2, 512, 64)
    block = KvBlock(np.arange(512), ((x, x.flip(0)),))
    settings = KvSettings(mode="lossless", rope=rope_for(64))
    assert all_same(decode(encode(block, settings), settings).layers, block.layers)
    special = torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0], dtype=dtype).view(integer)
    assert torch.isin(special, x.view(integer)).all()


def test_lossless_is_smaller_than_bf16():
    block = make_block(2, 256, 64)
    raw = read_block_header(encode(block, KvSettings(mode="lossless"))).raw_bytes
    assert raw == LAYERS * 2 * 2 * 256 * 64 * 2
    assert raw / len(encode(block, KvSettings(mode="lossless"))) > 1.2


@pytest.mark.parametrize("mode", LOSSY)
def test_lossy_modes_lose_little_and_do_lose(mode):
    """Guards against measuring a codec that compressed nothing: fewer bytes, other numbers, small error."""
    block, settings = make_block(2, 256, 64), settings_for(mode, 2, 64)
    data = encode(block, settings)
    decoded = decode(data, settings)
    assert len(data) < 0.5 * read_block_header(data).raw_bytes
    for pair, true in zip(decoded.layers, block.layers, strict=True):
        for x, y in zip(pair, true, strict=True):
            error = float((x.float() - y.float()).norm() / y.float().norm())
            assert 0 < error < 0.15


@pytest.mark.parametrize("mode", ["quantized", "transform", "predictive"])
def test_quality_is_monotonic(mode):
    block, settings = make_block(2, 256, 16), settings_for(mode, 2, 16)
    sizes, errors = [], []
    for quality in (20, 50, 80, 100):
        used = replace(settings, quality=quality)
        data = encode(block, used)
        sizes.append(len(data))
        layers = decode(data, used).layers
        errors.append(sum(float((a[0].float() - b[0].float()).norm()) for a, b in zip(layers, block.layers, strict=True)))
    assert sizes == sorted(sizes)
    assert errors == sorted(errors, reverse=True)


def test_first_and_last_tokens_are_finer():
    block = make_block(2, 256, 64, torch.float32)
    settings = KvSettings(rope=rope_for(64))
    layers = decode(encode(block, settings, total=256), settings).layers
    error = sum((a[1] - b[1]).square().mean((0, 2)) for a, b in zip(layers, block.layers, strict=True))
    assert error[:4].mean() < 0.15 * error[4:128].mean()
    assert 0.3 < error[128:].mean() / error[4:128].mean() < 0.8
    later = decode(encode(block, settings, start=256), settings).layers
    error = sum((a[1] - b[1]).square().mean((0, 2)) for a, b in zip(later, block.layers, strict=True))
    assert 0.7 < error[:128].mean() / error[128:].mean() < 1.4


def test_undoing_rope_saves_bits():
    dim, n = 64, 256
    rope = rope_for(dim)
    channel = torch.randn(2, dim, 1, generator=torch.Generator().manual_seed(1)) * 4
    noise = torch.randn(2, dim, n, generator=torch.Generator().manual_seed(2)) * 0.3
    keys = rope.turned((channel + noise).contiguous(), 1000, 1.0).transpose(1, 2).contiguous()
    block = KvBlock(np.arange(n), ((keys, keys),))
    sizes = [len(encode(block, KvSettings(rope=r), start=1000)) for r in (rope, None)]
    assert sizes[0] < 0.85 * sizes[1]


def test_values_go_by_token_where_that_is_cheaper():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2, 256, 64, generator=g) * torch.exp(1.5 * torch.randn(2, 256, 1, generator=g))
    block = KvBlock(np.arange(256), ((x, x),))
    settings = KvSettings(sinks=0)
    data = encode(block, settings)
    keys, values = read_block_header(data).chunk_bytes[0]
    assert values < 0.9 * keys
    known, _ = estimate_block(block, start=0, settings=settings)
    assert all_same(decode(data, settings).layers, known)


def test_extreme_outliers_escape_and_survive():
    block = make_block(2, 256, 16, torch.float32)
    block.layers[1][0][1, 100, 3] = 3e4
    block.layers[1][1][0, 200, 5] = -3e4
    settings = KvSettings(quality=100)
    layers = decode(encode(block, settings), settings).layers
    assert all_same(layers, estimate_block(block, start=0, settings=settings)[0])
    assert float(layers[1][0][1, 100, 3]) == pytest.approx(3e4, rel=1e-3)


def test_constant_and_zero_tensors():
    zero, one = torch.zeros(2, 40, 8), torch.full((2, 40, 8), 3.0)
    block = KvBlock(np.zeros(40, np.int64), ((zero, one), (one, zero)))
    for mode in PLAIN:
        layers = decode(encode(block, KvSettings(mode=mode)), KvSettings(mode=mode)).layers
        assert torch.allclose(layers[0][0], zero, atol=1e-6)
        assert torch.allclose(layers[1][0], one, rtol=0.6 if mode.startswith("turbo") else 0.1)


@pytest.mark.parametrize("mode", LOSSY)
def test_lossy_modes_refuse_numbers_that_are_not_finite(mode):
    block, settings = make_block(2, 20, 8), settings_for(mode, 2, 8)
    block.layers[1][1][0, 3, 2] = float("inf")
    with pytest.raises(ValueError, match="values of layer 1 are not all finite.*lossless"):
        encode(block, settings)


@pytest.mark.parametrize(
    ("options", "match"),
    [({"mode": "zip"}, "no mode 'zip'"), ({"quality": 101}, "quality is 101"), ({"bits": 0}, "bits is 0")],
)
def test_wrong_settings_are_named(options, match):
    with pytest.raises(ValueError, match=match):
        KvSettings(**options)


def test_a_mode_kept_for_older_files_is_written_and_not_listed():
    assert KvSettings(mode="lossless-1").mode == "lossless-1"
    with pytest.raises(ValueError, match="there are tokens, lossless, fp8, "):
        KvSettings(mode="zip")


def test_mode_numbers_are_pinned():
    assert {name: mode.number for name, mode in MODES.items()} == {
        "tokens": 0, "lossless-1": 1, "fp8": 2, "turboquant": 3, "turboquant-ec": 4, "quantized-small": 5, "transform": 6,
        "predictive": 7, "residual": 8, "quantized": 9, "lossless": 10, "quantized-lanes": 11,
    }  # fmt: skip


@pytest.mark.parametrize("mode", ["lossless", "quantized"])
def test_rope_wider_than_the_keys_is_not_written(mode):
    with pytest.raises(ValueError, match="RoPE of 16 channels for keys of width 12"):
        encode(make_block(2, 20, 12), KvSettings(mode=mode, rope=rope_for(16)))


def test_what_a_mode_names_is_looked_up_once(monkeypatch):
    mode = MODES["quantized"]
    found = mode.code, mode.coders
    table = "rdcodec.codecs.kv_cache.modes.table"
    monkeypatch.setattr(f"{table}.import_module", lambda name: pytest.fail(f"imported {name} again"))
    assert (mode.code, mode.coders) == found


@pytest.mark.parametrize(("name", "value"), [("quality", 50.5), ("quality", "60"), ("bits", 0), ("block_tokens", None)])
def test_settings_that_are_no_whole_numbers_in_range(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value!r}; need a whole number"):
        KvSettings(**{name: value})


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_lossless_is_no_larger_than_it_was(dtype):
    """Mode lossless-1 took three to ten times as long."""
    for heads in (2, 8):
        block = make_block(heads, 256, 64, dtype)
        new, old = (len(encode(block, KvSettings(mode=mode))) for mode in ("lossless", "lossless-1"))
        assert new <= 1.03 * old


def test_words_that_were_stored_as_they_are_come_back_as_a_tensor_of_their_own():
    """Not as the file's own bytes, which nobody may change."""
    words, writer = np.arange(6, dtype=np.uint16), WriteRows()
    writer.number(exact.STORED, "B")
    writer.raw(words, (6,), "<u2")
    writer.finish()
    spec = TensorSpec(name="x", groups=1, vectors=2, width=3, dtype=torch.bfloat16)
    data = writer.chunk()
    found = lossless.code(ReadRows(data), None, spec)
    assert np.array_equal(found.view(torch.int16).numpy().reshape(-1), words)
    found.zero_()
    assert lossless.code(ReadRows(data), None, spec).any()
