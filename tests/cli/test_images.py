"""The command on images, as people run it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rdcodec.codecs.cli import main as cli
from rdcodec.codecs.image.formats import SHOWN
from rdcodec.codecs.weights import manifest
from rich.console import Console
from typer.testing import CliRunner


def test_encode_info_verify_decode(run, photo, tmp_path):
    code, out, err = run("encode", "photo.png")
    assert (code, err) == (0, "") and out.count("\n") == 1 and "bpp" in out and ":1" in out
    code, out, _ = run("info", "photo.rdc", "--json")
    facts = json.loads(out)
    assert code == 0 and (facts["width"], facts["height"], facts["channels"], facts["quality"]) == (120, 96, 3, 60)
    assert (facts["input"], facts["codec"], facts["alpha"], facts["metadata"]) == ("photo.rdc", "image", False, [])
    assert facts["rate_bpp"] == pytest.approx(8 * facts["file_bytes"] / (120 * 96), abs=1e-4)
    assert facts["tile_columns"] * facts["tile_rows"] == 1 and facts["model"] in manifest()
    assert all(f" {text} " in run("info", "photo.rdc")[1] for text in ("120x96", "3, 8 bits", "1 (1x1),", "image (id 1)"))
    chunk = facts["chunks"][-1]
    assert chunk["kind"] == "data" and chunk["offset"] + chunk["bytes"] == Path("photo.rdc").stat().st_size
    assert chunk["crc32"] in run("info", "photo.rdc")[1]
    assert run("verify", "photo.rdc")[:2] == (0, "photo.rdc  ok\n")
    code, out, _ = run("decode", "photo.rdc", "-o", "out.png")
    assert code == 0 and Image.open(tmp_path / "out.png").size == (120, 96)
    assert run("decode", "photo.rdc", "-o", "crop.webp", "--crop", "5,6,70,80")[0] == 0
    assert Image.open(tmp_path / "crop.webp").size == (70, 80)


def test_several_kinds_of_metadata_are_left_out(run, photo, tmp_path):
    exif = Image.Exif()
    exif[0x010F] = "maker"
    pixels = Image.open("photo.png")
    pixels.save("with.jpg", exif=exif, comment="words", quality=95)
    for strips, kept in (([], ["EXIF", "TEXT"]), (["all", "gps"], []), (["gps", "exif"], ["TEXT"])):
        options = [word for name in strips for word in ("--strip", name)]
        assert run("encode", "with.jpg", *options, "-o", "s.rdc", "--force")[0] == 0
        assert json.loads(run("info", "s.rdc", "--json")[1])["metadata"] == kept


def test_info_tells_what_is_drawn(run, photo, tmp_path):
    squares = np.kron(np.indices((8, 8)).sum(0) % 2, np.ones((9, 9))).astype(np.uint8) * 255
    noise = np.random.default_rng(0).normal(0, 6, (72, 72))
    Image.fromarray(squares).save("squares.png")
    Image.fromarray((squares * 0.8 + 30 + noise).clip(0, 255).astype(np.uint8)).save("noise.png")
    for name, drawn in (("photo", []), ("squares", ["layers"]), ("noise", ["sketches"])):
        assert run("encode", f"{name}.png", "-o", f"{name}.rdc")[0] == 0
        assert json.loads(run("info", f"{name}.rdc", "--json")[1])["drawn"] == drawn
        assert (", with " in run("info", f"{name}.rdc")[1]) == bool(drawn)


def test_targets(run, photo, tmp_path):
    run("encode", "photo.png", "-q", "40", "-o", "q40.rdc")
    size = (tmp_path / "q40.rdc").stat().st_size
    assert run("encode", "photo.png", "--size", f"{size}B", "-o", "s.rdc")[0] == 0
    assert 0.9 * size < (tmp_path / "s.rdc").stat().st_size <= size
    bpp = size * 8 / (96 * 120)
    assert run("encode", "photo.png", "--bpp", f"{bpp:.6f}", "-o", "b.rdc")[0] == 0
    assert 0.9 * bpp < (tmp_path / "b.rdc").stat().st_size * 8 / (96 * 120) <= bpp
    code, _, err = run("encode", "photo.png", "--size", "60B", "-o", "x.rdc")
    assert code == 1 and "too small" in err and not (tmp_path / "x.rdc").exists()
    code, _, err = run("encode", "photo.png", "--size", "60 parsecs", "-o", "new/x.rdc")
    assert code == 1 and "size '60 parsecs'; need a number and a unit" in err and not (tmp_path / "new").exists()
    assert run("encode", "photo.png", "--size", "1kB", "--bpp", "1")[0] == 1
    for target in (("--size", "1kB"), ("--bpp", "1")):
        code, out, err = run("encode", "photo.png", "-q", "60", *target)
        assert (code, out) == (1, "") and "--quality, --bpp or --size" in err
    assert run("encode", "photo.png", "-q", "101")[0] == 1
    for value in ("inf", "nan", "-1", "0", "1e308"):
        code, out, err = run("encode", "photo.png", "--bpp", value, "-o", "new/x.rdc")
        assert (code, out, err.count("\n")) == (1, "", 1) and "--bpp" in err and "above 0" in err
        assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("device", ["foo", "cuda:x", "cuda:99", "meta"])
def test_a_device_that_is_not_there_is_one_line(run, photo, tmp_path, device):
    code, out, err = run("encode", "photo.png", "--device", device)
    assert (code, out, err.count("\n")) == (1, "", 1) and "device " in err and ("need auto" in err or "CUDA" in err)
    assert not (tmp_path / "photo.rdc").exists()


def test_models_and_help(run):
    assert all(name in run("models")[1] for name in manifest())
    for arguments in ([], ["encode"], ["decode"], ["info"], ["verify"], ["eval", "image"], ["demo"], ["train"]):
        assert CliRunner().invoke(cli.app, [*arguments, "--help"]).exit_code == 0


def test_models_at_eighty_columns_names_every_file_whole(run, monkeypatch):
    monkeypatch.setattr(cli, "out", Console(width=80, highlight=False, soft_wrap=False))
    _, out, _ = run("models")
    for line in manifest().values():
        assert line.name in out and line.stream_hash.hex() in out


def test_demo_draws_its_sheet(run, photo, tmp_path):
    code, out, _ = run("demo", "photo.png", "-o", "shown")
    assert code == 0 and "sheet.png" in out
    sheet = np.asarray(Image.open(tmp_path / "shown" / "sheet.png"))
    assert sheet.shape[1] > 1000
    cells = sheet[: sheet.shape[0] // 3 * 3].reshape(3, sheet.shape[0] // 3, -1, 3)
    assert all((part != 255).any(-1).sum() > 5000 for line in cells for part in np.array_split(line, 4, axis=1))
    for jpeg in (tmp_path / "shown").glob("*.jpg"):
        assert f" {jpeg.stat().st_size} " in out  # also where JPEG cannot be as small
    assert {path.name for path in (tmp_path / "shown").iterdir()} == set(SHOWN)
    (tmp_path / "shown" / "original.png").unlink()
    code, out, err = run("demo", "photo.png", "-o", "shown")
    assert (code, out) == (1, "") and "shown/sheet.png exists; --force overwrites it" in err
    assert not (tmp_path / "shown" / "original.png").exists()
    assert run("demo", "photo.png", "-o", "shown", "--force")[0] == 0
    assert {path.name for path in (tmp_path / "shown").iterdir()} == set(SHOWN)
    (tmp_path / "taken").write_text("a file")
    code, out, err = run("demo", "photo.png", "-o", "taken")
    assert (code, out, err.count("\n")) == (1, "", 1) and "taken is a file, and -o takes a folder" in err


def test_a_truncated_image_is_described_and_can_be_salvaged(run, photo, tmp_path):
    run("encode", "photo.png", "-o", "whole.rdc")
    whole = (tmp_path / "whole.rdc").read_bytes()
    (tmp_path / "cut.rdc").write_bytes(whole[:-100])
    code, out, _ = run("info", "cut.rdc")
    assert code == 0 and "100 bytes at the end are missing" in out and "--salvage" in out
    facts = json.loads(run("info", "cut.rdc", "--json")[1])
    assert (facts["file_bytes"], facts["expected_bytes"]) == (len(whole) - 100, len(whole))
    assert run("verify", "cut.rdc")[0] == run("decode", "cut.rdc")[0] == 1
    (tmp_path / "cut.rdc").write_bytes(whole[:40])  # into the table
    assert run("info", "cut.rdc")[0] == 1


def test_what_encoding_cannot_help_is_said(run, tmp_path, photo):
    Image.effect_noise((64, 64), 80).save(tmp_path / "coarse.jpg", quality=5)
    code, _, err = run("encode", "coarse.jpg", "-q", "90")
    assert code == 0 and "larger than the input of " in err
    code, out, err = run("encode", "coarse.rdc", "-o", "again.rdc")
    assert (code, out) == (1, "") and "is an .rdc file already" in err


def test_notices_go_to_standard_error(run, tmp_path):
    Image.new("CMYK", (20, 20), (10, 20, 30, 40)).save(tmp_path / "deep.tif")
    code, out, err = run("encode", "deep.tif")
    assert code == 0 and out.count("\n") == 1 and "converted to RGB" in err
    code, out, _ = run("encode", "deep.tif", "--json", "--force")
    assert code == 0 and "converted to RGB" in json.loads(out)["notices"][0]
    code, out, _ = run("decode", "deep.rdc", "--json", "-o", "deep.bmp")
    assert code == 0 and json.loads(out)["notices"] == []
