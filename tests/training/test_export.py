"""Export of any codec's checkpoint: weights that name their architecture, tables, last fits, a manifest line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from rdcodec.codecs import weights
from rdcodec.codecs.weights_file import read_weights
from rdcodec.entropy_models.coder import Measure
from rdcodec.entropy_models.errors import InputError, Unsupported
from rdcodec.training import TRAININGS, Training
from rdcodec.training.coder import start_tables
from rdcodec.training.export import command_line, export, main
from rdcodec.training.image.module import ImageTraining
from training_cases import TINY, WAVES, WaveConfig, WaveData, WaveTraining, fit, waves

LINE = Training(module="training_cases:WaveTraining", data="training_cases:WaveData", export="training_cases:WaveExport")


@pytest.fixture
def checkpoint(tmp_path, monkeypatch) -> Path:
    """Of a short training of waves, whose codec has a line in the table."""
    monkeypatch.setitem(TRAININGS, "waves", LINE)
    path = tmp_path / "waves.ckpt"
    architecture = {"bands": [2, 6]}
    fit(WaveTraining(architecture=architecture, adamw_lr=0.02), WaveData(), max_steps=20).save_checkpoint(path)
    return path


def test_a_codec_of_ones_own_is_exported_and_read_again(checkpoint, tmp_path):
    path = export(checkpoint, "wave-1", tmp_path, tmp_path / "out", batches=50, licence="ours")
    network, tables = read_weights(path.read_bytes(), WAVES)
    assert network.config == WaveConfig(bands=(2, 6))
    assert tables.deadzone is not None and tables.skip_level == start_tables().skip_level
    line = json.loads((tmp_path / "out" / "manifest.json").read_text())["wave-1"]
    assert (line["codec"], line["steps"], line["licence"], line["data"]) == ("waves", 20, "ours", tmp_path.name)
    trained = torch.load(checkpoint, weights_only=True)["state_dict"]
    torch.testing.assert_close(network.analysis.weight, trained["network.analysis.weight"], rtol=0, atol=0.01)
    wave = waves(4000)

    def bits(with_tables) -> float:
        coder = Measure(with_tables, len(wave))
        network.coding_pass(coder, network.analysis(wave))
        return float(coder.bits.sum())

    with torch.no_grad():
        assert bits(tables) < 0.97 * bits(start_tables())  # tables are of these symbols, not Gaussian
        assert (network.synthesis(network.analysis(wave)) - wave).mean(0).abs().max() < 0.3  # the last fit


def test_options_of_the_codec_reach_its_exporter(checkpoint, tmp_path):
    plain, raised = (
        read_weights(export(checkpoint, name, tmp_path, tmp_path, batches=1, **options).read_bytes(), WAVES)[0]
        for name, options in (("plain", {}), ("raised", {"offset": 2.0}))
    )
    assert (raised.synthesis.bias - plain.synthesis.bias).mean() > 1
    with pytest.raises(InputError, match="corrections: no option of the waves codec's export"):
        export(checkpoint, "other", tmp_path, tmp_path, corrections=4)


def test_a_name_that_is_taken_or_none_is_refused(checkpoint, tmp_path):
    export(checkpoint, "mine", tmp_path, tmp_path, batches=1)
    for name in ("mine", "../mine", ""):
        with pytest.raises(InputError, match="there is a model|no name"):
            export(checkpoint, name, tmp_path, tmp_path, batches=1)


def test_the_newest_model_is_the_first_of_the_manifest(checkpoint, tmp_path):
    for name in ("one", "two"):
        export(checkpoint, name, tmp_path, tmp_path / "out", batches=1)
    assert list(json.loads((tmp_path / "out" / "manifest.json").read_text())) == ["two", "one"]


def test_what_cannot_be_exported_is_told(tmp_path):
    (tmp_path / "notes.txt").write_text("no weights")
    with pytest.raises(InputError, match="notes.txt is no checkpoint"):
        export(tmp_path / "notes.txt", "x", tmp_path, tmp_path)
    fit(WaveTraining(), WaveData(), max_steps=1).save_checkpoint(tmp_path / "waves.ckpt")
    with pytest.raises(InputError, match="no training of 'waves'; there are image"):
        export(tmp_path / "waves.ckpt", "x", tmp_path, tmp_path)


def test_a_float_ablation_trains_but_cannot_be_exported(tmp_path, monkeypatch):
    monkeypatch.setitem(TRAININGS, "waves", LINE)
    fit(WaveTraining(level_branch="float"), WaveData(), max_steps=2).save_checkpoint(tmp_path / "float.ckpt")
    with pytest.raises(InputError, match="level_branch=float; only integer can be exported"):
        export(tmp_path / "float.ckpt", "x", tmp_path, tmp_path)


def test_a_checkpoint_that_says_no_codec_is_the_first_ones(tmp_path, photos):
    """Architecture, codec and fields of the config are what they were before checkpoints named them so."""
    module = ImageTraining(architecture=TINY | {"knots": 5})
    state = {f"network.{name}": value for name, value in module.network.state_dict().items()}
    settings = {"architecture": TINY | {"anchors": 5}, "level_branch": "integer", "lambda_range": [0.001, 0.2]}
    facts = {"global_step": 7, "elapsed_s": 1800.0}
    torch.save({"state_dict": state, "hyper_parameters": settings} | facts, tmp_path / "old.ckpt")
    options = {"crop": 64, "corrections": 0, "cache": tmp_path / "cache"}
    export(tmp_path / "old.ckpt", "old", photos, tmp_path, batches=1, **options)
    line = json.loads((tmp_path / "manifest.json").read_text())["old"]
    assert line["codec"] == "image" and line["hardware"] == "0.50 h of the last run"


def test_the_command_exports_and_says_what_is_wrong_in_a_line(checkpoint, tmp_path, capsys):
    words = [str(checkpoint), "--name", "mine", "--train", str(tmp_path), "--folder", str(tmp_path / "out")]
    main([*words, "--batches", "1", "--offset", "0.5"])
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "out" / "mine.safetensors")
    for more in ([], ["--name", "other", "--corrections", "0"]):
        with pytest.raises(SystemExit) as stop:
            main([*words, *more])
        assert stop.value.code == 1 and len(capsys.readouterr().err.splitlines()) == 1


def test_help_shows_each_codecs_options_under_its_name(monkeypatch):
    monkeypatch.setitem(TRAININGS, "waves", LINE)
    monkeypatch.setenv("COLUMNS", "120")
    shown = command_line().format_help().replace("checkpoints of", "\0checkpoints of").split("\0")
    general, image, speech, video, own = shown
    assert all(option in general for option in ("--name", "--train", "--folder", "--batches"))
    assert image.startswith("checkpoints of image:") and "coefficients of a tile's correction; 0: none (224)" in image
    assert speech.startswith("checkpoints of speech:") and "--frames" in speech
    assert video.startswith("checkpoints of video:")
    assert own.startswith("checkpoints of waves:") and "--offset" in own and "--offset" not in image


def test_one_option_of_two_codecs_is_shown_once(monkeypatch):
    monkeypatch.setitem(TRAININGS, "twin", TRAININGS["image"])
    shown = command_line().format_help()
    assert "checkpoints of image, twin:" in shown and shown.count("side of the crops") == 1


def test_weights_of_an_unknown_architecture_are_refused(checkpoint, tmp_path):
    path = export(checkpoint, "mine", tmp_path, tmp_path, batches=1)
    with pytest.raises(Unsupported, match="architecture 'one-matrix'; this program knows other"):
        read_weights(path.read_bytes(), {"other": WAVES["one-matrix"]})
    assert weights.FOLDER != tmp_path
