"""Contract of the cache codec: every mode, every shape, every way to be wrong."""

from __future__ import annotations

import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from damage import rechecked
from kv_cases import (
    ALL,
    DTYPES,
    LAYERS,
    LOSSY,
    PLAIN,
    all_same,
    forged,
    make_block,
    make_profile,
    rope_for,
    same_bits,
    settings_for,
)
from rdcodec.codecs import container
from rdcodec.codecs.kv_cache import commands
from rdcodec.codecs.kv_cache.codec import KvCodec
from rdcodec.codecs.kv_cache.format import sequence
from rdcodec.codecs.kv_cache.format.blocks import (
    KvBlock,
    KvSettings,
    block_id,
    decode_block,
    encode_block,
    estimate_block,
    read_block_header,
)
from rdcodec.codecs.kv_cache.format.describe import describe_kv, kv_rows
from rdcodec.codecs.kv_cache.format.recode import recode_block
from rdcodec.codecs.kv_cache.modes.profiles import Profile
from rdcodec.codecs.kv_cache.modes.table import MODES
from rdcodec.codecs.tensor import turboquant
from rdcodec.entropy_models import rows
from rdcodec.entropy_models.errors import (
    BitstreamError,
    Corrupt,
    Truncated,
    Unsupported,
)
from rdcodec.entropy_models.tables import TOTAL, gaussian_tables

ROOT, MODEL, SALT = bytes(16), bytes(range(16)), b"tenant"


def encode(block: KvBlock, settings: KvSettings, start: int = 0, total: int | None = None) -> bytes:
    return encode_block(block, parent=ROOT, fingerprint=MODEL, salt=SALT, start=start, settings=settings, total=total)


def decode(data: bytes, settings: KvSettings, **options) -> KvBlock:
    return decode_block(data, fingerprint=MODEL, salt=SALT, profile=settings.profile, **options)


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
    for mode in ("quantized", "quantized-small"):
        settings = replace(settings_for(mode, heads, dim, quality=70), profile=profile)
        coded[mode] = encode(block, settings, total=n)
    for mode, other in (coded, reversed(coded)):
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


@pytest.mark.parametrize("mode", ALL)
def test_layer_range_loads_alone(mode):
    block, settings = make_block(2, 64, 8), settings_for(mode, 2, 8)
    data = encode(block, settings)
    whole = decode(data, settings).layers
    assert all_same(decode(data, settings, layers=range(1, 3)).layers, whole[1:])
    assert decode(data, settings, layers=range(0)).layers == ()
    with pytest.raises(ValueError, match="successive ones of the 3"):
        decode(data, settings, layers=range(2, 4))


def test_damage_in_another_layer_does_not_matter_to_a_range():
    block, settings = make_block(2, 64, 8), KvSettings()
    data = bytearray(encode(block, settings))
    entry = container.parse(bytes(data)).entries[2 + 2 * 2]
    data[entry.offset + 6] ^= 4
    assert all_same(
        decode(bytes(data), settings, layers=range(2)).layers, decode(encode(block, settings), settings).layers[:2]
    )
    with pytest.raises(Corrupt, match="chunk 6"):
        decode(bytes(data), settings)


@pytest.mark.parametrize("mode", ALL)
def test_forged_chunks_never_crash(mode):
    block, settings = make_block(1, 20, 6), settings_for(mode, 1, 6)
    data = encode(block, settings)
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(150):

        def change(signal, chunks):
            chunk = chunks[rng.integers(2, len(chunks))]
            if rng.random() < 0.2:
                del chunk[rng.integers(len(chunk)) :]
            else:
                chunk[rng.integers(len(chunk))] = rng.integers(256)

        try:
            decoded = decode(forged(data, change), settings)
            assert decoded.layers[0][0].shape == block.layers[0][0].shape
        except BitstreamError:
            refused += 1
    assert refused or mode == "turboquant"


