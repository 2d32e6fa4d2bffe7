"""`codec eval video` and its page, with x264 in our place: no weights are needed."""

from __future__ import annotations

import csv
import math
import sys
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
from rdcodec import codecs
from rdcodec.codecs.cli import main as cli
from rdcodec.codecs.evaluation.report import FILES
from rdcodec.codecs.evaluation.task import Reference
from rdcodec.codecs.video.evaluation import TASK, reference_of
from rdcodec.codecs.video.footage import Footage
from rdcodec.codecs.video.references import REFERENCES
from typer.testing import CliRunner

for package in ("bjontegaard", "av", "pytorch_msssim"):
    pytest.importorskip(package, reason="pip install '.[eval]'")
QUALITIES = (0, 24, 48, 72)
ANCHOR = "x264-medium-g32"


def stand_in(model: str | None, device: str) -> Reference[Footage]:
    """x264 in groups of 12 in our place, all bytes of its Matroska file counted."""
    x264 = REFERENCES["x264-medium-g12"]
    return Reference(QUALITIES, lambda footage, quality: x264.encode(footage, 40 - quality / 4), x264.decode)


@pytest.fixture
def run(monkeypatch):
    """``codec eval video``; returns exit code and all output."""
    module = ModuleType("video_task")
    module.TASK = replace(TASK, ours=stand_in)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    line = codecs.Registered(
        stream_id=3, codec="video_task:None", face="video_task:None", task="video_task:TASK", summary="video"
    )
    monkeypatch.setitem(codecs.REGISTRY, "video", line)

    def call(*arguments: object) -> tuple[int, str]:
        done = CliRunner(env={"COLUMNS": "250"}).invoke(cli.app, ["eval", "video", *map(str, arguments)])
        return done.exit_code, done.output + (str(done.exception) if done.exception else "")

    return call


@pytest.fixture
def folder(moving, tmp_path):
    """A folder of a clip, half of it with light that blinks, a file that is cut short, and notes."""
    folder = tmp_path / "videos"
    folder.mkdir()
    data = REFERENCES[ANCHOR].encode(moving, 8)
    (folder / "whole.mkv").write_bytes(data)
    (folder / "bad.MKV").write_bytes(data[:300])
    blinking = moving.rgb[:, :88] + np.arange(40, dtype=np.uint8)[:, None, None, None] % 2 * 20
    (folder / "moves.mkv").write_bytes(REFERENCES[ANCHOR].encode(replace(moving, rgb=blinking), 8))
    (folder / "notes.txt").write_text("no video")
    return folder


def test_the_report(run, folder, tmp_path):
    report = tmp_path / "report"
    code, output = run(folder, "--references", ANCHOR, "-o", report)
    assert code == 0 and "bad.MKV" in output and "notes.txt" not in output, output
    assert "flicker is defined where part of the picture is still; without it: moves.mkv" in output
    assert {path.name for path in report.iterdir()} == {*FILES, "watch.html"}
    with (report / "points.csv").open() as file:
        points = list(csv.DictReader(file))
    names = ["codec", "quality", "file", "width", "height", "frames", "fps", "bytes", "counted_bytes", "rate_bpp"]
    assert list(points[0])[:10] == names
    assert {(p["file"], p["width"], p["height"], p["frames"], p["fps"]) for p in points} == {
        ("whole.mkv", "192", "176", "40", "30"), ("moves.mkv", "192", "88", "40", "30")
    }  # fmt: skip
    for point in points:
        size, counted, pixels = int(point["bytes"]), int(point["counted_bytes"]), 192 * int(point["height"]) * 40
        assert (size == counted) == (point["codec"] == "rdcodec") and size >= counted
        assert float(point["rate_bpp"]) == pytest.approx(counted * 8 / pixels, rel=1e-4)
        assert math.isnan(float(point["flicker"])) == math.isnan(float(point["ms_ssim"])) == (point["height"] == "88")
    with (report / "bd_rate.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["anchor"] == ANCHOR and float(row["bd_rate_psnr_rgb_percent"]) > 3, "12 frames a group cost more than 32"
    assert (report / "watch.html").read_text().count("<section") == 2  # all but the damaged one


def test_ours_gets_pixels_and_rate(moving):
    class Toy:
        stream_hash = b""

        def encode(self, frames, *, rate, quality, group):
            assert rate == moving.rate and quality == 30 and frames is moving.rgb
            return b"data"

        def decode(self, data):
            from types import SimpleNamespace

            return SimpleNamespace(frames=moving.rgb, rate=moving.rate)

    ours = reference_of(Toy(), (30,))
    decoded = ours.decode(ours.encode(moving, 30.0))
    assert decoded.rgb is moving.rgb and ours.settings == (30,)
