"""Frames to each kind of file and back: pixels, times, sound, colour tags; and nothing left where it fails."""

from __future__ import annotations

import dataclasses
import io
import os
import signal
import subprocess
import sys
import weakref
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image
from rdcodec.codecs.video.frames import Format, Frame
from rdcodec.codecs.video.reading import VideoFile
from rdcodec.codecs.video.sound_track import cut
from rdcodec.codecs.video.writing import VideoWriter
from rdcodec.entropy_models.errors import InputError
from video_clips import encoded, moving, packets_of, quarters

TIMES = [0, 3000, 6700, 11100, 14100, 17800]
LAST = 4400
VIDEO = Format(width=64, height=48, time_base=Fraction(1, 90000), rate=Fraction(27), matrix="bt601", subsampling="420")


def clip(times=TIMES, last=LAST, pictures=None):
    pictures = moving(len(times)) if pictures is None else pictures
    ends = [*times[1:], times[-1] + last]
    return [Frame(rgb, time, end - time) for rgb, time, end in zip(pictures, times, ends, strict=True)]


def put(target, frames=None, video=VIDEO, sound=None, **more):
    with VideoWriter(target, video, sound, **more) as writer:
        for frame in clip() if frames is None else frames:
            writer.write(frame)
    return writer


def back(target):
    video = VideoFile(target)
    return video, list(video.frames())


def phone_sound():
    source = encoded(moving(12), tone_hz=440, times=range(0, 36000, 3000), time_base=Fraction(1, 90000), last=3000)
    return VideoFile(source).sound()


def worst(frames, others):
    return max(float(np.abs(a.rgb.astype(int) - b.rgb.astype(int)).mean()) for a, b in zip(frames, others, strict=True))


@pytest.mark.parametrize("size", [(48, 64), (31, 47), (16, 17)])
def test_ffv1_keeps_rgb_exactly(tmp_path, size):
    noise = np.random.default_rng(3).integers(0, 256, (4, *size, 3), np.uint8)
    video = dataclasses.replace(VIDEO, height=size[0], width=size[1])
    put(tmp_path / "a.mkv", clip(TIMES[:4], LAST, noise), video)
    found, frames = back(tmp_path / "a.mkv")
    assert all(np.array_equal(frame.rgb, rgb) for frame, rgb in zip(frames, noise, strict=True))
    assert found.format.subsampling == "rgb" and found.notices == []


@pytest.mark.parametrize("suffix", [".mkv", ".webm"])
def test_matroska_keeps_times_to_the_millisecond(tmp_path, suffix):
    put(tmp_path / f"a{suffix}")
    _, frames = back(tmp_path / f"a{suffix}")
    assert [frame.time for frame in frames] == [round(time / 90) for time in TIMES]
    assert frames[-1].time + frames[-1].duration == round((TIMES[-1] + LAST) / 90)


@pytest.mark.parametrize(
    ("time_base", "times", "last"),
    [
        (Fraction(1, 90000), TIMES, LAST), (Fraction(1001, 30000), range(6), 1),
        (Fraction(1, 600), [7, 20, 21, 60, 61, 99], 500), (Fraction(1, 1), [0, 1, 2, 3, 4, 6], 2),
    ],
)  # fmt: skip
def test_mp4_keeps_times_exactly(tmp_path, time_base, times, last):
    video = dataclasses.replace(VIDEO, time_base=time_base, rate=Fraction(30))
    put(tmp_path / "a.mp4", clip(list(times), last), video)
    found, frames = back(tmp_path / "a.mp4")
    seconds = [frame.time * found.format.time_base for frame in frames]
    assert [second - seconds[0] for second in seconds] == [(time - times[0]) * time_base for time in times]
    assert frames[-1].duration * found.format.time_base == last * time_base


