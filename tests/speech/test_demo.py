"""What `codec demo speech` writes, with Opus in our place."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from rdcodec.codecs.evaluation.task import Reference
from rdcodec.codecs.speech.face import FACE
from rdcodec.codecs.speech.listening import KBPS
from rdcodec.codecs.speech.metrics import SAMPLE_RATE

soundfile = pytest.importorskip("soundfile")
for package in ("bjontegaard", "pystoi", "av"):
    pytest.importorskip(package, reason="pip install '.[eval]'")


class StandIn:
    """Opus of 20 ms, 6 to 26 kbit/s by quality; with effort from 8 on."""

    lowest, encoded, stream_hash = 6, 0, b""

    def encode(self, samples: np.ndarray, *, sample_rate: int, quality: int) -> bytes:
        from rdcodec.codecs.speech.references import encode_opus

        assert sample_rate == SAMPLE_RATE
        self.encoded += 1
        return encode_opus(samples, self.lowest + quality / 5, frame_ms=20)

    def with_effort(self, effort: int) -> StandIn:
        assert effort == 3
        self.refining = StandIn()
        self.refining.lowest = 8
        return self.refining

    def decode(self, data: bytes) -> SimpleNamespace:
        from rdcodec.codecs.speech.references import decode_opus

        return SimpleNamespace(array=lambda: decode_opus(data))


@pytest.mark.parametrize("own", [True, False])
def test_a_file_for_each_rate_and_a_page(own, voice, tmp_path, monkeypatch):
    from rdcodec.codecs.speech import demo

    monkeypatch.setattr(demo, "TASK", replace(demo.TASK, metrics=demo.TASK.metrics[1:2]))
    soundfile.write(tmp_path / "mine.wav", voice[: 2 * SAMPLE_RATE], SAMPLE_RATE)
    told: list[str] = []
    table = demo.run(StandIn(), tmp_path / "mine.wav" if own else None, tmp_path / "out", told.append)
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(demo.SHOWN) == set(FACE.shown)
    assert table.row_count == len(KBPS) == len(told) - 1
    page = (tmp_path / "out" / demo.PAGE).read_text()
    assert ("<h2>mine.wav</h2>" in page) == own and ("a synthetic voice, for want of a recording" in page) != own
    sizes = [(tmp_path / "out" / name).stat().st_size for name in demo.STREAMS]
    assert sizes == sorted(sizes) and sizes[0] < sizes[-1]
    original, _ = soundfile.read(tmp_path / "out" / "original.wav", dtype="float32")
    np.testing.assert_allclose(original, voice[: 2 * SAMPLE_RATE] if own else voice, atol=2**-14)
    for stream in demo.STREAMS:
        expected = StandIn().decode((tmp_path / "out" / stream).read_bytes()).array()
        decoded, rate = soundfile.read((tmp_path / "out" / stream).with_suffix(".wav"), dtype="float32")
        assert rate == SAMPLE_RATE
        np.testing.assert_allclose(decoded, expected, atol=2**-14)
    assert "<h1>codec demo speech, effort 0</h1>" in page


def test_files_and_page_are_of_one_effort_and_the_beginning(voice, tmp_path, monkeypatch):
    """The search goes without effort, so that each rate is refined once or twice."""
    from rdcodec.codecs.speech import demo

    monkeypatch.setattr(demo, "TASK", replace(demo.TASK, metrics=demo.TASK.metrics[1:2]))
    monkeypatch.setattr(demo, "SECONDS_MAX", 2)
    soundfile.write(tmp_path / "mine.wav", voice[: 3 * SAMPLE_RATE], SAMPLE_RATE)
    codec = StandIn()
    table = demo.run(codec, tmp_path / "mine.wav", tmp_path, effort=3)
    assert len(KBPS) <= codec.refining.encoded <= 2 * len(KBPS)
    page = (tmp_path / demo.PAGE).read_text()
    assert "<h1>codec demo speech, effort 3</h1>" in page and "effort 3" in table.title
    assert "mine.wav, its first 2 s</h2>" in page
    assert len(soundfile.read(tmp_path / demo.ORIGINAL)[0]) == 2 * SAMPLE_RATE
    for stream in demo.STREAMS:  # true sizes, whatever the names say
        assert f"{(tmp_path / stream).stat().st_size:,} bytes" in page


def test_refined_files_come_close_to_a_rate():
    from rdcodec.codecs.speech.demo import refined

    samples = np.zeros(SAMPLE_RATE, np.float32)
    sizes = [lambda quality: 100 + 10 * quality, lambda quality: 150 + 11 * quality]
    plain, ours = (Reference((), lambda _, quality, size=size: bytes(size(quality)), lambda data: samples) for size in sizes)
    coded = refined(plain, ours)
    for kbps in (1.0, 3.0, 6.0, 8.0):
        quality, data = coded(samples, kbps)
        assert len(data) == sizes[1](quality)
        assert abs(len(data) - kbps * 125) <= max(11, 150 - kbps * 125)
