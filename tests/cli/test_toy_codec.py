"""A codec that is one more line of the registry has every command, with no edit elsewhere."""

from __future__ import annotations

import csv
import dataclasses
import json
from typing import Annotated

import pytest
import toy_codec
import typer
from PIL import Image
from rdcodec.codecs import REGISTRY, Registered, load
from rdcodec.codecs.cli import main as cli
from rdcodec.codecs.cli import signature
from typer.testing import CliRunner

TOY = Registered(stream_id=60001, codec="toy_codec:ToyCodec", face="toy_codec:FACE", task="toy_codec:TASK", summary="texts")


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run the command in an empty folder, with the toy registered: exit code, output and errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(REGISTRY, "toy", TOY)
    signature.faces.cache_clear()
    app = cli.program()

    def run(*arguments: str) -> tuple[int, str, str]:
        done = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"}).invoke(app, list(arguments))
        return done.exit_code, done.stdout, done.stderr

    yield run
    signature.faces.cache_clear()


@pytest.fixture
def letter(tmp_path):
    (tmp_path / "letter.txt").write_text("to be or not to be " * 20)
    return tmp_path / "letter.txt"


def test_files_go_in_and_out(run, letter, tmp_path):
    code, out, _ = run("encode", "letter.txt", "--json")
    facts = json.loads(out)
    assert (code, facts["codec"], facts["output"]) == (0, "toy", "letter.rdc") and facts["ratio"] > 3
    assert run("verify", "letter.rdc")[:2] == (0, "letter.rdc  ok\n")
    code, out, _ = run("decode", "letter.rdc", "-o", "back.txt")
    assert code == 0 and "380 letters" in out and (tmp_path / "back.txt").read_text() == letter.read_text()
    assert run("encode", "letter.txt", "--loud", "-o", "loud.rdc")[0] == 0
    assert run("decode", "loud.rdc")[0] == 0 and (tmp_path / "loud.txt").read_text() == letter.read_text().upper()


def test_a_folder_finds_its_suffix_beside_others(run, letter, tmp_path, photograph):
    Image.fromarray(photograph[:40, :40]).save(tmp_path / "a.png")
    assert run("encode", ".", "-o", "packed")[0] == 0
    assert sorted(path.name for path in (tmp_path / "packed").iterdir()) == ["a.rdc", "letter.rdc"]
    assert run("decode", "packed", "-o", "back")[0] == 0
    assert sorted(path.name for path in (tmp_path / "back").iterdir()) == ["a.png", "letter.txt"]


def test_info_describes(run, letter):
    run("encode", "letter.txt")
    fields = json.loads(run("info", "letter.rdc", "--json")[1])
    assert (fields["codec"], fields["stream_id"], fields["letters"]) == ("toy", 60001, 380)
    assert "toy (id 60001)" in run("info", "letter.rdc")[1]


def test_damage_is_refused_and_named(run, letter, tmp_path):
    run("encode", "letter.txt")
    data = bytearray((tmp_path / "letter.rdc").read_bytes())
    data[-1] ^= 1
    (tmp_path / "letter.rdc").write_bytes(data)
    code, out, err = run("verify", "letter.rdc")
    assert (code, out) == (1, "") and err.startswith("codec: letter.rdc: corrupt: chunk 0 has checksum")


def test_help_has_its_options_in_a_panel_of_their_own_and_its_example(run):
    shown = run("encode", "--help")[1]
    assert "Texts" in shown and "--loud" in shown and "codec encode letter.txt --loud" in shown
    assert shown.count("--quality") == 1, "one option of three codecs"
    assert "texts" in run("--help")[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "5kB"], "--size: only for images and videos and sounds, and this is a text"),
        (["--tokens", "ids"], "--tokens: only for KV caches, and this is a text"),
        (["--device", "cuda"], "--device: only for images and videos and sounds, and this is a text"),
    ],
)
def test_options_of_other_codecs_are_refused(run, letter, arguments, message):
    code, _, err = run("encode", "letter.txt", *arguments)
    assert code == 1 and message in err


def test_its_own_option_is_refused_elsewhere(run, tmp_path, photograph):
    Image.fromarray(photograph[:40, :40]).save(tmp_path / "a.png")
    code, _, err = run("encode", "a.png", "--loud")
    assert code == 1 and "--loud: only for texts, and this is an image" in err and not (tmp_path / "a.rdc").exists()


def test_demo_is_found_by_name(run, tmp_path):
    assert run("demo", "toy", "-o", "shown")[:2] == (0, "18 letters\n") and (tmp_path / "shown" / "text.rdc").is_file()
    assert run("demo", "toy", "-o", "other", "--effort", "3")[0] == 1 and not (tmp_path / "other").exists()
    face, given = toy_codec.FACE, {"effort": 3}
    with pytest.raises(ValueError, match="--effort: only for images.*, and this is a text"):
        signature.refuse_others(face, "Encode", given, "auto")


def test_python_loads_it_by_name(run):
    codec = load("toy")
    assert codec.decode(codec.encode("hello")) == codec.estimate("hello").signal == "hello"
    assert {"image", "kv", "tensor", "toy"} <= REGISTRY.keys()
    assert codec.verify(codec.encode("hello")) == []


def test_it_is_measured_beside_others(run, letter, tmp_path):
    pytest.importorskip("bjontegaard")
    code, out, err = run("eval", "toy", "letter.txt")
    assert code == 0 and "BD-rate Equal" in out and "encode (letters/s)" in out and not err
    with (tmp_path / "report" / "points.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["codec"], row["quality"]) for row in rows] == [
        ("rdcodec", "0"),
        ("rdcodec", "60"),
        ("bz2", "1"),
        ("bz2", "9"),
    ]
    loud, ours, *_ = rows
    assert float(ours["equal_percent"]) == 100 > float(loud["equal_percent"]) and ours["letters"] == "380"
    assert float(ours["rate_bpl"]) == pytest.approx(8 * int(ours["bytes"]) / 380, rel=1e-5)
    assert run("encode", "letter.txt")[0] == 0 and (tmp_path / "letter.rdc").stat().st_size == int(ours["bytes"])


def test_one_option_declared_in_two_ways_is_found_when_the_command_is_built(run, monkeypatch):
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Other:
        quality: Annotated[str | None, typer.Option(help="another")] = None

    monkeypatch.setattr(toy_codec.ToyFace, "Encode", Other)
    with pytest.raises(TypeError, match="option quality of Encode is declared in two ways"):
        cli.program()


def test_a_bug_says_that_it_is_one_and_the_other_files_go_on(run, letter, tmp_path, monkeypatch):
    (tmp_path / "b.txt").write_text("other")
    encode = toy_codec.ToyCodec.encode

    def fails(self, signal, **options):
        if signal == "other":
            raise ValueError("a bug of ours")
        return encode(self, signal, **options)

    monkeypatch.setattr(toy_codec.ToyCodec, "encode", fails)
    code, out, err = run("encode", "b.txt", "letter.txt", "-o", "packed/")
    assert code == 1 and "letter.rdc" in out and not (tmp_path / "packed" / "b.rdc").exists()
    assert err == (
        "codec: b.txt: internal error, please report: ValueError: a bug of ours (codec --traceback ... shows where)\n"
    )
