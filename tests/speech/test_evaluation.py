"""`codec eval speech` and its page, with Opus in our place: no weights are needed."""

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
from rdcodec.codecs.speech.evaluation import TASK, find_sounds, read_speech
from rdcodec.codecs.speech.metrics import SAMPLE_RATE
from rdcodec.codecs.speech.references import decode_opus, encode_opus
from typer.testing import CliRunner

soundfile = pytest.importorskip("soundfile")
for package in ("bjontegaard", "pystoi", "av", "soxr"):
    pytest.importorskip(package, reason="pip install '.[eval]'")
QUALITIES = (40, 60, 80, 100)


def stand_in(model: str | None, device: str) -> Reference[np.ndarray]:
    """Opus of 20 ms in our place, 10 to 16 kbit/s, all bytes of its Ogg counted."""
    return Reference(QUALITIES, lambda samples, quality: encode_opus(samples, 6 + quality / 10, frame_ms=20), decode_opus)


@pytest.fixture
def run(monkeypatch):
    """``codec eval speech``; returns exit code and all output."""
    module = ModuleType("speech_task")
    rate = replace(TASK.rate, compared=(0.0, math.inf))
    module.TASK = replace(TASK, ours=stand_in, rate=rate, metrics=TASK.metrics[:2])
    monkeypatch.setitem(sys.modules, module.__name__, module)
    line = codecs.Registered(
        stream_id=2, codec="speech_task:None", face="speech_task:None", task="speech_task:TASK", summary="speech"
    )
    monkeypatch.setitem(codecs.REGISTRY, "speech", line)

    def call(*arguments: object) -> tuple[int, str]:
        done = CliRunner(env={"COLUMNS": "200"}).invoke(cli.app, ["eval", "speech", *map(str, arguments)])
        return done.exit_code, done.output + (str(done.exception) if done.exception else "")

    call.module = module
    return call


@pytest.fixture
def folder(voice, tmp_path):
    """A folder of a voice in stereo at 44.1 kHz, silence, a file that is cut short, and notes."""
    import soxr

    folder = tmp_path / "sounds"
    folder.mkdir()
    voice = voice[: 2 * SAMPLE_RATE]
    fast = soxr.resample(voice, SAMPLE_RATE, 44_100)
    soundfile.write(folder / "stereo.wav", np.stack([fast, fast * 0.5], 1), 44_100)
    soundfile.write(folder / "silence.flac", np.zeros(16_000), SAMPLE_RATE)
    soundfile.write(folder / "bad.flac", voice, SAMPLE_RATE)
    (folder / "bad.flac").write_bytes((folder / "bad.flac").read_bytes()[:30])
    (folder / "notes.txt").write_text("no sound")
    return folder


def test_sounds_are_found_by_content_and_read_at_16_khz(folder, voice):
    assert [path.name for path in find_sounds(folder)] == ["bad.flac", "silence.flac", "stereo.wav"]
    samples = read_speech(folder / "stereo.wav")
    assert samples.dtype == np.float32 and abs(len(samples) - 2 * SAMPLE_RATE) <= 1
    count = min(len(samples), len(voice))
    error = samples[:count] - 0.75 * voice[:count]
    assert np.sqrt((error**2).mean()) < 0.03 * voice.std()


def test_effort_is_that_of_a_codec_that_has_some(run, folder, tmp_path):
    told = []

    def at(model, device, effort):
        told.append(effort)
        return stand_in(model, device)

    arguments = folder, "-o", tmp_path / "report", "--references", "", "--qualities", "40", "--effort", "3"
    run.module.TASK = replace(run.module.TASK, ours_at=at)
    assert run(*arguments)[0] == 0 and told == [3]
    run.module.TASK = replace(run.module.TASK, ours_at=None)
    code, output = run(*arguments, "--force")
    assert code == 1 and "effort 3; the encoder of sounds has none but 0" in output


def test_the_report(run, folder, tmp_path):
    report = tmp_path / "report"
    code, output = run(folder, "-o", report)
    assert code == 0 and "bad.flac" in output, output
    assert "STOI is defined from 0.4 s of speech on; without it: silence.flac" in output
    assert {path.name for path in report.iterdir()} == {*FILES, "listen.html"}
    with (report / "points.csv").open() as file:
        points = list(csv.DictReader(file))
    assert list(points[0])[:7] == ["codec", "quality", "file", "duration_s", "bytes", "counted_bytes", "rate_kbps"]
    for point in points:
        size, counted, seconds = int(point["bytes"]), int(point["counted_bytes"]), float(point["duration_s"])
        assert (size == counted) == (point["codec"] == "rdcodec") and size >= counted
        assert float(point["rate_kbps"]) == pytest.approx(counted * 8 / 1000 / seconds, rel=1e-4)
        assert math.isnan(float(point["stoi"])) == (point["file"] == "silence.flac")
    with (report / "bd_rate.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["anchor"] == "opus" and float(row["bd_rate_stoi_percent"]) > 3, "20 ms and Ogg cost more than 60 ms alone"
    page = (report / "listen.html").read_text()
    assert page.count("<section") == 2 and page.count("<audio") == 2 * 9  # all but the damaged one


def test_without_its_packages_a_measure_is_left_out_by_name(run, folder, tmp_path):
    metrics = [replace(metric, modules=("no_such_module",)) if metric.modules else metric for metric in TASK.metrics]
    run.module.TASK = replace(run.module.TASK, metrics=tuple(metrics), page=None)
    code, output = run(folder, "-o", tmp_path / "report")
    text = "without PESQ-WB, ViSQOL lattice, ViSQOL polynomial: pip install 'rdcodec[speech-eval]'"
    assert code == 0 and text in output, output
    columns = "codec,quality,rate_kbps,stoi,estoi,level_error_db,encode_s"
    assert (tmp_path / "report" / "means.csv").read_text().startswith(columns)
