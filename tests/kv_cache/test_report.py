"""`codec eval kv` on a tiny, randomly initialised model with a tokenizer of a few words."""

from __future__ import annotations

import csv
import io
import sys
from dataclasses import fields, replace

import pytest
import torch

transformers = pytest.importorskip("transformers", reason="needs the extra 'kv'")
tokenizers = pytest.importorskip("tokenizers", reason="needs the extra 'kv'")

from model_cases import prefilled
from rdcodec.codecs.cli.main import app
from rdcodec.codecs.kv_cache import load_cache, save_cache
from rdcodec.codecs.kv_cache.evaluation import fidelity as evaluate
from rdcodec.codecs.kv_cache.evaluation import report
from rdcodec.codecs.kv_cache.evaluation.fidelity import Fidelity, plot
from rdcodec.codecs.kv_cache.evaluation.report import _table, evaluate_text
from rdcodec.codecs.kv_cache.hf.model import load_model
from rdcodec.entropy_models.errors import InputError
from rich.console import Console
from rich.progress import Progress
from safetensors.torch import save_file
from typer.testing import CliRunner

WORDS = [f"w{i}" for i in range(95)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Folder of a bfloat16 Llama of 2 layers and 2 of 4 heads for keys and values."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    vocabulary = {word: i for i, word in enumerate(["<s>", "<unk>", *WORDS])}
    raw = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    raw.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", unk_token="<unk>").save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        head_dim=16, vocab_size=len(vocabulary), max_position_embeddings=256, bos_token_id=0, eos_token_id=None,
        initializer_range=0.1,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "words.txt"
    ids = torch.randint(0, len(WORDS), (1200,), generator=torch.Generator().manual_seed(3))
    path.write_text(" ".join(WORDS[i] for i in ids), encoding="utf-8")
    return path


def test_encode_takes_rope_and_fingerprint_from_the_model(model, tmp_path):
    """The file is the one that `save_cache` writes with the running model."""
    loaded, ids = load_model(model), torch.arange(40)[None] + 2
    cache = prefilled(loaded, ids)
    pairs = [(layer.keys, layer.values) for layer in cache.layers]
    tensors = {f"layers.{i}.{n}": x for i, pair in enumerate(pairs) for n, x in zip("kv", pair, strict=True)}
    save_file({n: x.contiguous() for n, x in tensors.items()} | {"tokens": ids[0]}, tmp_path / "c.safetensors")
    arguments = ["encode", str(tmp_path / "c.safetensors"), "--force"]
    done = CliRunner().invoke(app, [*arguments, "--model", str(model)])
    assert done.exit_code == 0 and "RoPE" not in done.stderr, done.output
    save_cache(cache, ids, tmp_path / "own.rdc", loaded)
    assert (tmp_path / "c.rdc").read_bytes() == (tmp_path / "own.rdc").read_bytes()
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0 and "RoPE stays in the keys, which takes more bytes (some 5 %" in done.stderr
    assert "RoPE" not in CliRunner().invoke(app, [*arguments, "--mode", "lossless"]).stderr
    for command in (arguments, ["kv", "put", str(tmp_path / "store"), str(tmp_path / "c.safetensors")]):
        done = CliRunner().invoke(app, [*command, "--model", "/absent"])
        assert done.exit_code == 1 and "/absent: no model there; need the folder" in done.stderr, done.output
        assert done.stderr.count("\n") == 1


def test_a_cache_of_the_model_in_another_type_is_its_own_and_one_of_another_model_is_not(model, tmp_path):
    """A checkpoint in bfloat16 is often run in another type; its caches are of that type."""
    wide, ids = load_model(model).float(), torch.arange(40)[None] + 2
    cache = prefilled(wide, ids)
    pairs = [(layer.keys, layer.values) for layer in cache.layers]
    tensors = {f"layers.{i}.{n}": x for i, pair in enumerate(pairs) for n, x in zip("kv", pair, strict=True)}
    tensors = {name: x.contiguous() for name, x in tensors.items()} | {"tokens": ids[0]}
    save_file(tensors, tmp_path / "wide.safetensors")
    del tensors["layers.1.k"], tensors["layers.1.v"]
    save_file(tensors, tmp_path / "short.safetensors")
    (tmp_path / "ids").write_text(" ".join(map(str, ids[0].tolist())))

    def codec(*arguments):
        return CliRunner().invoke(app, [*map(str, arguments), "--model", str(model)])

    lossless, store, back = ("--mode", "lossless"), tmp_path / "store", tmp_path / "back.safetensors"
    assert codec("encode", tmp_path / "wide.safetensors", *lossless).exit_code == 0
    loaded = load_cache(tmp_path / "wide.rdc", wide)
    assert all(torch.equal(a.keys, b.keys) for a, b in zip(loaded.layers, cache.layers, strict=True))
    assert codec("kv", "put", store, tmp_path / "wide.safetensors", *lossless).exit_code == 0
    get = "kv", "get", store, "--tokens", tmp_path / "ids", "-o", back
    assert codec(*get).exit_code == 1 and codec(*get, "--dtype", "float32").exit_code == 0 and back.exists()
    assert "need one of bfloat16" in codec(*get, "--force", "--dtype", "int4").stderr
    for command in (("encode",), ("kv", "put", tmp_path / "other")):
        done = codec(*command, tmp_path / "short.safetensors", *lossless)
        assert done.exit_code == 1 and "has layers 1; the model (llama) has layers 2" in done.stderr
    assert not (tmp_path / "short.rdc").exists()


def test_table_fits_80_columns():
    long = Fidelity(
        name="turboquant-ec 4 bit", bits_per_element=10.6789, ratio=6300.1, max_error=1, key_error=1, value_error=1,
        attention_error=0.12345, kl_mean=0.123456, kl_p99=12.3456, top1_agreement=0.98765, greedy_first_divergence=64,
        greedy_match=1, contexts=1, greedy_contexts=1, seconds=1,
    )  # fmt: skip
    console = Console(width=80, file=io.StringIO())
    floor = replace(long, name="recomputed, chunks of 256")
    console.print(_table({"turboquant-ec": [long], "noise floors": [floor]}, "title " * 20, "notes " * 30))
    shown = console.file.getvalue()
    assert "…" not in shown and max(map(len, shown.splitlines())) <= 80
    figures = "turboquant-ec 4 bit 10.679 6300.1 0.12346 12.3456 0.988 0.1235 64.0".split()
    assert any(line.split() == figures for line in shown.splitlines()) and floor.name in shown, shown
    assert all(word in shown for word in ("element", "ratio", "(bit)", "p99", "top-1", "error", "greedy"))


def test_no_progress_bars_but_ours(model, capfd):
    load_model(model)
    assert "it/s" not in capfd.readouterr().err
    assert transformers.utils.logging.is_progress_bar_enabled()  # as it was


def test_command_writes_table_csv_and_plot(model, text, tmp_path, monkeypatch):
    parts, prefill = [], evaluate.prefill
    monkeypatch.setattr(evaluate, "prefill", lambda m, ids, chunk=None: parts.append(chunk) or prefill(m, ids, chunk))
    modes = "lossless,turboquant,quantized,predictive"
    options = ["--model", str(model), "--text", str(text), "--modes", modes, "-o", str(tmp_path / "report")]
    done = CliRunner().invoke(app, ["eval", "kv", *options, "--contexts", "2", "--length", "64"])
    assert done.exit_code == 0, done.output
    assert "2 prompts of 64 tokens, bfloat16 cache" in done.output and "is not counted" in done.output
    assert "12 points of 4 modes: about " in done.output and "s, and a calibration" in done.output
    with (tmp_path / "report" / "kv_points.csv").open(newline="") as file:
        points = {row["name"]: row for row in csv.DictReader(file)}
    assert len(points) == 3 + 1 + 3 + 4 + 4
    floors = ["raw reload", "recomputed, chunks of 32", "recomputed in float32"]
    assert list(points)[:3] == floors and all(name in done.output for name in floors)
    assert [float(points[name]["bits_per_element"]) for name in floors] == [16] * 3
    raw, chunks, exact = (float(points[name]["kl_mean"]) for name in floors)
    assert raw == 0 <= chunks <= exact < float(points["quantized q30"]["kl_mean"]) and 0 < exact and parts == [32, None]
    assert float(points["lossless"]["kl_mean"]) == 0 and float(points["lossless"]["greedy_match"]) == 1
    for coarse, fine in (("quantized q30", "quantized q60"), ("predictive q30", "predictive q60")):
        assert float(points[coarse]["kl_mean"]) > float(points[fine]["kl_mean"]) > 0
        assert float(points[coarse]["bits_per_element"]) < float(points[fine]["bits_per_element"])
    assert (tmp_path / "report" / "kv_rate_kl.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "report" / "kv_profile.safetensors").stat().st_size > 0


def test_a_mode_that_does_not_suit_leaves_the_others_their_figures(model, text, tmp_path, monkeypatch):
    measure = evaluate.Evaluation.measure

    def fails(self, name, coded):
        if name == "turboquant 3 bit":
            raise InputError("no such width")
        return measure(self, name, coded)

    monkeypatch.setattr(evaluate.Evaluation, "measure", fails)
    with Progress(disable=True) as progress:
        table = evaluate_text(model, text, "residual,turboquant,fp8", tmp_path, 1, 40, progress)
    assert table.row_count == 3 + 1
    assert "residual is left out: mode residual would store 64 numbers" in table.caption
    assert "turboquant is left out: no such width." in table.caption


def test_mode_that_needs_the_model(model, text, tmp_path):
    with Progress(disable=True) as progress:
        table = evaluate_text(model, text, "tokens, fp8", tmp_path, 1, 40, progress)
    assert table.row_count == 3 + 2
    with (tmp_path / "kv_points.csv").open(newline="") as file:
        *_, tokens, fp8 = csv.DictReader(file)
    assert float(tokens["bits_per_element"]) < 0.2 * float(fp8["bits_per_element"])
    assert float(tokens["key_error"]) < 0.02
    assert not (tmp_path / "kv_profile.safetensors").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modes": "fp8,fp9"}, "no mode fp9; there are tokens, lossless, fp8"),
        ({"modes": " , "}, "no mode given"),
        ({"model": "absent"}, "no model there"),
        ({"text": "absent.txt"}, "no such text file"),
        ({"contexts": 0}, "need at least 1"),
        ({"contexts": 20}, "words.txt has 1200 tokens; 20 prompts of 64 and 64 more need 2540"),
        ({"contexts": 8, "modes": "predictive"}, "and the calibration need 1270"),
        ({"length": 200}, "tiny takes 256"),
        ({"modes": "residual"}, "mode residual would store 64 numbers"),
    ],
)
def test_wrong_inputs_are_named(model, text, tmp_path, monkeypatch, change, message):
    values = {"model": model, "text": text, "modes": "fp8", "contexts": 2, "length": 64} | change
    values |= {name: tmp_path / change[name] for name in ("model", "text") if name in change}
    monkeypatch.setattr(report, "_measure", lambda *_: pytest.fail("measured before all was checked"))
    with Progress(disable=True) as progress, pytest.raises(ValueError, match=message):
        evaluate_text(**values, output=tmp_path / "report", progress=progress)
    assert not (tmp_path / "report").exists()


