"""S2LIC: its sizes, tiles of its transforms, the ablation, and the paper's size at work."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
import torch
from rdcodec.codecs.image.s2lic import PAPER, S2licConfig, S2licNetwork, checkerboard
from rdcodec.codecs.image.swin import reach
from rdcodec.entropy_models.errors import InputError
from rdcodec.training.quantisation import LAYERS
from s2lic_case import TINY_S2LIC, random_s2lic, tiny_s2lic
from scenes import make_scene


def test_sizes():
    small, paper = (
        sum(p.numel() for p in S2licNetwork(config, *LAYERS["integer"]).parameters()) for config in (S2licConfig(), PAPER)
    )
    assert small <= 8e6 and 65e6 < paper < 71e6


@torch.inference_mode()
@pytest.mark.parametrize("depths", [(1, 2, 1), (1, 2, 3)])
def test_a_part_with_its_halo_is_transformed_as_in_the_whole(depths):
    network = random_s2lic(**TINY_S2LIC | {"depths": depths}).network
    halo, quality = network.config.halo, torch.tensor([60])
    start, stop = 4 * 6, 4 * 9
    assert halo % network.config.alignment == 0 and start >= halo, "the part does not begin at the image's edge"
    rows = stop + halo + 7
    image = torch.rand(1, 16 * rows, 16 * 12, 3, generator=torch.manual_seed(1)) - 0.5
    part = slice(start - halo, stop + halo)
    latent = network.to_latent(image, quality)
    found = network.to_latent(image[:, 16 * part.start : 16 * part.stop], quality)
    torch.testing.assert_close(found[:, halo:-halo], latent[:, start:stop], atol=1e-5, rtol=1e-4)
    shown = network.to_image(latent, quality)
    found = network.to_image(latent[:, part], quality)[:, 16 * halo : -16 * halo]
    torch.testing.assert_close(found, shown[:, 16 * start : 16 * stop], atol=1e-5, rtol=1e-4)


def test_the_halo_of_the_papers_depths():
    assert reach((1, 2, 3)) == 16


def test_a_part_of_a_picture_is_decoded_as_in_the_whole():
    codec = tiny_s2lic()
    pixels = make_scene(150, 1100)
    data = codec.encode(pixels, quality=70)
    whole = codec.decode(data).array()
    box = (37, 990, 90, 1061)
    part = codec.decode(data, crop=box).array()
    assert np.abs(part.astype(int) - whole[box[0] : box[2], box[1] : box[3]]).max() <= 1


def test_anchors_are_half_of_the_positions():
    anchors, others = checkerboard(4, 6, torch.device("cpu"))
    assert anchors[0, :, 0].tolist() == [False, True] * 3 and anchors[1, :, 0].tolist() == [True, False] * 3
    assert torch.equal(anchors, ~others)


def test_a_slice_that_does_not_see_its_anchors_codes_as_well():
    codec = random_s2lic(**TINY_S2LIC | {"anchor_context": 0})
    pixels = make_scene(33, 50)
    data = codec.encode(pixels, quality=50)
    np.testing.assert_array_equal(codec.decode(data).array(), codec.estimate(pixels, quality=50).signal.array())


def test_the_papers_size_codes_a_picture():
    codec = random_s2lic(**asdict(PAPER))
    pixels = make_scene(47, 70)
    data = codec.encode(pixels, quality=50)
    np.testing.assert_array_equal(codec.decode(data).array(), codec.estimate(pixels, quality=50).signal.array())


def test_configs_that_cannot_be_are_refused():
    for fields, message in (
        ({"slices": 7}, "not a multiple of slices=7"),
        ({"depths": (1, 2)}, "need three"),
        ({"channels": 100}, "not a multiple of heads 8, 16"),
    ):
        with pytest.raises(InputError, match=message):
            S2licConfig(**fields)
