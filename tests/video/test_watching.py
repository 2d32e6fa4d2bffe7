"""The page to watch: what it holds, and that a browser shows the same frame of all three."""

from __future__ import annotations

import base64
import io
import json
import math
import os
import re
import shutil
import signal
import subprocess
from dataclasses import replace
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rdcodec.codecs.evaluation.task import Metric, Reference
from rdcodec.codecs.video.footage import Footage
from rdcodec.codecs.video.references import REFERENCES
from rdcodec.codecs.video.watching import FRAMES_MAX, REFERENCE, of_size, watching_page

pytest.importorskip("av")

CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
QUALITIES = (3, 6)
SIZES = {3: 2000, 6: 6000}
"""Bytes of our toy's files by quality."""
STEP = 6
"""Levels by which a frame of the clock is brighter than the one before."""
IN_BROWSER = """
<script>
const press = key => document.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true}));
const settle = () => new Promise(done => setTimeout(done, 300));
const level = figure => contextOf(figure).getImageData(90, 80, 1, 1).data[1];
const state = () => clips.map(box => ({
  rates: shown(box).map(one => one.dataset.rate || ""), levels: shown(box).map(level),
  frame: frameOf(box), text: box.querySelector("output").textContent,
  alone: [...box.querySelectorAll("figure")].filter(one => getComputedStyle(one).display !== "none").length,
}));
(async () => {
  const found = {};
  await showAll();
  found.start = state();
  press("ArrowRight"); await settle(); press("ArrowRight"); await settle();
  found.right = state();
  press("j"); press("ArrowLeft"); await settle();
  found.second = state();
  press("k"); press("]"); await settle();
  found.rate = state();
  press("d"); await settle();
  found.difference = state();
  press("d"); press("2"); await settle();
  found.alone = state();
  press("0"); press(" "); await settle();
  const levels = [];
  for (let i = 0; i < 5; i++) { await settle(); levels.push(state()[0]); }
  press(" "); await settle();
  found.playing = levels;
  return found;
})().catch(error => String(error)).then(found => fetch("/found", {method: "POST", body: JSON.stringify(found)}));
</script>
"""


def clock(frames: int) -> Footage:
    """Grey frames, each brighter than the one before."""
    levels = 20 + STEP * np.arange(frames)
    return Footage(np.broadcast_to(levels[:, None, None, None], (frames, 160, 176, 3)).astype(np.uint8), Fraction(30))


def encode(footage: Footage, quality: float) -> bytes:
    """A toy of a codec: a file of a size, and the frames elsewhere."""
    kept[SIZES[int(quality)], len(footage.rgb)] = footage
    return bytes(SIZES[int(quality)] - 4) + len(footage.rgb).to_bytes(4, "little")


def decode(data: bytes) -> Footage:
    """Three levels too bright at the lower quality, none at the higher."""
    footage = kept[len(data), int.from_bytes(data[-4:], "little")]
    return replace(footage, rgb=footage.rgb + np.uint8(3 if len(data) == SIZES[3] else 0), own_planes=None)


kept: dict[tuple[int, int], Footage] = {}
OURS = Reference(QUALITIES, encode, decode)
METRICS = (
    Metric("off", "Off", "off", lambda a, b: float(np.abs(a.rgb.astype(float) - b.rgb).mean())),
    Metric("none", "None", "none", lambda a, b: math.nan),
)


@pytest.fixture(scope="module")
def page(moving, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("page") / "watch.html"
    watching_page(path, "A <title> & more", {"clock": clock(12), "<two>": moving}, OURS, METRICS, QUALITIES)
    return path


def test_the_page_holds_every_frame_and_no_link(page, moving):
    text = page.read_text()
    assert "A &lt;title&gt; &amp; more" in text and "<h2>&lt;two&gt;</h2>" in text and "<two>" not in text
    assert not re.search(r"https?:|src=\"(?!data:)|href=|@import|url\(", text)
    pictures = [base64.b64decode(data) for data in re.findall(r'src="data:image/webp;base64,([^"]+)"', text)]
    assert len(pictures) == 5 * (12 + FRAMES_MAX)
    frames = [np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(float) for data in pictures]
    for index in range(12):
        assert frames[index].mean() == pytest.approx(20 + STEP * index, abs=1)
        assert frames[12 + index].mean() == pytest.approx(23 + STEP * index, abs=1)
    second = frames[60 : 60 + FRAMES_MAX]
    assert all(np.abs(a - b).mean() < 3 for a, b in zip(second, moving.rgb, strict=False))


def test_sizes_are_true_and_equal(page, moving):
    text = page.read_text()
    shown = [(int(size.replace(",", "")), int(rate)) for size, rate in re.findall(r"<small>([\d,]+) bytes, (\d+) kb", text)]
    assert [size for size, _ in shown[::2]] == [2000, 6000] * 2
    for (ours, _), (theirs, rate) in zip(shown[4::2], shown[5::2], strict=True):
        assert theirs == pytest.approx(ours, rel=0.1)
        assert rate == pytest.approx(theirs * 8 / 1000 / (FRAMES_MAX / 30), abs=0.5)
    assert text.count("<dt>Off</dt><dd>3.00</dd>") == 2 and text.count("<dt>None</dt><dd>–</dd>") == 8


def test_x265_of_a_size(moving):
    reference = REFERENCES[REFERENCE]
    for wanted in (4_000, 12_000):
        assert reference.counted(of_size(moving, wanted)) == pytest.approx(wanted, rel=0.05)
    least = reference.counted(of_size(moving, 10))
    assert least == pytest.approx(reference.counted(reference.encode(moving, 51)), rel=0.1)


def in_browser(page: bytes, profile: Path) -> Any:
    """What the page's script posts, in a Chromium that reads it from here: virtual time would not wait for pictures."""
    posted: Queue[Any] = Queue()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer(page)

        def do_POST(self) -> None:
            posted.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.answer(b"")

        def answer(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"]
        command += ["--remote-debugging-port=0", f"http://127.0.0.1:{server.server_port}/"]
        with subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        ) as browser:
            try:
                return posted.get(timeout=240)
            finally:
                os.killpg(browser.pid, signal.SIGKILL)  # with its children
                server.shutdown()


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium here")
def test_a_browser_shows_the_same_frame_of_all_three(page, tmp_path):
    found = in_browser(page.read_text().replace("</html>", IN_BROWSER + "</html>").encode(), tmp_path / "profile")
    assert isinstance(found, dict), found

    def levels(frame: int, off: int) -> list:
        return [pytest.approx(20 + STEP * frame + extra, abs=2) for extra in (0, off, 0)]

    for name, frame in ("start", 0), ("right", 2):
        first = found[name][0]
        assert first["rates"] == ["", "0", "0"] and first["levels"] == levels(frame, 3), name
        assert first["frame"] == frame and first["text"] == f"{frame + 1} of 12" and first["alone"] == 3
    assert found["second"][1]["text"] == f"{FRAMES_MAX} of {FRAMES_MAX}", "the last comes before the first"
    assert found["second"][0] == found["right"][0]
    assert found["rate"][0]["rates"] == ["", "1", "1"] and found["rate"][0]["levels"] == levels(2, 0)
    assert found["difference"][0]["levels"][1] == 0 and found["difference"][0]["levels"][0] == levels(2, 0)[0]
    assert found["alone"][0]["alone"] == 1 and found["alone"][0]["levels"] == levels(2, 0)
    playing = found["playing"]
    assert len({one["frame"] for one in playing}) > 1
    for one in playing:
        assert one["levels"] == levels(one["frame"], 0) and one["alone"] == 3
