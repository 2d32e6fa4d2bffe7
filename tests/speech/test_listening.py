"""The page to listen: what it holds, and that a browser plays it."""

from __future__ import annotations

import base64
import io
import json
import math
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rdcodec.codecs.evaluation.page import spread
from rdcodec.codecs.evaluation.task import Metric, Reference
from rdcodec.codecs.speech.listening import listening_page, quality_of_rate, rate_of, spectrogram
from rdcodec.codecs.speech.metrics import SAMPLE_RATE

soundfile = pytest.importorskip("soundfile")
pytest.importorskip("av")

KBPS = (6.0, 9.0)
CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
IN_BROWSER = """
<script>
const sounds = [...document.querySelectorAll("audio")];
const press = key => document.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true}));
const visible = () => [...document.querySelectorAll("[data-rate]")].filter(one => !one.hidden).map(one => one.dataset.rate);
const loaded = one => one.readyState ? 0 : new Promise(done => one.addEventListener("loadedmetadata", done));
Promise.all(sounds.map(loaded)).then(() => {
  const before = visible();
  press("]");
  const found = {seconds: sounds.map(one => one.duration), before, after: visible()};
  document.body.insertAdjacentHTML("beforeend", "<pre id=found>" + JSON.stringify(found) + "</pre>");
});
</script>
"""


def sixteen_bits(samples: np.ndarray, quality: float) -> bytes:
    """A toy of a codec: (quality + 1) bytes for each ten milliseconds, and the samples elsewhere."""
    size = int((quality + 1) * len(samples) / 160)
    kept.update({size: samples})
    return bytes(size)


kept: dict[int, np.ndarray] = {}
OURS = Reference(tuple(range(101)), sixteen_bits, lambda data: kept[len(data)] * 0.5)
METRICS = (
    Metric("gain", "Gain", "gain", lambda a, b: float(b @ b / (a @ a))),
    Metric("none", "None", "none", lambda a, b: math.nan),
)


@pytest.fixture(scope="module")
def page(voice, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("page") / "listen.html"
    listening_page(path, "A <title> & more", {"one": voice, "<two>": voice[:20_001]}, OURS, METRICS, KBPS)
    return path


def test_the_page_holds_every_sound_and_no_link(page, voice):
    text = page.read_text()
    assert "A &lt;title&gt; &amp; more" in text and "<h2>&lt;two&gt;</h2>" in text and "<two>" not in text
    assert not re.search(r"https?:|src=\"(?!data:)|href=|@import|url\(", text)
    sounds = [base64.b64decode(data) for data in re.findall(r'src="data:audio/flac;base64,([^"]+)"', text)]
    lengths = [len(voice)] * 5 + [20_001] * 5
    assert [soundfile.info(io.BytesIO(data)).frames for data in sounds] == lengths
    assert re.findall(r'data-seconds="([\d.]+)"', text) == [f"{length / SAMPLE_RATE:.4f}" for length in lengths]
    original, ours = (soundfile.read(io.BytesIO(data))[0] for data in sounds[:2])
    assert np.abs(original - voice).max() < 1e-4 and np.abs(ours - voice / 2).max() < 1e-4
    pictures = [base64.b64decode(data) for data in re.findall(r'src="data:image/png;base64,([^"]+)"', text)]
    assert len(pictures) == 10 and {Image.open(io.BytesIO(data)).height for data in pictures} == {128}


def test_rates_are_true_and_equal(page):
    text = page.read_text()
    shown = [float(rate) for rate in re.findall(r"<small>([\d.]+) kbit/s, [\d,]+ bytes", text)]
    assert len(shown) == 8
    for ours, theirs, wanted in zip(shown[::2], shown[1::2], KBPS * 2, strict=True):
        assert ours == pytest.approx(wanted, abs=0.5) and theirs == pytest.approx(ours, rel=0.05)
    assert "<dt>Gain</dt><dd>0.250</dd>" in text and "<dt>None</dt><dd>–</dd>" in text


def test_the_closest_quality(voice):
    for wanted in (0.1, 0.8, 5.0, 33.3, 80.0, 200.0):
        quality = quality_of_rate(OURS, voice, wanted, {})
        off = [abs(rate_of(len(sixteen_bits(voice, q)), voice) - wanted) for q in range(101)]
        assert off[quality] == min(off)


def test_a_spectrogram_shows_low_below_and_loud_bright():
    time = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    low, high = (np.sin(2 * np.pi * frequency * time).astype(np.float32) for frequency in (500, 6000))
    image = spectrogram(np.concatenate([low, 0.01 * high]), 128.0**2)
    rows = image[:, 20].argmax(), image[:, -20].argmax()
    assert image.shape[0] == 128 and abs(rows[0] - (127 - 8)) <= 1 and abs(rows[1] - (127 - 96)) <= 1
    assert image[rows[0], 20] > image[rows[1], -20] > 0 == image[5, 20]
    assert spectrogram(np.zeros(1, np.float32), 0.0).max() == 0


def test_clips_of_a_page_are_from_everywhere():
    assert spread([Path(str(i)) for i in range(40)], 4) == [Path("0"), Path("10"), Path("20"), Path("30")]
    assert spread([Path("a")], 4) == [Path("a")]


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium here")
def test_a_browser_loads_every_sound(page, tmp_path, voice):
    copy = tmp_path / "page.html"
    copy.write_text(page.read_text().replace("</html>", IN_BROWSER + "</html>"))
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--virtual-time-budget=20000", "--dump-dom", copy.as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    match = re.search(r'<pre id="found">(.*?)</pre>', shown)
    assert match, "a sound did not load"
    found = json.loads(match[1])
    assert found["seconds"] == pytest.approx([len(voice) / SAMPLE_RATE] * 5 + [20_001 / SAMPLE_RATE] * 5, abs=0.01)
    assert found["before"] == ["1"] * 4 and found["after"] == ["0"] * 4  # the next rate after the last is the first