@pytest.mark.parametrize(
    ("offset", "form", "value", "match"),
    [
        (1, "B", 99, "mode 99"),
        (2, "B", 9, "element type 9"),
        (3, "B", 101, "quality 101"),
        (4, "H", 1025, "1025 layers"),
        (6, "H", 0, "0 heads"),
        (8, "H", 5000, "widths 5000"),
        (12, "I", 70000, "70000 tokens"),
        (12, "I", 21, "21 tokens need 84"),
        (16, "Q", 1 << 41, "start"),
        (24, "I", 30, "30 . 0 of 20 tokens"),
        (32, "B", 6, "6 bits"),
        (33, "B", 1, "not known"),
    ],
)
def test_header_fields_are_bounded(offset, form, value, match):
    data = encode(make_block(1, 20, 6), KvSettings(mode="turboquant"))

    def change(signal, chunks):
        struct.pack_into("<" + form, signal, offset, value)

    with pytest.raises(BitstreamError, match=match):
        decode_block(forged(data, change))


def test_a_block_of_few_bytes_cannot_claim_a_huge_cache():
    """Each size within its bound, all together 20 GB: refused before anything is allocated."""
    data = encode(make_block(1, 100, 6), KvSettings(mode="lossless"))

    def change(signal, chunks):
        struct.pack_into("<HHH", signal, 6, 1024, 4096, 4096)

    with pytest.raises(Corrupt, match="3 layers, 1024 heads, widths 4096 and 4096, 100 tokens: out of range"):
        decode_block(forged(data, change))


@pytest.mark.parametrize("mode", ALL)
def test_a_chunk_that_is_longer_than_its_symbols_is_refused(mode):
    settings = settings_for(mode, 1, 6)

    def change(signal, chunks):
        chunks[-1] += b"\0\0\0\0"

    with pytest.raises(BitstreamError, match="left over"):
        decode(forged(encode(make_block(1, 20, 6), settings), change), settings)


def test_foreign_blocks_are_named():
    block, settings = make_block(2, 20, 6), KvSettings()
    data = encode(block, settings)
    with pytest.raises(Unsupported, match=f"model {MODEL.hex()}, expected {'00' * 16}"):
        decode_block(data, fingerprint=bytes(16))
    with pytest.raises(Unsupported, match="another salt"):
        decode_block(data, salt=b"other")
    with pytest.raises(Unsupported, match="codec id 1"):
        decode_block(container.write(codec_id=1, weights=bytes(8), signal=b"", chunks=[]))
    with pytest.raises(Unsupported, match="not one block"):
        decode_block(KvCodec().encode(block.layers, block.tokens))
    with pytest.raises(Truncated):
        decode_block(data[:-1])


def test_profiles_are_named():
    block, settings = make_block(2, 20, 6), settings_for("transform", 2, 6)
    data = encode(block, settings)
    with pytest.raises(Unsupported, match=f"needs profile {settings.profile.hash.hex()}"):
        decode_block(data)
    with pytest.raises(Unsupported, match=r"a profile for .*\(3, 16, 16\); the cache has \(3, 12, 12\)"):
        decode_block(data, profile=make_profile(2, 8))
    with pytest.raises(ValueError, match="needs a calibrated profile"):
        KvSettings(mode="predictive")
    with pytest.raises(Corrupt, match="not a calibrated profile"):
        Profile(b"abc")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda b: KvBlock(np.zeros(0, np.int64), b.layers), "tokens of shape"),
        (lambda b: KvBlock(b.tokens[:-1], b.layers), r"keys of layer 0: .*expected \(2, 19, 6\)"),
        (lambda b: KvBlock(b.tokens - 100, b.layers), "token ids -"),
        (lambda b: KvBlock(b.tokens, ()), "no mode but tokens"),
        (lambda b: KvBlock(b.tokens, (*b.layers[:1], (b.layers[1][0].float(), b.layers[1][1]))), "layer 1.*bfloat16"),
        (lambda b: KvBlock(b.tokens, tuple((k.double(), v.double()) for k, v in b.layers)), "float64; need one of"),
        (lambda b: KvBlock(np.zeros(65537, np.int64), b.layers), "1..65536"),
    ],
)
def test_wrong_blocks_are_named(change, match):
    with pytest.raises(ValueError, match=match):
        encode(change(make_block(2, 20, 6)), KvSettings())


@pytest.mark.parametrize(
    ("options", "match"),
    [({"mode": "zip"}, "no mode 'zip'"), ({"quality": 101}, "quality is 101"), ({"bits": 0}, "bits is 0")],
)
def test_wrong_settings_are_named(options, match):
    with pytest.raises(ValueError, match=match):
        KvSettings(**options)


