"""The image codec's training module: its loss, what it starts from, what it validates with."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from pytorch_msssim import ms_ssim
from rdcodec.codecs import weights
from rdcodec.codecs.image.architectures import ARCHITECTURES
from rdcodec.codecs.image.dcvc_rt import ImageConfig
from rdcodec.codecs.image.distortion import MS_SSIM_GROWTH, MS_SSIM_WORTH, ms_ssim_distortion
from rdcodec.codecs.weights_file import packed, read_weights, unpacked
from rdcodec.entropy_models.errors import InputError, UnknownName
from rdcodec.training.freeze import frozen
from rdcodec.training.hyper import DEAD
from rdcodec.training.image.data import ImageData
from rdcodec.training.image.losses import squared_error
from rdcodec.training.image.module import ImageTraining
from rdcodec.training.image.validation import provisional_codec
from rdcodec.training.optimizer import linear_weights
from s2lic_case import TINY_S2LIC
from torch import nn
from training_cases import TINY, fit, tiny_network

DCVC_RT = ARCHITECTURES["dcvc-rt"]
WEIGHT = 0.02
"""Weight of the squared error where it is to be the same at all qualities."""


def crops(photograph, side: int, count: int = 2) -> torch.Tensor:
    """uint8 (count, side, side, 3)."""
    return torch.from_numpy(photograph[: count * side, :side].copy()).unflatten(0, (count, side))


def test_loss_falls(photos, tmp_path):
    """On a batch that stays the same, before and after."""
    module = ImageTraining(architecture=TINY, warmup_steps=5, muon_lr=2e-4)
    data = ImageData(photos, crop=64, batch_size=4, cache=tmp_path)
    data.prepare_data()
    batch = next(iter(data.train_dataloader()))

    def loss() -> float:
        torch.manual_seed(1)
        with torch.no_grad():
            return float(module.loss(batch)[0])

    before = loss()
    fit(module, data, max_steps=100)
    assert loss() < 0.9 * before


@pytest.mark.parametrize("network", ["s2lic", "dcvc-rt"])
def test_hyper_latents_of_random_layers_say_something_from_the_first_step_on(photos, tmp_path, network):
    architecture = {"s2lic": TINY_S2LIC, "dcvc-rt": TINY}[network]
    module = ImageTraining(network=network, architecture=architecture, dct_start=False)
    data = ImageData(photos, crop=64, batch_size=4, cache=tmp_path)
    spread = []
    module.network.hyper_analysis.register_forward_hook(lambda module, inputs, z: spread.append(z.flatten(0, -2).std(0)))
    fit(module, data, max_steps=1)
    assert spread[0].max() < DEAD < spread[1].min()


def test_the_loss_is_rate_and_weighted_squared_error(photograph):
    """At the qualities that were drawn, by the figures that are logged."""
    module = ImageTraining(architecture=TINY, lambda_range=(WEIGHT, WEIGHT))
    loss, figures = module.loss(crops(photograph, 128, 1))  # of one image, the mean of decibels is that of squared errors
    assert figures.keys() == {"rate_bpp", "side_bpp", "psnr_db"} and figures["rate_bpp"] > figures["side_bpp"] > 0
    mse = 255**2 / 10 ** (figures["psnr_db"] / 10)
    assert loss.item() == pytest.approx(float((figures["rate_bpp"] + WEIGHT * mse) / WEIGHT**0.5), rel=1e-4)


def losses(batch: torch.Tensor, share: float) -> tuple[torch.Tensor, dict[str, torch.Tensor], ImageTraining]:
    """Loss and figures of the same untrained network, qualities and noise; gradients are in the module."""
    torch.manual_seed(4)
    module = ImageTraining(architecture=TINY, ms_ssim_share=share, lambda_range=(WEIGHT, WEIGHT))
    torch.manual_seed(5)
    loss, figures = module.loss(batch)
    loss.backward()
    return loss.detach(), figures, module


def test_a_share_of_ms_ssim_is_mixed_into_the_distortion(photograph):
    """Linear in the share, from the squared error alone to the structure alone, in value and in gradient."""
    batch = crops(photograph, 192)
    (none, figures, without), (half, mixed, both), (whole, last, alone) = (losses(batch, share) for share in (0.0, 0.5, 1.0))
    assert whole == pytest.approx(float((last["rate_bpp"] + last["ms_ssim_bpp"]) / WEIGHT**0.5), rel=1e-5)
    assert "ms_ssim_bpp" not in figures and mixed["ms_ssim_bpp"] > 0
    assert mixed["rate_bpp"] == figures["rate_bpp"] and mixed["psnr_db"] == figures["psnr_db"]
    assert abs(none - whole) > 0.01 * whole and half == pytest.approx(float(none + whole) / 2, rel=1e-5)
    patches = [module.network.synthesis.patch.weight.grad for module in (without, both, alone)]
    assert all(gradient.abs().sum() > 0 for gradient in patches)
    torch.testing.assert_close(
        patches[1], (patches[0] + patches[2]) / 2, rtol=1e-3, atol=1e-5 * float(patches[1].abs().max())
    )
    assert torch.nn.functional.cosine_similarity(patches[0].flatten(), patches[2].flatten(), 0) < 0.99


def test_ms_ssim_is_worth_what_it_says(photograph):
    """In bits per pixel by quality, on pixels cut off at black and white, outside autocast."""
    image = crops(photograph, 176).float() / 255 - 0.5
    decoded = (image + 0.05 * torch.randn_like(image)).requires_grad_()
    quality = torch.tensor([20, 80])
    with torch.autocast("cpu", torch.bfloat16):
        worth = ms_ssim_distortion(decoded, image, quality)
    shown = [(x.detach() + 0.5).clamp(0, 1).permute(0, 3, 1, 2) for x in (decoded, image)]
    similarity = ms_ssim(*shown, data_range=1.0, size_average=False)
    torch.testing.assert_close(worth.detach(), MS_SSIM_WORTH * torch.exp(MS_SSIM_GROWTH * quality) * (1 - similarity))
    assert worth.dtype == torch.float32
    worth.sum().backward()
    assert (decoded.grad.flatten(1).abs().sum(1) > 0).all()
    assert not ms_ssim_distortion(image, image, quality).abs().max() > 1e-4
    with pytest.raises(InputError, match="MS-SSIM of 160x176 pixels; both sides must be above 160"):
        ms_ssim_distortion(decoded[:, :160], image[:, :160], quality)


def test_settings_out_of_range_are_refused(photos, tmp_path):
    with pytest.raises(InputError, match="ms_ssim_share=1.5; need a share"):
        ImageTraining(architecture=TINY, ms_ssim_share=1.5)
    module = ImageTraining(architecture=TINY, ms_ssim_share=0.1)
    small = ImageData(photos, crop=128, cache=tmp_path / "cache")
    with pytest.raises(InputError, match="crops of 128x128 with ms_ssim_share"):
        module.check_data(small)
    with pytest.raises(InputError, match="crops of 128x128 with ms_ssim_share"):  # also where a trainer is used directly
        fit(module, small, max_steps=1)
    module.check_data(ImageData(photos, crop=192))
    ImageTraining(architecture=TINY).check_data(small)


def test_squared_error_is_on_the_scale_of_pixels():
    image = torch.zeros(2, 8, 8, 3)
    torch.testing.assert_close(squared_error(image + 2 / 255, image), torch.tensor([4.0, 4.0]))


def test_muon_gets_the_matrices_of_the_pixel_path_and_nothing_else():
    network = tiny_network()
    by_name = {
        name
        for name, parameter in network.named_parameters()
        if parameter.ndim == 2 and "gain" not in name and not name.startswith(("level_", "hyper_prior"))
    }
    assert linear_weights(network) == by_name
    groups = ImageTraining(architecture=TINY).configure_optimizers().param_groups
    assert [len(group["params"]) for group in groups] == [len(by_name), len(list(network.parameters())) - len(by_name)]


def test_validation_measures_with_the_encoders_dead_zone():
    assert provisional_codec(tiny_network(), DCVC_RT).tables.deadzone is not None


def test_training_goes_on_from_shipped_weights():
    """Thawing and freezing again gives the same integers and pixels."""
    line = weights.line_named("image")
    deployed, _ = read_weights(weights.verified_bytes(line), ARCHITECTURES)
    again = frozen(ImageTraining(init=line.name).network, DCVC_RT)
    for name, value in unpacked(packed(deployed.state_dict(), DCVC_RT.coarse)).items():
        if name.startswith("correction."):  # export learns it anew
            assert name not in again.state_dict()
        elif not name.endswith(".shift"):  # a peak of exactly 63.5 may sit in either of two neighbouring shifts
            torch.testing.assert_close(again.state_dict()[name].float(), value.float(), atol=1e-3, rtol=1e-3)
    with pytest.raises(UnknownName, match="no image model"):
        ImageTraining(init="nothing")


def saved(folder, architecture: dict[str, Any]) -> str:
    """A checkpoint of an untrained network."""
    state = {
        f"network.{name}": value for name, value in ImageTraining(architecture=architecture).network.state_dict().items()
    }
    path = folder / "tiny.ckpt"
    torch.save({"state_dict": state, "hyper_parameters": {"architecture": architecture}}, path)
    return str(path)


def test_weights_of_another_architecture_are_told_in_one_line(tmp_path):
    """Also where blocks come as lists, as from a recipe; more blocks than the weights have are no difference."""
    init = saved(tmp_path, TINY)
    asked = TINY | {"hyper_channels": 12, "level_channels": 24, "knots": 5, "trunk_blocks": [2, 1]}
    found, expected = "hyper_channels=8, level_channels=16, knots=9", "hyper_channels=12, level_channels=24, knots=5"
    with pytest.raises(InputError, match=f"tiny.ckpt has {found}; model.architecture asks for {expected}:"):
        ImageTraining(architecture=asked, init=init)
    ImageTraining(architecture=TINY | {"trunk_blocks": [2, 1]}, init=init)


def test_another_architecture_is_trained_by_its_name(monkeypatch):
    """One that has nothing of the first but its config."""

    class Plain(nn.Module):
        def __init__(self, config: ImageConfig, linear: type[nn.Module], depthwise: type[nn.Module]) -> None:
            super().__init__()
            self.config, self.matrix = config, nn.Linear(3, 3)

    monkeypatch.setattr(ImageTraining, "architectures", ARCHITECTURES | {"plain": replace(DCVC_RT, network=Plain)})
    module = ImageTraining(network="plain", architecture={"knots": 5})
    assert type(module.network) is Plain and module.network.config == ImageConfig(knots=5)
    assert module.hparams["network"] == "plain"


def test_fewer_blocks_than_the_weights_have_must_be_named(tmp_path):
    init = saved(tmp_path, TINY | {"trunk_blocks": [2, 1]})
    with pytest.raises(
        InputError, match=re.escape("has trunk_blocks=(2, 1); model.architecture asks for trunk_blocks=(1, 1)")
    ):
        ImageTraining(architecture=TINY, init=init)
    module = ImageTraining(architecture=TINY, init=init, drop_blocks=["analysis.trunk.1"])
    assert module.network.config.trunk_blocks == (1, 1)
