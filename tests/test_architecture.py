"""The import graph and the package's contents are part of the design, so they have tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest
import torch
from rdcodec.codecs import REGISTRY, load, weights
from rdcodec.entropy_models.coder import Measure
from rdcodec.entropy_models.integer_net import IntegerDepthwise, IntegerLinear
from rdcodec.entropy_models.tables import gaussian_tables
from rdcodec.training.export import write_line
from torch import nn

ROOT = Path(__file__).parents[1]
PARTS = "codecs", "entropy_models", "training"


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("rdcodec.entropy_models.coder", ("rdcodec.codecs", "rdcodec.training", "lightning")),
        ("rdcodec.codecs.image.codec", ("rdcodec.training", "lightning", "compressai", "torchvision", "matplotlib")),
        ("rdcodec.codecs", ("torch", "numpy", "rdcodec.training")),
        ("rdcodec.codecs.cli.main", ("torch", "numpy", "PIL", "rdcodec.training")),
    ],
)
def test_arrows_run_one_way(module, forbidden):
    command = [sys.executable, "-c", f"import sys, {module}; print(*sys.modules)"]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert module in loaded and not set(loaded) & set(forbidden)


def test_codecs_never_mention_training():
    for path in (ROOT / "codecs").rglob("*.py"):
        text = path.read_text()
        assert "self.training" not in text, path
        if path != ROOT / "codecs/cli/main.py":
            assert "from ..training" not in text and "from ...training" not in text and "rdcodec.training" not in text, path


def test_the_package_holds_every_module_and_weight_file():
    for part in PARTS:
        installed = Path(str(resources.files(f"rdcodec.{part}")))
        for path in (ROOT / part).rglob("*"):
            shipped = path.suffix in {".py", ".yaml", ".safetensors", ".json", ".txt"}
            if shipped and "__pycache__" not in path.parts:
                assert (installed / path.relative_to(ROOT / part)).is_file(), path


def test_every_manifest_line_has_its_file_and_the_whole_stays_small():
    lines = weights.manifest()
    assert {line.codec for line in lines.values()} <= set(REGISTRY)
    for line in lines.values():
        assert len(weights.verified_bytes(line)) <= 12_000_000
    source = ROOT / "codecs/weights_files"
    files = {str(path.relative_to(source)) for path in source.rglob("*.safetensors")}
    assert files == {line.file for line in lines.values()}
    assert len({line.stream_hash for line in lines.values()}) == len(lines)


def test_damaged_weights_are_refused(tmp_path, monkeypatch):
    line = weights.line_named("image")
    data = bytearray(weights.verified_bytes(line))
    data[1000] ^= 1
    (tmp_path / line.file).write_bytes(data)
    monkeypatch.setattr(weights, "FOLDER", tmp_path)
    with pytest.raises(ValueError, match="manifest says"):
        weights.verified_bytes(line)


@pytest.fixture
def more_weights(tmp_path, monkeypatch):
    """Name folders in RDCODEC_WEIGHTS."""

    def name(*folders: Path) -> None:
        monkeypatch.setenv(weights.MORE, os.pathsep.join(map(str, folders)))
        weights.manifest.cache_clear()

    yield name
    weights.manifest.cache_clear()


def test_own_weights_are_found_in_a_folder_of_ones_own(tmp_path, more_weights):
    default = weights.line_named("image")
    fields = {"licence": "x", "data": "x", "recipe": "x", "steps": 1, "hardware": "x"}
    write_line(tmp_path, "mine", b"weights", **fields)
    write_line(tmp_path, default.name, b"other", **fields)
    more_weights(tmp_path)
    assert weights.verified_bytes(weights.line_named("image", "mine")) == b"weights"
    assert weights.line_named("image") == weights.line_named("image", default.name) == default
    more_weights(tmp_path / "gone")
    with pytest.raises(ValueError, match="RDCODEC_WEIGHTS: .*gone is no folder"):
        weights.line_named("image")


def test_manifest_lines_are_complete():
    for name, line in json.loads((weights.FOLDER / "manifest.json").read_text()).items():
        for key in ("licence", "data", "recipe", "steps", "hardware"):
            assert line[key], (name, key)
        assert (ROOT / line["recipe"]).is_file()


def test_the_shipped_network_stays_small():
    """At most 6 M parameters, and 25 thousand multiplications per pixel each way, on a picture of whole tiles."""
    network = load("image", device="cpu").network
    assert sum(value.numel() for value in network.state_dict().values()) <= 6_000_000
    multiplications = 0

    def count(module: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        nonlocal multiplications
        each = 9 if isinstance(module, IntegerDepthwise) else module.weight[0].numel()
        multiplications += output.numel() * each

    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | IntegerLinear | IntegerDepthwise):
            module.register_forward_hook(count)
    image, quality = torch.zeros(1, 128, 128, 3), torch.tensor([50])
    per_pixel = {}
    with torch.inference_mode():
        y = network.to_latent(image, quality)
        per_pixel["analysis"], multiplications = multiplications / image[..., 0].numel(), 0
        network.coding_pass(Measure(gaussian_tables()), y, quality)
        per_pixel["coding pass"], multiplications = multiplications / image[..., 0].numel(), 0
        network.to_image(y, quality)
        per_pixel["synthesis"] = multiplications / image[..., 0].numel()
    assert 15_000 < per_pixel["analysis"] + per_pixel["coding pass"] <= 25_000, per_pixel
    assert 15_000 < per_pixel["coding pass"] + per_pixel["synthesis"] <= 25_000, per_pixel
