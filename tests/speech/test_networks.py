"""Spectra there and back, and layers that run in pieces."""

from __future__ import annotations

import pytest
import torch
from rdcodec.codecs.speech.ecc import AHEAD, Memory, SpeechConfig, SpeechNetwork
from rdcodec.codecs.speech.spectrum import EDGE, HOP, VALUES, to_samples, to_spectrum
from rdcodec.entropy_models.channel_slices import depthwise
from rdcodec.entropy_models.errors import InputError
from torch.nn import functional as F


def test_spectra_come_back():
    samples = torch.randn(2, 20 * HOP) * 0.1
    spectrum = to_spectrum(F.pad(samples, (EDGE, EDGE)))
    assert spectrum.shape == (2, 20, VALUES)
    torch.testing.assert_close(to_samples(spectrum)[:, EDGE + HOP : -EDGE - HOP], samples[:, HOP:-HOP], atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def network() -> SpeechNetwork:
    torch.manual_seed(0)
    small = SpeechConfig(
        channels=16, latent_channels=8, slices=(2, 6), hyper_channels=4, context_channels=8, level_channels=8
    )
    return SpeechNetwork(small).eval().requires_grad_(False)


@pytest.mark.parametrize("pieces", [(1,) * 12, (5, 7), (2, 8, 2)])
def test_pieces_give_what_the_whole_gives(network, pieces):
    spectrum, quality = torch.randn(1, 24, VALUES), torch.tensor([50])
    mask = (torch.arange(12) < 9).float()[None, :, None]
    whole = network.to_latent(spectrum, mask, quality, Memory())
    memory, parts, start = Memory(), [], 0
    for size in pieces:
        parts.append(
            network.to_latent(spectrum[:, 2 * start : 2 * (start + size)], mask[:, start : start + size], quality, memory)
        )
        start += size
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-5, rtol=0)
    back, _ = network.to_spectrum(whole, mask, quality, Memory())
    memory = Memory()
    halves = [network.to_spectrum(whole[:, a:b], mask[:, a:b], quality, memory)[0] for a, b in ((0, 5), (5, 12))]
    torch.testing.assert_close(torch.cat(halves, 1), back, atol=1e-5, rtol=0)


def test_nothing_is_seen_further_ahead_or_behind_than_is_said(network):
    spectrum, quality, mask = torch.randn(1, 160, VALUES), torch.tensor([50]), torch.ones(1, 80, 1)
    plain = network.to_latent(spectrum, mask, quality, Memory())
    other = spectrum.clone()
    other[:, 100] += 1  # of latent frame 50, which comes out at 50 + AHEAD
    changed = (network.to_latent(other, mask, quality, Memory()) != plain).any(-1)[0].nonzero().flatten()
    assert changed.min() == 50 and changed.max() <= 50 + AHEAD + network.behind


def test_filters_without_gradients_are_those_with():
    x, weight, bias = torch.randn(2, 20, 6), torch.randn(6, 1, 5), torch.randn(6)
    with torch.no_grad():
        plain = depthwise(x, weight, bias)
    torch.testing.assert_close(plain, depthwise(x, weight.requires_grad_(), bias).detach(), atol=1e-5, rtol=0)


def test_slices_must_add_up():
    with pytest.raises(InputError, match="slices of 3 channels"):
        SpeechConfig(latent_channels=8, slices=(1, 2))
