"""The loop of every codec's training, on waves and without a word of images: schedule, resuming, bad gradients, weights."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from rdcodec.entropy_models.errors import InputError, UnknownName, Unsupported
from rdcodec.training import TRAININGS, training_of
from rdcodec.training.loop import SKIPPED_MAX
from rdcodec.training.optimizer import Muon
from training_cases import WaveConfig, WaveData, WaveTraining, fit, waves


def test_the_loss_falls():
    torch.manual_seed(0)
    module = WaveTraining(adamw_lr=0.1, muon_lr=0.1, warmup_steps=5)
    wave = next(iter(WaveData().train_dataloader()))

    def loss() -> float:
        with torch.no_grad():
            return float(module.loss(wave)[0])

    before = loss()
    fit(module, WaveData(), max_steps=40)
    assert loss() < 0.5 * before


def test_muons_steps_are_torchs():
    """In float32 here, in bfloat16 there."""
    torch.manual_seed(0)
    for shape in ((5, 40), (40, 5), (16, 16)):
        start = torch.randn(shape)
        mine, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
        settings = {"lr": 0.01, "weight_decay": 0.1, "ns_steps": 3}
        optimizers = Muon([mine], **settings), torch.optim.Muon([theirs], adjust_lr_fn="match_rms_adamw", **settings)
        for _ in range(3):
            gradient = torch.randn(shape)
            for weight, optimizer in zip((mine, theirs), optimizers, strict=True):
                weight.grad = gradient.clone()
                optimizer.step()
        assert (mine - theirs).norm() < 0.02 * (mine - start).norm()


class Rates(L.Callback):
    """Notes each step's learning rates."""

    def __init__(self) -> None:
        self.rates: list[list[float]] = []

    def on_before_optimizer_step(self, trainer: L.Trainer, module: L.LightningModule, optimizer: Any) -> None:
        self.rates.append([group["lr"] for group in optimizer.param_groups])


def test_rates_warm_up_and_fall_to_zero():
    rates = Rates()
    fit(WaveTraining(adamw_lr=0.01, muon_lr=0.002, warmup_steps=4), WaveData(), max_steps=20, callbacks=[rates])
    muon, adamw = torch.tensor(rates.rates, dtype=torch.float64).T
    torch.testing.assert_close(adamw, 5 * muon)
    assert len(adamw) == 20 and adamw.argmax() == 3
    assert (adamw[:4].diff() > 0).all() and (adamw[3:].diff() < 0).all() and adamw[-1] < 0.0001
    assert adamw[0] == pytest.approx(0.01 / 4) and adamw[10] == pytest.approx(0.005)


def test_a_training_without_end_is_refused():
    class Endless(torch.utils.data.IterableDataset):
        def __iter__(self) -> Iterator[torch.Tensor]:
            while True:
                yield waves(4)

    with pytest.raises(InputError, match="no end; need --model.duration_s or --trainer.max_steps"):
        fit(WaveTraining(), torch.utils.data.DataLoader(Endless(), batch_size=None))


