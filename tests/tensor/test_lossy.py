"""Quantised and nested tensors: rates and errors that were asked for, and what stays exact."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import safetensors.torch
import torch
from rdcodec.codecs import container
from rdcodec.codecs.tensor import TensorCodec, Tensors, TensorSettings, load_file, safe_open, save_file
from rdcodec.codecs.tensor.reading import TensorFile
from rdcodec.entropy_models.errors import InputError

GENERATOR = torch.Generator().manual_seed(11)
ROWS = torch.exp(torch.randn(256, 1, generator=GENERATOR))
MODEL = {
    "spread.weight": (0.02 * ROWS * torch.randn(256, 300, generator=GENERATOR)).bfloat16(),
    "plain.weight": 3 * torch.randn(130, 511, generator=GENERATOR),
    "norm.weight": torch.ones(511),
    "steps": torch.arange(9000).reshape(90, 100),
}
QUANTISED = "spread.weight", "plain.weight"


def snr_db(x: torch.Tensor, y: torch.Tensor) -> float:
    x, y = x.double(), y.double()
    return 10 * math.log10(float(x.square().sum() / (x - y).square().sum()))


def coded(**settings) -> tuple[bytes, dict[str, torch.Tensor]]:
    before = {name: x.clone() for name, x in MODEL.items()}
    codec = TensorCodec(TensorSettings(**settings))
    data = codec.encode(Tensors(MODEL))
    assert all(torch.equal(x, before[name]) for name, x in MODEL.items()), "the caller's tensors were changed"
    return data, codec.decode(data).tensors


def bits_of(data: bytes, name: str) -> float:
    file = TensorFile(container.parse(data))
    number = file.numbers[name]
    at = [file.chunk_numbers[part] for part in file.layout.parts() if part[1] == number]
    return 8 * sum(file.stream.entries[i].length for i in at) / file.entry(name).elements


@pytest.mark.parametrize("bits", [1.5, 3.0, 4.5])
def test_bits_are_those_asked_for(bits):
    data, found = coded(mode="quantized", bits=bits)
    found_bits = np.average([bits_of(data, name) for name in QUANTISED], weights=[MODEL[name].numel() for name in QUANTISED])
    assert bits - 0.35 < found_bits < bits + 0.1, "tables of rows of unlike spread save more than samples show"
    assert bits_of(data, "spread.weight") < bits_of(data, "plain.weight") - 0.2
    assert all(torch.equal(found[name], MODEL[name]) for name in ("norm.weight", "steps"))


@pytest.mark.parametrize("asked", [8.0, 10.0])
def test_many_bits_are_those_asked_for(asked):
    data = TensorCodec(TensorSettings(mode="quantized", bits=asked)).encode(
        Tensors({"x": torch.randn(512, 512, generator=GENERATOR)})
    )
    assert bits_of(data, "x") == pytest.approx(asked, abs=0.1), "a sample has too few numbers for its entropy to show it"


@pytest.mark.parametrize("settings", [{"bits": 4.0}, {"bits": 10.0}, {"snr_db": 70.0}, {"quality": 100}])
def test_rows_that_tower_over_the_others_are_taken(settings):
    x = torch.randn(512, 256, generator=GENERATOR) * torch.exp(4 * torch.randn(512, 1, generator=GENERATOR))
    codec = TensorCodec(TensorSettings(mode="quantized", **settings))
    data = codec.encode(Tensors({"x": x}))
    found = codec.decode(data).tensors["x"]
    assert snr_db(x, found) > settings.get("snr_db", 40.0) - 1 and bits_of(data, "x") < 12


@pytest.mark.parametrize("settings", [{"mode": "quantized"}, {"mode": "quantized", "bits": 8.0}, {"mode": "nested"}])
def test_masks_and_constants_stay_exact_as_that_is_shorter(settings):
    masks = {"mask": torch.tril(torch.ones(1, 1, 256, 256)), "ones": torch.full((64, 64), 0.3).half()}
    codec = TensorCodec(TensorSettings(**settings))
    data, without = codec.encode(Tensors(MODEL | masks)), codec.encode(Tensors(MODEL))
    found = codec.decode(data).tensors
    assert all(torch.equal(found[name], x) for name, x in masks.items())
    assert len(data) < len(without) + 3000
    assert not TensorFile(container.parse(data)).report.keys() & masks.keys()
    assert all(torch.equal(found[name], x) for name, x in codec.decode(without).tensors.items())


@pytest.mark.parametrize("asked", [10.0, 20.0, 35.0])
def test_errors_are_those_asked_for_and_those_reported(asked, run, tmp_path):
    safetensors.torch.save_file(MODEL, tmp_path / "m.safetensors")
    assert run("encode", "m.safetensors", "--snr", str(asked))[0] == 0
    assert run("decode", "m.rdc", "-o", "back.safetensors")[0] == 0
    back = safetensors.torch.load_file(tmp_path / "back.safetensors")
    report = {line["name"]: line.get("snr_db") for line in json.loads(run("info", "m.rdc", "--json")[1])["by_tensor"]}
    found = {name: snr_db(MODEL[name], back[name]) for name in QUANTISED}
    sizes = [MODEL[name].numel() for name in QUANTISED]
    relative = np.average([10 ** (-value / 10) for value in found.values()], weights=sizes)
    assert -10 * math.log10(relative) == pytest.approx(asked, abs=0.75), "by samples, of rows of very unlike spread"
    assert all(report[name] == pytest.approx(value, abs=0.1) for name, value in found.items())
    assert report["norm.weight"] is None


def test_rows_of_different_spread_take_fewer_bits():
    data, found = coded(mode="quantized", quality=60)
    rate = {name: 20 * math.log10(2) * bits_of(data, name) - snr_db(MODEL[name], found[name]) for name in QUANTISED}
    assert 0.4 < rate["plain.weight"] < 0.7 and rate["spread.weight"] < 0.3


def test_a_nested_file_is_three_models(run, tmp_path):
    safetensors.torch.save_file(MODEL, tmp_path / "m.safetensors")
    assert run("encode", "m.safetensors", "--mode", "nested")[0] == 0
    data = (tmp_path / "m.rdc").read_bytes()
    found = []
    for bits, end in ((2, 0.34), (4, 0.58), (8, 1.0)):
        (tmp_path / "part.rdc").write_bytes(data[: int(end * len(data))])
        command = ["decode", "part.rdc", "-o", f"{bits}.safetensors"] + (["--bits", str(bits)] if bits < 8 else [])
        code, _, err = run(*command)
        assert (code, err) == (0, "")
        found.append(snr_db(MODEL["plain.weight"], safetensors.torch.load_file(f"{bits}.safetensors")["plain.weight"]))
    assert [round(value / 6.02, 1) for value in found] == pytest.approx([2, 4, 8], abs=0.3)
    code, _, err = run("decode", "m.rdc", "--bits", "3", "-o", "x.safetensors")
    assert code == 1 and "a nested file has 2, 4, 8" in err


def test_steps_follow_the_energy_of_inputs():
    energy = np.where(np.arange(511) < 64, 100.0, 1.0)
    plain, _ = coded(mode="quantized", bits=3), None
    _, weighted = coded(mode="quantized", bits=3, energy={"plain.weight": energy})
    errors = [
        ((MODEL["plain.weight"] - x["plain.weight"]).double().square() * torch.tensor(energy)).sum()
        for x in (plain[1], weighted)
    ]
    assert errors[1] < 0.5 * errors[0]


def row_snr_db(x: torch.Tensor, y: torch.Tensor, axis: int) -> torch.Tensor:
    x, y = x.double(), y.double()
    return 10 * torch.log10(x.square().sum(axis) / (x - y).square().sum(axis))


@pytest.mark.parametrize("settings", [{"mode": "quantized", "bits": 3.0}, {"mode": "nested"}])
def test_channels_with_a_step_each_are_equally_exact(settings):
    (plain, one), (data, each) = coded(**settings), coded(**settings, scaling="channel")
    spread = [row_snr_db(MODEL["spread.weight"], found["spread.weight"], 1).std() for found in (one, each)]
    assert spread[1] < 0.5 < 4 < spread[0]
    assert 0.9 < bits_of(data, "spread.weight") / bits_of(plain, "spread.weight") < 1
    assert snr_db(MODEL["spread.weight"], each["spread.weight"]) < snr_db(MODEL["spread.weight"], one["spread.weight"]) - 1


def test_balanced_steps_spread_outliers_over_rows_and_columns():
    x = 0.02 * torch.randn(1500, 900, generator=GENERATOR)  # two pieces
    outlying = torch.ones(1500, 900)
    outlying[:, 7] *= 40
    outlying[1450] *= 20
    for scaling in ("tensor", "balanced"):
        codec = TensorCodec(TensorSettings(mode="quantized", bits=3, scaling=scaling))
        found = codec.decode(codec.encode(Tensors({"x": x * outlying}))).tensors["x"] / outlying
        columns, rows = (row_snr_db(x, found, axis) for axis in (0, 1))
        advantage = float(columns[7] - columns.mean()), float(rows[1450] - rows.mean())
        assert all(abs(db) < 1 for db in advantage) if scaling == "balanced" else all(db > 15 for db in advantage)


@pytest.mark.parametrize("scaling", ["channel", "balanced", "energy"])
def test_an_error_that_is_asked_for_is_met_with_steps_of_any_kind(scaling):
    steps = (
        {"energy": {"plain.weight": np.where(np.arange(511) < 64, 100.0, 1.0)}}
        if scaling == "energy"
        else {"scaling": scaling}
    )
    _, found = coded(mode="quantized", snr_db=25.0, **steps)
    assert snr_db(MODEL["plain.weight"], found["plain.weight"]) == pytest.approx(25, abs=0.7)
    assert scaling == "energy" or snr_db(MODEL["spread.weight"], found["spread.weight"]) == pytest.approx(25, abs=0.7)


def test_steps_and_activations_alone_make_the_mode_quantized(run, tmp_path):
    safetensors.torch.save_file(MODEL, tmp_path / "m.safetensors")
    safetensors.torch.save_file({"plain.weight": torch.arange(1.0, 512)}, tmp_path / "energy.safetensors")
    for option, value in (("--steps", "channel"), ("--activations", "energy.safetensors")):
        assert run("encode", "m.safetensors", option, value, "-f")[0] == 0
        assert json.loads(run("info", "m.rdc", "--json")[1])["mode"] == "quantized"
    code, _, err = run("encode", "m.safetensors", "--steps", "row", "-f")
    assert code == 1 and "no scaling 'row' (--steps); there are tensor, channel, balanced" in err


def test_energies_of_other_matrices_are_told(run, tmp_path):
    safetensors.torch.save_file(MODEL, tmp_path / "m.safetensors")
    safetensors.torch.save_file({"plain": torch.ones(511)}, tmp_path / "energy.safetensors")
    code, _, err = run("encode", "m.safetensors", "--activations", "energy.safetensors")
    assert code == 0 and "no matrix here has the name of one of the 1 energies (--activations), like plain;" in err
    with pytest.warns(UserWarning, match="no matrix here has the name"):
        save_file(MODEL, tmp_path / "e.rdc", mode="nested", energy={"plain": np.ones(511)})


def test_a_file_that_has_nothing_to_quantise_is_told(run, tmp_path):
    np.save(tmp_path / "small.npy", np.ones((9, 9), np.float32))
    code, _, err = run("encode", "small.npy", "--bits", "3")
    assert code == 0 and "no matrix of 1024 floating-point numbers or more; all is stored bit for bit" in err


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "zip"}, "no mode 'zip'"),
        ({"bits": 3.0}, "mode lossless has no bits"),
        ({"mode": "quantized", "bits": 3.0, "quality": 3}, "quality and bits: one of them"),
        ({"mode": "quantized", "bits": 30.0}, "need 0.5 to 10"),
        ({"mode": "quantized", "snr_db": 0.0}, "need 1 to 70"),
        ({"scaling": "channel"}, "mode lossless has no scaling channel .--steps.; quantized and nested have"),
        ({"energy": {"plain.weight": np.ones(511)}}, "mode lossless has no energy .--activations."),
        ({"mode": "quantized", "scaling": "balanced", "energy": {"plain.weight": np.ones(511)}}, "both set columns"),
        (
            {"mode": "quantized", "energy": {"plain.weight": np.ones(3)}},
            "plain.weight: 3 energies of inputs for 511 columns",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        coded(**settings)


def test_bits_of_a_file_that_is_not_nested_are_refused(run, tmp_path):
    for mode in ("lossless", "quantized"):
        save_file(MODEL, tmp_path / f"{mode}.rdc", mode=mode)
        code, _, err = run("decode", f"{mode}.rdc", "--bits", "2", "-o", "x.safetensors")
        assert code == 1 and err.count("\n") == 1 and not (tmp_path / "x.safetensors").exists()
        assert f"--bits 2, but the file is of mode {mode}; only nested files hold fewer bits to choose" in err
        for open_file in (load_file, safe_open):
            with pytest.raises(InputError, match=f"of mode {mode}; only nested files"):
                open_file(tmp_path / f"{mode}.rdc", bits=2)


UNFIT = {
    "nan.weight": (math.nan, "nan.weight: numbers not finite, or beyond float32"),
    "inf.weight": (-math.inf, "inf.weight: numbers not finite, or beyond float32"),
    "huge.weight": (3e38, "huge.weight: numbers of some 4e+36, which float32 has no steps for"),
    "tiny.weight": (1e-40, "tiny.weight: numbers of some 1e-42, which float32 has no steps for"),
}


@pytest.mark.parametrize("settings", [{"mode": "quantized", "bits": 3.0}, {"mode": "quantized"}, {"mode": "nested"}])
def test_matrices_that_cannot_be_quantised_stay_exact_and_are_named(settings, run, tmp_path):
    tensors, plain = dict(MODEL), torch.randn(80, 80, generator=GENERATOR)
    for name, (value, _) in UNFIT.items():
        tensors[name] = torch.zeros(80, 80) if 0 < value < 1 else plain.clone()
        tensors[name][3, 4] = value
    with pytest.warns(UserWarning) as caught:
        save_file(tensors, tmp_path / "m.rdc", **settings)
    expected = [f"{message}; stored bit for bit" for _, message in UNFIT.values()]
    assert [str(warning.message) for warning in caught] == expected
    found, without = load_file(tmp_path / "m.rdc"), TensorCodec(TensorSettings(**settings)).encode(Tensors(MODEL))
    assert all(torch.equal(found[name].view(torch.int32), tensors[name].view(torch.int32)) for name in UNFIT)
    assert all(torch.equal(found[name], x) for name, x in TensorCodec().decode(without).tensors.items())
    if settings["mode"] == "nested":
        coarse = load_file(tmp_path / "m.rdc", bits=2)
        assert torch.equal(coarse["inf.weight"], tensors["inf.weight"])
        assert bits_of((tmp_path / "m.rdc").read_bytes(), "nan.weight") < 32
    safetensors.torch.save_file(tensors, tmp_path / "m.safetensors")
    line = ["--bits", "3"] if "bits" in settings else ["--mode", settings["mode"]]
    code, _, err = run("encode", "m.safetensors", "-o", "n.rdc", *line)
    assert code == 0 and (tmp_path / "n.rdc").exists() and all(message in err for message in expected), err
