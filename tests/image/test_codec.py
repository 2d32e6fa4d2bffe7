"""What the image codec owes its users, from 1x1 upwards, on the shipped weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont
from rdcodec.codecs import container, load
from rdcodec.codecs.image.header import STREAM_ID, ImageHeader
from rdcodec.entropy_models.errors import Corrupt, Truncated, Unsupported


def psnr_db(a, b):
    return 10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    height=st.integers(1, 150), width=st.integers(1, 150), channels=st.integers(1, 4),
    quality=st.integers(0, 100), seed=st.integers(0, 9),
)  # fmt: skip
def test_any_size_channels_and_quality(image_codec, height, width, channels, quality, seed, scene):
    image = scene(height, width, channels, seed)
    decoded = image_codec.decode(image_codec.encode(image, quality=quality)).array()
    assert decoded.dtype == np.uint8
    assert decoded.shape == ((height, width) if channels == 1 else image.shape)
    if channels in (2, 4):
        np.testing.assert_array_equal(decoded[..., -1], image[..., -1])  # alpha is lossless


@pytest.mark.parametrize("quality", [0, 30, 60, 90])
def test_a_measure_is_the_size_but_for_the_correction(image_codec, photograph, quality):
    real = len(image_codec.encode(photograph, quality=quality))
    assert 0 <= real - image_codec.measurer(photograph)(quality) <= 72


def test_rate_and_psnr_rise_with_quality(image_codec, photograph):
    streams = {q: image_codec.encode(photograph, quality=q) for q in (0, 25, 50, 75, 100)}
    rates = [len(data) * 8 / photograph[..., 0].size for data in streams.values()]
    psnrs = [psnr_db(photograph, image_codec.decode(data).array()) for data in streams.values()]
    assert rates == sorted(rates) and psnrs == sorted(psnrs)
    assert rates[0] < 0.25 < 1.0 < rates[-1] and psnrs[0] > 26 and psnrs[-1] > 36


@pytest.mark.parametrize(
    "change",
    [{"width": 31}, {"height": 21}, {"quality": 31}, {"quality": 29}, {"channels": 1}, {"width": 30 + 1024}],
)
def test_a_lying_header_with_a_good_checksum_is_refused(image_codec, change, scene):
    stream = container.parse(image_codec.encode(scene(20, 30), quality=30))
    fields = {"width": 30, "height": 20, "quality": 30, "channels": 3, "alpha": False} | change
    forged = container.write(
        stream_id=STREAM_ID, weights=stream.weights, signal=ImageHeader(**fields).pack(),
        chunks=[(0, stream.chunk(0))],
    )  # fmt: skip
    with pytest.raises(Corrupt):
        image_codec.decode(forged)


def test_foreign_weights_codecs_and_versions_are_named(image_codec, scene):
    data = image_codec.encode(scene(8, 8))
    stream = container.parse(data)
    parts = {"stream_id": 1, "weights": stream.weights, "signal": stream.signal, "chunks": [(0, stream.chunk(0))]}
    for read in (image_codec.decode, image_codec.verify):
        with pytest.raises(Unsupported, match="0102030405060708"):
            read(container.write(**parts | {"weights": bytes(range(1, 9))}))
    with pytest.raises(Unsupported, match="stream id 77"):
        image_codec.decode(container.write(**parts | {"stream_id": 77}))
    with pytest.raises(Unsupported, match="version 9"):
        image_codec.decode(data[:4] + b"\x09" + data[5:])
    with pytest.raises(Truncated):
        image_codec.decode(data[:10])


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), "uint8"),
        (np.zeros((4, 4, 5), np.uint8), "uint8 or uint16 array"),
        (np.zeros((0, 4, 3), np.uint8), "uint8 or uint16 array"),
    ],
)
def test_bad_arrays_are_refused(image_codec, image, message):
    with pytest.raises(ValueError, match=message):
        image_codec.encode(image)


def test_codecs_and_devices_that_are_not_there_are_named():
    with pytest.raises(KeyError, match="no codec 'jpeg'"):
        load("jpeg")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="no CUDA"):
            load("image", device="cuda")


def drawn(kind: str) -> np.ndarray:
    """What is no photograph, uint8 (128, 192, 3)."""
    y, x = np.mgrid[:128, :192]
    if kind == "text":
        page = Image.new("L", (192, 128), 255)
        for line in range(8):
            text = "The quick brown fox jumps over 0123456789"
            ImageDraw.Draw(page).text((4, 2 + 16 * line), text, fill=0, font=ImageFont.load_default(12))
        plane = np.asarray(page)
    else:
        noise = np.random.default_rng(0).random((128, 192)) > 0.5
        planes = {"noise": noise, "dots": (x + y) % 2, "squares": (x // 8 + y // 8) % 2, "lines": x % 2}
        plane = (planes[kind] * 255).astype(np.uint8)
    return np.repeat(plane[..., None], 3, 2)


def test_the_synthesis_does_not_run_away():
    """Gates multiply, five blocks in a row: unbounded, a latent three times too large gave pixels of 10^24 times white."""
    network = load("image", device="cpu").network
    noise = torch.randn(1, 8, 8, network.config.latent_channels, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found = [float(network.to_image(scale * noise, torch.tensor([60])).abs().max()) for scale in (3, 30)]
    assert found[0] < 50 and found[1] < 1000 * found[0], found


@pytest.mark.parametrize("kind", ["text", "noise", "dots", "squares", "lines"])
def test_what_is_no_photograph_is_coded_all_the_same(kind):
    """The loop of means and residuals stays bounded: nothing is refused, and text and shapes gain from quality."""
    codec, image = load("image", device="cpu").without_layers(), drawn(kind)
    found = []
    for quality in (0, 60, 100):
        decoded = codec.decode(codec.encode(image, quality=quality)).array()
        assert np.array_equal(decoded, codec.estimate(image, quality=quality).signal.array())
        found.append(10 * np.log10(255**2 / np.square(decoded.astype(float) - image).mean()))
    if kind in ("text", "squares"):
        assert found[0] > 15 and found[2] > found[1] - 1 and found[1] > found[0] + 5, found
