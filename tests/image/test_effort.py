"""Effort: the same decoder, a better choice of symbols."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from rdcodec.codecs.image.codec import ImageCodec
from rdcodec.codecs.image.distortion import bits_per_square, distortion_bits
from rdcodec.codecs.image.effort import SHARES, STEPS, effort_of
from rdcodec.codecs.image.evaluation import ms_ssim
from rdcodec.codecs.image.header import header_of
from rdcodec.codecs.image.tile_coder import TileEncoder
from rdcodec.codecs.rate_control import encode_to_size
from rdcodec.entropy_models.coder import Measure


def cost_bits(codec, image, quality):
    """Bits and squared error together, by the weights' slope."""
    found = codec.estimate(image, quality=quality)
    error = (found.signal.rgb().astype(float) - image) / 255
    return found.bits + bits_per_square(quality) * np.square(error).sum()


@pytest.mark.parametrize("quality", [10, 70])
def test_more_effort_is_less_of_rate_and_distortion(image_codec, photograph, quality):
    image = photograph[:128, :160]
    costs = [
        cost_bits(image_codec.with_effort(effort, tune="psnr" if effort else None), image, quality) for effort in (0, 1, 4)
    ]
    assert costs[2] < costs[1] < costs[0] and costs[2] < 0.99 * costs[0]


def test_any_decoder_of_the_weights_reads_it(image_codec, photograph):
    image = photograph[:64, :80]
    data = image_codec.with_effort(3).encode(image, quality=40)
    assert data != image_codec.encode(image, quality=40)
    np.testing.assert_array_equal(
        image_codec.decode(data).array(), image_codec.with_effort(3).estimate(image, quality=40).signal.array()
    )


def test_a_codec_with_effort_leaves_the_other_as_it_is(image_codec, photograph):
    image = photograph[:40, :40]
    before = image_codec.encode(image)
    refined = image_codec.with_effort(2)
    assert refined.network is image_codec.network and refined.encode(image) != before == image_codec.encode(image)
    assert refined.with_effort(0).encode(image) == before


def test_eyes_gain_in_ms_ssim(image_codec, photograph):
    image = photograph[:192, :192]
    codecs = {tune: image_codec.with_effort(3, tune=tune) for tune in ("psnr", "eyes")}
    similar = {tune: ms_ssim(codec.estimate(image, quality=40).signal.rgb(), image) for tune, codec in codecs.items()}
    bits = {tune: codec.estimate(image, quality=40).bits for tune, codec in codecs.items()}
    assert similar["eyes"] > similar["psnr"] and bits["eyes"] < 1.03 * bits["psnr"]


@pytest.mark.parametrize("channels", [1, 3])
def test_the_measure_is_of_refined_symbols(image_codec, scene, channels):
    image, codec = scene(40, 50, channels), image_codec.with_effort(3)
    measure = codec.measurer(image)
    assert measure(30) != image_codec.measurer(image)(30)
    for quality in (0, 60, 100):
        assert 0 <= len(codec.encode(image, quality=quality)) - measure(quality) <= 200


def test_a_size_is_met_from_below(image_codec, photograph):
    image, codec = photograph[:64, :96], image_codec.with_effort(1)
    size = len(codec.encode(image, quality=30)) + 3
    data, quality = encode_to_size(codec, image, size, draft=image_codec)
    assert len(data) <= size and quality >= 30
    assert len(codec.encode(image, quality=quality + 1)) > size


def test_tiles_are_refined_alike_in_any_order(image_codec, scene):
    """A measurer codes them alone, and in order; an encoder those around the one in work as well."""
    image = scene(20, 1060)
    header = header_of(image.shape, alpha=False, quality=30)
    tables = image_codec.tables

    def encoder():
        return TileEncoder(image_codec.network, tables, header, image, lambda: Measure(tables), effort_of(2))

    alone = [float(encoder().encode_latent(index).bits[0]) for index in (1, 0)]
    together = encoder()
    bits = [float(together.encode_latent(index).bits[0]) for index in (0, 1)]
    assert bits == alone[::-1]


def test_what_lies_beyond_black_and_white_costs_nothing():
    image = torch.full((1, 8, 8, 3), 0.5)
    assert float(distortion_bits(image + 0.2, image, 50, 0.1)) == 0
    assert float(distortion_bits(image - 0.2, image, 50, 0.1)) == pytest.approx(bits_per_square(50) * 8 * 8 * 3 * 0.04)


def test_efforts_that_do_not_exist_are_refused():
    assert [effort_of(effort).steps for effort in range(10)] == list(STEPS) == sorted(set(STEPS))
    assert effort_of(None, "eyes") == effort_of(5, "eyes") != effort_of(5)
    assert effort_of() == effort_of(0) and set(SHARES) == {"psnr", "both", "eyes"}
    for wrong in ({"effort": 10}, {"effort": -1}, {"effort": 2.0}, {"effort": True}, {"tune": "ears"}):
        with pytest.raises(ValueError, match="need"):
            effort_of(**wrong)
    with pytest.raises(ValueError, match="effort 0, which refines nothing"):
        effort_of(0, "eyes")


@pytest.mark.parametrize(("model", "share"), [("image-eyes-2", 0.5), ("image-10", 0.1), ("image-fast-2", 0.1)])
def test_weights_for_eyes_are_refined_for_eyes(model, share):
    codec = ImageCodec.load(model=model, device="cpu")
    assert codec.with_effort(5).effort.ms_ssim_share == share
    assert codec.with_effort(5, tune="psnr").effort.ms_ssim_share == 0
