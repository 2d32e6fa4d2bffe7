"""Training end to end on tiny networks: learn, resume, validate with the real coder, export, encode; and two processes."""

from __future__ import annotations

import io
import math
import os
import subprocess
import sys
import tarfile
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("lightning")

import lightning as L
from rdcodec.codecs import weights
from rdcodec.codecs.image.codec import ImageCodec
from rdcodec.codecs.image.dcvc_rt import ImageConfig, ImageNetwork
from rdcodec.codecs.image.pictures import read_picture
from rdcodec.codecs.image.weights_file import packed, read_weights, unpacked
from rdcodec.entropy_models.coder import Measure
from rdcodec.entropy_models.tables import gaussian_tables
from rdcodec.training.export import export
from rdcodec.training.freeze import frozen, provisional_codec
from rdcodec.training.image.data import ImageData, ImageFiles, PixelCache, RandomCrops, iterate_images
from rdcodec.training.image.initialise import dct, start_as_dct, with_more_blocks, without_blocks
from rdcodec.training.image.module import SKIPPED_MAX, ImageTraining, architecture_of, stratified_qualities
from rdcodec.training.losses import rate_distortion, rate_distortion_weight
from rdcodec.training.main import image as train_image
from rdcodec.training.quantisation import LAYERS

TINY = {
    "latent_channels": 64, "latent_width": 32, "hyper_channels": 8, "context_channels": 16, "level_channels": 16,
    "trunk_blocks": (1, 1), "latent_blocks": (1, 1),
}  # fmt: skip


@pytest.fixture(scope="module")
def photos(tmp_path_factory, photograph) -> Path:
    """A folder of four photographs, one of them in a tar shard."""
    folder = tmp_path_factory.mktemp("photos")
    for i in range(3):
        Image.fromarray(photograph[i * 150 : i * 150 + 200, :300]).save(folder / f"{i}.png")
    buffer = io.BytesIO()
    Image.fromarray(photograph[300:, 100:400]).save(buffer, "PNG")
    with tarfile.open(folder / "shard.tar", "w") as shard:
        member = tarfile.TarInfo("inside/a.png")
        member.size = len(buffer.getvalue())
        shard.addfile(member, io.BytesIO(buffer.getvalue()))
    return folder


def recipe(photos: Path, folder: Path, steps: int, *more: str) -> list[str]:
    architecture = "{" + ", ".join(f"{k}: {list(v) if isinstance(v, tuple) else v}" for k, v in TINY.items()) + "}"
    return [
        "fit", "--config", str(Path(__file__).parents[2] / "training/recipes/image_tiny.yaml"),
        f"--model.architecture={architecture}", f"--data.train={photos}", f"--data.validation={photos}",
        f"--data.cache={folder / 'cache'}", f"--trainer.max_steps={steps}", f"--trainer.default_root_dir={folder}",
        *more,
    ]  # fmt: skip


