"""Messages: one line each, lines of JSON where asked for, options refused by name."""

from __future__ import annotations

import json
import os
import subprocess

import pytest
import safetensors.torch
import torch
from command import CODEC
from rdcodec.codecs.kv_cache.modes.table import MODE_NAMES
from rdcodec.codecs.terminal import console


def test_options_of_the_other_codec_are_refused_by_name(run, photo, tmp_path):
    safetensors.torch.save_file({f"layers.0.{n}": torch.randn(2, 5, 16) for n in "kv"}, tmp_path / "c.safetensors")
    run("encode", "c.safetensors", "-o", "packed.rdc")
    run("encode", "photo.png", "-o", "picture.rdc")
    for arguments, given in (
        (
            ["encode", "c.safetensors", "--size", "50kB"],
            "--size: only for images and videos and sounds, and this",
        ),
        (["encode", "c.safetensors", "--bpp", "1", "--device", "cuda"], "--bpp, --device: only for images"),
        (["decode", "packed.rdc", "-o", "out.safetensors", "--crop", "0,0,1,1", "--salvage"], "--crop, --salvage: only for"),
        (["verify", "packed.rdc", "--device", "cuda"], "--device: only for images"),
        (["decode", "packed.rdc", "-o", "out.safetensors", "--format", "jpg"], "--format: only for images"),
        (["encode", "photo.png", "--mode", "fp8", "--bits", "3", "--keys", "x"], "--mode, --bits, --keys: only for KV"),
        (["encode", "photo.png", "--tokens", "ids"], "--tokens: only for KV caches, and this is an image"),
        (["decode", "picture.rdc", "--prefix", "3"], "--prefix: only for KV caches, and this is an image"),
        (["encode", "c.safetensors", "--mode", "zip"], f"no mode 'zip'; there are {MODE_NAMES}\n"),
        (["encode", "c.safetensors", "--mode", "tokens"], "mode tokens needs the model to encode and decode, which only"),
        (["encode", "c.safetensors", "-q", "10", "--mode", "lossless"], "mode lossless has no --quality; its rate is"),
        (["encode", "c.safetensors", "--bits", "3"], "mode quantized has no --bits; it has --quality"),
        (["encode", "c.safetensors", "-q", "10", "--mode", "turboquant"], "mode turboquant has no --quality; it has --bits"),
    ):
        code, out, err = run(*arguments)
        assert (code, out, err.count("\n")) == (1, "", 1) and given in err, (arguments, err)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.safetensors", "packed.rdc", "photo.png", "picture.rdc"]


def test_values_that_an_option_cannot_have_are_bad_input(run, photo, tmp_path):
    """One line and exit code 1, as for a bad file; unknown options and missing arguments are wrong usage, exit code 2."""
    for arguments, found, expected in (
        (["-q", "101"], "--quality 101: ", "100"), (["-q", "x"], "--quality x: ", "integer"),
        (["--kbps", "3kbps"], "--kbps 3kbps: ", "number"), (["--gop", "0"], "--gop 0: ", "1"),
        (["--effort", "10"], "--effort 10: ", "9"), (["--strip", "x"], "--strip x; ", "need one of gps, exif, all"),
        (["--kbps", "3", "-q", "4"], "give --quality, --kbps or --size, ", "not --quality and --kbps"),
        (["--bpp", "1", "--size", "3kB"], "give --quality, --bpp or --size, ", "not --bpp and --size"),
    ):  # fmt: skip
        code, out, err = run("encode", "photo.png", *arguments)
        assert (code, out, err.count("\n")) == (1, "", 1), (arguments, err)
        assert err.startswith(f"codec: {found}") and expected in err, err
    for arguments in (["decode", "photo.png", "--every", "0"], ["eval", "image", "photo.png", "--runs", "0"]):
        code, out, err = run(*arguments)
        assert (code, out, err.count("\n")) == (1, "", 1) and arguments[-1] in err, (arguments, err)
    code, out, _ = run("encode", "photo.png", "-q", "101", "--json")
    assert code == 1 and json.loads(out)["error"].startswith("--quality 101: ")
    for arguments in (["encode"], ["encode", "photo.png", "--nope"], ["encode", "photo.png", "-q"], ["nope"]):
        assert run(*arguments)[0] == 2
    assert [path.name for path in tmp_path.iterdir()] == ["photo.png"]


def test_damage(run, photo, tmp_path):
    run("encode", "photo.png")
    data = bytearray((tmp_path / "photo.rdc").read_bytes())
    data[-20] ^= 1
    (tmp_path / "bad.rdc").write_bytes(data)
    for command in ("decode", "verify"):
        code, out, err = run(command, "bad.rdc")
        assert (code, out) == (1, "") and err.startswith("codec: bad.rdc: corrupt: ") and err.count("\n") == 1
    assert not (tmp_path / "bad.png").exists()
    code, out, err = run("decode", "bad.rdc", "--salvage")
    assert (code, out) == (1, "") and "no tile is undamaged; tile 0 (of 0..0)" in err and not (tmp_path / "bad.png").exists()
    (tmp_path / "empty.rdc").touch()
    assert run("info", "empty.rdc")[0] == 1 and run("decode", "photo.png")[0] == 1


