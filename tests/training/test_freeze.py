"""From trainable networks to deployed ones: the same integers, and nothing that could leave the exact range."""

from __future__ import annotations

import pytest
import torch
from rdcodec.codecs.image.architectures import ARCHITECTURES
from rdcodec.codecs.weights_file import packed, unpacked
from rdcodec.entropy_models.coder import Measure
from rdcodec.entropy_models.tables import gaussian_tables
from rdcodec.training.freeze import check_exact, frozen, thawed
from rdcodec.training.image.initialise import start_as_dct
from rdcodec.training.quantisation import LAYERS
from training_cases import WAVES, WaveConfig, WaveNetwork, tiny_network

DCVC_RT = ARCHITECTURES["dcvc-rt"]


def test_training_and_coding_run_the_same_integers(photograph):
    """The shadow network under `Measure` gives the symbols and levels of the frozen one."""
    network = tiny_network()
    start_as_dct(network)
    network.load_state_dict(unpacked(packed(network.state_dict(), DCVC_RT.coarse)))  # exactly what a file keeps
    deployed, quality = frozen(network, DCVC_RT), torch.tensor([40])
    image = torch.from_numpy(photograph[None, :96, :80].copy()).float() / 255 - 0.5
    with torch.no_grad():
        measures = [Measure(gaussian_tables(3)), Measure(gaussian_tables(3))]
        decoded = [
            n.coding_pass(m, n.to_latent(image, quality), quality)
            for n, m in zip((network, deployed), measures, strict=True)
        ]
    assert torch.equal(*decoded) and measures[0].bits == measures[1].bits


def test_thawing_undoes_freezing():
    """A state that trains again, and freezes to the same tensors."""
    deployed = frozen(tiny_network(), DCVC_RT)
    again = tiny_network()
    again.load_state_dict(thawed(deployed))
    for name, value in frozen(again, DCVC_RT).state_dict().items():
        assert torch.equal(value, deployed.state_dict()[name]), name


def test_a_layer_that_could_leave_the_exact_range_is_named():
    network = WaveNetwork(WaveConfig())
    check_exact(network)
    network.levels.bias.fill_(2**25)
    with pytest.raises(ValueError, match="^levels: "):
        check_exact(network)


def test_no_name_of_the_image_codec_is_needed():
    shadow = WaveNetwork(WaveConfig(), *LAYERS["integer"])
    deployed = frozen(shadow, WAVES["one-matrix"])
    assert deployed.levels.weight.dtype == torch.int8 and not deployed.training
    assert not any(parameter.requires_grad for parameter in deployed.parameters())