@pytest.mark.parametrize("subsampling", ["420", "422", "444", "rgb", "gray"])
@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".y4m"])
def test_colour_is_tagged_and_comes_back(tmp_path, subsampling, full_range, suffix):
    video = dataclasses.replace(VIDEO, subsampling=subsampling, full_range=full_range, matrix="bt709")
    gray = subsampling == "gray"
    pictures = [np.repeat(rgb[..., :1], 3, -1) if gray else rgb for rgb in moving(6)]
    put(tmp_path / f"a{suffix}", clip(pictures=pictures), video)
    found, frames = back(tmp_path / f"a{suffix}")
    plain = suffix == ".y4m"
    expected = {"rgb": "444" if plain else "420", "gray": "gray" if plain else "420"}.get(subsampling, subsampling)
    assert found.format.subsampling == expected
    assert found.format.full_range == (full_range or (gray and plain))
    if plain:  # which has no tag for the matrix
        found._source._to_rgb._space = 1
        frames = list(found.frames())
    else:
        assert found.format.matrix == "bt709"
    assert worst(frames, clip(pictures=pictures)) < (5 if expected == "420" else 4 if expected == "422" else 2.5)


@pytest.mark.parametrize("suffix", [".mkv", ".mp4", ".webm"])
def test_primaries_transfer_and_pixel_aspect_are_tagged(tmp_path, suffix):
    video = dataclasses.replace(VIDEO, primaries=9, transfer=16, matrix="bt2020nc", aspect=Fraction(4, 3))
    writer = put(tmp_path / f"a{suffix}", video=video)
    found = VideoFile(tmp_path / f"a{suffix}").format
    assert (found.primaries, found.transfer) == (9, 16)
    assert found.matrix == ("bt601" if suffix == ".mkv" else "bt2020nc")
    if suffix == ".mp4":
        assert found.aspect == Fraction(4, 3) and writer.notices == []
    else:
        assert writer.notices == ["pixels 4/3 times as wide as high are shown square; .mp4 keeps their shape"]


def test_chroma_comes_back_where_it_was(tmp_path):
    """A red edge: half a pixel aside would move a quarter of its step."""
    picture = np.full((48, 64, 3), 60, np.uint8)
    picture[:, 32:, 0] = 220
    for suffix in (".mp4", ".y4m"):
        put(tmp_path / f"a{suffix}", clip(pictures=[picture] * 6))
        (frame, *_) = back(tmp_path / f"a{suffix}")[1]
        across = frame.rgb[24, :, 0].astype(float) - frame.rgb[24, :, 1]
        edge = 64 - across.sum() / 160
        assert abs(edge - 32) < 0.2, (suffix, edge)


def test_odd_sizes_in_mp4(tmp_path):
    video = dataclasses.replace(VIDEO, height=31, width=47)
    writer = put(tmp_path / "a.mp4", clip(pictures=moving(6, 31, 47)), video)
    assert writer.notices == ["47x31 is odd, and written as H.264 4:4:4, which few players show"]
    found, frames = back(tmp_path / "a.mp4")
    assert found.format.subsampling == "444" and worst(frames, clip(pictures=moving(6, 31, 47))) < 2


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_sound_is_put_in_packet_by_packet_and_stays_in_time(tmp_path, suffix):
    sound = phone_sound()
    put(tmp_path / f"a{suffix}", sound=sound)
    assert packets_of((tmp_path / f"a{suffix}").read_bytes()) == packets_of(sound)
    with VideoFile(tmp_path / f"a{suffix}") as video, av.open(tmp_path / f"a{suffix}") as container:
        assert next(video.frames()).time == 0
        times = [packet.pts * packet.time_base for packet in container.demux(audio=0) if packet.size]
        expected = [Fraction(1024 * number, 48000) for number in range(-1, len(times) - 1)]
        assert max(abs(a - b) for a, b in zip(times, expected, strict=True)) <= Fraction(1, 1000)
        assert packets_of(video.sound()) == packets_of(sound)


def test_mp4_has_sound_packets_of_equal_length(tmp_path):
    put(tmp_path / "a.mp4", sound=phone_sound())
    with av.open(tmp_path / "a.mp4") as container:
        durations = {packet.duration for packet in container.demux(audio=0) if packet.size}
    assert durations == {1024}


