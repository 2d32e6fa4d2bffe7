"""Effort: the same decoder, latents that sound better for their bits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from rdcodec.codecs.rate_control import encode_to_size
from rdcodec.codecs.refinement import Charged
from rdcodec.codecs.speech import refining
from rdcodec.codecs.speech.header import FRAME, SEGMENT_SAMPLES
from rdcodec.codecs.speech.hearing.distortion import WEIGHTS, Distortion, worth_kbps
from rdcodec.codecs.speech.hearing.spectra import RESOLUTIONS, mel_bands
from rdcodec.codecs.speech.refining import LEAD, STEPS
from rdcodec.codecs.speech.segments import LATE
from rdcodec.codecs.speech.sound import as_sound
from rdcodec.codecs.speech.streaming import StreamEncoder
from rdcodec.entropy_models.errors import InputError
from voices import RATE, drawn_by_integers


def cost_kbits(codec, samples, quality):
    """Bits and distortion together, as an encoder weighs them."""
    found = codec.estimate(samples, quality=quality)
    sounds = (torch.from_numpy(x)[None] for x in (samples, found.signal.array()))
    with torch.no_grad():
        distortion, _ = Distortion(WEIGHTS)(*sounds, torch.tensor([quality]))
    return found.bits / 1000 + worth_kbps(quality) * float(distortion) * len(samples) / RATE


@pytest.mark.parametrize("quality", [20, 70])
def test_more_effort_is_less_of_rate_and_distortion(codec, voice, quality):
    costs = [cost_kbits(codec.with_effort(effort), voice[:40000], quality) for effort in (0, 1, 4)]
    assert costs[2] < costs[1] < costs[0] and costs[2] < 0.9 * costs[0]


def test_any_decoder_of_the_weights_reads_it(codec, voice):
    refined, sound = codec.with_effort(1), as_sound(np.stack([voice, voice[::-1]])[:, :20001], RATE)
    data = refined.encode(sound, quality=40)
    assert data != codec.encode(sound, quality=40)
    np.testing.assert_array_equal(codec.decode(data).samples, refined.estimate(sound, quality=40).signal.samples)


def test_a_codec_with_effort_leaves_the_other_as_it_is(codec, voice):
    before = codec.encode(voice[:9000])
    refined = codec.with_effort(1)
    assert refined.network is codec.network
    assert refined.encode(voice[:9000]) != before == codec.encode(voice[:9000])
    assert refined.with_effort(0).encode(voice[:9000]) == before == codec.with_effort(None).encode(voice[:9000])


def test_a_chunks_border_is_not_heard(codec):
    """A chunk is refined for what comes before and after it: a second chunk is no worse at its start than elsewhere."""
    samples = drawn_by_integers(11 * RATE, 1)
    refined = codec.with_effort(2)
    error = np.square(refined.decode(refined.encode(samples, quality=60)).array() - samples)
    plain = np.square(codec.decode(codec.encode(samples, quality=60)).array() - samples)
    border = slice(8 * RATE - 1600, 8 * RATE + 1600)
    assert error[border].mean() / plain[border].mean() < 1.5 * error.mean() / plain.mean()


def test_what_is_refined_is_what_is_played(codec, voice, monkeypatch):
    """Beside silence and at the sound's end as well, and in a second chunk behind what a decoder remembers."""
    pause = np.zeros(20000, np.float32)
    samples = np.concatenate([voice[:9000], pause, voice, pause[:5120], voice[:6001], voice])
    heard, forward = [], Distortion.forward

    def once(distortion, y, unit, tables, steps):
        with torch.no_grad():
            distortion(Charged(tables), y)
        return y

    def noted(self, original, decoded, quality):
        heard.append(decoded[0].numpy())
        return forward(self, original, decoded, quality)

    monkeypatch.setattr(refining, "refined_latent", once)
    monkeypatch.setattr(Distortion, "forward", noted)
    refined = codec.with_effort(1)
    played = refined.decode(refined.encode(samples, quality=60)).array()
    first, second = heard
    known = len(first) - LATE  # then the next chunk's latents count, which are not rounded yet
    assert len(samples) > 130_000 and np.abs(first - played[: len(first)])[:known].max() < 2e-5
    start = 25 * SEGMENT_SAMPLES - LEAD * FRAME
    assert np.abs(second[: len(played) - start] - played[start : start + len(second)])[LATE:].max() < 2e-5


@pytest.mark.parametrize("kind", ["one sample", "silence", "half silence", "a constant", "the shortest chunk"])
def test_what_has_little_to_refine(codec, voice, kind):
    samples = {
        "one sample": voice[:1], "silence": np.zeros(30000, np.float32), "a constant": np.full(9000, 0.5, np.float32),
        "half silence": np.concatenate([voice[:9000], np.zeros(20000, np.float32), voice[:6000]]),
        "the shortest chunk": np.concatenate([voice, voice, voice[:1]]),
    }[kind]  # fmt: skip
    refined = codec.with_effort(1)
    data = refined.encode(samples, quality=50)
    assert data == refined.encode(samples, quality=50)
    found = refined.decode(data).array()
    assert len(found) == len(samples) and np.isfinite(found).all()
    assert kind != "silence" or (data == codec.encode(samples, quality=50) and not found.any())


def test_a_size_is_met_from_below(codec, voice):
    refined = codec.with_effort(1)
    size = len(refined.encode(voice[:16000], quality=30)) + 3
    data, quality = encode_to_size(refined, voice[:16000], size, draft=codec)
    assert len(data) <= size and quality >= 30


@pytest.mark.parametrize("effort", [-1, 10, 2.5, True, "5"])
def test_an_effort_that_is_none(codec, effort):
    with pytest.raises(InputError, match=r"need a whole number 0\.\.9"):
        codec.with_effort(effort)


def test_a_live_stream_has_no_chunks_to_refine(codec):
    with pytest.raises(InputError, match="need effort 0"):
        StreamEncoder(codec.with_effort(1))


def test_steps_rise():
    assert list(STEPS) == sorted(set(STEPS)) and len(STEPS) == 10 and STEPS[0] == 0


def test_mel_bands_are_torchaudios():
    functional = pytest.importorskip("torchaudio.functional")
    for window, bands in RESOLUTIONS.items():
        expected = functional.melscale_fbanks(
            window // 2 + 1, 0.0, RATE / 2, bands, RATE, norm="slaney", mel_scale="slaney"
        ) * (window / 64)  # fmt: skip
        torch.testing.assert_close(mel_bands(window, torch.device("cpu")), expected, rtol=1e-3, atol=1e-5)