def test_without_transformers_the_extra_is_named(model, text, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with Progress(disable=True) as progress, pytest.raises(ImportError, match=r"pip install 'rdcodec\[kv\]'"):
        evaluate_text(model, text, "fp8", tmp_path, 1, 64, progress)


def test_time_is_told_in_seconds_or_minutes():
    assert report._time_needed(["fp8", "lossless"], 2.0, False) == "2 points of 2 modes: about 10 s"
    assert report._time_needed(["quantized"], 60.0, True) == "4 points of 1 modes: about 7 minutes, and a calibration"


def test_the_plot_has_a_title_and_an_axis_of_ratios(tmp_path, monkeypatch):
    seen = {}
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, path, dpi: seen.update(figure=figure))
    line = Fidelity(**{field.name: 1.0 for field in fields(Fidelity)} | {"name": "quantized"})
    lines = [replace(line, bits_per_element=16 / ratio, ratio=ratio, kl_mean=0.01 / ratio) for ratio in (2, 4, 8, 400)]
    plot(tmp_path / "x.png", {"quantized": lines}, title="tiny on words.txt")
    (axes,) = seen["figure"].axes
    (above,) = axes.child_axes
    assert seen["figure"].get_suptitle() == "tiny on words.txt" and above.get_xlabel() == "times smaller than 16 bits"
    low, high = axes.get_xlim()
    places = [16 / tick for tick in above.get_xticks()]
    assert 0 <= low <= 16 / 400 and high >= 8
    assert all(a - b >= 0.06 * (high - low) for a, b in zip(places, places[1:], strict=False))
    assert {2, 3, 4, 5, 8} <= set(above.get_xticks()) and [t.get_text() for t in above.get_xticklabels()][0] == "2"
