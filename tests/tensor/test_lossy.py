"""Quantised and nested tensors: rates and errors that were asked for, and what stays exact."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import safetensors.torch
import torch
from rdcodec.codecs import container
from rdcodec.codecs.tensor import TensorCodec, Tensors, TensorSettings
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


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "zip"}, "no mode 'zip'"),
        ({"bits": 3.0}, "mode lossless has no bits"),
        ({"mode": "quantized", "bits": 3.0, "quality": 3}, "quality and bits: one of them"),
        ({"mode": "quantized", "bits": 30.0}, "need 0.5 to 12"),
        ({"mode": "quantized", "snr_db": 0.0}, "need 1 to 70"),
        (
            {"mode": "quantized", "energy": {"plain.weight": np.ones(3)}},
            "plain.weight: 3 energies of inputs for 511 columns",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        coded(**settings)


def test_numbers_that_are_not_finite_are_refused_by_name():
    x = torch.randn(80, 80)
    x[3, 4] = math.nan
    with pytest.raises(InputError, match="^bad: numbers that are not finite"):
        TensorCodec(TensorSettings(mode="quantized")).encode(Tensors({"bad": x}))
    assert torch.equal(TensorCodec().decode(TensorCodec().encode(Tensors({"bad": x}))).tensors["bad"].isnan(), x.isnan())
