"""The LMCache serde on chunks: exactness, damage, and what it refuses."""

from __future__ import annotations

import struct
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from lmcache_cases import (
    DIM,
    KEY,
    LAYERS,
    TOKENS,
    MemoryLayoutDesc,
    MemoryObj,
    ObjectKey,
    SeveralTensors,
    chunk_of,
    restored,
    serde_of,
    stored,
)
from rdcodec.codecs import container
from rdcodec.codecs.kv_cache import KvSettings, read_block_header
from rdcodec.codecs.kv_cache.lmcache.serde import (
    BLOCK,
    FRAME,
    RAW,
    KvDeserializer,
    KvSerializer,
    settings_of,
)
from rdcodec.entropy_models.errors import BitstreamError


@pytest.mark.parametrize("layout", ["2LTD", "L2THD"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("head_dim", [DIM, None])
def test_lossless_restores_every_bit(layout, dtype, head_dim):
    chunk = chunk_of(dtype=dtype, layout=layout)
    serializer, deserializer = serde_of(head_dim, mode="lossless")
    buffer = stored(serializer, chunk)
    assert torch.equal(restored(deserializer, buffer, chunk), chunk)


def test_quantized_is_smaller_and_close_but_not_equal():
    chunk = chunk_of()
    serializer, deserializer = serde_of(mode="quantized", quality=60)
    buffer = stored(serializer, chunk)
    assert buffer.tensor.numel() < 0.6 * chunk.numel() * chunk.element_size()
    back = restored(deserializer, buffer, chunk)
    error = (back.float() - chunk.float()).norm() / chunk.float().norm()
    assert 0 < error < 0.1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("mode", ["lossless", "quantized", "fp8"])
def test_the_estimate_bounds_even_noise(mode, dtype):
    width = {torch.bfloat16: torch.int16, torch.float32: torch.int32}[dtype]
    bits = torch.iinfo(width)
    noise = torch.randint(bits.min, bits.max, (2, LAYERS, 1, DIM), generator=torch.Generator().manual_seed(1))
    noise = noise.to(width).view(dtype)
    chunk = torch.where(torch.isfinite(noise), noise, torch.ones_like(noise)).clamp(-1e4, 1e4)
    serializer, deserializer = serde_of(mode=mode)
    back = restored(deserializer, stored(serializer, chunk), chunk)
    assert back.shape == chunk.shape and torch.isfinite(back).all()


@pytest.mark.parametrize("mode", ["quantized", "fp8", "turboquant", "lossless"])
def test_a_chunk_with_nan_is_restored_exactly(mode):
    chunk = chunk_of()
    chunk[0, 1, 2, 3], chunk[1, 0, 0, 0] = float("nan"), float("inf")
    serializer, deserializer = serde_of(mode=mode)
    buffer = stored(serializer, chunk)
    assert buffer.tensor[0] == (BLOCK if mode == "lossless" else RAW)
    assert torch.equal(restored(deserializer, buffer, chunk).view(torch.int16), chunk.view(torch.int16))


@pytest.mark.parametrize("strange", ["huge", "float8_e4m3fn"])
def test_a_chunk_that_the_mode_cannot_take_travels_raw(strange):
    chunk = chunk_of()
    if strange == "huge":
        chunk[0, 1, 2, 3] = 3e38
    else:
        chunk = chunk.to(getattr(torch, strange))
    serializer, deserializer = serde_of(mode="quantized")
    buffer = stored(serializer, chunk)
    assert buffer.tensor[0] == RAW
    assert torch.equal(restored(deserializer, buffer, chunk).view(torch.uint8), chunk.view(torch.uint8))


def test_padding_after_the_frame_is_ignored():
    chunk = chunk_of()
    serializer, deserializer = serde_of(mode="lossless")
    buffer = stored(serializer, chunk)
    padded = MemoryObj(torch.cat([buffer.tensor, torch.full((999,), 0x5A, dtype=torch.uint8)]))
    assert torch.equal(restored(deserializer, padded, chunk), chunk)


def test_every_damage_is_an_error_and_leaves_the_destination_alone():
    chunk = chunk_of()
    serializer, deserializer = serde_of(mode="quantized")
    good = stored(serializer, chunk).tensor
    generator = torch.Generator().manual_seed(2)
    for i in range(150):
        bad = good.clone()
        if i % 2:
            bad = bad[: int(torch.randint(len(good), (), generator=generator))]
        else:
            bad[int(torch.randint(len(good), (), generator=generator))] ^= 1 << (i // 2 % 8)
        if torch.equal(bad[4:], good[4:]) and bad[0] == good[0]:
            continue  # a flip in the three bytes that mean nothing
        out = MemoryObj(torch.full_like(chunk, 7.0))
        with pytest.raises(BitstreamError):
            deserializer.deserialize(MemoryObj(bad), out, KEY)
        assert (out.tensor == 7).all()


def noise_of():
    """A chunk of finite bf16 noise, which no mode makes smaller."""
    noise = torch.randint(-(2**15), 2**15, (2, LAYERS, TOKENS, DIM), generator=torch.Generator().manual_seed(1))
    noise = noise.to(torch.int16).view(torch.bfloat16)
    return torch.where(torch.isfinite(noise), noise, torch.ones_like(noise))


def test_damage_of_a_chunk_that_is_stored_raw_is_an_error():
    """Noise is stored as it is; only the frame's checksum guards it."""
    chunk = noise_of()
    serializer, deserializer = serde_of(mode="lossless")
    good = stored(serializer, chunk).tensor
    assert good[0] == RAW and torch.equal(restored(deserializer, MemoryObj(good), chunk), chunk)
    for at in (FRAME.size, len(good) // 2, len(good) - 1):
        bad, out = good.clone(), MemoryObj(torch.full_like(chunk, 7.0))
        bad[at] ^= 1
        with pytest.raises(BitstreamError, match="checksum"):
            deserializer.deserialize(MemoryObj(bad), out, KEY)
        assert (out.tensor == 7).all()


@pytest.mark.parametrize("kind", [BLOCK, RAW])
@pytest.mark.parametrize(
    "other",
    [
        ObjectKey(chunk_hash=b"\1\2\3\5"),
        ObjectKey(model_name="org/other"),
        ObjectKey(kv_rank=1),
        ObjectKey(object_group_id=1),
        ObjectKey(cache_salt="tenant"),
    ],
)
def test_a_chunk_in_anothers_place_is_refused(other, kind):
    chunk = chunk_of() if kind == BLOCK else noise_of()
    serializer, deserializer = serde_of(mode="lossless")
    buffer, out = stored(serializer, chunk), MemoryObj(torch.full_like(chunk, 7.0))
    assert buffer.tensor[0] == kind
    with pytest.raises(BitstreamError, match="another chunk, model, rank, group or salt"):
        deserializer.deserialize(buffer, out, other)
    assert (out.tensor == 7).all()


@pytest.mark.parametrize("kind", [BLOCK, RAW])
def test_a_destination_of_another_layout_is_refused(kind):
    chunk = chunk_of() if kind == BLOCK else noise_of()
    serializer, deserializer = serde_of(mode="lossless")
    buffer = stored(serializer, chunk)
    swapped = chunk.reshape(*chunk.shape[:2], -1, DIM // 2)
    for like in (chunk.to(torch.float16), chunk[:, :2], chunk[:, :, :39], swapped):
        with pytest.raises(BitstreamError, match="another shape or element type"):
            restored(deserializer, buffer, like.contiguous())


def test_frames_without_a_place_are_refused():
    serializer, deserializer = serde_of(mode="lossless")
    buffer = stored(serializer, chunk_of())
    for kind in (1, 2):
        buffer.tensor[0] = kind
        with pytest.raises(BitstreamError, match=f"frame kind {kind}; this program reads 3 and 4"):
            restored(deserializer, buffer, chunk_of())


@pytest.mark.parametrize("shape", [(LAYERS, TOKENS, 576), (LAYERS * TOKENS * 576,), (1, 2, 3, 5000), (2, 3, 4, 17)])
def test_layouts_that_are_not_known_are_kept_as_they_are(shape):
    """Other dimensions, and widths that are too large or no multiple of the head's: a store fails for none of them."""
    serializer, deserializer = serde_of(mode="quantized")
    chunk = torch.randn(shape, generator=torch.Generator().manual_seed(0)).bfloat16()
    buffer = stored(serializer, chunk)
    assert FRAME.unpack(bytes(buffer.tensor[: FRAME.size].tolist()))[0] == RAW
    assert torch.equal(restored(deserializer, buffer, chunk), chunk)


def rope_of_block(buffer):
    """The RoPE frequencies in the block that a buffer begins with."""
    length = FRAME.unpack(bytes(buffer.tensor[: FRAME.size].tolist()))[1]
    return container.parse(bytes(buffer.tensor[FRAME.size : FRAME.size + length].tolist())).chunk(1)


@pytest.mark.parametrize("mode", ["lossless", "quantized", "quantized-small", "fp8"])
def test_latents_of_mla_are_compressed(mode):
    from rdcodec.codecs.kv_cache.modes.rope import Rope

    chunk = torch.randn(1, LAYERS, TOKENS, 576, generator=torch.Generator().manual_seed(0)).cumsum(2).bfloat16()
    settings = KvSettings(mode=mode, rope=Rope(np.full(8, 0.1, np.float32)))
    serializer, deserializer = KvSerializer(settings, 64), KvDeserializer(64)
    buffer = stored(serializer, chunk)
    assert buffer.tensor[0] == BLOCK and buffer.tensor.numel() < 0.8 * chunk.numel() * chunk.element_size()
    back = restored(deserializer, buffer, chunk)
    error = float((back.float() - chunk.float()).norm() / chunk.float().norm())
    assert error == 0 if mode == "lossless" else 0 < error < 0.1
    block = read_block_header(bytes(buffer.tensor[FRAME.size :].tolist()))
    assert (block.heads, block.key_dim, block.value_dim) == (1, 576, 0) and not rope_of_block(buffer)
    with pytest.raises(BitstreamError, match="another shape or element type"):
        restored(deserializer, buffer, chunk.reshape(LAYERS, TOKENS, 576))


def several():
    """Two groups of layers of other widths and types, and noise that stays raw."""
    return [chunk_of(), chunk_of(1, torch.float16)[:, :2, :, :DIM].contiguous(), noise_of()]


def test_chunks_of_several_tensors_come_back_as_they_were():
    serializer, deserializer = serde_of(mode="lossless")
    chunks = several()
    size = serializer.estimate_serialized_size(MemoryLayoutDesc([x.shape for x in chunks], [x.dtype for x in chunks]))
    buffer = MemoryObj(torch.full((size,), 0xA5, dtype=torch.uint8))
    buffer.set_used_size(serializer.serialize(SeveralTensors(chunks), buffer, KEY))
    assert buffer.tensor.numel() < size
    out = SeveralTensors([torch.full_like(x, 7.0) for x in chunks])
    deserializer.deserialize(buffer, out, KEY)
    assert all(torch.equal(a, b) for a, b in zip(out.tensors, chunks, strict=True))
    swapped = SeveralTensors([torch.full_like(chunks[i], 7.0) for i in (1, 0, 2)])
    few = SeveralTensors([torch.full_like(x, 7.0) for x in chunks[:2]])
    for wrong in (swapped, few):
        with pytest.raises(BitstreamError, match="another shape or element type"):
            deserializer.deserialize(buffer, wrong, KEY)
        assert all((x == 7).all() for x in wrong.tensors)


def test_damage_of_any_of_several_tensors_leaves_all_alone():
    serializer, deserializer = serde_of(mode="lossless")
    chunks = several()
    buffer = torch.zeros(10 * sum(x.numel() for x in chunks), dtype=torch.uint8)
    used = serializer.serialize(SeveralTensors(chunks), MemoryObj(buffer), KEY)
    for at in (FRAME.size + 9, used // 2, used - 1):
        bad, out = buffer[:used].clone(), SeveralTensors([torch.full_like(x, 7.0) for x in chunks])
        bad[at] ^= 1
        for data in (bad, buffer[:at]):
            with pytest.raises(BitstreamError):
                deserializer.deserialize(MemoryObj(data), out, KEY)
            assert all((x == 7).all() for x in out.tensors)


def test_tensors_of_one_shape_are_not_taken_for_each_other():
    serializer, deserializer = serde_of(mode="lossless")
    chunks = [chunk_of(0), chunk_of(1)]
    buffer = torch.zeros(10 * chunks[0].numel(), dtype=torch.uint8)
    serializer.serialize(SeveralTensors(chunks), MemoryObj(buffer), KEY)
    first = FRAME.size + FRAME.unpack(bytes(buffer[: FRAME.size].tolist()))[1]
    out = SeveralTensors([torch.full_like(x, 7.0) for x in chunks])
    with pytest.raises(BitstreamError, match="another chunk"):
        deserializer.deserialize(MemoryObj(buffer[first:]), out, KEY)


def test_rope_and_a_profile_come_by_options(tmp_path):
    pytest.importorskip("transformers", reason="needs the extra 'kv'")
    from kv_cases import make_block, make_profile
    from model_cases import prefilled, prompt, tiny
    from rdcodec.codecs.kv_cache import rope_of

    model = tiny(dtype=torch.bfloat16)
    model.save_pretrained(tmp_path)
    settings = settings_of({"model": str(tmp_path), "head_dim": 16, "mode": "quantized"})
    assert settings.rope.turns_as(rope_of(tiny()))
    layers = prefilled(model, prompt()).layers
    chunk = torch.stack([torch.stack([x.keys[0, :, 50:], x.values[0, :, 50:]]) for x in layers]).transpose(2, 3).contiguous()
    serializer, deserializer = KvSerializer(settings, 16), KvDeserializer(16)
    buffer = stored(serializer, chunk)
    back = restored(deserializer, buffer, chunk)
    assert 0 < float((back - chunk).float().norm() / chunk.float().norm()) < 0.1 and rope_of_block(buffer)
    with pytest.raises(ValueError, match="but no head_dim"):
        settings_of({"model": str(tmp_path)})
    make_profile(2, 16).write(tmp_path / "p.safetensors")
    settings = settings_of({"profile": str(tmp_path / "p.safetensors"), "head_dim": 16, "mode": "predictive"})
    chunk = torch.stack([torch.stack(pair) for pair in make_block(2, TOKENS, 16).layers]).transpose(2, 3).contiguous()
    back = restored(KvDeserializer(16, settings.profile), stored(KvSerializer(settings, 16), chunk), chunk)
    assert 0 < float((back - chunk).float().norm() / chunk.float().norm()) < 0.1
    with pytest.raises(BitstreamError):
        restored(deserializer, stored(KvSerializer(settings, 16), chunk), chunk)


def test_buffers_too_small_are_named():
    serializer, _ = serde_of()
    with pytest.raises(ValueError, match="do not fit"):
        serializer.serialize(MemoryObj(chunk_of()), MemoryObj(torch.zeros(100, dtype=torch.uint8)), KEY)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"mode": "residual"}, "needs the model"), ({"quallity": 3}, "quallity"), ({"mode": "x"}, "no mode")],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        settings_of(options)


def test_many_threads_share_one_serde():
    serializer, deserializer = serde_of(mode="lossless")
    chunks = [chunk_of(seed) for seed in range(16)]

    def there_and_back(i):
        key = ObjectKey(chunk_hash=bytes([i]))
        return restored(deserializer, stored(serializer, chunks[i % 16], key), chunks[i % 16], key)

    with ThreadPoolExecutor(8) as pool:
        for i, back in enumerate(pool.map(there_and_back, range(48))):
            assert torch.equal(back, chunks[i % 16])


def test_the_frame_is_pinned():
    serializer, _ = serde_of(mode="lossless")
    data = bytes(stored(serializer, chunk_of()).tensor.numpy())
    assert FRAME.size == 32 and data[:4] == b"\3\0\0\0" and data[32:36] == b"\x89RDC"
    assert struct.unpack_from("<Q", data, 4)[0] == len(data) - 32
    assert data[16:32].hex() == "be9a7c55b0279f94c8c2eeae68563b2e"
