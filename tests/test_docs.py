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
from rdcodec.codecs import weights
from rdcodec.codecs.cli import main as cli
from rdcodec.codecs.kv_cache.modes.table import MODES
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


def kv_table() -> dict[str, list[str]]:
    """Cells of README's table of cache modes, by their row's name without backquotes and remarks."""
    text = (ROOT / "README.md").read_text()
    lines = text[text.index("| mode | what |") :].split("\n\n")[0].splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {re.sub(r"`| \(.*\)", "", name): cells for name, *cells in rows}


def shown(value: str, like: str, scale: float = 1) -> str:
    """A figure of a CSV with as many decimals as README shows."""
    return f"{float(value) * scale:.{len(like.partition('.')[2])}f}"


def test_readme_has_a_row_for_every_cache_mode():
    assert {name.split()[0].rstrip(",") for name in kv_table()} >= set(MODES)


def test_readme_cache_figures_are_those_of_the_csv():
    with (ROOT / "benchmarks/results/kv_fidelity.csv").open() as file:
        measured = {row["name"]: row for row in csv.DictReader(file)}
    checked = 0
    for name, (_, *cells) in kv_table().items():
        row = measured.get(re.sub(r"^(quantized-small) (q\d+), calibrated", r"\1, calibrated \2", name))
        if row is None:
            continue
        checked += 1
        columns = "bits_per_element", "ratio", "kl_mean", "kl_p99", "top1_agreement", "attention_error"
        for cell, column, scale in zip(cells, columns, (1, 1, 1, 1, 100, 100), strict=False):
            figure = cell.removesuffix(" %")
            assert figure == shown(row[column], figure, scale), (name, column)
        first = int(float(row["greedy_first_divergence"]) + 0.5), round(float(row["greedy_first_divergence"]))
        assert cells[6] in {f"{count} of 64" for count in first}, name
    assert checked >= 12


def test_readme_ratios_of_token_files_are_those_of_the_csv():
    with (ROOT / "benchmarks/results/kv_tokens.csv").open() as file:
        ratios = sorted(float(row["ratio_to_bf16"]) for row in csv.DictReader(file))
    _, bits, ratio, *_ = kv_table()["tokens"]
    assert bits == f"{16 / ratios[-1]:.4f} to {16 / ratios[0]:.4f}"
    assert ratio == f"{round(ratios[0], -2):,.0f} to {round(ratios[-1], -2):,.0f}"


def test_the_manifest_says_what_the_default_model_measured():
    measured = weights.line_named("image").measured["kodak_bd_rate_psnr_percent"]
    rows = csv.DictReader((ROOT / "benchmarks/results/kodak_bd_rate.csv").open())
    found = {row["anchor"]: float(row["bd_rate_psnr_percent"]) for row in rows}
    assert measured == {name: found[name] for name in ("jpeg", "webp", "avif")}
