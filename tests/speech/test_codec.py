"""Parts, salvage, rates and lengths of sounds."""

from __future__ import annotations

import io
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
from rdcodec.codecs import Corrupt, container
from rdcodec.codecs.contract import Desk
from rdcodec.codecs.rate_control import encode_to_size
from rdcodec.codecs.speech.face import FACE
from rdcodec.codecs.speech.sound import as_sound
from rdcodec.codecs.speech.sounds import read_sound, sound_on_file
from rdcodec.entropy_models.errors import InputError
from voices import RATE, voice


@pytest.fixture(scope="module")
def long(codec) -> tuple[bytes, np.ndarray]:
    """A file of four chunks, and its samples."""
    data = codec.encode(voice(27.1, seed=1), quality=20)
    return data, codec.decode(data).samples


@pytest.mark.parametrize(("start_s", "end_s"), [(0, 0.01), (7.99, 8.01), (12.5, 20.25), (25.0, None), (None, 3.0)])
def test_a_part_is_that_of_the_whole_to_the_last_bit(codec, long, start_s, end_s):
    data, whole = long
    part = codec.decode(data, start_s=start_s, end_s=end_s).samples
    first, last = round((start_s or 0) * RATE), whole.shape[1] if end_s is None else round(end_s * RATE)
    np.testing.assert_array_equal(part, whole[:, first:last])


def test_a_part_reads_only_the_chunks_it_needs(codec, long, monkeypatch):
    read = []
    chunk = container.Stream.chunk
    monkeypatch.setattr(container.Stream, "check", lambda self: None)
    monkeypatch.setattr(container.Stream, "chunk", lambda self, index: read.append(index) or chunk(self, index))
    codec.decode(long[0], start_s=20, end_s=21)
    assert set(read) == {2}


@pytest.mark.parametrize(("start_s", "end_s"), [(-1, 2), (3, 2), (0, 28), (27.2, None), (5, 5)])
def test_parts_outside_are_refused(codec, long, start_s, end_s):
    with pytest.raises(InputError, match="s; the sound has 27.1"):
        codec.decode(long[0], start_s=start_s, end_s=end_s)


def test_salvage_fades_into_silence_and_out_of_it(codec, long):
    data, whole = long
    stream = container.parse(data)
    damaged = bytearray(data)
    damaged[stream.entries[1].offset + 40] ^= 1
    with pytest.raises(Corrupt, match="chunk 1"):
        codec.decode(bytes(damaged))
    sound = codec.decode(bytes(damaged), salvage=True)
    assert sound.lost == ((8.0, 16.0),) and "chunk 1" in sound.notices[0]
    found, eight = sound.samples, 8 * RATE
    assert found.shape == whole.shape and not found[:, eight : 2 * eight].any()
    np.testing.assert_array_equal(found[:, : eight - 2000], whole[:, : eight - 2000])
    np.testing.assert_array_equal(found[:, 2 * eight + RATE * 2 :], whole[:, 2 * eight + RATE * 2 :])
    assert np.abs(found[0, eight - 320 : eight]).max() <= np.abs(found[0, eight - 4000 : eight]).max()
    everything = bytearray(data)
    for entry in stream.entries:
        everything[entry.offset + 9] ^= 1
    with pytest.raises(Corrupt, match="no chunk is undamaged"):
        codec.decode(bytes(everything), salvage=True)


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000])
@pytest.mark.parametrize("frames", [1, 7, 4801])
def test_lengths_and_rates_come_back(codec, rate, frames):
    made = as_sound(voice(1.0, rate)[:frames], rate, {"title": "t"})
    back = codec.decode(codec.encode(made))
    assert (back.frames, back.sample_rate, back.tags) == (min(frames, rate), rate, {"title": "t"})


def test_blocks_of_any_lengths_give_the_same_bytes(codec):
    samples = voice(9.0, seed=3)[None]
    header = codec.header_of(samples.shape[1], RATE, 1, 40)
    whole = codec.encode(samples, quality=40)
    cuts = [0, 1, 5000, 5000, 77_777, samples.shape[1]]
    blocks = [samples[:, a:b] for a, b in zip(cuts, cuts[1:], strict=False)]
    file = io.BytesIO()
    codec.encode_blocks(file, blocks, header)
    assert file.getvalue() == whole
    with pytest.raises(InputError, match="the header says"):
        codec.encode_blocks(io.BytesIO(), blocks[:-1], header)


