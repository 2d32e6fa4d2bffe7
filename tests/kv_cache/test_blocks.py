"""One block of a cache: its header, its checks, and every way to be wrong."""

from __future__ import annotations

import contextlib
import struct
from dataclasses import replace

import numpy as np
import pytest
from kv_cases import (
    ALL,
    MODEL,
    ROOT,
    SALT,
    all_same,
    decode,
    encode,
    forged,
    make_block,
    make_profile,
    settings_for,
)
from rdcodec.codecs import container
from rdcodec.codecs.kv_cache.codec import Cache, KvCodec
from rdcodec.codecs.kv_cache.format import header
from rdcodec.codecs.kv_cache.format.blocks import (
    KvBlock,
    KvSettings,
    block_id,
    decode_block,
    read_block_header,
)
from rdcodec.codecs.kv_cache.modes.profiles import Profile
from rdcodec.entropy_models.errors import (
    BitstreamError,
    Corrupt,
    Truncated,
    Unsupported,
)


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


def test_sizes_are_taken_up_to_their_limits():
    largest = {"layers": 1024, "heads": 1024, "key_dim": 4096, "value_dim": 4096, "n": 65536}
    for name, limit in largest.items():
        sizes = {size: 1 for size in largest} | {name: limit}
        header.check_sizes(*sizes.values(), Corrupt)
        with pytest.raises(Corrupt, match="out of range"):
            header.check_sizes(*(sizes | {name: limit + 1}).values(), Corrupt)
        with contextlib.nullcontext() if name in ("layers", "value_dim") else pytest.raises(Corrupt, match="out of range"):
            header.check_sizes(*(sizes | {name: 0}).values(), Corrupt)
    assert header.ELEMENTS_MAX == 1 << 31
    header.check_sizes(4, 128, 64, 0, 65536, Corrupt)
    with pytest.raises(Corrupt, match="out of range"):
        header.check_sizes(4, 128, 64, 1, 65536, Corrupt)


@pytest.mark.parametrize(("start", "fits"), [((1 << 40) - 1, True), (1 << 40, False)])
def test_a_block_starts_below_the_limit(start, fits):
    data = encode(make_block(1, 20, 6), KvSettings(mode="lossless"), start=(1 << 40) - 1)

    def change(signal, chunks):
        struct.pack_into("<Q", signal, 16, start)

    with contextlib.nullcontext() if fits else pytest.raises(BitstreamError, match="start"):
        assert decode_block(forged(data, change)).layers[0][0].shape == (1, 20, 6)


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
    with pytest.raises(Unsupported, match="stream id 1"):
        decode_block(container.write(stream_id=1, weights=bytes(8), signal=b"", chunks=[]))
    with pytest.raises(Unsupported, match="not one block"):
        decode_block(KvCodec().encode(Cache(block.tokens, block.layers)))
    with pytest.raises(Truncated):
        decode_block(data[:-1])


def test_profiles_are_named():
    block, settings = make_block(2, 20, 6), settings_for("transform", 2, 6)
    data = encode(block, settings)
    with pytest.raises(Unsupported, match=f"needs profile {settings.profile.hash.hex()}"):
        decode_block(data)
    other = make_profile(2, 6, exponent=-13)
    with pytest.raises(Unsupported, match=f"needs profile {settings.profile.hash.hex()}, not {other.hash.hex()}"):
        decode_block(data, profile=other)
    with pytest.raises(Unsupported, match=r"a profile for .*\(3, 16, 16\); the cache has \(3, 12, 12\)"):
        encode(block, replace(settings, profile=make_profile(2, 8)))
    plain = encode(block, replace(settings, mode="quantized", profile=None))
    assert all_same(decode_block(plain, profile=make_profile(2, 8)).layers, decode_block(plain).layers)
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