def test_sound_is_cut_to_whole_packets_and_begins_at_zero():
    sound = phone_sound()
    part = cut(sound, Fraction(1, 10), Fraction(3, 10))
    whole = packets_of(sound)
    assert packets_of(part) == whole[6:16]  # the first one begins 21 ms before zero
    with av.open(io.BytesIO(part)) as container:
        first = next(packet for packet in container.demux(audio=0) if packet.size)
        assert 0 <= first.pts * first.time_base < Fraction(22, 1000)
    with pytest.raises(InputError, match="no sound track"):
        cut(b"text", Fraction(0), Fraction(1))


def test_sound_that_a_format_cannot_hold(tmp_path):
    with pytest.raises(InputError, match="sound"):
        put(tmp_path / "a.webm", sound=phone_sound())
    for name in ("a.gif", "a.y4m", "pictures"):
        assert any("sound is left out" in notice for notice in put(tmp_path / name, sound=phone_sound()).notices)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.gif", "a.y4m", "pictures"]
    with pytest.raises(InputError, match="no sound track"):
        put(tmp_path / "a.mkv", sound=b"text")


def test_y4m_of_a_varying_rate_says_so(tmp_path):
    steady = clip(range(0, 6 * 3333, 3333), 3333)
    assert put(tmp_path / "a.y4m", steady).notices == []
    writer = put(tmp_path / "b.y4m", clip([0, 3333, 9000, 12000, 30000, 60000]))
    assert writer.notices == ["frames are written at a constant rate of 27 a second; their own times vary"]
    found, frames = back(tmp_path / "b.y4m")
    assert [frame.time for frame in frames] == list(range(6)) and found.format.rate == 27


def test_gif_keeps_its_delays_and_leaves_out_what_no_player_shows(tmp_path):
    video = dataclasses.replace(VIDEO, time_base=Fraction(1, 100))
    times = [5, 9, 19, 44, 51, 55]
    assert put(tmp_path / "a.gif", clip(times, 9), video).notices == []
    _, frames = back(tmp_path / "a.gif")
    assert [(frame.time, frame.duration) for frame in frames] == [(0, 4), (4, 10), (14, 25), (39, 7), (46, 4), (50, 9)]
    assert worst(frames, clip(times, 9)) < 6
    writer = put(tmp_path / "b.gif", clip(range(6), 1), video)
    assert writer.notices == ["a GIF shows at most 50 frames a second; some are left out"]
    _, frames = back(tmp_path / "b.gif")
    assert [(frame.time, frame.duration) for frame in frames] == [(0, 2), (2, 2), (4, 2)]
    with pytest.raises(InputError, match="shown for 700 s"):
        put(tmp_path / "c.gif", clip(range(6), 70000), video)


@pytest.mark.parametrize("name", ["out", "out/%05d.png", "out/f%d.png"])
def test_a_folder_of_png(tmp_path, name):
    put(tmp_path / name)
    first = {"out": "00000.png", "out/%05d.png": "00000.png", "out/f%d.png": "f0.png"}[name]
    assert sorted(os.listdir(tmp_path)) == ["out"] and len(os.listdir(tmp_path / "out")) == 6
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / first)), moving(6)[0])
    assert worst(back(tmp_path / "out")[1], clip()) == 0