class Clock:
    """One second from look to look."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += 1.0
        return self.now


def test_a_training_lasts_as_long_as_asked_resumed_sessions_added_up(tmp_path, monkeypatch):
    """By the clock, not in steps; what is saved says how long it took."""
    monkeypatch.setattr("rdcodec.training.loop.time", Clock())
    first = WaveTraining(duration_s=12.0)
    trainer = fit(first, WaveData(8), max_epochs=1)
    assert first.elapsed_s == 7.0 and first.progress() == 7 / 12 and trainer.global_step == 8
    trainer.save_checkpoint(tmp_path / "first.ckpt")
    second = WaveTraining(duration_s=12.0)
    trainer = fit(second, WaveData(8), max_epochs=3, resume=tmp_path / "first.ckpt")
    assert second.elapsed_s == 12.0 and trainer.global_step == 13
    longer = WaveTraining(duration_s=99.0)
    fit(longer, WaveData(8), max_epochs=2, resume=tmp_path / "first.ckpt")
    assert longer.elapsed_s == 14.0 and longer.progress() == pytest.approx(14 / 99)


def test_the_last_steps_are_kept_and_say_their_codec(tmp_path):
    """Checkpoints come every so many steps, but the end of the cosine counts most."""

    def trained(folder: str, *averaging: L.Callback) -> dict[str, Any]:
        torch.manual_seed(0)
        saving = ModelCheckpoint(dirpath=tmp_path / folder, save_last=True, every_n_train_steps=4, save_top_k=0)
        module, callbacks = WaveTraining(weight=7.0), [saving, *averaging]
        fit(module, WaveData(), max_steps=6, enable_checkpointing=True, callbacks=callbacks)
        saved = torch.load(tmp_path / folder / "last.ckpt", weights_only=True)
        assert torch.equal(saved["state_dict"]["network.analysis.weight"], module.network.analysis.weight)
        return saved

    plain, averaged = trained("plain"), trained("averaged", EMAWeightAveraging(decay=0.5))
    assert averaged["global_step"] == plain["global_step"] == 6 and averaged["codec"] == "waves"
    assert averaged["hyper_parameters"]["weight"] == 7.0 and averaged["hyper_parameters"]["network"] is None
    weight = "network.analysis.weight"
    assert not torch.equal(averaged["state_dict"][weight], plain["state_dict"][weight])


class Poison(L.Callback):
    """Makes the gradient of some steps infinite."""

    def __init__(self, steps: Sequence[int]) -> None:
        self.steps = steps

    def on_after_backward(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if trainer.fit_loop.total_batch_idx in self.steps:
            next(module.parameters()).grad[0] = float("inf")


@pytest.mark.parametrize(
    ("poisoned", "steps", "ends"),
    [
        (range(2, 4), 6, False),
        (range(1, 1 + SKIPPED_MAX), 30, True),
        ([*range(1, SKIPPED_MAX), *range(SKIPPED_MAX + 1, 2 * SKIPPED_MAX)], 40, False),  # one good step in between
    ],
)
@pytest.mark.filterwarnings("ignore:step")
def test_a_gradient_that_is_not_finite_spoils_nothing(poisoned, steps, ends):
    """Clipping would make every weight NaN; the step is left out, and too many of them in a row end the training."""
    module = WaveTraining()
    if ends:
        with pytest.raises(FloatingPointError, match="no finite gradient in 20 steps"):
            fit(module, WaveData(), max_steps=steps, callbacks=[Poison(poisoned)])
    else:
        fit(module, WaveData(), max_steps=steps, callbacks=[Poison(poisoned)])
    assert all(torch.isfinite(parameter).all() for parameter in module.parameters())


def test_a_step_left_out_is_told():
    with pytest.warns(UserWarning, match="step 2: the gradient is not finite and left out"):
        fit(WaveTraining(), WaveData(), max_steps=4, callbacks=[Poison([2])])


class Logged(L.Callback):
    """Keeps each step's figures."""

    def __init__(self) -> None:
        self.figures: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self.figures.append({name: float(value) for name, value in trainer.callback_metrics.items()})


def test_side_information_is_charged_little_by_little():
    def charged(steps: int) -> list[dict[str, float]]:
        torch.manual_seed(2)
        logged = Logged()
        fit(WaveTraining(side_warmup_steps=steps, adamw_lr=0.0, muon_lr=0.0), WaveData(), max_steps=8, callbacks=[logged])
        return logged.figures

    for step, (full, part) in enumerate(zip(charged(0), charged(4), strict=True)):
        assert full["train/side_bits"] == part["train/side_bits"] > 1
        left_out = full["train/charged_bits"] - part["train/charged_bits"]
        assert left_out == pytest.approx(max(0.0, 1 - step / 4) * full["train/side_bits"], abs=1e-3), step


def test_validation_codes_with_the_frozen_network_and_shows_the_first_signals():
    module = WaveTraining()
    fit(module, WaveData(4), max_epochs=1, limit_val_batches=1.0)
    assert module.shown == {"validation/0": "3 waves", "validation/1": "2 waves"}
    assert float(module.trainer.callback_metrics["val/bits"]) > 10