def test_block_id_depends_on_everything():
    ids = np.arange(5)
    names = {
        block_id(ROOT, MODEL, SALT, ids),
        block_id(MODEL, MODEL, SALT, ids),
        block_id(ROOT, ROOT, SALT, ids),
        block_id(ROOT, MODEL, b"", ids),
        block_id(ROOT, MODEL, SALT, ids[:4]),
    }
    assert len(names) == 5 and all(len(name) == 16 for name in names)
    assert block_id(ROOT, MODEL, SALT, ids.astype(np.int32)) == block_id(ROOT, MODEL, SALT, ids)
    # pinned: a change would orphan every stored block
    assert block_id(ROOT, MODEL, SALT, ids).hex() == "46cc6e245da4020172f99fc772411bb1"


def test_header_is_read_without_tensors():
    block = make_block(2, 20, 6)
    header = read_block_header(encode(block, KvSettings(quality=33), start=512))
    assert (header.mode, header.quality, header.start, header.layers, header.shape) == (
        "quantized",
        33,
        512,
        3,
        (2, 20, 6),
    )
    assert header.id == block_id(ROOT, MODEL, SALT, block.tokens) and header.parent == ROOT
    assert np.array_equal(header.tokens, block.tokens)


def test_mode_numbers_are_pinned():
    assert {name: mode.number for name, mode in MODES.items()} == {
        "tokens": 0, "lossless": 1, "fp8": 2, "turboquant": 3, "turboquant-ec": 4, "quantized-small": 5, "transform": 6,
        "predictive": 7, "residual": 8, "quantized": 9,
    }  # fmt: skip


def test_stored_tables_are_the_gaussian_ones():
    stored, fresh = rows.tables(), gaussian_tables(1)
    for a, b in zip(stored.counts, fresh.counts, strict=True):
        assert a.sum() == TOTAL and np.abs(a - b).max() <= 2
    assert zlib.crc32(rows.TABLES_FILE.read_bytes()) == 4006447196


@pytest.mark.parametrize("level", [1, 9, 21, 33, 47, 63])
def test_rows_come_back_with_escapes(level):
    rng = np.random.default_rng(level)
    spread = 0.11 * np.exp(level * 0.101)
    values = np.rint(rng.normal(0, 3 * spread, (7, 33))).astype(np.int32)
    values[3, 5] = 1 << 20
    values[6, 32] = -(1 << 20)
    levels = np.full(7, level, np.uint8)
    writer, measure = rows.WriteRows(), rows.MeasureRows()
    writer.rows(values, levels)
    measure.rows(values, levels)
    data = writer.chunk()
    reader = rows.ReadRows(data)
    assert np.array_equal(reader.rows(np.empty_like(values), levels), values)
    reader.finish()
    assert measure.bits[0] - 8 <= 8 * len(data) <= 1.005 * measure.bits[0] + 96


@pytest.mark.parametrize("level", [1, 9, 21, 29, 33])
@pytest.mark.parametrize("column", [0, 4, 8])
def test_the_last_symbol_of_a_table_and_the_first_beyond(level, column):
    reach = int(rows.tables().reach[level])
    for symbol in (reach, -reach, reach + 1, -reach - 1):
        values, levels = np.zeros((2, 9), np.int32), np.full(2, level, np.uint8)
        values[1, column] = symbol
        writer = rows.WriteRows()
        writer.rows(values, levels)
        reader = rows.ReadRows(writer.chunk())
        assert np.array_equal(reader.rows(np.empty_like(values), levels), values)
        reader.finish()


def test_left_over_bytes_are_corrupt():
    writer = rows.WriteRows()
    writer.raw(np.arange(3), (3,), "u1")
    reader = rows.ReadRows(writer.chunk())
    reader.raw(None, (2,), "u1")
    with pytest.raises(Corrupt, match="left over"):
        reader.finish()


