"""Mode quantized: the same numbers as quantized-small, and a zstd frame that nobody can make lie."""

from __future__ import annotations

import struct
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import zstandard
from kv_cases import all_same
from rdcodec.codecs.kv_cache import KvSettings
from rdcodec.codecs.kv_cache.codec import Cache, KvCodec
from rdcodec.codecs.kv_cache.format import coding_pass
from rdcodec.codecs.kv_cache.modes.rope import Rope
from rdcodec.entropy_models.errors import Corrupt, Truncated
from rdcodec.entropy_models.fast_rows import PAIRED_MAX, SINGLE_MAX, MeasureFast, ReadFast, WriteFast
from rdcodec.entropy_models.rows import ReadGroup
from rdcodec.entropy_models.tables import scale

ROPE = Rope((10000.0 ** (-np.arange(0, 32, 2) / 32)).astype(np.float32))


def layers_of(dtype: torch.dtype, tokens: int = 301) -> tuple[tuple[torch.Tensor, torch.Tensor], ...]:
    g = torch.Generator().manual_seed(3)
    spread = torch.exp(1.2 * torch.randn(2, 2, 2, 1, 32, generator=g))
    x = torch.randn(2, 2, 2, tokens, 32, generator=g) * spread + 2 * spread.flip(0)
    x[0, 1, 1, 40, 3] = 3000.0
    return tuple((layer[0], layer[1]) for layer in x.to(dtype))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("quality", [0, 30, 60, 100])
def test_it_decodes_to_the_numbers_of_quantized_small(dtype, quality):
    layers, tokens = layers_of(dtype), np.arange(301)
    slow, fast = (KvCodec(KvSettings(mode=mode, quality=quality, rope=ROPE)) for mode in ("quantized-small", "quantized"))
    cache = Cache(tokens, layers)
    data = fast.encode(cache)
    assert fast.encode(cache) == data
    expected, found = slow.decode(slow.encode(cache)).layers, fast.decode(data).layers
    for a, b in zip(expected, found, strict=True):
        assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])


def sample(columns: int, levels=range(64)) -> tuple[np.ndarray, np.ndarray]:
    """Three rows of each level in a mixed order, some of whose symbols lie far out."""
    rng = np.random.default_rng(columns)
    level = rng.permutation(np.repeat(np.array(levels, np.uint8), 3))
    values = np.rint(rng.standard_t(3, (len(level), columns)) * [[scale(i)] for i in level]).astype(np.int32)
    values[level == 0] = 0
    return values, level


def chunk_of(values: np.ndarray, level: np.ndarray) -> bytes:
    writer = WriteFast()
    writer.rows(values, level)
    return writer.chunk()


def layers_of_all_kinds(count: int, tokens: int) -> tuple[tuple[torch.Tensor, torch.Tensor], ...]:
    """Layers whose steps differ, whose values go by channel here and by token there, some with far outliers."""
    g = torch.Generator().manual_seed(5)
    layers = []
    for i in range(count):
        x = torch.randn(2, 2, tokens, 32, generator=g) * 1.7**i
        x[1] *= torch.exp(2 * torch.randn((2, tokens, 1) if i % 2 else (2, 1, 32), generator=g))
        if i % 3 == 0:
            x[:, 0, 40, 3] = 500.0 * 1.7**i
        layers.append((x[0].bfloat16(), x[1].bfloat16()))
    return tuple(layers)


@pytest.mark.parametrize("mode", ["quantized-small", "quantized"])
@pytest.mark.parametrize(("group_size", "largest"), [(1, 1), (3 * 2 * 128 * 32, 3), (1 << 30, 7)])
def test_layers_read_together_are_those_read_alone(monkeypatch, mode, group_size, largest):
    """Chunks of one shape are read in one go, as many as fit; one layer alone never is."""
    groups = [1]
    monkeypatch.setattr(coding_pass, "ReadGroup", lambda readers: groups.append(len(readers)) or ReadGroup(readers))
    monkeypatch.setattr(coding_pass, "GROUP_SIZE", group_size)
    layers, tokens = layers_of_all_kinds(7, 256), np.arange(256)
    codec = KvCodec(KvSettings(mode=mode, quality=70, rope=ROPE, block_tokens=128))
    cache = Cache(tokens, layers)
    data = codec.encode(cache)
    together = codec.decode(data).layers
    assert max(groups) == largest and all_same(together, codec.estimate(cache).signal.layers)
    assert largest < 7 or {3, 4, 7} <= set(groups)  # values by channel and by token apart
    groups[:] = []
    for i, pair in enumerate(together):
        assert all_same(codec.decode(data, layers=range(i, i + 1)).layers, (pair,))
    assert not groups


def test_rows_of_several_chunks_are_those_of_each():
    pieces = [sample(33, levels) for levels in (range(64), [5] * 64, [0, 55] * 32)]
    data = [chunk_of(*piece) for piece in pieces]
    readers = [ReadFast(chunk) for chunk in data]
    values, level = (np.concatenate(parts) for parts in zip(*pieces, strict=True))
    np.testing.assert_array_equal(ReadGroup(readers).rows(values, level), values)
    for reader in readers:
        reader.finish()


