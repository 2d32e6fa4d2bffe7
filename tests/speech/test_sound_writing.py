"""Sounds to files and back."""

from __future__ import annotations

import io
import os

import numpy as np
import pytest
from rdcodec.codecs.speech.formats import WRITTEN, looks_like_sound
from rdcodec.codecs.speech.pcm import wav_header
from rdcodec.codecs.speech.sound import Sound
from rdcodec.codecs.speech.sound_writing import SoundWriter, sound_bytes
from rdcodec.codecs.speech.sounds import read_sound

LOSSLESS = (".wav", ".flac", ".aiff")
TAGS = {"title": "Tïtle", "artist": "someone"}


def sound_of(frames: int, channels: int = 1, rate: int = 16000) -> Sound:
    steps = np.arange(frames * channels).reshape(channels, frames)
    return Sound(samples=(0.5 * np.sin(steps * 0.05)).astype(np.float32), sample_rate=rate, tags=TAGS)


@pytest.mark.parametrize("suffix", WRITTEN)
@pytest.mark.parametrize("frames", [1, 2, 999, 40000])
@pytest.mark.parametrize("channels", [1, 2])
def test_lengths_and_tags_are_kept(suffix, frames, channels):
    data = sound_bytes(sound_of(frames, channels), suffix)
    back = read_sound(data)
    assert looks_like_sound(data) and back.sample_rate == 16000 and back.tags == TAGS
    assert back.channels == channels
    # FFmpeg leaves what padding of a short MP3 is more than a frame
    assert 0 <= back.frames - frames < (1152 if suffix == ".mp3" and frames < 1000 else 1)


@pytest.mark.parametrize("suffix", LOSSLESS)
def test_sixteen_bits_come_back_as_they_were(suffix):
    steps = np.arange(-32768, 32768, dtype=np.float32)[None] / 32768
    back = read_sound(sound_bytes(Sound(samples=steps, sample_rate=44100), suffix))
    np.testing.assert_array_equal(back.samples, steps)


@pytest.mark.parametrize("suffix", LOSSLESS)
def test_what_is_beyond_full_scale_is_cut_off_and_counted(suffix):
    loud, file = np.array([[3.0, -3.0, 1.0, -1.0, 0.5]], np.float32), io.BytesIO()
    with SoundWriter(file, suffix, sample_rate=16000, channels=1) as writer:
        writer.write(loud)
    np.testing.assert_array_equal(read_sound(file.getvalue()).samples * 32768, [[32767, -32768, 32767, -32768, 16384]])
    assert writer.clipped == 2


@pytest.mark.parametrize("suffix", WRITTEN)
def test_blocks_make_the_file_of_the_whole(suffix):
    sound, file = sound_of(100_000, 2), io.BytesIO()
    with SoundWriter(file, suffix, sample_rate=16000, channels=2, tags=TAGS) as writer:
        for start in range(0, sound.frames, 777):
            writer.write(sound.samples[:, start : start + 777])
    back = read_sound(file.getvalue()).samples
    if suffix in LOSSLESS:
        np.testing.assert_array_equal(back, read_sound(sound_bytes(sound, suffix)).samples)
    assert np.abs(back - sound.samples).max() < (1e-4 if suffix in LOSSLESS else 0.1)


@pytest.mark.parametrize("frames", [None, 300])
def test_a_wav_into_a_pipe(frames):
    sound = sound_of(300)
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as pipe, os.fdopen(writing, "wb") as file:
        with SoundWriter(file, ".wav", sample_rate=16000, channels=1, frames=frames) as writer:
            writer.write(sound.samples)
        file.close()
        data = pipe.read()
    assert len(data) == 44 + 600
    np.testing.assert_array_equal(read_sound(data).samples, read_sound(sound_bytes(sound, ".wav")).samples)


def test_only_a_wav_goes_into_a_pipe():
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb"), os.fdopen(writing, "wb") as file, pytest.raises(ValueError, match="pipe"):
        SoundWriter(file, ".flac", sample_rate=16000, channels=1)


def test_a_wav_beyond_four_gib_is_an_rf64():
    file = io.BytesIO()
    SoundWriter(file, ".wav", sample_rate=48000, channels=2, frames=36000 * 48000).close()
    assert file.getvalue()[:4] == b"RF64" and wav_header(48000, 2, 36000 * 48000)[40:] == b"\xff" * 4


@pytest.mark.parametrize(("suffix", "rate"), [(".opus", 44100), (".mp3", 96000)])
def test_rates_that_a_format_cannot_hold(suffix, rate):
    with pytest.raises(ValueError, match="cannot hold"):
        sound_bytes(sound_of(10, rate=rate), suffix)
