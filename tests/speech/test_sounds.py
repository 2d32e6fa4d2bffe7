"""Sound files people have, and what becomes of them."""

from __future__ import annotations

import io
import os
import struct
import threading
import tracemalloc
from fractions import Fraction

import av
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from rdcodec.codecs.speech.formats import looks_like_sound
from rdcodec.codecs.speech.pcm import ENDLESS, Layout, parse_layout, wav_header
from rdcodec.codecs.speech.resampling import regrouped
from rdcodec.codecs.speech.sound import Sound, as_sound
from rdcodec.codecs.speech.sounds import open_pcm, open_sound, read_sound

RATE, FRAMES = 16000, 40000
TONE = (0.4 * np.sin(np.arange(FRAMES) * 0.05) * np.sin(np.arange(FRAMES) * 0.0007)).astype(np.float32)
PLAIN = [("WAV", "PCM_U8"), ("WAV", "PCM_16"), ("WAV", "PCM_24"), ("WAV", "PCM_32"), ("WAV", "FLOAT"), ("WAV", "DOUBLE")]
OTHERS = [
    ("WAV", "ULAW"), ("WAVEX", "PCM_24"), ("RF64", "PCM_16"), ("W64", "PCM_16"), ("FLAC", "PCM_16"), ("FLAC", "PCM_24"),
    ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III"), ("AIFF", "PCM_16"), ("AU", "PCM_16"), ("CAF", "PCM_16"),
]  # fmt: skip


def saved(samples=TONE, file_format="WAV", subtype="PCM_16", rate=RATE, **tags) -> bytes:
    file = io.BytesIO()
    channels = 1 if samples.ndim == 1 else samples.shape[1]
    with soundfile.SoundFile(file, "w", rate, channels, subtype, format=file_format) as sound:
        for name, value in tags.items():
            setattr(sound, name, value)
        sound.write(samples)
    return file.getvalue()


def muxed(codec: str, file_format: str, rate: int, layout="mono", samples=TONE, video=False, **tags) -> bytes:
    """A file that PyAV writes."""
    file = io.BytesIO()
    with av.open(file, "w", format=file_format) as container:
        container.metadata.update(tags)
        stream = container.add_stream(codec, rate=rate)
        stream.layout = layout
        pictures = container.add_stream("mpeg4", rate=10) if video else None
        rows = np.tile(samples, (len(av.AudioLayout(layout).channels), 1))
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(rows), format="fltp", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        packets = [*stream.encode(frame), *stream.encode(None)]
        if pictures:
            pictures.width = pictures.height = 32
            picture = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
            packets += [*pictures.encode(picture), *pictures.encode(None)]
        for packet in packets:
            container.mux(packet)
    return file.getvalue()


def piped(data: bytes, piece=999):
    """A pipe that gives the data in pieces, and ends."""
    reading, writing = os.pipe()

    def write() -> None:
        with os.fdopen(writing, "wb", buffering=0) as file:
            for start in range(0, len(data), piece):
                file.write(data[start : start + piece])

    threading.Thread(target=write, daemon=True).start()
    return os.fdopen(reading, "rb", buffering=0)


@pytest.mark.parametrize(("file_format", "subtype"), PLAIN + OTHERS)
def test_formats(file_format, subtype):
    data = saved(file_format=file_format, subtype=subtype, **({} if file_format in ("W64", "AU") else {"title": "Tïtle"}))
    sound = read_sound(data)
    assert looks_like_sound(data) and sound.samples.shape == (1, FRAMES) and sound.sample_rate == RATE and not sound.notices
    assert np.abs(sound.samples[0] - TONE).max() < (
        0.06 if subtype in ("VORBIS", "OPUS", "MPEG_LAYER_III", "ULAW") else 0.01
    )
    if file_format in ("WAV", "FLAC", "OGG", "MP3", "AIFF"):
        assert sound.tags == {"title": "Tïtle"}


