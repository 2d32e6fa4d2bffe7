"""Examples in docstrings run; README's commands and links are real."""

from __future__ import annotations

import csv
import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest
import rdcodec.codecs
import rdcodec.entropy_models
import rdcodec.training
from rdcodec.codecs import cli, weights
from typer.testing import CliRunner

ROOT = Path(__file__).parents[1]
NAMES = sorted(
    module.name
    for part in (rdcodec.codecs, rdcodec.entropy_models, rdcodec.training)
    for module in pkgutil.walk_packages(part.__path__, f"{part.__name__}.")
)


@pytest.mark.parametrize("name", NAMES)
def test_docstring_examples(name):
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        pytest.skip(f"needs an extra: {error}")
    assert doctest.testmod(module).failed == 0


def test_readme_commands_exist():
    """Every `codec ...` line in README names a command and options that exist."""
    text = (ROOT / "README.md").read_text()
    commands = re.findall(r"^\s*(?:\$ )?codec ((?:[a-z]+ ?)+)(.*)$", text, re.MULTILINE)
    assert len(commands) > 5
    for words, rest in commands:
        parts = words.split()
        depth = 2 if parts[0] in ("eval", "train", "kv") else 1
        shown = CliRunner(env={"COLUMNS": "250", "NO_COLOR": "1"}).invoke(cli.app, [*parts[:depth], "--help"])
        assert shown.exit_code == 0, (words, shown.output)
        if parts[0] != "train":
            for option in re.findall(r"(?<!\S)(--[a-z-]+|-[a-z])\b", rest.split("#")[0]):
                assert option in shown.output, (words, option)


def test_readme_links_lead_somewhere():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", (ROOT / "README.md").read_text()):
        assert (ROOT / target).exists(), target


def test_readme_bd_rates_are_those_of_the_csv():
    rows = csv.DictReader((ROOT / "benchmarks/results/kodak_bd_rate.csv").open())
    text = (ROOT / "README.md").read_text()
    checked = 0
    for row in rows:
        percent = r"([+-][\d.]+) %"
        match = re.search(rf"^\| {re.escape(row['anchor'])}\b[^|]*\| {percent} \| {percent} \|", text, re.MULTILINE)
        if match:
            checked += 1
            for shown, metric in zip(match.groups(), ("psnr", "ms_ssim"), strict=True):
                assert float(shown) == pytest.approx(float(row[f"bd_rate_{metric}_percent"]), abs=0.051), row
    assert checked >= 3


def test_the_manifest_says_what_the_default_model_measured():
    measured = weights.line_named("image").measured["kodak_bd_rate_psnr_percent"]
    rows = csv.DictReader((ROOT / "benchmarks/results/kodak_bd_rate.csv").open())
    found = {row["anchor"]: float(row["bd_rate_psnr_percent"]) for row in rows}
    assert measured == {name: found[name] for name in ("jpeg", "webp", "avif")}