def test_codebooks_are_the_published_ones():
    """Positive centroids of a unit Gaussian and their mean squared error (TurboQuant, table of section 3.1)."""
    assert turboquant.codebook(1)[0][1:].tolist() == pytest.approx([0.7979], abs=1e-4)
    assert turboquant.codebook(2)[0][2:].tolist() == pytest.approx([0.4528, 1.5104], abs=1e-4)
    assert turboquant.codebook(3)[0][4:].tolist() == pytest.approx([0.2451, 0.7560, 1.3439, 2.1519], abs=1e-3)
    x = torch.randn(1, 4096, 64, generator=torch.Generator().manual_seed(0))
    block = KvBlock(np.zeros(4096, np.int64), ((x, x),))
    for bits, error in ((1, 0.3634), (2, 0.1175), (3, 0.03455), (4, 0.0095), (5, 0.0025)):
        settings = KvSettings(mode="turboquant", bits=bits)
        data = encode(block, settings)
        found = decode(data, settings).layers[0][0]
        assert float((found - x).square().mean()) == pytest.approx(error, rel=0.06)
        assert 8 * read_block_header(data).chunk_bytes[0][0] / x.numel() == pytest.approx(bits + 16 / 64, abs=0.01)


def test_sequence_in_blocks_and_prefixes():
    block = make_block(2, 700, 16)
    codec = KvCodec(KvSettings(rope=rope_for(16)), MODEL, SALT)
    data = codec.encode(block.layers, block.tokens)
    tokens, layers = codec.decode(data)
    assert np.array_equal(tokens, block.tokens) and layers[0][0].shape == (2, 700, 16)
    assert all_same(layers, codec.estimate(block.layers, block.tokens)[0])
    tokens, part = codec.decode(data, prefix=300, layers=range(1, 2))
    assert len(tokens) == 300 and all_same(part, ((layers[1][0][:, :300], layers[1][1][:, :300]),))
    assert len(codec.decode(data, prefix=0)[0]) == 0
    assert not layers[0][0].is_inference()  # such tensors could not be trained on
    for end in range(0, len(data), len(data) // 40):
        with pytest.raises(BitstreamError):
            codec.decode(data[:end])


def test_verify_looks_at_the_checksums_that_a_reader_does_not_need():
    block = make_block(2, 700, 16)
    data = bytearray(KvCodec(KvSettings(), MODEL, SALT).encode(block.layers, block.tokens))
    commands.verify_bytes(bytes(data))
    data[22 + 44 + 9 + 5] ^= 1  # of block 1, whose own bytes are whole
    data = rechecked(bytes(data))
    assert len(sequence.decode_blocks(data)) == 3
    with pytest.raises(Corrupt, match="chunk 1 has checksum"):
        commands.verify_bytes(data)


def test_sequence_with_a_missing_or_foreign_block_is_refused():
    block = make_block(2, 700, 16)
    codec = KvCodec(KvSettings(), MODEL, SALT)
    data = codec.encode(block.layers, block.tokens)

    def drop(signal, chunks):
        chunks[1] = chunks[2]

    with pytest.raises(Corrupt, match="block 1: it starts at token 512, expected 256"):
        codec.decode(forged(data, drop))
    with pytest.raises(Unsupported, match="another salt"):
        KvCodec(KvSettings(), MODEL, b"").decode(data)


def test_safetensors_in_and_out():
    from safetensors.torch import load, save

    block = make_block(2, 50, 8)
    names = {f"layers.{i}.{n}": x.contiguous() for i, p in enumerate(block.layers) for n, x in zip("kv", p, strict=True)}
    data, fields = commands.encode_bytes(save({**names, "tokens": torch.from_numpy(block.tokens)}), mode="lossless")
    assert fields["raw_bytes"] == sum(x.numel() * 2 for x in names.values()) and not fields["notices"]
    out = load(commands.decode_bytes(data)[0])
    assert all(same_bits(out[name], x) for name, x in names.items())
    assert out["tokens"].tolist() == block.tokens.tolist()
    info = describe_kv(data)
    assert info["mode"] == "lossless" and len(info["bits_per_element_by_layer"]) == 3
    other = {
        name.replace("layers.", "m.").replace(".k", ".key").replace(".v", ".value"): x[None] for name, x in names.items()
    }
    stream, fields = commands.encode_bytes(save(other), keys="m.{i}.{k}")
    assert fields["notices"] and len(stream) < len(data)
    commands.verify_bytes(stream)
    with pytest.raises(ValueError, match="no keys and values named"):
        commands.encode_bytes(save(other))
    with pytest.raises(ValueError, match="not a safetensors file"):
        commands.encode_bytes(b"hello")


def test_safetensors_with_keys_and_values_of_different_widths():
    from safetensors.torch import load, save

    block = make_block(2, 40, 24)
    names = {f"layers.{i}.{n}": x for i, p in enumerate(block.layers) for n, x in zip("kv", p, strict=True)}
    names = {n: x[..., :16].contiguous() if n.endswith("v") else x for n, x in names.items()}
    data, fields = commands.encode_bytes(save(names), mode="lossless")
    assert fields["shape"] == "3 layers x 2 heads x 40 tokens x 24 (values 16)"
    info = describe_kv(data)
    assert (info["kv_heads"], info["key_width"], info["value_width"], info["damaged_blocks"]) == (2, 24, 16, [])
    shown = kv_rows(info)
    assert shown["kv heads x width"] == "2 x 24 (values 16)" and "damaged blocks" not in shown
    assert [f"{bits:.2f}" for bits in info["bits_per_element_by_layer"]] == shown["by layer"].split()
    out = load(commands.decode_bytes(data)[0])
    assert all(same_bits(out[name], x) for name, x in names.items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers.0.compressed_kv": (40, 576)}, r"layers\.0\.compressed_kv: a cache of multi-head latent attention \(MLA\)"),
        ({"layers.0.kv_c": (40, 512), "layers.0.k_pe": (40, 64)}, r"layers\.0\.k_pe, .*kv_c: .*\(MLA\); supported are"),
        ({"layers.1.ssm_states": (1, 64, 16)}, r"ssm_states: a cache of linear-attention or state-space \(SSM\) layers"),
        ({"layers.1.k": (2, 15, 8), "layers.1.v": (2, 15, 8)}, r"layer 1 hold 15 positions for 40 .*sliding-window layer"),
        ({"tokens": (50,)}, r"^50 token ids for a cache of 40 tokens; need one for each. Is it of sliding-window layers, "),
        ({"tokens": (30,)}, r"^30 token ids for a cache of 40 tokens; need one for each$"),
        ({"layers.2.k": (2, 40, 8)}, r"^layer 2 has keys but no values \(names 'layers\.\{i\}\.\{k\}'\)$"),
        ({"layers.0.v": (2, 40, 0)}, r"width 0; of multi-head latent attention \(MLA\)"),
        ({"layers.0.k": (3, 2, 40, 8)}, r"keys of layer 0 hold a batch of 3"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("alone", [False, True])
def test_safetensors_of_other_layouts_are_refused_by_name(change, message, alone):
    """Also beside keys and values: what would be left out is part of the cache."""
    from safetensors.torch import save

    own = any(name.endswith((".k", ".v", "tokens")) for name in change)
    shapes = {} if alone and not own else {f"layers.{i}.{n}": (2, 40, 8) for i in range(2) for n in "kv"}
    tensors = {n: torch.zeros(s, dtype=torch.int64 if n == "tokens" else None) for n, s in (shapes | change).items()}
    with pytest.raises(ValueError, match=message):
        commands.encode_bytes(save(tensors))


def test_safetensors_without_tokens_or_with_ids_that_are_none():
    from safetensors.torch import save

    def cache(count, **tensors):
        return save({f"layers.0.{n}": torch.zeros(2, count, 8) for n in "kv"} | tensors)

    for tensors in ({}, {"tokens": torch.zeros(0, dtype=torch.int64)}):
        with pytest.raises(ValueError, match="the cache holds 0 tokens; need at least 1"):
            commands.encode_bytes(cache(0, **tensors))
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        with pytest.raises(ValueError, match=r"'tokens' is of type b?float\d+; need integers"):
            commands.encode_bytes(cache(3, tokens=torch.tensor([1.5, 2, 3], dtype=dtype)))
    with pytest.raises(ValueError, match=r"each 0 to 2\^63 - 1"):
        commands.encode_bytes(cache(3, tokens=torch.tensor([1, -2, 3])))


def test_a_salt_goes_into_a_file_and_is_checked_where_it_is_given():
    from safetensors.torch import save

    cache = save({f"layers.0.{n}": torch.randn(2, 40, 8) for n in "kv"} | {"tokens": torch.arange(40)})
    salted, plain = (commands.encode_bytes(cache, mode="lossless", salt=salt)[0] for salt in ("tenant", None))
    assert salted == KvCodec(KvSettings(mode="lossless"), salt=b"tenant").encode(*reversed(KvCodec().decode(plain)))
    assert commands.decode_bytes(salted)[0] == commands.decode_bytes(salted, salt="tenant")[0]
    commands.verify_bytes(salted, salt="tenant")
    for data, salt in ((salted, "other"), (salted, ""), (plain, "tenant")):
        for read in (commands.decode_bytes, commands.verify_bytes):
            with pytest.raises(Unsupported, match="salt"):
                read(data, salt=salt)


def test_safetensors_as_mlx_lm_saves_them():
    """``save_prompt_cache``: tree_flatten of [(keys, values), ...], shape (1, kv_heads, n, head_dim), classes in 2.i."""
    from safetensors.torch import load, save

    tensors = {f"{i}.{n}": torch.randn(1, 2, 40, 8).half() for i in range(11) for n in (0, 1)}
    classes = {f"2.{i}": "KVCache" for i in range(11)} | {f"0.{i}": "" for i in range(11)}
    data, fields = commands.encode_bytes(save(tensors, classes), mode="lossless")
    assert (fields["layers"], fields["kv_heads"], fields["tokens"]) == (11, 2, 40)
    out = load(commands.decode_bytes(data)[0])
    assert all(same_bits(out[f"layers.{i}.{'kv'[n]}"], tensors[f"{i}.{n}"][0]) for i in range(11) for n in (0, 1))
    again = load(commands.decode_bytes(data, keys="{i}.{k}", batch=True)[0])
    assert again.pop("tokens").shape == (40,) and again.keys() == tensors.keys()
    assert all(same_bits(again[name], x) for name, x in tensors.items())
    assert {"b.3/v", "b.10/k"} < load(commands.decode_bytes(data, keys="b.{i}/{k}")[0]).keys()
    with pytest.raises(ValueError, match=r"pattern 'b\.\{i\}' of tensor names; it needs one"):
        commands.decode_bytes(data, keys="b.{i}")
    with pytest.raises(Unsupported, match="mlx_lm cache layers of class RotatingKVCache; supported are"):
        commands.encode_bytes(save(tensors, classes | {"2.3": "RotatingKVCache"}))
    quantised = {f"0.{n}.{part}": torch.zeros(1, 2, 40, 1) for n in (0, 1) for part in range(3)}
    with pytest.raises(Unsupported, match="class QuantizedKVCache"):
        commands.encode_bytes(save(quantised, {"2.0": "QuantizedKVCache"}))


@pytest.mark.parametrize("mode", ["transform", "predictive"])
def test_commands_take_a_profile(tmp_path, monkeypatch, mode):
    from rdcodec.codecs.cli.main import app
    from rdcodec.codecs.kv_cache.modes import profiles as profile
    from safetensors.torch import save_file
    from typer.testing import CliRunner

    def run(*arguments):
        monkeypatch.setattr(profile, "_in_use", {})  # each command is a process of its own
        return CliRunner().invoke(app, [str(a) for a in arguments])

    block, given, name = make_block(2, 40, 8), ["--profile", tmp_path / "p"], ["--fingerprint", "00" * 16]
    make_profile(2, 8).write(tmp_path / "p")
    tensors = {f"layers.{i}.{n}": x.contiguous() for i, p in enumerate(block.layers) for n, x in zip("kv", p, strict=True)}
    save_file(tensors | {"tokens": torch.from_numpy(block.tokens)}, tmp_path / "c.safetensors")
    (tmp_path / "ids").write_text(" ".join(map(str, block.tokens)))
    encode = ["encode", tmp_path / "c.safetensors", "--mode", mode]
    decode = ["decode", tmp_path / "c.rdc", "-o", tmp_path / "out.safetensors"]
    put = ["kv", "put", tmp_path / "s", tmp_path / "c.safetensors", *name, "--mode", mode]
    get = ["kv", "get", tmp_path / "s", "--tokens", tmp_path / "ids", *name, "-o", tmp_path / "got.safetensors"]
    transcode = ["kv", "transcode", tmp_path / "s", *name, "--mode", mode]
    for command in (encode, ["verify", tmp_path / "c.rdc"], decode, put, get, transcode, ["kv", "verify", tmp_path / "s"]):
        missing = run(*command)
        assert missing.exit_code == 1 and ("profile" in missing.output or command is get), missing.output
        done = run(*command, *given)
        assert done.exit_code == 0, (command, done.output)
    assert (tmp_path / "out.safetensors").read_bytes() == (tmp_path / "got.safetensors").read_bytes()
    left = run(*transcode[:-1], "fp8")
    assert left.exit_code == 1 and "-> " in left.stdout and left.stderr.count("\n") == 1
    assert "codec kv: 1 of 1 blocks left as they are: the block needs profile" in left.stderr
    done = run(*transcode[:-1], "fp8", *given)
    assert done.exit_code == 0 and not done.stderr, done.output
    refused = run(*encode[:2], "--mode", "fp8", *given, "-f")
    assert refused.exit_code == 1 and "mode fp8 takes no --profile" in refused.stderr


def test_other_tensors_of_a_safetensors_file_are_told():
    from safetensors.torch import save

    shapes = {"layers.0.k": (2, 40, 8), "layers.0.v": (2, 40, 8), "logits": (97,)}
    _, fields = commands.encode_bytes(save({name: torch.zeros(shape) for name, shape in shapes.items()}))
    starts = [n.split(",")[0].split(":")[0] for n in fields["notices"]]
    assert starts == ["not stored", "RoPE stays in the keys", "no tensor 'tokens'"]


def test_damage_within_a_block_is_damage_whatever_it_looks_like():
    codec = KvCodec(KvSettings(mode="lossless", block_tokens=16))
    data = codec.encode(make_block(2, 40, 6).layers, np.arange(40))
    starts = [entry.offset for entry in container.parse(data).entries]
    for at in (starts[0], starts[0] + 4, starts[1] + 4, starts[1] + 30):  # magic, version, a field of the header
        with pytest.raises(Corrupt, match="has checksum"):
            codec.decode(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])


def test_the_error_of_a_damaged_block_says_what_is_intact():
    tokens, codec = np.arange(40), KvCodec(KvSettings(mode="lossless", block_tokens=16))
    layers = ((torch.ones(1, 40, 4), torch.ones(1, 40, 4)),)
    data = bytearray(codec.encode(layers, tokens))
    data[sequence.parse_sequence(bytes(data))[0].entries[2].offset + 150] ^= 1
    intact = "the 32 tokens before it are intact, `codec decode --prefix 32` reads them"
    with pytest.raises(BitstreamError, match=rf"^block 2: .*; {intact}$"):
        codec.decode(bytes(data))
    found, part = codec.decode(bytes(data), prefix=32)
    assert len(found) == 32 and torch.equal(part[0][0], layers[0][0][:, :32])
    with pytest.raises(BitstreamError, match=r"^it was written under another salt \(--salt\) than the one given"):
        KvCodec(salt=b"x").decode(codec.encode(layers, tokens))


@pytest.mark.parametrize("factor", [1e6, 1e-8])
def test_vectors_too_long_or_too_short_for_float16_norms_are_refused(factor):
    block = make_block(2, 20, 8)
    block = KvBlock(block.tokens, tuple((k * factor, v * factor) for k, v in block.layers))
    for mode in ("turboquant", "turboquant-ec"):
        with pytest.raises(ValueError, match="keys of layer 0: the longest vector has norm"):
            encode(block, settings_for(mode, 2, 8))


@pytest.mark.parametrize("mode", ["lossless", "quantized"])
def test_rope_wider_than_the_keys_is_not_written(mode):
    with pytest.raises(ValueError, match="RoPE of 16 channels for keys of width 12"):
        encode(make_block(2, 20, 12), KvSettings(mode=mode, rope=rope_for(16)))


def test_what_a_mode_names_is_looked_up_once(monkeypatch):
    mode = MODES["quantized"]
    found = mode.code, mode.coder("Write")
    table = "rdcodec.codecs.kv_cache.modes.table"
    monkeypatch.setattr(f"{table}.import_module", lambda name: pytest.fail(f"imported {name} again"))
    assert (mode.code, mode.coder("Write")) == found


@pytest.mark.parametrize(("name", "value"), [("quality", 50.5), ("quality", "60"), ("bits", 0), ("block_tokens", None)])
def test_settings_that_are_no_whole_numbers_in_range(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value!r}; need a whole number"):
        KvSettings(**{name: value})