def test_the_recipe_learns_resumes_and_exports(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train_image(recipe(photos, tmp_path, 31))
    first = torch.load(tmp_path / "runs/tiny/last.ckpt", weights_only=True)
    assert first["global_step"] == 31 and first["elapsed_s"] > 0
    resumed = "--ckpt_path", str(tmp_path / "runs/tiny/last.ckpt"), "--model.warmup_steps=17", "--model.adamw_lr=0.0007"
    train_image(recipe(photos, tmp_path, 60, *resumed))
    newest = max((tmp_path / "runs/tiny").glob("*.ckpt"), key=lambda p: p.stat().st_mtime)
    second = torch.load(newest, weights_only=True)
    assert second["global_step"] == 60 and second["elapsed_s"] > first["elapsed_s"]
    assert second["hyper_parameters"]["warmup_steps"] == 17  # not the checkpoint's: a training can be made longer
    assert second["optimizer_states"][0]["optimizers"][-1]["param_groups"][0]["peak_lr"] == 0.0007
    assert list((tmp_path / "runs").rglob("events.out.tfevents*"))
    assert export(newest, "tiny", photos, tmp_path / "exported", 2, corrections=64).stat().st_size < 3_000_000
    for name in ("tiny", "../tiny", ""):
        with pytest.raises(ValueError, match="there is a model|no name"):
            export(newest, name, photos, tmp_path / "exported", 2)
    with pytest.raises(ValueError, match="is no checkpoint"):
        export(photos / "0.png", "other", photos, tmp_path / "exported", 2)
    monkeypatch.setattr(weights, "FOLDER", tmp_path / "exported")
    weights.manifest.cache_clear()
    try:
        codec = ImageCodec.load(model="tiny")
        picture = np.asarray(Image.open(photos / "0.png"))
        data = codec.encode(picture, 100)
        np.testing.assert_array_equal(codec.decode(data), codec.estimate(picture, 100).pixels)
        mse = np.mean((codec.decode(data).astype(float) - picture) ** 2)
        assert 10 * math.log10(255**2 / mse) > 24
    finally:
        weights.manifest.cache_clear()


def test_the_tiny_recipe_is_tiny():
    import yaml

    recipe = yaml.safe_load((Path(__file__).parents[2] / "training/recipes/image_tiny.yaml").read_text())
    architecture = recipe["model"].get("architecture", {})
    small, shipped = (
        sum(p.numel() for p in ImageNetwork(config, *LAYERS["integer"]).parameters())
        for config in (ImageConfig(**architecture), ImageConfig())
    )
    assert small < shipped / 4


def test_loss_falls(photos, tmp_path):
    """On a batch that stays the same, before and after."""
    L.seed_everything(0)
    module = ImageTraining(TINY, warmup_steps=5, muon_lr=2e-4)
    data = ImageData(photos, crop=64, batch_size=4, cache=tmp_path)
    data.prepare_data()
    batch = next(iter(data.train_dataloader())).float() / 255 - 0.5
    quality = torch.tensor([10, 40, 60, 90])

    def loss() -> float:
        torch.manual_seed(1)
        with torch.no_grad():
            rate_bpp, mse, _ = module.rate_and_distortion(batch, quality)
        return float(rate_distortion(rate_bpp, mse, rate_distortion_weight(quality, 0.001, 0.2)))

    before = loss()
    trainer = L.Trainer(
        max_steps=100, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        gradient_clip_val=1.0, num_sanity_val_steps=0, limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(module, data)
    assert loss() < 0.9 * before


class Poison(L.Callback):
    """Makes the gradient of some steps infinite."""

    def __init__(self, steps: range) -> None:
        self.steps = steps

    def on_after_backward(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if trainer.fit_loop.total_batch_idx in self.steps:
            next(module.parameters()).grad[0] = float("inf")


@pytest.mark.parametrize(("poisoned", "steps"), [(range(2, 4), 6), (range(2, 99), 60)])
def test_a_gradient_that_is_not_finite_spoils_nothing(photos, tmp_path, poisoned, steps):
    """Clipping would make every weight NaN; the step is left out, and too many of them end the training."""
    module = ImageTraining(TINY)
    trainer = L.Trainer(
        max_steps=steps, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        gradient_clip_val=1.0, num_sanity_val_steps=0, limit_val_batches=0, callbacks=[Poison(poisoned)],
    )  # fmt: skip
    data = ImageData(photos, crop=64, batch_size=1, cache=tmp_path)
    if len(poisoned) > SKIPPED_MAX:
        with pytest.raises(FloatingPointError, match="no finite gradient in 20 steps"):
            trainer.fit(module, data)
    else:
        with pytest.warns(UserWarning, match="not finite and left out"):
            trainer.fit(module, data)
    assert all(torch.isfinite(parameter).all() for parameter in module.parameters())


def test_two_processes_take_one_step_together(photos, tmp_path):
    """DDP over gloo: both ranks end with the same weights, having seen different crops."""
    script = f"""
import lightning as L, torch
from rdcodec.training.image.module import ImageTraining
from rdcodec.training.image.data import ImageData
class Check(L.Callback):
    def on_train_batch_end(self, trainer, module, outputs, batch, batch_index):
        flat = torch.cat([p.detach().flatten() for p in module.parameters()])
        weights = module.all_gather(flat); crops = module.all_gather(batch.float())
        assert torch.equal(weights[0], weights[1]) and not torch.equal(crops[0], crops[1])
        open({str(tmp_path)!r} + f"/rank{{trainer.global_rank}}of{{trainer.world_size}}", "w").close()
if __name__ == "__main__":
    L.seed_everything(0)
    trainer = L.Trainer(max_steps=1, accelerator="cpu", devices=2, strategy="ddp", logger=False, limit_val_batches=0,
                        enable_checkpointing=False, enable_progress_bar=False, callbacks=[Check()])
    trainer.fit(ImageTraining({TINY!r}), ImageData({str(photos)!r}, crop=64, batch_size=2, cache={str(tmp_path)!r}))
"""
    PixelCache(photos, tmp_path)
    (tmp_path / "ddp.py").write_text(script)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "MASTER_ADDR": "127.0.0.1"}
    done = subprocess.run(
        [sys.executable, str(tmp_path / "ddp.py")], capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert {p.name for p in tmp_path.glob("rank*")} == {"rank0of2", "rank1of2"}


def test_training_and_coding_run_the_same_integers(photograph):
    """The shadow network under `Measure` gives the symbols and levels of the frozen one."""
    network = ImageNetwork(ImageConfig(**TINY), *LAYERS["integer"])
    start_as_dct(network)
    network.load_state_dict(unpacked(packed(network.state_dict())))  # exactly what a file keeps
    deployed, quality = frozen(network), torch.tensor([40])
    image = torch.from_numpy(photograph[None, :96, :80].copy()).float() / 255 - 0.5
    with torch.no_grad():
        measures = [Measure(gaussian_tables(3)), Measure(gaussian_tables(3))]
        decoded = [
            n.coding_pass(m, n.to_latent(image, quality), quality)
            for n, m in zip((network, deployed), measures, strict=True)
        ]
    assert torch.equal(*decoded) and measures[0].bits == measures[1].bits


def test_a_weights_file_rounds_once():
    """Matrices inside a transform lose half a step of 127 or less in a row's peak, the others two bits more than float16."""
    network = ImageNetwork(ImageConfig(**TINY), *LAYERS["integer"])
    network.analysis.trunk[0].expand.weight.data[0, 0] = 900.0  # one far value makes its row's steps coarser, not others'
    before = network.state_dict()
    tensors = packed(before)
    after = unpacked(tensors)
    assert after.keys() == before.keys()
    coarse = {name for name in before if tensors[name].dtype == torch.int8}
    assert {"mean_context.mean.0.weight", "synthesis.trunk.0.project.weight"} <= coarse
    assert not coarse & {"synthesis.up.weight", "analysis.patch.weight", "hyper_analysis.gain.log_gain"}
    for name, value in before.items():
        error = (after[name] - value).abs()
        if name in coarse:
            assert (error.amax(1) <= value.abs().amax(1) / 127).all() and error.max() > 0, name
        else:
            assert (error <= value.abs() * (2**-9 + 2**-11) + 3e-7).all(), name
    again = unpacked(packed(after))
    assert all(torch.equal(again[name], value) for name, value in after.items())


@torch.no_grad()
def test_more_blocks_start_as_the_function_it_was(photograph):
    few = ImageNetwork(ImageConfig(**TINY), *LAYERS["integer"])
    more = ImageConfig(**TINY | {"trunk_blocks": (2, 3), "latent_blocks": (1, 2)})
    many = ImageNetwork(more, *LAYERS["integer"])
    many.load_state_dict(with_more_blocks(few.state_dict(), many))
    assert ImageConfig(**architecture_of(many.state_dict())) == more
    image, quality = torch.from_numpy(photograph[None, :64, :80].copy()).float() / 255 - 0.5, torch.tensor([60])
    assert torch.equal(y := few.to_latent(image, quality), many.to_latent(image, quality))
    assert torch.equal(few.to_image(y, quality), many.to_image(y, quality))


def test_blocks_are_left_out_or_start_anew():
    many = ImageNetwork(ImageConfig(**TINY | {"trunk_blocks": (2, 3)}), *LAYERS["integer"])
    state = many.state_dict()
    fewer = without_blocks(state, ["analysis.trunk.1"])
    assert architecture_of(fewer)["trunk_blocks"] == (1, 3)
    assert state.keys() - fewer.keys() == {name for name in state if name.startswith("analysis.trunk.1.")}
    anew = with_more_blocks(fewer, many)
    assert anew.keys() == state.keys() and not anew["analysis.trunk.1.project.weight"].any()
    with pytest.raises(ValueError, match=r"no block analysis\.trunk\.2; there are analysis\.latent\.0, analysis\.trunk\.0"):
        without_blocks(state, ["analysis.trunk.2"])
    with pytest.raises(ValueError, match=r"synthesis\.trunk\.1 is not the last"):
        without_blocks(state, ["synthesis.trunk.1"])


def test_training_sees_pictures_as_the_codec_does(tmp_path):
    """16-bit grey by its range, which Pillow's own conversion makes white."""
    ramp = np.linspace(0, 65535, 128 * 128).astype(np.uint16).reshape(128, 128)
    (tmp_path / "in").mkdir()
    Image.fromarray(ramp).save(tmp_path / "in" / "ramp.png")
    expected = np.repeat(read_picture((tmp_path / "in" / "ramp.png").read_bytes()).pixels, 3, axis=2)
    np.testing.assert_array_equal(PixelCache(tmp_path / "in", tmp_path).image(0), expected)
    np.testing.assert_array_equal(ImageFiles(tmp_path / "in")[0].numpy(), expected)


def test_validation_measures_with_the_encoders_dead_zone():
    assert provisional_codec(ImageNetwork(ImageConfig(**TINY), *LAYERS["integer"])).tables.deadzone is not None


def test_graphics_are_drawn_on_their_share_of_the_crops(photos, tmp_path):
    """Text and shapes: more flat pixels than any photograph has, in so many of the crops."""
    cache = PixelCache(photos, tmp_path)

    def flat(graphics: float) -> np.ndarray:
        torch.manual_seed(0)
        crops = (crop.numpy() for crop in islice(RandomCrops(cache, 64, graphics), 200))
        return np.array([(np.diff(crop.astype(int), axis=1) == 0).all(-1).mean() for crop in crops])

    assert flat(0.0).max() < 0.5 and 0.5 < (flat(1.0) > 0.5).mean() < 0.8  # the others are drawn on photographs
    assert 0.05 < (flat(0.25) > 0.5).mean() < 0.3
    with pytest.raises(ValueError, match="graphics"):
        ImageData(photos, graphics=1.5)


def test_camera_crops_are_soft_and_their_colour_softer(photos, tmp_path):
    """Less detail along rows in as many crops as asked for; chroma loses more than luma."""
    cache = PixelCache(photos, tmp_path)

    def detail(camera: float) -> np.ndarray:
        torch.manual_seed(0)
        crops = torch.stack(list(islice(RandomCrops(cache, 64, camera=camera), 200))).numpy()
        assert crops.shape == (200, 64, 64, 3) and crops.dtype == np.uint8
        luma = crops.mean(-1)
        planes = luma, crops[..., 2] - luma
        return np.array([[np.abs(np.diff(crop, axis=1)).mean() for crop in plane] for plane in planes]).mean(1)

    sharp, some, soft = detail(0.0), detail(0.5), detail(1.0)
    assert (soft < some).all() and (some < sharp).all()
    assert soft[1] / sharp[1] < soft[0] / sharp[0] < 0.9
    with pytest.raises(ValueError, match="camera"):
        ImageData(photos, camera=-0.1)


def test_a_float_ablation_trains_but_cannot_be_exported(photos, tmp_path):
    trainer = L.Trainer(
        max_steps=2, accelerator="cpu", logger=False, enable_progress_bar=False, limit_val_batches=0,
        default_root_dir=tmp_path, enable_checkpointing=False,
    )  # fmt: skip
    module = ImageTraining(TINY, level_branch="float")
    trainer.fit(module, ImageData(photos, crop=64, batch_size=2, cache=tmp_path))
    trainer.save_checkpoint(tmp_path / "float.ckpt")
    with pytest.raises(ValueError, match="only integer can be exported"):
        export(tmp_path / "float.ckpt", "x", photos, tmp_path, 1)


def test_training_goes_on_from_shipped_weights():
    """Thawing and freezing again gives the same integers and pixels."""
    deployed, _ = read_weights(weights.verified_bytes(weights.line_named("image")))
    again = frozen(ImageTraining(init=weights.line_named("image").name).network)
    for name, value in unpacked(packed(deployed.state_dict())).items():
        if name.startswith("correction."):  # export learns it anew
            assert name not in again.state_dict()
        elif not name.endswith(".shift"):  # a peak of exactly 63.5 may sit in either of two neighbouring shifts
            torch.testing.assert_close(again.state_dict()[name].float(), value.float(), atol=1e-3, rtol=1e-3)
    with pytest.raises(KeyError, match="no image model"):
        ImageTraining(init="nothing")


def test_weights_of_another_architecture_are_told_in_one_line(tmp_path):
    """Also where blocks come as lists, as from a recipe; more blocks than the weights have are no difference."""
    network = ImageNetwork(ImageConfig(**TINY), *LAYERS["integer"])
    state = {f"network.{name}": value for name, value in network.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "tiny.ckpt")
    asked = TINY | {"hyper_channels": 12, "level_channels": 24, "knots": 5, "trunk_blocks": [2, 1]}
    found, expected = "hyper_channels=8, level_channels=16, knots=9", "hyper_channels=12, level_channels=24, knots=5"
    with pytest.raises(ValueError, match=f"tiny.ckpt has {found}; model.architecture asks for {expected}:"):
        ImageTraining(asked, init=str(tmp_path / "tiny.ckpt"))
    ImageTraining(TINY | {"trunk_blocks": [2, 1]}, init=str(tmp_path / "tiny.ckpt"))
    (tmp_path / "notes.txt").write_text("no weights")
    torch.save({"state_dict": {"other.weight": torch.zeros(1)}}, tmp_path / "other.ckpt")
    for name in ("notes.txt", "other.ckpt"):
        with pytest.raises(ValueError, match=f"{name} is no checkpoint of"):
            ImageTraining(TINY, init=str(tmp_path / name))


def test_data(photos, tmp_path):
    assert [name for name, _ in iterate_images(photos)] == ["0.png", "1.png", "2.png", "inside/a.png"]
    crops = iter(RandomCrops(PixelCache(photos, tmp_path), 64))
    assert next(crops).shape == (64, 64, 3) and next(crops).dtype == torch.uint8
    with pytest.raises(FileNotFoundError, match="no such folder"):
        list(iterate_images(tmp_path / "nowhere"))
    for wrong in ({"crop": 0}, {"crop": -64}, {"batch_size": 0}, {"validation_images": -1}):
        with pytest.raises(ValueError, match="need"):
            ImageData(photos, **wrong)
    with pytest.raises(ValueError, match="multiple of 64"):
        ImageData(photos, crop=100)
    with pytest.raises(ValueError, match="as large as the crop"):
        RandomCrops(PixelCache(photos, tmp_path), 1024)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no images"):
        PixelCache(tmp_path / "empty", tmp_path / "cache")


def test_a_build_that_breaks_off_leaves_nothing(photograph, tmp_path):
    (tmp_path / "in").mkdir()
    Image.fromarray(photograph[:64, :64]).save(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "b.png").write_bytes((tmp_path / "in" / "a.png").read_bytes()[:500])
    with pytest.raises(ValueError, match="b.png"):
        PixelCache(tmp_path / "in", tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_a_folder_that_changes_is_decoded_anew(photograph, tmp_path):
    for count in (1, 2):
        Image.fromarray(photograph[:64, :64]).save(tmp_path / f"{count}.png")
        assert len(PixelCache(tmp_path, tmp_path / "cache").index) == count


def test_qualities_cover_the_range():
    drawn = torch.stack([stratified_qualities(8) for _ in range(400)])
    assert drawn.min() == 0 and drawn.max() == 100
    assert (drawn[:, 1:] >= drawn[:, :-1]).all()
    weight = rate_distortion_weight(torch.tensor([0, 50, 100]), 0.001, 0.2)
    torch.testing.assert_close(weight, torch.tensor([0.001, (0.001 * 0.2) ** 0.5, 0.2]))


def test_dct_is_orthonormal():
    torch.testing.assert_close(dct(16) @ dct(16).T, torch.eye(16, dtype=torch.float64))
    with pytest.raises(ValueError, match="trunk_channels"):
        start_as_dct(ImageNetwork(ImageConfig(**TINY | {"trunk_channels": 64}), *LAYERS["integer"]))


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
