"""Measures of speech, where they are defined, and where not."""

from __future__ import annotations

import math
import os

import numpy as np
import pytest
from rdcodec.codecs.speech import metrics

NEEDS = {
    "pesq_wb": "pesq", "stoi": "pystoi", "estoi": "pystoi", "visqol_lattice": "ai_edge_litert",
    "visqol_polynomial": "visqol",
}  # fmt: skip
IDENTITY = {"pesq_wb": 4.644, "stoi": 1.0, "estoi": 1.0, "visqol_lattice": 4.5, "visqol_polynomial": 5.0}


@pytest.fixture(params=NEEDS)
def name(request) -> str:
    pytest.importorskip(NEEDS[request.param], reason="pip install '.[speech-eval]'")
    return request.param


def noisy(voice: np.ndarray, share: float) -> np.ndarray:
    rng = np.random.default_rng(2)
    return voice + (share * voice.std() * rng.standard_normal(len(voice))).astype(np.float32)


def test_the_same_sound_is_best_and_noise_worsens_it(name, voice):
    of = getattr(metrics, name)
    same, little, much = (of(voice, sound) for sound in (voice, noisy(voice, 0.05), noisy(voice, 1.0)))
    assert same == pytest.approx(IDENTITY[name], abs=0.3 if name == "visqol_lattice" else 0.01)
    assert same >= little > much > 0


def test_silence_and_what_is_too_short_have_no_value(name, voice):
    of = getattr(metrics, name)
    silence, short = np.zeros_like(voice), voice[1600:3000]
    assert math.isnan(of(silence, silence)) and math.isnan(of(silence, voice))
    assert math.isnan(of(short, short))


def test_speech_that_is_lost_is_no_reason_to_leave_a_sound_out(voice):
    pytest.importorskip("pesq")
    assert metrics.pesq_wb(voice, np.zeros_like(voice)) == metrics.PESQ_MIN
    assert 0 <= metrics.stoi(voice, np.zeros_like(voice)) < 0.1


def test_visqol_tells_its_mappers_apart(voice):
    pytest.importorskip("ai_edge_litert")
    worse = noisy(voice, 0.5)
    assert abs(metrics.visqol_lattice(voice, worse) - metrics.visqol_polynomial(voice, worse)) > 0.05


def test_visqol_tells_nothing_of_its_network(voice, capfd):
    pytest.importorskip("ai_edge_litert")
    metrics._visqol_with.cache_clear()
    metrics.visqol_lattice(voice, voice)
    assert capfd.readouterr().err == ""


def test_what_is_no_information_is_not_kept_from_standard_error(capfd):
    def write() -> None:
        os.write(metrics.STDERR, b"ERROR: no memory\nINFO: created\nWARNING: slow")

    with metrics.without_information():
        write()
    with pytest.raises(RuntimeError, match="broken"), metrics.without_information():
        write()
        raise RuntimeError("broken")
    os.write(metrics.STDERR, b"\nINFO: of another\n")
    assert capfd.readouterr().err == 2 * "ERROR: no memory\nWARNING: slow" + "\nINFO: of another\n"


def test_levels_are_heard(voice):
    assert metrics.level_error_db(voice, voice) == 0
    assert metrics.level_error_db(voice, 2 * voice) == pytest.approx(6.02, abs=0.1)
    dull = np.convolve(voice, np.ones(4, np.float32) / 4, "same")
    assert metrics.level_error_db(voice, dull) > 1
    assert math.isnan(metrics.level_error_db(np.zeros_like(voice), voice))
