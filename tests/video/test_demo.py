"""What `codec demo video` writes, with x265 in our place."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
from rdcodec.codecs.video.face import FACE
from rdcodec.codecs.video.footage import Footage
from rdcodec.codecs.video.reading import VideoFile
from rdcodec.codecs.video.references import REFERENCES
from video_clips import encoded, moving

for package in ("av", "matplotlib"):
    pytest.importorskip(package)
LEVELS = 4.0
"""Mean error, in grey levels, of a decoded file against what it holds: H.264 at 4:2:0."""


class StandIn:
    """x265 at a rate factor from 40 down to 10 by quality."""

    stream_hash = b""

    def encode(self, frames: np.ndarray, *, rate: Fraction, quality: int, group: int) -> bytes:
        return REFERENCES["x265-veryfast-g12"].encode(Footage(frames, rate), 40 - 0.3 * quality)

    def decode(self, data: bytes) -> SimpleNamespace:
        footage = REFERENCES["x265-veryfast-g12"].decode(data)
        return SimpleNamespace(frames=footage.rgb, rate=footage.rate)


def frames_of(path) -> np.ndarray:
    with VideoFile(path) as video:
        return np.stack([frame.rgb for frame in video.frames()]).astype(int)


@pytest.mark.parametrize("own", [True, False])
def test_a_file_for_each_quality_and_a_page(own, tmp_path, monkeypatch):
    from rdcodec.codecs.video import demo

    monkeypatch.setattr(demo, "TASK", replace(demo.TASK, metrics=demo.TASK.metrics[:1]))
    monkeypatch.setattr(demo, "SAMPLE_FRAMES", 5)
    pictures = moving(6)
    (tmp_path / "mine.mp4").write_bytes(encoded(pictures))
    told: list[str] = []
    table = demo.run(StandIn(), tmp_path / "mine.mp4" if own else None, tmp_path / "out", told.append)
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(FACE.shown)
    assert table.row_count == 2 == len(told) - 1
    page = (tmp_path / "out" / demo.PAGE).read_text()
    assert ("<h2>mine.mp4</h2>" in page) == own and ("a camera over a photograph" in page) != own
    original = frames_of(tmp_path / "out" / demo.ORIGINAL)
    expected = np.stack(pictures) if own else demo.sample_clip().rgb
    assert original.shape == expected.shape and np.abs(original - expected).mean() < LEVELS
    sizes, errors = [], []
    for stream, decoded in zip(demo.STREAMS, demo.DECODED, strict=True):
        data = (tmp_path / "out" / stream).read_bytes()
        sizes.append(len(data))
        shown = frames_of(tmp_path / "out" / decoded)
        assert np.abs(shown - StandIn().decode(data).frames).mean() < LEVELS
        errors.append(np.abs(shown - expected).mean())
    assert sizes[0] < sizes[1] and errors[0] > errors[1] > 0


def test_the_sample_moves_above_a_still_caption():
    from rdcodec.codecs.video.demo import CAPTION_HEIGHT, SAMPLE_FRAMES, sample_clip

    frames = sample_clip().rgb
    assert len(frames) == SAMPLE_FRAMES and (frames[:, -CAPTION_HEIGHT:] == frames[:1, -CAPTION_HEIGHT:]).all()
    changes = np.abs(np.diff(frames[:, :-CAPTION_HEIGHT].astype(int), axis=0)).mean((1, 2, 3))
    assert changes.min() > 1
    assert frames[:, -CAPTION_HEIGHT:].std() > 10