def test_a_folder_that_is_there_keeps_its_other_files(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("kept")
    put(tmp_path / "out")
    assert len(os.listdir(tmp_path / "out")) == 7 and (tmp_path / "out" / "notes.txt").read_text() == "kept"


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4", "a.gif", "a.y4m", "out"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interruption_leaves_nothing(tmp_path, name, error):
    if name != "out":
        (tmp_path / name).write_bytes(b"older")
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(error), VideoWriter(tmp_path / name, VIDEO) as writer:
        for frame in clip()[:3]:
            writer.write(frame)
        assert sorted(os.listdir(tmp_path)) != before
        raise error
    assert sorted(os.listdir(tmp_path)) == before
    assert name == "out" or (tmp_path / name).read_bytes() == b"older"


def test_ctrl_c_in_the_middle_of_a_frame_leaves_nothing(tmp_path):
    script = f"""
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
sys.path[:0] = {[os.path.dirname(os.path.dirname(__file__))]!r}
from video.test_writing import VIDEO, clip
from rdcodec.codecs.video.writing import VideoWriter
with VideoWriter({str(tmp_path / "a.mp4")!r}, VIDEO) as writer:
    frame = clip()[0]
    for time in range(10**9):
        writer.write(type(frame)(frame.rgb, time, 1))
        if time == 50:
            print("under way", flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "under way\n"
    process.send_signal(signal.SIGINT)
    process.wait(60)
    assert "KeyboardInterrupt" in process.stderr.read() and os.listdir(tmp_path) == []


def test_what_does_not_fit_is_refused(tmp_path):
    for name in ("a.txt", "a.jpg"):
        with pytest.raises(InputError, match="cannot write"):
            VideoWriter(tmp_path / name, VIDEO)
    with pytest.raises(InputError, match="at least one frame"):
        put(tmp_path / "a.mkv", [])
    with pytest.raises(InputError, match="64x48"):
        put(tmp_path / "a.mkv", [Frame(np.zeros((48, 60, 3), np.uint8), 0, 1)])
    with pytest.raises(InputError, match="need a folder"):
        put(tmp_path / "a.png", [Frame(moving(1)[0], time, 1) for time in (0, 1)])
    for times in ([3, 3], [3, 2]):
        with pytest.raises(InputError, match="must ascend"):
            put(tmp_path / "a.y4m", [Frame(moving(1)[0], time, 1) for time in times])
    with pytest.raises(InputError, match="does not take 60000x16"):
        put(tmp_path / "a.mp4", [], dataclasses.replace(VIDEO, width=60000, height=16))
    assert os.listdir(tmp_path) == []


def test_an_open_file_is_written_and_stays_open():
    target = io.BytesIO()
    put(target, suffix=".mkv", tags={"title": "A walk"})
    assert not target.closed
    video, frames = back(target.getvalue())
    assert worst(frames, clip()) == 0 and video.tags == {"title": "A walk"}


@pytest.mark.parametrize("suffix", [".mkv", ".mp4", ".gif"])
def test_a_screen_recording_keeps_its_length(tmp_path, suffix):
    """Three seconds, mostly still, in which one frame stays for a second."""
    shown = [quarters(48, 64)] * 60 + [quarters(48, 64)[::-1].copy()] * 11
    times = [*range(0, 6000, 100), *range(7000, 8100, 100)]
    video = dataclasses.replace(VIDEO, time_base=Fraction(1, 3000), rate=Fraction(30))
    put(tmp_path / f"a{suffix}", clip(times, 100, shown), video)
    found, frames = back(tmp_path / f"a{suffix}")
    end = (frames[-1].time + frames[-1].duration) * found.format.time_base
    assert len(frames) == 71 and abs(end - Fraction(27, 10)) <= Fraction(1, 100)
    assert abs(frames[60].time * found.format.time_base - Fraction(7, 3)) <= Fraction(1, 100)


def test_memory_does_not_grow_with_the_video(tmp_path):
    """By the frames that are alive at a time."""
    frames, most = [], 0

    def alive(rgb):
        frames.append(weakref.ref(rgb))
        return sum(one() is not None for one in frames)

    with VideoWriter(tmp_path / "a.mkv", VIDEO) as writer:
        for number in range(60):
            rgb = moving(1)[0]
            most = max(most, alive(rgb))
            writer.write(Frame(rgb, number * 3000, 3000))
    for frame in VideoFile(tmp_path / "a.mkv").frames():
        most = max(most, alive(frame.rgb))
    assert len(frames) == 120 and most <= 3
