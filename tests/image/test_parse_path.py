"""Symbols do not depend on float arithmetic: beside the contract's variations, in whole other types and in batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from contract.image import crops
from rdcodec.codecs import container, load
from rdcodec.codecs.image.codec import ImageCodec
from rdcodec.codecs.image.header import parse
from rdcodec.codecs.image.tile_coder import TileDecoder
from rdcodec.entropy_models.coder import Read

QUALITIES = (5, 50, 95)


class Recording(Read):
    """A reader that keeps every symbol."""

    def __init__(self, *args) -> None:
        super().__init__(*args)
        self.symbols: list[torch.Tensor] = []

    def code(self, residual, level, active=None, *, side=False):
        self.symbols.append(super().code(residual, level, active, side=side))
        return self.symbols[-1]


def symbols(codec: ImageCodec, streams: list[bytes], dtype=torch.float32):
    """Symbols of streams of equal size and quality, read in one batch."""
    parsed = [parse(data) for data in streams]
    stream, header = parsed[0]
    reader = Recording(codec.tables, [stream.chunk(0)[4:] for stream, _ in parsed])
    blank = TileDecoder(codec.network, codec.tables, header, stream).blank(0).to(dtype).expand(len(streams), -1, -1, -1)
    with torch.inference_mode():
        codec.network.coding_pass(reader, blank, torch.tensor([header.quality] * len(streams)))
        codec.network.correction.code(reader, codec.network.correction.none(len(streams)))
    reader.close()
    return reader.symbols


@pytest.fixture(scope="module")
def cases(image_codec):
    """For each image and quality: the stream and its symbols."""
    streams = {q: image_codec.without_layers().encode_batch(crops(), quality=q) for q in QUALITIES}
    return [(data, symbols(image_codec, [data])) for group in streams.values() for data in group], streams


def assert_same(a, b):
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_the_symbols_are_worth_comparing(cases):
    assert len(cases[0]) == 36
    assert all(any((s != 0).any() for s in found) for _, found in cases[0])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_pixel_path_in_another_dtype(cases, dtype):
    codec = load("image", device="cpu")
    codec.network.to(dtype)
    for data, expected in cases[0]:
        assert_same(symbols(codec, [data], dtype), expected)


def test_in_a_batch(image_codec, cases):
    _, streams = cases
    alone = iter(cases[0])
    for group in streams.values():
        together = symbols(image_codec, group)
        for i in range(len(group)):
            assert_same([s[i : i + 1] for s in together], next(alone)[1])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_and_cpu_read_each_other(image_codec, cases):
    cuda = load("image", device="cuda")
    for data, _ in cases[0]:
        off = np.abs(cuda.decode(data).array().astype(int) - image_codec.decode(data).array())
        assert off.max() <= 1
    for image in crops():
        image_codec.decode(cuda.encode(image, quality=50))


def test_a_stream_names_the_weights_it_needs(image_codec, scene):
    assert container.parse(image_codec.encode(scene(8, 8))).weights == image_codec.stream_hash != bytes(8)
