"""Help, and what the commands do not import."""

from __future__ import annotations

import subprocess
import sys

import pytest
import safetensors.torch
import torch
from rdcodec.codecs.cli import main as cli
from rdcodec.codecs.kv_cache import MODES
from typer.testing import CliRunner


def test_help_shows_each_example_on_its_own_line_and_every_mode():
    shown = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"}).invoke(cli.app, ["encode", "--help"]).output
    assert sum("codec encode" in line for line in shown.splitlines() if "Usage" not in line) >= 5, shown
    assert all(mode in shown for mode, line in MODES.items() if line.offered and not line.needs_model)
    assert shown.count("The highest whole quality of at most") == 3  # --bpp and --size
    assert "\n\n\n\n" not in "\n".join(line.strip() for line in shown.splitlines())


def test_help_of_training_is_lightnings(run):
    pytest.importorskip("lightning")
    code, out, err = run("train", "image", "fit", "--help")
    assert code == 0 and "--trainer.max_steps" in out and "--model.muon_lr" in out
    assert out.startswith("usage: codec train image") and not err


@pytest.mark.parametrize("source", ["photo.png", "cache.safetensors"])
def test_info_needs_no_torch_and_few_modules(run, photo, tmp_path, source):
    """What takes time in so short a command is importing."""
    safetensors.torch.save_file({f"layers.0.{n}": torch.randn(2, 300, 64) for n in "kv"}, tmp_path / "cache.safetensors")
    assert run("encode", source, "-o", "it.rdc")[0] == 0
    loaded = modules_of("info", "it.rdc")
    assert not {"torch", "numpy", "PIL", "safetensors"} & loaded and len(loaded) < 500


def modules_of(*arguments: str) -> set[str]:
    """The modules that the command has imported by its end, in a process of its own."""
    code = f"import sys; from rdcodec.codecs.cli.main import main; sys.argv = {['codec', *arguments]}\n"
    code += "try: main()\nfinally: print('', *sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines())


def test_decode_imports_nothing_it_does_not_need(run, photo):
    run("encode", "photo.png")
    loaded = modules_of("decode", "photo.rdc", "-o", "out.png")
    assert "torch" in loaded
    forbidden = {"compressai", "lightning", "torchvision", "matplotlib", "torch._dynamo", "transformers"}
    assert not loaded & forbidden