@pytest.mark.parametrize(("file_format", "subtype"), PLAIN)
@pytest.mark.parametrize("channels", [1, 2])
def test_a_pipe_gives_what_the_file_gives(file_format, subtype, channels):
    data = saved(np.stack([TONE, -0.5 * TONE], 1)[:, :channels], file_format, subtype)
    with piped(data) as pipe:
        through = read_sound(pipe)
    np.testing.assert_array_equal(through.samples, read_sound(data).samples)


@pytest.mark.parametrize(("file_format", "subtype"), [("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("WAV", "ULAW")])
def test_other_formats_come_through_pipes_too(file_format, subtype):
    with piped(saved(file_format=file_format, subtype=subtype)) as pipe:
        assert abs(read_sound(pipe).frames - FRAMES) < 512


def test_live_samples_come_as_they_are_written():
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb", buffering=0) as pipe, os.fdopen(writing, "wb", buffering=0) as file:
        file.write(wav_header(RATE, 1, None) + b"\1\0" * 320)
        with open_sound(pipe) as sound:
            blocks = sound.blocks()
            assert sound.frames is None and next(blocks).shape == (1, 320)
            file.write(b"\2\0" * 100 + b"\3")
            assert next(blocks).shape == (1, 100)
            file.write(b"\0")
            assert next(blocks)[0, 0] * 32768 == 3


def test_raw_samples():
    layout = parse_layout("8000x2")
    with piped(b"\x01\x00\xff\xff" * 50, piece=7) as pipe, open_pcm(pipe, layout) as sound:
        samples = np.concatenate(list(sound.blocks()), axis=1)
    assert sound.sample_rate == 8000 and samples.shape == (2, 50)
    assert (samples[0] == 1 / 32768).all() and (samples[1] == -1 / 32768).all()
    with piped(bytes(7)) as pipe, pytest.raises(ValueError, match="3 bytes are left over"):
        list(open_pcm(pipe, layout).blocks())
    for wrong in ("", "x2", "16000x", "16000x3", "16k", "-16000", "100", "9" * 9):
        if wrong != "16000x":
            with pytest.raises(ValueError):
                parse_layout(wrong)


@pytest.mark.parametrize(
    ("codec", "file_format", "rate"),
    [("aac", "ipod", 16000), ("aac", "adts", 22050), ("libopus", "webm", 48000), ("ac3", "ac3", 48000)],
)
def test_formats_of_pyav(codec, file_format, rate):
    data = muxed(codec, file_format, rate)
    sound = read_sound(data)
    assert looks_like_sound(data) and sound.sample_rate == rate and not sound.notices
    assert 0 <= sound.frames - FRAMES < 3000


def test_the_sound_of_a_video():
    data = muxed("aac", "mp4", RATE, video=True, title="Tïtle", encoder="someone")
    sound = read_sound(data)
    assert looks_like_sound(data) and sound.notices == ("only the sound of the video is kept",)
    assert sound.tags == {"title": "Tïtle"} and 0 <= sound.frames - FRAMES < 1024
    assert not looks_like_sound(data.replace(data[8:12], b"avif", 1))


def test_channels():
    three = np.stack([TONE, 0 * TONE, TONE], 1)
    sound = read_sound(saved(three, subtype="FLOAT"))
    assert sound.notices == ("3 channels are mixed to one",)
    np.testing.assert_allclose(sound.samples, TONE[None] * (2 / 3), atol=1e-6)
    two = saved(three[:, :2], subtype="FLOAT")
    np.testing.assert_array_equal(read_sound(two).samples, three[:, :2].T)
    np.testing.assert_allclose(read_sound(two, mono=True).samples, TONE[None] / 2, atol=1e-6)
    assert read_sound(muxed("aac", "ipod", 48000, "5.1")).notices == ("6 channels are mixed to one",)


def with_sizes(data: bytes, size: int) -> bytes:
    """A WAV whose header has this size of data, as programs leave it that cannot go back."""
    at = data.index(b"data") + 4
    field = struct.pack("<I", size)
    return data[:4] + field + data[8:at] + field + data[at + 4 :]


@pytest.mark.parametrize("size", [0, 0x7FFF_F000, 0x7FFF_FFFF, 0x8000_0000, ENDLESS])
def test_a_wav_that_does_not_know_its_length(size):
    data = saved()
    streamed = with_sizes(data, size)
    np.testing.assert_array_equal(read_sound(streamed).samples, read_sound(data).samples)
    with piped(streamed) as pipe:
        np.testing.assert_array_equal(read_sound(pipe).samples, read_sound(data).samples)


@pytest.mark.parametrize(
    ("file_format", "subtype"),
    [*PLAIN, ("WAVEX", "PCM_24"), ("RF64", "PCM_16"), ("AIFF", "PCM_16"), ("FLAC", "PCM_16"), ("MP3", "MPEG_LAYER_III")],
)
def test_a_file_that_is_cut_off_is_refused(file_format, subtype):
    data = saved(file_format=file_format, subtype=subtype)
    with pytest.raises(ValueError, match="ends after .* s of the 2.50 s that its header announces|damaged after"):
        read_sound(data[: len(data) // 2])


def test_an_mp3_without_a_count_of_its_frames_is_read_whole():
    """libmpg123 guesses from the first frames how many there are, and this one's rate falls."""
    noise = np.random.default_rng(0).standard_normal(20 * RATE).astype(np.float32)
    noise[3 * RATE :] *= 1e-4
    data = saved(noise * 0.1, "MP3", "MPEG_LAYER_III")
    start = data.index(data[:2], 2)
    assert any(name in data[:start] for name in (b"Xing", b"Info"))
    assert read_sound(data).frames == 20 * RATE
    assert abs(read_sound(data[start:]).frames - 20 * RATE) < 2 * 1152
    counted = b"ID3\4\0\0" + bytes([0, 5, 0, 0]) + bytes(5 << 14) + data  # behind a cover's worth of tags
    with pytest.raises(ValueError, match="ends after"):
        read_sound(counted[: len(counted) - len(data) // 2])


def test_damage_is_named():
    data = bytearray(saved(file_format="FLAC", subtype="PCM_16"))
    data[len(data) // 2 : len(data) // 2 + 50] = bytes(50)
    with pytest.raises(ValueError, match=r"damaged after \d\.\d\d s"):
        read_sound(bytes(data))


@pytest.mark.parametrize("data", [b"", b"hello " * 500, bytes(5000), b"\x1a\x45\xdf\xa3" + bytes(99), b"ID3" + bytes(99)])
def test_what_is_no_sound(data):
    with pytest.raises(ValueError, match="no sound|empty"):
        read_sound(data)


def test_other_files_do_not_look_like_sounds():
    for data in (
        b"",
        b"RIFF\0\0\0\0WEBPVP8 ",
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff\xe0",
        b"\xff\xfeh\0i\0",
        b"....ftypheic",
        b"\x89RDC",
    ):
        assert not looks_like_sound(data), data
    data = saved(file_format="MP3", subtype="MPEG_LAYER_III")
    assert looks_like_sound(data) and looks_like_sound(data[:16]) and not looks_like_sound(data[:4] + bytes(9000))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 32767, -20])
def test_samples_that_are_none_are_refused(value):
    bad = TONE.copy()
    bad[39000] = value
    with pytest.raises(ValueError, match="sample 39000 of channel 0 is|full scale is 1"):
        read_sound(saved(bad, subtype="FLOAT"))
    with pytest.raises(ValueError, match="sample 39000 of channel 0 is|full scale is 1"):
        as_sound(bad, RATE)


def test_a_float_file_may_exceed_full_scale():
    assert read_sound(saved(TONE * 4, subtype="FLOAT")).samples.max() > 1


@pytest.mark.parametrize("data", [saved(TONE[:0]), saved(TONE[:0], "FLAC"), saved(TONE[:0], "OGG", "VORBIS")])
def test_empty_sounds_are_refused(data):
    with pytest.raises(ValueError, match="empty|no sound"):
        read_sound(data)


def test_one_sample():
    sound = read_sound(saved(TONE[100:101], subtype="FLOAT"))
    assert sound.samples.shape == (1, 1) and sound.samples[0, 0] == TONE[100]


def test_arrays():
    for dtype, scale in ((np.int16, 2**15), (np.int32, 2**31), (np.float64, 1), (np.float16, 1)):
        array = (np.array([0, 0.5, -1.0]) * scale).astype(dtype)
        np.testing.assert_array_equal(as_sound(array, RATE).samples, [[0, 0.5, -1]])
    assert as_sound(np.zeros((2, 5)), 8000).array().shape == (2, 5) and as_sound(np.zeros(5), 8000).array().shape == (5,)
    with pytest.raises(ValueError, match=r"\(n, channels\) needs .T"):
        as_sound(np.zeros((500, 2)), RATE)
    for wrong in (
        np.zeros(0),
        np.zeros((3, 500)),
        np.zeros((1, 2, 3)),
        np.zeros(5, np.uint8),
        np.zeros(5, bool),
        np.array(["a"]),
    ):
        with pytest.raises(ValueError):
            as_sound(wrong, RATE)
    for rate in (0, -16000, 999, 10**6, 16000.0, None):
        with pytest.raises(ValueError, match="sample rate"):
            as_sound(TONE, rate)
    with pytest.raises(ValueError):
        Sound(samples=TONE, sample_rate=RATE)


def test_blocks_have_the_sizes_asked_for(tmp_path):
    (tmp_path / "tone.wav").write_bytes(saved())
    whole = read_sound(tmp_path / "tone.wav").samples
    with open_sound(tmp_path / "tone.wav") as sound:
        assert sound.frames == FRAMES
        blocks = list(sound.blocks(7001))
    assert [block.shape[1] for block in blocks] == [7001] * 5 + [4995]
    np.testing.assert_array_equal(np.concatenate(blocks, 1), whole)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 9), max_size=12), st.integers(1, 7))
def test_regrouped_blocks_are_the_same_samples(sizes, frames):
    samples = np.arange(sum(sizes), dtype=np.float32)[None]
    blocks = list(regrouped(iter(np.split(samples, np.cumsum(sizes)[:-1], axis=1)) if sizes else iter(()), frames))
    assert all(block.shape[1] == frames for block in blocks[:-1]) and all(block.size for block in blocks)
    np.testing.assert_array_equal(np.concatenate([samples[:, :0], *blocks], 1), samples)


@settings(deadline=None, max_examples=60)
@given(st.binary(max_size=400), st.integers(0, 300))
def test_damaged_headers_raise_input_errors_alone(junk, at):
    data = saved(TONE[:200], "WAV", "PCM_24")
    for damaged in (junk, data[:at] + junk + data[at + len(junk) :], b"RIFF0000WAVE" + junk):
        for source in (damaged, piped(damaged)):
            try:
                read_sound(source)
            except ValueError:
                pass


def test_memory_does_not_grow_with_the_sound(tmp_path):
    with soundfile.SoundFile(tmp_path / "long.wav", "w", RATE, 1, "PCM_16") as file:
        for _ in range(600):
            file.write(TONE[:RATE])
    tracemalloc.start()
    with open_sound(tmp_path / "long.wav") as sound:
        frames = sum(block.shape[1] for block in sound.blocks(RATE))
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert frames == 600 * RATE and peak_bytes < 4_000_000  # as a whole: 38 MB


def test_layouts_of_samples():
    assert Layout(sample_rate=8000, channels=2).frame_bytes == 4
    with pytest.raises(ValueError):
        Layout(sample_rate=8000, kind=(1, 12))