def test_a_rate_that_is_asked_for_is_met_from_below(codec):
    sound = as_sound(voice(12.0, seed=5), RATE)
    for kbps in (2.0, 3.0, 4.0, 6.0, 8.0, 9.0, 10.0, 12.0, 16.0):
        size = int(kbps * 1000 * sound.duration_s / 8)
        data, _ = encode_to_size(codec, sound, size, between=codec.with_wider_deadzone)
        assert 0.97 * size <= len(data) <= size
        assert codec.decode(data).frames == sound.frames


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.full(100, np.nan, np.float32), "nan"),
        (np.zeros(0, np.float32), "empty"),
        (np.zeros((3, 10), np.float32), "channels"),
        (np.full(10, 3000.0, np.float32), "full scale"),
        ([0.1, 0.2], "a list is no sound; need a numpy array .* a Sound, or a file's path"),
        (b"RIFF", "bytes is no sound"),
        (None, "NoneType is no sound"),
    ],
)
def test_what_is_no_sound_is_refused_by_name(codec, samples, message):
    with pytest.raises(InputError, match=message):
        codec.encode(samples)


def test_clipped_and_constant_sounds_are_sane(codec):
    for samples in (np.sign(voice(0.5)), np.full(8000, 0.5, np.float32)):
        back = codec.decode(codec.encode(samples.astype(np.float32))).samples
        assert np.isfinite(back).all() and np.abs(back).max() < 4


@pytest.mark.parametrize("quality", [20, 50, 80])
def test_a_voice_is_as_loud_as_it_was(codec, quality):
    """PESQ and STOI do not hear levels: a training with them alone makes everything louder."""
    samples = voice(4.0)
    back = codec.decode(codec.encode(samples, quality=quality)).array().reshape(-1)
    assert 0.5 < np.sqrt(np.square(back).mean() / np.square(samples).mean()) < 2


@pytest.mark.parametrize(("rate", "channels", "suffix"), [(44100, 2, ".wav"), (16000, 1, ".mp3")])
def test_a_file_gives_the_bytes_and_samples_of_the_sound_in_memory(codec, tmp_path, rate, channels, suffix):
    """By blocks and from a file, as against a whole sound; also for a size that is asked for."""
    path = tmp_path / f"talk{suffix}"
    soundfile.write(path, np.stack([voice(9.3, rate, seed) for seed in range(channels)]).T, rate)
    whole = codec.encode(path, quality=20)
    with path.open("rb") as file, (tmp_path / "talk.rdc").open("w+b") as target:
        sound = sound_on_file(file)
        codec.encode_to(target, sound, quality=20)
        size = len(whole) + 10
        assert encode_to_size(codec, sound, size) == encode_to_size(codec, read_sound(path), size)
    assert (tmp_path / "talk.rdc").read_bytes() == whole
    with (tmp_path / "talk.rdc").open("rb") as file:
        played = codec.play(container.parse(container.FileBytes(file)))
        samples = np.concatenate(list(played.blocks), axis=1)
    expected = codec.decode(whole)
    np.testing.assert_array_equal(samples, expected.samples)
    assert (played.frames, played.sample_rate) == (samples.shape[1], rate) and played.tags == expected.tags


def test_memory_does_not_grow_with_the_sound(codec, tmp_path):
    """Of a minute no more than a few blocks are in memory."""
    with soundfile.SoundFile(tmp_path / "long.wav", "w", RATE, 1, "PCM_16") as file:
        for _ in range(6):
            file.write(np.zeros(10 * RATE, np.float32))
    desk = Desk("cpu")
    for key in ("encode speech", codec.stream_hash):
        desk.codec(key, lambda: codec)
    peaks = []
    for source, convert in (
        ("long.wav", lambda file, out: FACE.encode_file(file, out, FACE.Encode(), desk)),
        ("long.rdc", lambda file, out: FACE.decode_file(
            container.parse(container.FileBytes(file)), Path("back.wav"), out, FACE.Decode(), desk
        )),
    ):  # fmt: skip
        name = {"long.wav": "long.rdc", "long.rdc": "back.wav"}[source]
        with (tmp_path / source).open("rb") as file, (tmp_path / name).open("w+b") as out:
            tracemalloc.start()
            convert(file, out)
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    assert soundfile.info(tmp_path / "back.wav").frames == 60 * RATE
    assert max(peaks) < 2_500_000  # the samples as a whole: 3.8 MB
