"""Training of images from end to end on a tiny network: learn, resume, validate with the real coder, export, encode."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from rdcodec.codecs import weights
from rdcodec.codecs.image.codec import ImageCodec
from rdcodec.codecs.image.dcvc_rt import ImageConfig, ImageNetwork
from rdcodec.codecs.image.s2lic import PAPER, S2licConfig, S2licNetwork
from rdcodec.entropy_models.errors import InputError
from rdcodec.training.export import export
from rdcodec.training.main import train
from rdcodec.training.quantisation import LAYERS
from s2lic_case import TINY_S2LIC
from training_cases import TINY

S2LIC_RECIPE = Path(__file__).parents[2] / "training/recipes/image_s2lic.yaml"
TINY_RECIPE = Path(__file__).parents[2] / "training/recipes/image_tiny.yaml"


def arguments(photos: Path, folder: Path, *more: str) -> list[str]:
    """Of `codec train image`."""
    architecture = "{" + ", ".join(f"{k}: {list(v) if isinstance(v, tuple) else v}" for k, v in TINY.items()) + "}"
    return [
        "fit", "--config", str(TINY_RECIPE), f"--model.architecture={architecture}", f"--data.train={photos}",
        f"--data.validation={photos}", f"--data.cache={folder / 'cache'}", f"--trainer.default_root_dir={folder}", *more,
    ]  # fmt: skip


def test_the_recipe_learns_resumes_and_exports(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train("image", arguments(photos, tmp_path, "--trainer.max_steps=31"))
    last = tmp_path / "runs/tiny/last.ckpt"
    first = torch.load(last, weights_only=True)
    assert first["global_step"] == 31 and first["elapsed_s"] > 0
    resumed = f"--ckpt_path={last}", "--model.warmup_steps=17", "--model.adamw_lr=0.0007", "--trainer.max_steps=60"
    train("image", arguments(photos, tmp_path, *resumed))
    newest = max((tmp_path / "runs/tiny").glob("*.ckpt"), key=lambda p: p.stat().st_mtime)
    second = torch.load(newest, weights_only=True)
    assert second["global_step"] == 60 and second["elapsed_s"] > first["elapsed_s"]
    assert second["hyper_parameters"]["warmup_steps"] == 17  # not the checkpoint's: a training can be made longer
    assert second["optimizer_states"][0]["optimizers"][-1]["param_groups"][0]["peak_lr"] == 0.0007
    assert list((tmp_path / "runs").rglob("events.out.tfevents*"))
    path = export(newest, "tiny", photos, tmp_path / "exported", batches=2, corrections=16, crop=64)
    assert path.stat().st_size < 3_000_000
    monkeypatch.setattr(weights, "FOLDER", tmp_path / "exported")
    weights.manifest.cache_clear()
    try:
        codec = ImageCodec.load(model="tiny")
        assert codec.network.config.corrections == 16
        picture = np.asarray(Image.open(photos / "0.png"))
        data = codec.encode(picture, quality=100)
        np.testing.assert_array_equal(codec.decode(data).array(), codec.estimate(picture, quality=100).signal.array())
        mse = np.mean((codec.decode(data).array().astype(float) - picture) ** 2)
        assert 10 * math.log10(255**2 / mse) > 24
    finally:
        weights.manifest.cache_clear()


def test_the_s2lic_recipe_learns_and_exports(photos, tmp_path, monkeypatch):
    """On a tiny network, a few steps of small crops."""
    monkeypatch.chdir(tmp_path)
    architecture = "{" + ", ".join(f"{k}: {list(v) if isinstance(v, tuple) else v}" for k, v in TINY_S2LIC.items()) + "}"
    train("image", [
        "fit", "--config", str(S2LIC_RECIPE), f"--model.architecture={architecture}", "--model.warmup_steps=5",
        f"--data.train={photos}", f"--data.validation={photos}", f"--data.cache={tmp_path / 'cache'}", "--data.crop=64",
        "--data.batch_size=4", "--data.validation_images=1", "--trainer.accelerator=cpu", "--trainer.max_steps=40",
        "--trainer.val_check_interval=30", "--trainer.callbacks.init_args.every_n_train_steps=20",
        f"--trainer.default_root_dir={tmp_path}",
    ])  # fmt: skip
    newest = tmp_path / "runs/image_s2lic/last.ckpt"
    assert torch.load(newest, weights_only=True)["global_step"] == 40
    export(newest, "s2lic-tiny", photos, tmp_path / "exported", batches=2, crop=64)
    monkeypatch.setattr(weights, "FOLDER", tmp_path / "exported")
    weights.manifest.cache_clear()
    try:
        codec = ImageCodec.load(model="s2lic-tiny")
        assert type(codec.network) is S2licNetwork and codec.network.config == S2licConfig(**TINY_S2LIC)
        picture = np.asarray(Image.open(photos / "0.png"))
        data = codec.encode(picture, quality=100)
        np.testing.assert_array_equal(codec.decode(data).array(), codec.estimate(picture, quality=100).signal.array())
    finally:
        weights.manifest.cache_clear()


def test_the_recipe_for_a_gpu_is_of_the_papers_size():
    architecture = yaml.safe_load(S2LIC_RECIPE.with_stem("image_s2lic_gpu").read_text())["model"]["architecture"]
    listed = {name: tuple(value) if isinstance(value, list) else value for name, value in architecture.items()}
    assert S2licConfig(**listed) == PAPER


def test_settings_that_do_not_go_together_are_told_before_any_work(photos, tmp_path, monkeypatch):
    """Recipe crops of 64 pixels are too small for MS-SSIM."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="crops of 64x64 with ms_ssim_share; MS-SSIM needs more than 160"):
        train("image", arguments(photos, tmp_path, "--model.ms_ssim_share=0.5"))
    assert not list(tmp_path.iterdir())


def test_the_tiny_recipe_is_tiny():
    architecture = yaml.safe_load(TINY_RECIPE.read_text())["model"]["architecture"]
    small, shipped = (
        sum(p.numel() for p in ImageNetwork(config, *LAYERS["integer"]).parameters())
        for config in (ImageConfig(**architecture), ImageConfig())
    )
    assert small < shipped / 4
