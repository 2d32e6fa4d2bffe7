"""Distillation: what is added to a student's loss in each phase, and a training that goes through all of them."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from rdcodec.codecs import weights
from rdcodec.codecs.image.architectures import ARCHITECTURES
from rdcodec.codecs.image.dcvc_rt import ImageConfig, ImageNetwork
from rdcodec.codecs.weights_file import read_weights
from rdcodec.entropy_models.errors import InputError
from rdcodec.training.checkpoint import read_checkpoint
from rdcodec.training.coder import Train
from rdcodec.training.distillation import CHANNELS, FEATURES, FINE_TUNING, ChannelBits, Distillation, DistillationSettings
from rdcodec.training.export import load_checkpoint
from rdcodec.training.image.data import ImageData
from rdcodec.training.image.module import ImageTraining, passed
from training_cases import TINY, L, fit, tiny_network

RECIPE = Path(__file__).parents[2] / "training/recipes/image_fast.yaml"
TAPS = {"analysis.trunk": "analysis.trunk", "synthesis.latent": "synthesis.latent"}
SETTINGS = {"taps": TAPS, "latent": {"analysis": "analysis"}}
QUALITY = torch.tensor([60, 60])


def images(photograph) -> torch.Tensor:
    return torch.from_numpy(photograph[:128, :64].copy()).unflatten(0, (2, 64)).float() / 255 - 0.5


def distillation(student, teacher, **fields) -> Distillation:
    settings = DistillationSettings(**{"teacher": "", **SETTINGS, **fields})
    sample = torch.zeros(1, 64, 64, 3)
    return Distillation(settings, teacher, student, partial(passed, image=sample, quality=QUALITY[:1]))


def test_bits_of_channels_add_up(photograph):
    coder = ChannelBits()
    torch.manual_seed(1)
    passed(tiny_network(), coder, images(photograph), QUALITY)
    bits = coder.by_channel()
    assert bits.shape == (64,) and bits.min() >= 0
    assert bits.sum().item() == pytest.approx(coder.latent_bits().sum().item(), rel=1e-4)
    coder = ChannelBits()
    residual = torch.zeros(2, 3, 5)
    residual[..., 3] = 20.0
    active = torch.tensor([True, True, False, True, True])
    coder.code(residual, torch.full((1, 1, 1), 20.0), active)
    coder.code(torch.ones(2, 7), torch.full((2, 7), 20.0), side=True)
    bits = coder.by_channel()
    assert bits.argmax() == 3 and bits[2] == 0 and bits.min() >= 0


def test_a_student_that_is_its_teacher_has_nothing_to_learn(photograph):
    torch.manual_seed(1)
    network = tiny_network()
    teacher = tiny_network()
    teacher.load_state_dict(network.state_dict())
    found = distillation(network, teacher)
    for adapter in found.adapters.values():
        torch.nn.init.eye_(adapter.weight)
        torch.nn.init.zeros_(adapter.bias)
    run = partial(passed, image=images(photograph), quality=QUALITY)
    for progress, name in ((0.0, "feature_error"), (0.5, "channel_error")):
        found.watch()
        run(network, Train())
        term, figures = found.term(run, progress)
        assert figures[name] < 1e-6 and term.item() < 1e-6
    torch.nn.init.normal_(network.analysis.down.weight)
    found.watch()
    run(network, Train())
    assert found.term(run, 0.5)[1]["channel_error"] > 0.1


def test_channels_are_those_of_the_most_bits(photograph):
    student, teacher = tiny_network(latent_channels=32), tiny_network()
    found = distillation(student, teacher)
    run = partial(passed, image=images(photograph), quality=QUALITY)
    found.watch()
    run(student, Train())
    term, _ = found.term(run, 0.5)
    chosen = found.channels()
    assert len(chosen) == 32 and found.bits[chosen].min() >= found.bits.topk(33).values[-1]
    term.backward()
    gradient = student.analysis.down.weight.grad
    assert gradient is not None and all(parameter.grad is None for parameter in teacher.parameters())
    energy = gradient.square().sum(1)
    assert energy[found.bits[chosen].argmax()] > energy[found.bits[chosen].argmin()]


def test_the_teacher_is_not_asked_when_fine_tuning(photograph):
    student, teacher = tiny_network(), tiny_network()
    found, asked = distillation(student, teacher), []

    def run(network, coder):
        asked.append(network)
        return passed(network, coder, images(photograph), QUALITY)

    phases = []
    for progress in (0.0, 0.39, 0.4, 0.69, 0.7, 1.0):
        found.watch()
        passed(student, Train(), images(photograph), QUALITY)
        asked.clear()
        term, _ = found.term(run, progress)
        phases.append(found.settings.phase(progress))
        assert (asked == [teacher]) == (phases[-1] != FINE_TUNING) == bool(term.item())
    assert phases == [FEATURES] * 2 + [CHANNELS] * 2 + [FINE_TUNING] * 2


@pytest.mark.parametrize(
    ("student", "fields", "message"),
    [
        ({}, {"taps": {"analysis.none": "analysis.trunk"}}, "no module analysis.none to distil"),
        ({}, {"taps": {"analysis.trunk": "none"}}, "no module none to distil"),
        ({"latent_channels": 128}, {}, "analysis of the student has 128 channels, the teacher's analysis 64"),
        ({}, {"phase_ends": (0.7, 0.4)}, "that rise"),
        ({}, {"taps": {}}, "0 taps and 1 latents"),
    ],
)
def test_what_cannot_be_distilled_is_said(student, fields, message):
    with pytest.raises(InputError, match=message):
        distillation(tiny_network(**student), tiny_network(), **fields)


def test_a_training_goes_through_all_phases(photos, tmp_path):
    data = ImageData(photos, crop=64, batch_size=4, cache=tmp_path)
    teacher = tmp_path / "teacher.ckpt"
    trainer = fit(ImageTraining(architecture=TINY, warmup_steps=5), data, max_steps=3)
    trainer.save_checkpoint(teacher)
    torch.manual_seed(1)
    settings = {"teacher": str(teacher), **SETTINGS}
    module = ImageTraining(architecture={**TINY, "latent_channels": 32, "latent_width": 16}, distillation=settings)
    before = {name: x.clone() for name, x in module.distillation.named_parameters()}
    seen: list[set[str]] = []

    class Watch(L.Callback):
        def on_train_batch_end(self, trainer, module, *_):
            seen.append({name for name in trainer.callback_metrics if name.endswith("_error")})

    trainer = fit(module, data, max_steps=10, callbacks=[Watch()])
    assert seen[0] == {"train/feature_error"} and "train/channel_error" in seen[5] and len(seen) == 10
    assert any(not torch.equal(before[name], x) for name, x in module.distillation.named_parameters())
    trainer.save_checkpoint(tmp_path / "student.ckpt")
    state = read_checkpoint(tmp_path / "student.ckpt")["state_dict"]
    others = {name.split(".")[0] for name in state} - {"network"}
    assert others == {"distillation"} and sum(x.numel() for x in state.values()) < 2 * sum(
        x.numel() for x in module.network.parameters()
    )
    assert load_checkpoint(tmp_path / "student.ckpt").network.config.latent_channels == 32


def test_the_recipe_is_of_a_student_small_enough():
    recipe = yaml.safe_load(RECIPE.read_text())["model"]
    line = weights.line_named("image", recipe["distillation"]["teacher"])
    teacher, _ = read_weights(weights.verified_bytes(line), ARCHITECTURES)
    module = ImageTraining(**{name: recipe[name] for name in ("architecture", "distillation")})
    sizes = [
        sum(x.numel() for x in ImageNetwork(config).state_dict().values())
        for config in (module.network.config, ImageConfig(**{**vars_of(teacher.config), "corrections": 0}))
    ]
    assert sizes[0] <= 0.37 * sizes[1]


def vars_of(config: ImageConfig) -> dict[str, object]:
    return {name: getattr(config, name) for name in config.__dataclass_fields__}