def test_json_has_numbers_where_people_get_text(run, photo, tmp_path):
    widths = {"k": 24, "v": 16}
    tensors = {f"layers.{i}.{n}": torch.randn(2, 40, width) for i in range(3) for n, width in widths.items()}
    safetensors.torch.save_file(tensors, tmp_path / "c.safetensors")

    def facts(*command: str) -> dict:
        code, out, _ = run(*command, "--json", "--force")
        found = json.loads(out)
        assert code == 0 and not {"rate", "shape"} & set(found)
        return found

    assert facts("encode", "photo.png").items() >= {"codec": "image", "quality": 60}.items()
    assert facts("decode", "photo.rdc", "-o", "back.png").items() >= {"width": 120, "height": 96}.items()
    sizes = {"codec": "kv", "layers": 3, "kv_heads": 2, "tokens": 40, "key_width": 24, "value_width": 16}
    assert 1 < facts("encode", "c.safetensors")["bits_per_element"] < 16
    for command in (["encode", "c.safetensors"], ["decode", "c.rdc", "-o", "d.safetensors"]):
        assert facts(*command).items() >= sizes.items()
    beyond = facts("decode", "c.rdc", "-o", "d.safetensors", "--prefix", "41")
    assert beyond["tokens"] == 40 and beyond["notices"] == ["it holds 40 tokens, fewer than --prefix 41"]


def test_a_failed_file_is_a_line_of_json_too(run, photo, tmp_path):
    (tmp_path / "lie.png").write_text("this is no image")
    code, out, err = run("encode", "lie.png", "photo.png", "--json")
    failed, done = map(json.loads, out.splitlines())
    assert code == 1 and err.count("\n") == 1 and failed["input"] == "lie.png" and "neither an image" in failed["error"]
    assert done["input"] == "photo.png" and "error" not in done
    (tmp_path / "bad.rdc").write_bytes((tmp_path / "photo.rdc").read_bytes()[:30])
    for command in (["decode", "-o", "out/"], ["verify"], ["info"]):
        code, out, err = run(*command, "photo.rdc", "bad.rdc", "--json")
        done, failed = map(json.loads, out.splitlines())
        assert code == 1 and err.count("\n") == 1 and done["input"] == "photo.rdc" and "error" not in done
        assert failed["input"] == "bad.rdc" and failed["error"].startswith("truncated: ")
    code, out, err = run("encode", "gone.png", "--json")
    assert code == 1 and json.loads(out) == {"error": "gone.png: no such file"} and err.count("\n") == 1
    code, out, err = run("decode", "bad.rdc", "-o", "-", "--json")
    assert (code, out) == (1, "") and json.loads(err.splitlines()[-1])["input"] == "bad.rdc"  # stdout is for the data


@pytest.mark.parametrize("stem", ["a [b] c", "[", "[/i]", ":smile:", "ünï köde", "-dash"])
def test_names_are_shown_as_they_are(run, photo, tmp_path, monkeypatch, stem):
    monkeypatch.setattr(console.errors, "_force_terminal", True)  # with a progress bar
    (tmp_path / f"{stem}.png").parent.mkdir(exist_ok=True)
    photo.rename(tmp_path / f"{stem}.png")
    code, out, err = run("encode", f"./{stem}.png")
    assert (code, out.split("  ")[0]) == (0, f"{stem}.rdc"), err
    code, out, _ = run("info", f"./{stem}.rdc")
    assert code == 0 and out.splitlines()[0].strip() == f"{stem}.rdc"


def test_every_message_is_one_line(run, photo, tmp_path, monkeypatch):
    """Names of files may hold line breaks and bytes that are no UTF-8."""
    photo.rename(tmp_path / "a\nb.png")
    code, out, err = run("encode", "a\nb.png")
    assert (code, err, out.split("  ")[0], out.count("\n")) == (0, "", "a\\nb.rdc", 1)
    assert run("verify", "a\nb.rdc")[1] == "a\\nb.rdc  ok\n"
    (tmp_path / "c\nd.png").write_text("no image")
    code, out, err = run("encode", "c\nd.png")
    assert (code, out) == (1, "") and err.startswith("codec: c\\nd.png: ") and err.count("\n") == 1
    (tmp_path / "a\nb.png").rename(tmp_path / os.fsdecode(b"\xff.png"))
    environment = os.environ | {"LC_ALL": "C.UTF-8", "PYTHONUTF8": "0"}
    done = subprocess.run([CODEC, "encode", b"\xff.png"], capture_output=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.startswith(b"\\udcff.rdc  ") and not done.stderr
    closed = subprocess.run(f"{CODEC} encode - <&-", shell=True, capture_output=True, text=True)
    assert (closed.returncode, closed.stderr) == (1, "codec: standard input: it is closed\n")
