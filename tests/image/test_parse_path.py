"""Symbols do not depend on float arithmetic: decode under every variation and get the same integers (DESIGN 3)."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch
from rdcodec.codecs import container, load
from rdcodec.codecs.image.codec import ImageCodec
from rdcodec.codecs.image.header import parse
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


def images(photograph: np.ndarray, scene):
    crops = [photograph[y : y + 120, x : x + 136] for y in (0, 150, 300, 450) for x in (0, 200)]
    return [*crops, scene(120, 136), scene(120, 136, seed=3), 255 - crops[1], crops[2][::-1, ::-1]]


def symbols(codec: ImageCodec, streams: list[bytes], dtype=torch.float32):
    """Symbols of streams of equal size and quality, read in one batch."""
    parsed = [parse(data) for data in streams]
    header = parsed[0][1]
    reader = Recording(codec.tables, [stream.chunk(0)[4:] for stream, _ in parsed])
    blank = codec._blank(header, 0).to(dtype).expand(len(streams), -1, -1, -1)
    with torch.inference_mode():
        codec.network.coding_pass(reader, blank, torch.tensor([header.quality] * len(streams)))
        codec.network.correction.code(reader, codec.network.correction.none(len(streams)))
    reader.close()
    return reader.symbols


@contextlib.contextmanager
def noise(codec: ImageCodec):
    """Uniform relative noise of 1e-3 on every activation of the pixel path."""

    def disturb(module, inputs, output):
        return output * (1 + 1e-3 * (2 * torch.rand_like(output) - 1))

    hooks = [
        module.register_forward_hook(disturb)
        for module in codec.network.modules()
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d)
    ]
    assert len(hooks) > 40
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextlib.contextmanager
def threads(count: int):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.fixture(scope="module")
def cases(image_codec, photograph, scene):
    """For each image and quality: the stream and its symbols."""
    streams = {q: image_codec.encode_batch(images(photograph, scene), q) for q in QUALITIES}
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


@pytest.mark.parametrize(
    "variation",
    [lambda: threads(1), lambda: threads(2), lambda: torch.backends.mkldnn.flags(enabled=False)],
    ids=["one thread", "two threads", "oneDNN off"],
)
def test_other_execution(image_codec, cases, variation):
    with variation():
        for data, expected in cases[0]:
            assert_same(symbols(image_codec, [data]), expected)


def test_noise_in_every_pixel_path_activation(image_codec, cases):
    with noise(image_codec):
        for data, expected in cases[0]:
            assert_same(symbols(image_codec, [data]), expected)


def test_in_a_batch(image_codec, cases):
    _, streams = cases
    alone = iter(cases[0])
    for group in streams.values():
        together = symbols(image_codec, group)
        for i in range(len(group)):
            assert_same([s[i : i + 1] for s in together], next(alone)[1])


def test_noise_in_the_parse_path_would_be_noticed(image_codec, cases):
    """The checks above can fail: one level off, anywhere, and the symbols differ."""
    data, expected = cases[0][20]
    layer = image_codec.network.level_context.level[0]
    layer.bias += 2 ** int(layer.shift.max())
    try:
        with contextlib.suppress(ValueError):
            found = symbols(image_codec, [data])
            assert any(not torch.equal(x, y) for x, y in zip(found, expected, strict=True))
    finally:
        layer.bias -= 2 ** int(layer.shift.max())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_and_cpu_read_each_other(image_codec, cases, photograph, scene):
    cuda = load("image", device="cuda")
    for data, _ in cases[0]:
        off = np.abs(cuda.decode(data).astype(int) - image_codec.decode(data))
        assert off.max() <= 1
    for image in images(photograph, scene):
        image_codec.decode(cuda.encode(image, 50))


def test_a_stream_names_the_weights_it_needs(image_codec, scene):
    assert container.parse(image_codec.encode(scene(8, 8))).weights == image_codec.stream_hash != bytes(8)
