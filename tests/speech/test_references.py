"""Codecs to compare with: as long as the original, without a delay, and counted by their payload."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from rdcodec.codecs.speech.metrics import SAMPLE_RATE
from rdcodec.codecs.speech.references import REFERENCES, opus_of_rate, opus_payload

OPUS = ("opus", "opus20")


@pytest.fixture(params=REFERENCES)
def reference(request):
    try:
        REFERENCES[request.param].check()
    except ValueError as error:
        pytest.skip(str(error))
    return REFERENCES[request.param]


def kbps(reference, samples: np.ndarray, setting: float) -> float:
    return reference.counted(reference.encode(samples, setting)) / 125 * SAMPLE_RATE / len(samples)


def test_lengths_are_exact(reference, voice):
    for frames in (1, 2, 319, 959, 961, 16_000, len(voice)):
        decoded = reference.decode(reference.encode(voice[:frames], reference.settings[0]))
        assert decoded.shape == (frames,) and decoded.dtype == np.float32, frames


def test_higher_settings_cost_more(reference, voice):
    rates = [kbps(reference, voice, setting) for setting in (reference.settings[0], reference.settings[-1])]
    assert rates[0] < rates[1] and 0.5 < rates[0] < 6


def envelope(samples: np.ndarray) -> np.ndarray:
    smooth = np.convolve(np.abs(samples), np.hanning(400), "same")
    return smooth - smooth.mean()


def test_there_is_no_delay(reference, voice):
    """The loudness of what was decoded is most like the original's where neither is moved, to within 5 ms."""
    decoded = envelope(reference.decode(reference.encode(voice, reference.settings[-1])))
    original, edge = envelope(voice), 1600
    lags = range(-800, 801, 20)
    found = [original[edge:-edge] @ decoded[edge + lag : len(decoded) - edge + lag] for lag in lags]
    assert abs(list(lags)[int(np.argmax(found))]) <= 80


@pytest.mark.parametrize("name", OPUS)
def test_opus_keeps_the_waveform_in_time(name, voice):
    pytest.importorskip("av")
    decoded = REFERENCES[name].decode(REFERENCES[name].encode(voice, 24))
    errors = [float(((voice[100:-100] - decoded[100 + lag : len(decoded) - 100 + lag]) ** 2).sum()) for lag in range(-9, 10)]
    assert abs(int(np.argmin(errors)) - 9) <= 1 and min(errors) < 0.3 * float((voice**2).sum())


def test_the_payload_of_opus_is_what_lies_in_its_pages(voice):
    """Counted anew from Ogg's own tables: lengths of segments, without the two pages of headers."""
    pytest.importorskip("av")
    data = REFERENCES["opus"].encode(voice, 9)
    pages, position = [], 0
    while position < len(data):
        assert data[position : position + 4] == b"OggS"
        table = data[position + 27 : position + 27 + data[position + 26]]
        pages.append(sum(table))
        position += 27 + len(table) + sum(table)
    assert opus_payload(data) == sum(pages[2:]) < len(data) - 100


def test_long_frames_are_cheaper_at_equal_setting(voice):
    pytest.importorskip("av")
    long, short = (REFERENCES[name].encode(voice, 6) for name in OPUS)
    assert opus_payload(long) < opus_payload(short)


def test_opus_of_a_rate(voice):
    pytest.importorskip("av")
    seconds = len(voice) / SAMPLE_RATE
    for wanted in (6.0, 11.5):
        assert opus_payload(opus_of_rate(voice, wanted)) / 125 / seconds == pytest.approx(wanted, rel=0.03)
    lowest = opus_payload(opus_of_rate(voice, 1.0)) / 125 / seconds
    assert 3 < lowest < 6  # there is none of 1 kbit/s


def test_what_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycodec2", None)
    with pytest.raises(ValueError, match=r"codec2 needs .* pip install 'rdcodec\[speech-eval\]'"):
        REFERENCES["codec2"].check()
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ValueError, match="opus needs more packages .* pip install av soundfile"):
        REFERENCES["opus"].check()
