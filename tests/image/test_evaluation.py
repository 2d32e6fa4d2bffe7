"""`codec eval image` on pictures that not every codec and metric can take."""

from __future__ import annotations

import csv
import math
import sys

import numpy as np
import pytest
from PIL import Image
from rdcodec.codecs.cli import main as cli
from rdcodec.codecs.evaluation.report import FILES
from rdcodec.codecs.image import references
from rdcodec.codecs.image.evaluation import TASK, ms_ssim
from typer.testing import CliRunner

pytest.importorskip("bjontegaard")
pytest.importorskip("pytorch_msssim")


def run(*arguments: str) -> tuple[int, str, str]:
    """``codec eval image``; exit code, standard output, and standard error or the error's text."""
    done = CliRunner(env={"COLUMNS": "200"}).invoke(cli.app, ["eval", "image", *map(str, arguments)])
    return done.exit_code, done.stdout, done.stderr + (str(done.exception) if done.exception else "")


def test_the_report(tmp_path, photograph, monkeypatch):
    (tmp_path / "in").mkdir()
    Image.fromarray(photograph[:200, :200]).save(tmp_path / "in" / "one.png")
    Image.fromarray(photograph[:30, :30]).save(tmp_path / "in" / "small.png")
    (tmp_path / "in" / "bad.png").write_bytes((tmp_path / "in" / "one.png").read_bytes()[:500])
    (tmp_path / "in" / "notes.txt").write_text("no image")
    Image.new("RGB", (16500, 9)).save(tmp_path / "in" / "wide.png")  # more than WebP can hold
    report, qualities = tmp_path / "report", ("--qualities", "5,30,60,90")
    code, out, err = run(tmp_path / "in", "--references", "jpeg,webp", *qualities, "-o", report)
    assert code == 0 and "webp" in out and "bad.png" in err and "small.png" in err.split("without it:")[1], err
    assert "wide.png: Pillow cannot write it as WEBP: encoding error" in err and "notes.txt" not in err
    assert {p.name for p in report.iterdir()} == set(FILES)
    with (report / "points.csv").open() as file:
        points = list(csv.DictReader(file))
    assert {point["file"] for point in points} == {"one.png", "small.png"}
    columns = "codec,quality,file,width,height,bytes,rate_bpp,psnr_db,ms_ssim,encode_s,decode_s"
    assert list(points[0]) == columns.split(",")
    for point in points:
        side = 200 if point["file"] == "one.png" else 30
        assert (point["width"], point["height"]) == (str(side), str(side))
        assert float(point["rate_bpp"]) == pytest.approx(8 * int(point["bytes"]) / side**2, rel=1e-5)
        assert math.isnan(float(point["ms_ssim"])) == (side == 30) and 15 < float(point["psnr_db"]) < 60
    assert "nan" not in (report / "means.csv").read_text()
    with (report / "bd_rate.csv").open() as file:
        assert [row["anchor"] for row in csv.DictReader(file)] == ["jpeg", "webp"]
    monkeypatch.setitem(sys.modules, "bjontegaard", None)
    code, out, err = run(tmp_path / "in", "-o", tmp_path / "none")
    assert (code, out) == (1, "") and "pip install 'rdcodec[eval]'" in err and not (tmp_path / "none").exists()


@pytest.mark.parametrize("name", ["jpeg", "webp", "avif"])
def test_references_give_back_the_picture_better_at_higher_settings(photograph, name):
    reference, pixels = TASK.references[name], photograph[:64, :80]
    reference.check()
    psnr_db = TASK.metrics[0].of
    coded = [reference.encode(pixels, setting) for setting in (reference.settings[0], reference.settings[-1])]
    coarse, fine = (reference.decode(data) for data in coded)
    assert coarse.shape == fine.shape == pixels.shape and len(coded[0]) < len(coded[1])
    assert 15 < psnr_db(pixels, coarse) < psnr_db(pixels, fine) - 5


def test_a_jpeg_of_so_many_bytes(photograph):
    for size in (12_000, 30_000):
        quality, data = references.jpeg_of_bytes(photograph, size)
        assert abs(len(data) - size) < size / 300 and 1 < quality < 100
    for quality in (5, 49, 90):
        assert references._jpeg(photograph, quality) == TASK.references["jpeg"].encode(photograph, quality)
    whole = TASK.references["jpeg"].encode(photograph, 50)
    quality, data = references.jpeg_of_bytes(photograph, len(whole))
    assert quality == pytest.approx(50, abs=0.5)
    assert (references.decode(data).astype(int) - references.decode(whole)).std() < 1
    assert references.jpeg_of_bytes(photograph, 10)[0] == 1  # nothing is as small


def test_what_this_pillow_cannot_write_is_named(monkeypatch):
    Image.init()
    monkeypatch.delitem(Image.SAVE, "AVIF", raising=False)
    with pytest.raises(ValueError, match="cannot write AVIF; upgrade Pillow"):
        TASK.references["avif"].check()
    with pytest.raises(ValueError, match="cannot write it as NONE"):
        references.encode("NONE", np.zeros((8, 8, 3), np.uint8))
    monkeypatch.setitem(sys.modules, "pillow_jxl", None)
    with pytest.raises(ValueError, match=r"jxl needs .* pip install 'rdcodec\[eval\]'"):
        TASK.references["jxl"].check()


def test_ms_ssim_is_known_above_160_pixels(photograph):
    picture = photograph[:161, :161]
    assert ms_ssim(picture, picture) == pytest.approx(1.0)
    blurred = np.repeat(np.repeat(photograph[:162:3, :162:3], 3, 0), 3, 1)[:161, :161]
    assert 0.5 < ms_ssim(picture, blurred) < 0.99
    assert math.isnan(ms_ssim(picture[:160], picture[:160]))
