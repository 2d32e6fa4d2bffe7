"""Lists of numbers, and ``codec eval`` of a toy codec of them."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from evaluation_cases import task
from rdcodec import codecs
from rdcodec.codecs.cli import main as cli
from typer.testing import CliRunner


@pytest.fixture
def numbers(tmp_path) -> Path:
    """A folder of three lists, of 50, 50 and 5 numbers."""
    folder = tmp_path / "numbers"
    folder.mkdir()
    rng = np.random.default_rng(3)
    for name, count in (("a", 50), ("b", 50), ("few", 5)):
        (folder / f"{name}.txt").write_text(" ".join(map(str, rng.integers(0, 256, count))))
    return folder


@pytest.fixture
def run(monkeypatch, tmp_path, numbers):
    """``codec eval toy``, the toy registered as a codec is; returns (exit code, output, errors)."""
    module = ModuleType("toy_task")
    module.TASK = task()
    monkeypatch.setitem(sys.modules, module.__name__, module)
    line = codecs.Registered(
        stream_id=250, codec="toy_task:Toy", face="toy_task:FACE", task="toy_task:TASK", summary="numbers"
    )
    monkeypatch.setitem(codecs.REGISTRY, "toy", line)
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str]:
        done = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"}).invoke(cli.app, ["eval", "toy", *arguments])
        return done.exit_code, done.output + (str(done.exception) if done.exception else "")

    call.task = module
    return call