@pytest.mark.parametrize("columns", [1, 2, 33, 256])
def test_rows_of_all_levels_come_back(columns):
    values, level = sample(columns)
    data = chunk_of(values, level)
    reader = ReadFast(data)
    found = reader.rows(np.empty_like(values), level)
    reader.finish()
    assert found.dtype == np.float32 and np.array_equal(found, values)
    measure = MeasureFast()
    measure.rows(values, level)
    measure.finish()
    assert abs(8 * len(data) - measure.bits[0]) < 100 + 0.01 * measure.bits[0]


@pytest.mark.parametrize("reach", [7, 8, -8, -9, 127, 128, -128, -129, 1 << 23, -(1 << 31)])
@pytest.mark.parametrize("level", [PAIRED_MAX, PAIRED_MAX + 1, SINGLE_MAX])
def test_the_last_number_that_fits_and_the_first_that_does_not(reach, level):
    values, levels = np.zeros((2, 5), np.int32), np.full(2, level, np.uint8)
    values[1, 4] = values[0, 1] = reach
    reader = ReadFast(chunk_of(values, levels))
    found = reader.rows(np.empty_like(values), levels)
    reader.finish()
    assert np.array_equal(found, values) and (found.dtype == np.int8) == (-128 <= reach <= 127)


def test_a_table_for_each_spread_saves_bytes():
    rng = np.random.default_rng(0)
    level = np.repeat(np.array([5, 15, 25, 35, 45], np.uint8), 40)
    values = np.rint(rng.standard_normal((200, 512)) * [[scale(i)] for i in level]).astype(np.int32)
    by_level = sum(len(chunk_of(values[level == i], level[level == i])) for i in np.unique(level))
    assert len(chunk_of(values, level)) < by_level + 32


def parts(values: np.ndarray, level: np.ndarray) -> tuple[bytes, bytes, bytes]:
    """(words, frame, what follows the frame) of a chunk."""
    data = chunk_of(values, level)
    end = 4 + 4 * struct.unpack_from("<I", data)[0]
    size = struct.unpack_from("<I", data, end)[0]
    return data[:end], data[end + 4 : end + 4 + size], data[end + 4 + size :]


def read(words: bytes, frame: bytes, rest: bytes, level: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    reader = ReadFast(words + struct.pack("<I", len(frame)) + frame + rest)
    found = reader.rows(np.empty(shape, np.int32), level)
    reader.finish()
    return found


def test_forged_frames_are_refused():
    values, level = sample(34, levels=range(1, 30))
    words, frame, rest = parts(values, level)
    assert np.array_equal(read(words, frame, rest, level, values.shape), values)
    size = len(level) * 17
    zeros = bytes(size)
    unsized = zstandard.ZstdCompressor(write_content_size=False).compress(zeros)
    bomb = zstandard.ZstdCompressor().compress(bytes(1 << 28))
    two = zstandard.ZstdCompressor().compress(zeros[1:]) + zstandard.ZstdCompressor().compress(b"\0")
    for wrong, message in (
        (b"", "zstd"),
        (b"\x28\xb5", "zstd"),
        (frame[:-1], "zstd"),
        (frame + b"\0", "zstd"),
        (unsized, "bytes; need"),
        (bomb, f"frame of {1 << 28} bytes; need {size}"),
        (two, "bytes; need"),
    ):
        with pytest.raises(Corrupt, match=message):
            read(words, wrong, rest, level, values.shape)
    with pytest.raises(Corrupt, match="bytes; need 0"):
        read(words, frame, struct.pack("<I", 0), np.zeros(len(level), np.uint8), values.shape)


def test_forged_positions_are_refused():
    values, level = np.zeros((2, 6), np.int32), np.full(2, 9, np.uint8)
    words, frame, rest = parts(values, level)
    assert rest == struct.pack("<I", 0)

    def far(*at: int, count: int | None = None) -> np.ndarray:
        number = struct.pack("<I", len(at) if count is None else count)
        forged = number + struct.pack(f"<{len(at)}I", *at) + struct.pack("<i", 50) * len(at)
        return read(words, frame, forged, level, values.shape)

    assert np.flatnonzero(far(0, 11)).tolist() == [0, 11]
    for wrong in ((12,), (3, 3), (4, 3), (1 << 31,), ((1 << 32) - 1,), (12, 3)):
        with pytest.raises(Corrupt, match="far symbols"):
            far(*wrong)
    for count in (3, (1 << 32) - 1):
        with pytest.raises(Truncated):
            far(0, 1, count=count)


def test_threads_do_not_share_a_zstd_context():
    layers, tokens = layers_of(torch.bfloat16), np.arange(301)
    codec = KvCodec(KvSettings(mode="quantized", rope=ROPE))
    cache = Cache(tokens, layers)
    data = codec.encode(cache)
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: codec.encode(cache), range(16))) == {data}
        for found in pool.map(lambda _: codec.decode(data), range(16)):
            assert torch.equal(found.layers[0][0], codec.decode(data).layers[0][0])
