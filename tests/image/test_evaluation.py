"""`codec eval` on images: its report, means and BD-rate."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from PIL import Image
from rdcodec.codecs.image import evaluation


def test_eval_writes_its_report(run, tmp_path, photograph, monkeypatch):
    pytest.importorskip("bjontegaard")
    (tmp_path / "in").mkdir()
    Image.fromarray(photograph[:200, :200]).save(tmp_path / "in" / "one.png")
    Image.fromarray(photograph[:30, :30]).save(tmp_path / "in" / "small.png")
    (tmp_path / "in" / "bad.png").write_bytes((tmp_path / "in" / "one.png").read_bytes()[:500])
    Image.new("RGB", (16500, 9)).save(tmp_path / "in" / "wide.png")  # more than WebP can hold
    qualities = "5,30,60,90"
    code, out, err = run("eval", "image", "in", "--anchors", "jpeg,webp", "--qualities", qualities, "-o", "report")
    assert code == 0 and "webp" in out and "bad.png" in err and "small.png" in err.split("without MS-SSIM")[1]
    assert "wide.png: encoding error" in err and "wide.png" not in (tmp_path / "report" / "points.csv").read_text()
    assert "nan" not in (tmp_path / "report" / "means.csv").read_text()
    names = {"points.csv", "means.csv", "bd_rate.csv", "rate_distortion.png"}
    assert {p.name for p in (tmp_path / "report").iterdir()} == names
    assert run("eval", "image", "in", "--anchors", "gif")[0] == 1
    (tmp_path / "taken").write_text("a file")
    for command in (("eval", "image", "in"), ("demo", "in/one.png")):
        code, out, err = run(*command, "-o", "taken")
        assert (code, out, err.count("\n")) == (1, "", 1) and "taken is a file, and -o takes a folder" in err
    for arguments, message in (
        (("nowhere",), "no such file or folder"), (("in", "--qualities", "5,x"), "whole numbers 0..100"),
        (("in", "--qualities", "5,50,101,6"), "whole numbers 0..100"), (("in", "--qualities", "5,50"), "needs 4"),
    ):  # fmt: skip
        code, out, err = run("eval", "image", *arguments)
        assert (code, out) == (1, "") and message in err.splitlines()[-1]
    monkeypatch.setitem(sys.modules, "bjontegaard", None)
    code, out, err = run("eval", "image", "in", "-o", "none")
    assert (code, out) == (1, "") and "pip install 'rdcodec[eval]'" in err and not (tmp_path / "none").exists()


def test_means_are_of_the_same_pictures_in_rate_and_quality():
    """Each picture counts the same whatever its size; one without MS-SSIM counts in neither half of that curve."""
    size = {"small": (10, 10), "large": (1000, 1000)}
    points = [
        evaluation.Point("rdcodec", 5, name, *size[name], 1, rate_bpp, psnr_db, ms_ssim, 0.0, 0.0)
        for name, rate_bpp, psnr_db, ms_ssim in (("small", 1.0, 30.0, float("nan")), ("large", 3.0, 40.0, 0.9))
    ]
    curves = evaluation.curves(points)
    assert [(row.rate_bpp, row.psnr_db) for row in curves["psnr_db"]] == [(2.0, 35.0)]
    assert [(row.rate_bpp, row.ms_ssim) for row in curves["ms_ssim"]] == [(3.0, 0.9)]


def test_a_bd_rate_between_two_rates_does_not_hang_on_where_points_lie():
    """Ours takes 0.7 of the rate at 0.05 bpp, and a tenth more with each doubling."""

    def rows(name: str, rates: np.ndarray, factor: np.ndarray) -> list[evaluation.MeanPoint]:
        pairs = zip(rates * factor, 30 + 6 * np.log2(rates), strict=True)
        return [evaluation.MeanPoint(name, i, *pair, *[0.0] * 3) for i, pair in enumerate(pairs)]

    theirs = np.geomspace(0.05, 4, 30)
    figures = []
    for count in (9, 10, 11, 12, 13):
        rates = np.geomspace(0.05, 4, count)
        points = rows("rdcodec", rates, 0.7 + 0.1 * np.log2(rates / 0.05)) + rows("jpeg", theirs, np.ones(30))
        figures.append(evaluation.bd_rate(points, "jpeg", rates=(0.2, 1.0)))
    assert max(figures) - min(figures) < 0.02
    assert evaluation.bd_rate(points, "jpeg", rates=(0.05, 0.2)) < -15 < figures[-1]
