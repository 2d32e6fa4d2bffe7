"""A cache in a file: blocks in a row, prefixes, salt and damage."""

from __future__ import annotations

import kv_files
import numpy as np
import pytest
import torch
from damage import rechecked
from kv_cases import (
    MODEL,
    SALT,
    all_same,
    forged,
    make_block,
    rope_for,
)
from rdcodec.codecs import container
from rdcodec.codecs.kv_cache.codec import Cache, KvCodec
from rdcodec.codecs.kv_cache.format import sequence
from rdcodec.codecs.kv_cache.format.blocks import (
    KvSettings,
)
from rdcodec.entropy_models.errors import (
    BitstreamError,
    Corrupt,
    Unsupported,
)


def test_sequence_in_blocks_and_prefixes():
    block = make_block(2, 700, 16)
    codec = KvCodec(KvSettings(rope=rope_for(16)), MODEL, SALT)
    data = codec.encode(Cache(block.tokens, block.layers))
    whole = codec.decode(data)
    layers = whole.layers
    assert np.array_equal(whole.tokens, block.tokens) and layers[0][0].shape == (2, 700, 16)
    part = codec.decode(data, prefix=300, layers=range(1, 2))
    assert len(part.tokens) == 300 and all_same(part.layers, ((layers[1][0][:, :300], layers[1][1][:, :300]),))
    assert len(codec.decode(data, prefix=0).tokens) == 0
    assert not layers[0][0].is_inference()  # such tensors could not be trained on
    for end in range(0, len(data), len(data) // 40):
        with pytest.raises(BitstreamError):
            codec.decode(data[:end])


def test_verify_looks_at_the_checksums_that_a_reader_does_not_need():
    block = make_block(2, 700, 16)
    data = bytearray(KvCodec(KvSettings(), MODEL, SALT).encode(Cache(block.tokens, block.layers)))
    kv_files.verify_bytes(bytes(data))
    data[22 + 44 + 9 + 5] ^= 1  # of block 1, whose own bytes are whole
    data = rechecked(bytes(data))
    assert len(sequence.decode_blocks(data)) == 3
    with pytest.raises(Corrupt, match="chunk 1 has checksum"):
        kv_files.verify_bytes(data)


def test_sequence_with_a_missing_or_foreign_block_is_refused():
    block = make_block(2, 700, 16)
    codec = KvCodec(KvSettings(), MODEL, SALT)
    data = codec.encode(Cache(block.tokens, block.layers))

    def drop(signal, chunks):
        chunks[1] = chunks[2]

    with pytest.raises(Corrupt, match="block 1: it starts at token 512, expected 256"):
        codec.decode(forged(data, drop))
    with pytest.raises(Unsupported, match="another salt"):
        KvCodec(KvSettings(), MODEL, b"").decode(data)


def test_a_file_whose_last_block_is_not_the_one_it_names_is_refused():
    codec, block = KvCodec(KvSettings(mode="lossless", block_tokens=16)), make_block(2, 40, 6)
    data = codec.encode(Cache(block.tokens, block.layers))

    def other_end(signal, chunks):
        signal[-1] ^= 1

    with pytest.raises(BitstreamError, match="blocks end at token 40"):
        codec.decode(forged(data, other_end))
    assert len(codec.decode(forged(data, other_end), prefix=40).tokens) == 40
    stream = container.parse(data)
    chunks = [(entry.kind, stream.chunk(i)) for i, entry in enumerate(stream.entries[:-1])]
    short = container.write(stream_id=4, weights=stream.weights, signal=stream.signal, chunks=chunks)
    with pytest.raises(BitstreamError, match="blocks end at token 32, the header says 40"):
        codec.decode(short)


def test_a_block_of_another_tenant_further_on_is_named_with_its_place():
    """A foreign block further on is named with its place; a file that is foreign from the start is foreign as a whole."""
    tenants = [KvCodec(KvSettings(mode="lossless", block_tokens=16), salt=salt) for salt in (b"a", b"b")]
    block = make_block(2, 40, 6)
    mine, other = (codec.encode(Cache(block.tokens, block.layers)) for codec in tenants)

    def mix(signal, chunks):
        chunks[1][:] = container.parse(other).chunk(1)

    with pytest.raises(BitstreamError, match="^block 1: .*16 tokens before it are intact"):
        tenants[0].decode(forged(mine, mix))


def test_a_salt_goes_into_a_file_and_is_checked_where_it_is_given():
    from safetensors.torch import save

    cache = save({f"layers.0.{n}": torch.randn(2, 40, 8) for n in "kv"} | {"tokens": torch.arange(40)})
    salted, plain = (kv_files.encode_bytes(cache, mode="lossless", salt=salt)[0] for salt in ("tenant", None))
    assert salted == KvCodec(KvSettings(mode="lossless"), salt=b"tenant").encode(KvCodec().decode(plain))
    assert kv_files.decode_bytes(salted)[0] == kv_files.decode_bytes(salted, salt="tenant")[0]
    kv_files.verify_bytes(salted, salt="tenant")
    for data, salt in ((salted, "other"), (salted, ""), (plain, "tenant")):
        for read in (kv_files.decode_bytes, kv_files.verify_bytes):
            with pytest.raises(Unsupported, match="salt"):
                read(data, salt=salt)


def test_damage_within_a_block_is_damage_whatever_it_looks_like():
    codec = KvCodec(KvSettings(mode="lossless", block_tokens=16))
    data = codec.encode(Cache(np.arange(40), make_block(2, 40, 6).layers))
    starts = [entry.offset for entry in container.parse(data).entries]
    for at in (starts[0], starts[0] + 4, starts[1] + 4, starts[1] + 30):  # magic, version, a field of the header
        with pytest.raises(Corrupt, match="has checksum"):
            codec.decode(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])


def test_the_error_of_a_damaged_block_says_what_is_intact():
    tokens, codec = np.arange(40), KvCodec(KvSettings(mode="lossless", block_tokens=16))
    layers = ((torch.ones(1, 40, 4), torch.ones(1, 40, 4)),)
    data = bytearray(codec.encode(Cache(tokens, layers)))
    data[sequence.parse_sequence(bytes(data))[0].entries[2].offset + 150] ^= 1
    intact = "the 32 tokens before it are intact, `codec decode --prefix 32` reads them"
    with pytest.raises(BitstreamError, match=rf"^block 2: .*; {intact}$"):
        codec.decode(bytes(data))
    found = codec.decode(bytes(data), prefix=32)
    assert len(found.tokens) == 32 and torch.equal(found.layers[0][0], layers[0][0][:, :32])
    with pytest.raises(BitstreamError, match=r"^it was written under another salt \(--salt\) than the one given"):
        KvCodec(salt=b"x").decode(codec.encode(Cache(tokens, layers)))
