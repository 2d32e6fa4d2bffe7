"""A student that starts as part of its teacher."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from rdcodec.codecs.image.dcvc_rt import ImageConfig
from rdcodec.codecs.image.s2lic import S2licConfig
from rdcodec.entropy_models.channel_context import STEPS
from rdcodec.entropy_models.errors import InputError
from rdcodec.training.distillation import ChannelBits
from rdcodec.training.image.data import ImageData
from rdcodec.training.image.module import ImageTraining
from rdcodec.training.image.part import blocks_kept, check_part, most, start_as_part
from torch import nn
from training_cases import TINY, fit, tiny_network

SMALLER = TINY | {
    "latent_channels": 56,
    "latent_width": 24,
    "hyper_channels": 6,
    "context_channels": 12,
    "level_channels": 12,
}


@pytest.fixture
def whole():
    """A network of two blocks a row, none of which is nothing, and levels that are not all alike."""
    torch.manual_seed(0)
    network = tiny_network(trunk_blocks=(2, 2), latent_blocks=(2, 2))
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "level" not in name:
                parameter += 0.02 * torch.randn_like(parameter)
    return network


@pytest.fixture
def runs(photograph):
    module = ImageTraining(architecture=TINY)
    crops = torch.from_numpy(photograph[:192, :64].copy()).unflatten(0, (3, 64))
    torch.manual_seed(1)
    return [module.run_of(crops)]


def test_all_of_it_is_the_same_network(whole, runs):
    network = tiny_network(trunk_blocks=(2, 2), latent_blocks=(2, 2))
    start_as_part(network, whole, runs)
    for name, value in network.state_dict().items():
        assert torch.equal(value, whole.state_dict()[name]), name


def test_what_nothing_reads_is_left_out(whole, runs):
    """Of the context's channels, and of those inside its blocks: the part is the same function as the whole."""
    state = whole.state_dict()
    for step in range(STEPS):
        state[f"mean_context.mean.{step}.weight"][:, :4] = 0
        state[f"mean_context.block.{step}.expand.weight"][:, :4] = 0
        state[f"mean_context.block.{step}.project.weight"][:, 8:12] = 0
    network = tiny_network(trunk_blocks=(2, 2), latent_blocks=(2, 2), context_channels=12)
    start_as_part(network, whole, runs)
    with torch.no_grad():
        ours, theirs = (float(runs[0](one, ChannelBits())) for one in (network, whole))
    assert ours == pytest.approx(theirs, rel=1e-6)


class Times(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.factor * x


def test_blocks_are_kept_that_would_cost_most():
    network = nn.Module()
    network.row = nn.Sequential(Times(1), Times(5), Times(2), Times(3))
    assert blocks_kept(network, "row", 2, [lambda network, coder: -network.row(torch.ones(()))]) == [1, 3]
    assert [block.factor for block in network.row] == [1, 5, 2, 3]


def test_a_training_starts_there_and_goes_on_from_its_own(photos, whole, tmp_path):
    teacher = ImageTraining(architecture=TINY | {"trunk_blocks": (2, 2)})
    data = ImageData(photos, crop=64, batch_size=4, cache=tmp_path)
    trainer = fit(teacher, data, max_steps=1)
    trainer.save_checkpoint(tmp_path / "teacher.ckpt")
    name = str(tmp_path / "teacher.ckpt")
    taps = {"teacher": name, "taps": {"analysis.trunk": "analysis.trunk"}, "latent": {"analysis": "analysis"}}
    module = ImageTraining(architecture=SMALLER, part_of=name, warmup_steps=1000, distillation=taps)
    fit(module, data, max_steps=1)
    gains = module.network.synthesis.gain.log_gain, teacher.network.synthesis.gain.log_gain
    torch.testing.assert_close(*gains, rtol=0, atol=1e-2)
    assert module.distillation.channels().tolist()[-32:] == list(range(32, 64))
    as_dct = ImageTraining(architecture=SMALLER).network
    assert not torch.equal(module.network.synthesis.patch.weight, as_dct.synthesis.patch.weight)


@pytest.mark.parametrize(
    ("field", "value"),
    [("trunk_channels", 96), ("knots", 5), ("latent_channels", 60), ("context_channels", 20), ("trunk_blocks", (1, 3))],
)
def test_what_is_no_part_is_named(field, value):
    whole = ImageConfig(**TINY)
    check_part(whole, whole)
    with pytest.raises(InputError, match=field):
        check_part(replace(whole, **{field: value}), whole)


def test_the_most_are_in_order():
    assert most(torch.tensor([3.0, 9.0, 1.0, 7.0]), 3).tolist() == [0, 1, 3]


def test_another_architecture_has_no_parts():
    for pair in (ImageConfig(**TINY), S2licConfig()), (S2licConfig(), ImageConfig(**TINY)):
        with pytest.raises(InputError, match="S2licConfig"):
            check_part(*pair)
