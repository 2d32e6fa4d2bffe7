"""Shared scenes and the shipped codec. Everything is seeded and offline."""

from __future__ import annotations

import os
import sys

os.environ.setdefault("OMP_NUM_THREADS", "2")

import numpy as np
import pytest
import torch
from PIL import Image
from rdcodec.codecs import load
from rdcodec.codecs.cli import main as cli
from rdcodec.codecs.image.demo import sample_photograph
from scenes import make_scene


@pytest.fixture(scope="session")
def scene():
    """The function `make_scene`."""
    return make_scene


@pytest.fixture(scope="session")
def photograph() -> np.ndarray:
    """A real photograph, uint8 (600, 512, 3)."""
    return np.asarray(Image.open(sample_photograph()).convert("RGB"))


@pytest.fixture(scope="session")
def image_codec():
    return load("image", device="cpu")


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def run(monkeypatch, tmp_path, capfd):
    """Run the entry point in ``tmp_path``; returns (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["codec", *arguments])
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code or 0
        out, err = capfd.readouterr()
        return code, out, err

    return call
