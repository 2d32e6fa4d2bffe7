"""Starts of the image transforms: a block DCT, a hyper-latent that is alive, more and fewer blocks."""

from __future__ import annotations

import pytest
import torch
from rdcodec.codecs.image.dcvc_rt import ImageConfig, ImageNetwork
from rdcodec.entropy_models.errors import InputError
from rdcodec.training.image.initialise import dct, start_as_dct, with_more_blocks, without_blocks
from rdcodec.training.quantisation import LAYERS
from training_cases import tiny_network


def test_dct_is_orthonormal():
    torch.testing.assert_close(dct(16) @ dct(16).T, torch.eye(16, dtype=torch.float64))
    with pytest.raises(InputError, match="trunk_channels"):
        start_as_dct(tiny_network(trunk_channels=64))


def photograph_like(side: int) -> torch.Tensor:
    """Noise with the spectrum of photographs (amplitude 1/f), float (1, side, side, 3) in -0.5..0.5, deviation 0.2."""
    generator = torch.Generator().manual_seed(0)
    frequency = torch.fft.fftfreq(side)
    radius = (frequency[:, None] ** 2 + frequency**2).sqrt().clamp_min(1 / side)
    noise = torch.fft.fft2(torch.randn(3, side, side, generator=generator)) / radius
    image = torch.fft.ifft2(noise).real
    return (0.2 * image / image.std()).permute(1, 2, 0)[None]


def test_hyper_latent_starts_alive():
    """One that rounds to zero never earns its bits, and training never wakes it."""
    torch.manual_seed(0)
    network = ImageNetwork(ImageConfig(), *LAYERS["integer"])
    start_as_dct(network)
    quality = torch.tensor([50])
    with torch.no_grad():
        y = network.to_latent(photograph_like(512), quality)
        z = network.hyper_analysis(y, network.knot_weights(quality, y.dtype))
    assert 0.4 < z.std() < 3 and (z.round() != 0).float().mean() > 0.2
    assert z.std((0, 1, 2)).median() > 0.3  # it differs from place to place, not only from channel to channel


@torch.no_grad()
def test_more_blocks_start_as_the_function_it_was(photograph):
    few = tiny_network()
    many = tiny_network(trunk_blocks=(2, 3), latent_blocks=(1, 2))
    many.load_state_dict(with_more_blocks(few.state_dict(), many))
    image, quality = torch.from_numpy(photograph[None, :64, :80].copy()).float() / 255 - 0.5, torch.tensor([60])
    assert torch.equal(y := few.to_latent(image, quality), many.to_latent(image, quality))
    assert torch.equal(few.to_image(y, quality), many.to_image(y, quality))


def test_blocks_are_left_out_or_start_anew():
    many = tiny_network(trunk_blocks=(2, 3))
    state = many.state_dict()
    fewer = without_blocks(state, ["analysis.trunk.1"])
    tiny_network(trunk_blocks=(1, 3)).load_state_dict(fewer)
    assert state.keys() - fewer.keys() == {name for name in state if name.startswith("analysis.trunk.1.")}
    anew = with_more_blocks(fewer, many)
    assert anew.keys() == state.keys() and not anew["analysis.trunk.1.project.weight"].any()
    with pytest.raises(InputError, match=r"no block analysis\.trunk\.2; there are analysis\.latent\.0, analysis\.trunk\.0"):
        without_blocks(state, ["analysis.trunk.2"])
    with pytest.raises(InputError, match=r"synthesis\.trunk\.1 is not the last"):
        without_blocks(state, ["synthesis.trunk.1"])