def test_training_goes_on_from_a_checkpoints_weights(tmp_path):
    first = WaveTraining(architecture={"channels": 6, "bands": [1, 2]})
    fit(first, WaveData(), max_steps=3).save_checkpoint(tmp_path / "waves.ckpt")
    second = WaveTraining(architecture={"channels": 6, "bands": (1, 2)}, init=str(tmp_path / "waves.ckpt"))
    assert second.network.config == WaveConfig(channels=6, bands=(1, 2)) and second.elapsed_s == 0
    for name, value in second.network.state_dict().items():
        assert torch.equal(value, first.network.state_dict()[name]), name
    has, asks = "channels=6, bands=.1, 2.", "channels=8, bands=.4, 4."
    with pytest.raises(InputError, match=f"waves.ckpt has {has}; model.architecture asks for {asks}: give"):
        WaveTraining(init=str(tmp_path / "waves.ckpt"))


def test_what_is_no_checkpoint_of_this_codec_is_told_in_one_line(tmp_path):
    with pytest.raises(UnknownName, match="no waves model 'nothing'"):
        WaveTraining(init="nothing")
    (tmp_path / "notes.txt").write_text("no weights")
    (tmp_path / "empty").write_bytes(b"")
    torch.save({"state_dict": {"other.weight": torch.zeros(1)}, "hyper_parameters": {}}, tmp_path / "other.ckpt")
    torch.save(torch.zeros(3), tmp_path / "tensor.pt")
    for name in ("notes.txt", "empty", "other.ckpt", "tensor.pt"):
        with pytest.raises(InputError, match=f"{name} is no checkpoint of"):
            WaveTraining(init=str(tmp_path / name))
    fit(WaveTraining(), WaveData(), max_steps=1).save_checkpoint(tmp_path / "waves.ckpt")

    class Others(WaveTraining):
        codec = "others"

    with pytest.raises(InputError, match="waves.ckpt is a checkpoint of `codec train waves`"):
        Others(init=str(tmp_path / "waves.ckpt"))
    with pytest.raises(Unsupported, match="architecture 'two-matrices'; this program knows one-matrix"):
        WaveTraining(network="two-matrices")


def test_two_processes_take_one_step_together(tmp_path):
    """DDP over gloo: both ranks end with the same weights, having seen different waves."""
    script = f"""
import lightning as L, torch
from training_cases import QUIET, WaveData, WaveTraining, waves
class Data(WaveData):
    def train_dataloader(self):
        torch.manual_seed(self.trainer.global_rank)
        return torch.utils.data.DataLoader([waves(4)], batch_size=None)
class Check(L.Callback):
    def on_train_batch_end(self, trainer, module, outputs, batch, batch_index):
        flat = torch.cat([p.detach().flatten() for p in module.parameters()])
        weights = module.all_gather(flat); seen = module.all_gather(batch)
        assert torch.equal(weights[0], weights[1]) and not torch.equal(seen[0], seen[1])
        open({str(tmp_path)!r} + f"/rank{{trainer.global_rank}}of{{trainer.world_size}}", "w").close()
if __name__ == "__main__":
    L.seed_everything(0)
    trainer = L.Trainer(**QUIET | dict(max_steps=1, devices=2, strategy="ddp", callbacks=[Check()]))
    trainer.fit(WaveTraining(), Data())
"""
    (tmp_path / "ddp.py").write_text(script)
    path = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "MASTER_ADDR": "127.0.0.1", "PYTHONPATH": path}
    command = [sys.executable, str(tmp_path / "ddp.py")]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {p.name for p in tmp_path.glob("rank*")} == {"rank0of2", "rank1of2"}


def test_the_table_names_what_is_there():
    for codec, line in TRAININGS.items():
        assert line.load("module").codec == codec
        assert line.load("data") and line.load("export").Options()
    with pytest.raises(UnknownName, match="no training of 'smell'; there are image"):
        training_of("smell")
