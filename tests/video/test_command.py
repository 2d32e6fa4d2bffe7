"""Videos through the command: what people have comes back with its times, sound and orientation."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
from fractions import Fraction

import av
import numpy as np
import pytest
from clips import drawn_clip
from PIL import Image
from rdcodec.codecs import container
from rdcodec.codecs.contract import Desk
from rdcodec.codecs.video import targets
from rdcodec.codecs.video.codec import VideoCodec
from rdcodec.codecs.video.face import FACE, EncodeOptions
from rdcodec.codecs.video.formats import looks_like_video
from rdcodec.codecs.video.header import parse
from rdcodec.codecs.video.reading import VideoFile
from rdcodec.codecs.video.timing import pack_times
from rdcodec.entropy_models.errors import InputError
from video_clips import encoded, moving, packets_of

PHONE_TIMES = [0, 3000, 6700, 11100, 14100, 17800, 22200, 25200]


@pytest.fixture
def phone(tmp_path):
    """Lying on its side, of variable frame rate, with AAC sound."""
    data = encoded(
        moving(8), times=PHONE_TIMES, time_base=Fraction(1, 90000), last=3000, rotation=90, tone_hz=440,
        muxer={"video_track_timescale": "90000"},
    )  # fmt: skip
    (tmp_path / "phone.mp4").write_bytes(data)
    return data


def frames_of(path) -> tuple[VideoFile, list[np.ndarray], list[int]]:
    video = VideoFile(path)
    frames = list(video.frames())
    return video, [frame.rgb for frame in frames], [frame.time for frame in frames]


def psnr_db(a, b) -> float:
    return float(-10 * np.log10(np.mean((np.stack(a) / 255.0 - np.stack(b) / 255.0) ** 2)))


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_phone_clip_survives(run, tmp_path, phone, suffix):
    assert run("encode", "phone.mp4", "-q", "70")[0] == 0
    code, out, _ = run("decode", "phone.rdc", "-o", f"back{suffix}", "--json")
    assert code == 0 and json.loads(out)["frames"] == 8
    source, pictures, times = frames_of(tmp_path / "phone.mp4")
    found, shown, back = frames_of(tmp_path / f"back{suffix}")
    assert shown[0].shape == pictures[0].shape == (64, 48, 3), "upright"
    scale = source.format.time_base / found.format.time_base
    assert np.abs(np.array(back) - [float(t * scale) for t in times]).max() <= (0 if suffix == ".mp4" else 1)
    assert psnr_db(shown, pictures) > 28
    assert packets_of((tmp_path / f"back{suffix}").read_bytes()) == packets_of(phone), "the sound is copied"


def test_a_part_has_its_own_sound(run, tmp_path, phone):
    assert run("encode", "phone.mp4", "-q", "20")[0] == 0
    assert run("decode", "phone.rdc", "--frames", "3:6", "-o", "part.mp4")[0] == 0
    assert frames_of(tmp_path / "part.mp4")[2] == [0, 3000, 6700]
    # seconds 0.1233 to 0.2467; a packet begins at 1024 / 48000 s times its number, less one
    assert packets_of((tmp_path / "part.mp4").read_bytes()) == packets_of(phone)[7:13]


def heard(path) -> tuple[str, float, np.ndarray]:
    """Codec, seconds at which it begins, and the level in each hundredth of a second."""
    with av.open(str(path)) as file:
        frames = list(file.decode(audio=0))
        samples = np.concatenate([frame.to_ndarray().astype(np.float64)[:1].ravel() for frame in frames])
        codec, rate = file.streams.audio[0].codec_context.name, frames[0].sample_rate
        begin_s = float(frames[0].pts * frames[0].time_base)
    blocks = samples[: len(samples) // (rate // 100) * (rate // 100)].reshape(-1, rate // 100)
    return codec, begin_s, np.sqrt((blocks**2).mean(1))


@pytest.fixture
def talk(tmp_path):
    """Three quarters of a second of pictures, with a tone in the middle third of the sound."""
    frames = moving(18)
    source = io.BytesIO(encoded(frames, time_base=Fraction(1, 24), tone_hz=300))
    target = tmp_path / "talk.mkv"
    rate = 16000
    samples = (0.3 * np.sin(2 * np.pi * 300 * np.arange(12000) / rate)).astype(np.float32)
    samples[:4000] = samples[8000:] = 0
    with av.open(source) as film, av.open(str(target), "w") as out:
        video = out.add_stream_from_template(film.streams.video[0])
        sound = out.add_stream("pcm_f32le", rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None], format="flt", layout="mono")
        frame.sample_rate, frame.pts = rate, 0
        out.mux(sound.encode(frame))
        for packet in film.demux(video=0):
            if packet.dts is not None:
                packet.stream = video
                out.mux(packet)
    return target


@pytest.mark.parametrize(("suffix", "codec"), [(".mkv", "flac"), (".mp4", "aac"), (".webm", "opus")])
def test_sound_through_the_speech_codec_stays_where_it_was(run, tmp_path, talk, suffix, codec):
    code, out, _ = run("encode", "talk.mkv", "-q", "10", "--audio", "speech", "--json")
    assert code == 0 and 0 < json.loads(out)["sound_bytes"] < 2000 < 4 * 12000
    assert run("verify", "talk.rdc")[0] == 0 and run("decode", "talk.rdc", "-o", f"back{suffix}")[0] == 0
    found, begin_s, levels = heard(tmp_path / f"back{suffix}")
    assert codec in found and abs(begin_s) < 0.03 and len(frames_of(tmp_path / f"back{suffix}")[1]) == 18
    loud = np.flatnonzero(levels > levels.max() / 2) + round(100 * begin_s)
    assert abs(loud[0] - 25) <= 3 and abs(loud[-1] - 49) <= 3, "hundredths of a second"


def test_a_part_has_its_own_part_of_the_speech(run, tmp_path, talk):
    assert run("encode", "talk.mkv", "-q", "10", "--audio", "speech")[0] == 0
    assert run("decode", "talk.rdc", "--frames", "3:12", "-o", "part.mkv")[0] == 0  # seconds 0.125 to 0.5
    _, begin_s, levels = heard(tmp_path / "part.mkv")
    assert begin_s == 0 and abs(len(levels) - 37) <= 1
    assert abs(np.flatnonzero(levels > levels.max() / 2)[0] - 12.5) <= 3


def test_damage_to_the_speech_is_found(run, tmp_path, talk):
    assert run("encode", "talk.mkv", "-q", "10", "--audio", "speech")[0] == 0
    data = bytearray((tmp_path / "talk.rdc").read_bytes())
    data[-20] ^= 1
    (tmp_path / "talk.rdc").write_bytes(data)
    assert run("verify", "talk.rdc")[0] == 1 and run("decode", "talk.rdc", "-o", "back.mkv")[0] == 1
    code, _, err = run("decode", "talk.rdc", "--salvage", "-o", "back.mkv")
    assert code == 0 and "sound" in err and len(frames_of(tmp_path / "back.mkv")[1]) == 18


def test_pictures_go_in_and_out(run, tmp_path, phone):
    assert run("encode", "phone.mp4", "-q", "20")[0] == 0
    for name in ("a/%03d.png", "b"):
        code, out, err = run("decode", "phone.rdc", "-o", name, "--json")
        assert code == 0 and "sound is left out" in err
        made = sorted((tmp_path / name[0]).iterdir())
        assert json.loads(out)["bytes"] == sum(path.stat().st_size for path in made)
        assert [path.name for path in made][:2] == (["000.png", "001.png"] if name[0] == "a" else ["00000.png", "00001.png"])
    assert run("decode", "phone.rdc", "--format", "png", "--frames", "2:5")[0] == 0
    assert sorted(path.name for path in (tmp_path / "phone").iterdir()) == ["00002.png", "00003.png", "00004.png"]
    code, _, err = run("decode", "phone.rdc", "-o", "third/f%d.png", "--every", "3")
    assert sorted(path.name for path in (tmp_path / "third").iterdir()) == ["f0.png", "f3.png", "f6.png"]
    assert "rate" not in err, "pictures have none"
    assert (tmp_path / "third" / "f3.png").read_bytes() == (tmp_path / "a" / "003.png").read_bytes()
    shown = [np.asarray(Image.open(path)) for path in sorted((tmp_path / "a").iterdir())]
    assert run("decode", "phone.rdc", "-o", "back.mkv")[0] == 0
    assert all(np.array_equal(a, b) for a, b in zip(shown, frames_of(tmp_path / "back.mkv")[1], strict=True))
    code, out, _ = run("encode", "a/%03d.png", "-q", "60", "--json")
    assert code == 0 and json.loads(out)["frames"] == 8 and json.loads(out)["output"] == "a.rdc"


def test_pictures_overwrite_nothing_and_need_a_folder(run, tmp_path, phone):
    assert run("encode", "phone.mp4", "-q", "20")[0] == 0
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "00003.png").write_bytes(b"mine")
    for arguments, why in (
        (("-o", "a/%05d.png"), "is there already"),
        (("-o", "one.png"), "need a folder"),
        (("--format", "png", "-o", "one.png"), "pictures need one"),
        (("--format", "png", "-o", "-"), "need a folder"),
    ):
        code, _, err = run("decode", "phone.rdc", *arguments)
        assert code == 1 and why in err
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["00003.png"] and not (tmp_path / "one.png").exists()
    code, _, err = run("encode", "gone/%05d.png")
    assert code == 1 and "no pictures" in err and not (tmp_path / "gone.rdc").exists()


def test_pictures_make_a_video_where_a_rate_is_given(run, tmp_path):
    (tmp_path / "pics").mkdir()
    for number, rgb in enumerate(moving(11)):
        Image.fromarray(rgb).save(tmp_path / "pics" / f"shot{number}.png")
    (tmp_path / "pics" / "notes.txt").write_text("no picture")
    code, _, err = run("encode", "pics", "-o", "p.rdc")
    assert code == 1 and "-o takes a folder for 11 inputs, like p.rdc/; --fps N makes one video of pictures" in err
    code, out, err = run("encode", "pics", "--fps", "12.5", "-q", "20", "--json")
    facts = json.loads(out)
    assert code == 0 and facts["frames"] == 11 and facts["output"] == "pics.rdc" and "1 of 12 files left out" in err
    assert facts["codec"] == "video" and json.loads(run("info", "pics.rdc", "--json")[1])["rate_fps"] == 12.5
    whole = (tmp_path / "pics.rdc").read_bytes()
    files = [f"pics/shot{number}.png" for number in (10, *range(10))]
    for inputs in (["pics/*.png"], files, ["pics/shot%d.png"]):
        assert run("encode", *inputs, "--fps", "12.5", "-q", "20", "-f", "-o", "again.rdc")[0] == 0
        assert (tmp_path / "again.rdc").read_bytes() == whole, "in natural order"
    assert "the inputs together have no name" in run("encode", *files[:2], "--fps", "1")[2]
    assert "standard input is none" in run("encode", "-", "--fps", "1", "-o", "no.rdc")[2]
    for fps in ("0", "-1", "1e9"):
        code, _, err = run("encode", "pics", "--fps", fps, "-o", "no.rdc")
        assert code == 1 and "--fps" in err
    Image.new("RGB", (20, 20)).save(tmp_path / "pics" / "shot5.png")
    code, _, err = run("encode", "pics", "--fps", "10", "-o", "no.rdc")
    assert code == 1 and "all must be of one size" in err and not (tmp_path / "no.rdc").exists()
    code, _, err = run("encode", "pics.rdc", "--fps", "10", "-o", "no.rdc")
    assert code == 1 and "pics.rdc: not an image" in err
    Image.new("RGB", (48, 64)).save(tmp_path / "one.bmp")
    code, out, _ = run("encode", "one.bmp", "--fps", "10", "-q", "0", "-o", "one.rdc")
    assert code == 0 and "1 frame," in out
    info = run("info", "one.rdc")[1]
    assert "48x64, 1 frame, 10 a second" in info and "1 of 1 frame, " in info
    assert "1 frame of 48x64" in run("decode", "one.rdc")[1]


@pytest.mark.parametrize("name", ["phone.mp4", "tone.wav"])
def test_a_rate_of_pictures_goes_with_pictures_alone(run, tmp_path, phone, name):
    Image.new("RGB", (48, 64)).save(tmp_path / "one.png")
    (tmp_path / "tone.wav").write_bytes(b"RIFF\x24\0\0\0WAVEfmt ")
    code, _, err = run("encode", "one.png", name, "--fps", "10", "-o", "no.rdc")
    assert code == 1 and f"{name}: not an image; --fps is for pictures" in err and not (tmp_path / "no.rdc").exists()


def test_only_pictures_that_would_be_overwritten_need_force(run, tmp_path, phone, monkeypatch):
    assert run("encode", "phone.mp4", "-q", "0")[0] == 0
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "00001.png").write_bytes(b"mine")
    assert run("decode", "phone.rdc", "--frames", "0", "-o", "a/%05d.png")[0] == 0
    with monkeypatch.context() as patched:
        patched.setattr(VideoCodec, "load", lambda **options: pytest.fail("loaded in vain"))
        code, _, err = run("decode", "phone.rdc", "--frames", "0:2", "-o", "a/%05d.png")
        assert code == 1 and "a/00000.png is there already; --force overwrites it" in err
    assert (tmp_path / "a" / "00001.png").read_bytes() == b"mine"
    assert run("decode", "phone.rdc", "--frames", "0:2", "-o", "a/%05d.png", "--force")[0] == 0
    assert [Image.open(tmp_path / "a" / f"0000{number}.png").size for number in (0, 1)] == [(48, 64)] * 2


def test_every_nth_frame_plays_as_fast(run, tmp_path):
    (tmp_path / "even.mp4").write_bytes(encoded(moving(9), time_base=Fraction(1, 24)))
    assert run("encode", "even.mp4", "-q", "0")[0] == 0
    for suffix in (".y4m", ".mkv", ".mp4"):
        code, _, err = run("decode", "even.rdc", "--every", "4", "-o", f"part{suffix}")
        assert code == 0 and "note" not in err
        found, _, times = frames_of(tmp_path / f"part{suffix}")
        assert [round(float(time * found.format.time_base), 3) for time in times] == [0, 0.167, 0.333]


def test_one_frame_is_a_picture(run, tmp_path, phone):
    assert run("encode", "phone.mp4", "-q", "20")[0] == 0
    assert run("decode", "phone.rdc", "-o", "all/%d.png")[0] == 0
    code, out, _ = run("decode", "phone.rdc", "--frames", "3", "-o", "still.png", "--json")
    assert code == 0 and json.loads(out)["bytes"] == (tmp_path / "still.png").stat().st_size
    assert (tmp_path / "still.png").read_bytes() == (tmp_path / "all" / "3.png").read_bytes()
    code, _, err = run("decode", "phone.rdc", "--frames", "3:5", "-o", "two.png")
    assert code == 1 and "2 frames need a folder" in err and not (tmp_path / "two.png").exists()


def test_a_picture_that_comes_after_the_sound_still_does(run, tmp_path):
    source = encoded(moving(8), container="mpegts", tone_hz=440)
    (tmp_path / "late.ts").write_bytes(source)
    first = frames_of(tmp_path / "late.ts")[2][0]
    assert run("encode", "late.ts", "-q", "20")[0] == 0 and run("decode", "late.rdc", "-o", "late.mp4")[0] == 0
    assert abs(frames_of(tmp_path / "late.mp4")[2][0] - first) <= 90 < first, "MP4 delays a track by whole milliseconds"


def test_sound_is_left_out_where_it_is_asked_for(run, tmp_path, phone):
    sizes = {}
    for audio in ("copy", "none"):
        assert run("encode", "phone.mp4", "-f", "--audio", audio, "-o", f"{audio}.rdc")[0] == 0
        sizes[audio] = (tmp_path / f"{audio}.rdc").stat().st_size
    assert sizes["copy"] - sizes["none"] > 1000
    assert run("encode", "phone.mp4", "-f", "--audio", "loud")[0] != 0


def test_a_recording_of_a_screen_costs_what_changes(run, tmp_path):
    """Thirty seconds, mostly still."""
    screen = np.full((64, 96, 3), 250, np.uint8)
    frames = []
    for index in range(150):
        if index % 50 == 49:
            screen = screen.copy()
            screen[8:20, 10 : 10 + index // 3] = (20, 60, 140)
        frames.append(screen)
    data = encoded(frames, time_base=Fraction(1, 5))
    (tmp_path / "screen.mp4").write_bytes(data)
    assert run("encode", "screen.mp4", "-q", "60", "--gop", "200")[0] == 0
    assert run("decode", "screen.rdc", "-o", "screen.mkv")[0] == 0
    source, pictures, _ = frames_of(tmp_path / "screen.mp4")
    found, shown, back = frames_of(tmp_path / "screen.mkv")
    assert len(shown) == 150 and abs(back[-1] * found.format.time_base - 149 / 5) < 0.002
    assert psnr_db(shown[::10], pictures[::10]) > 32
    assert (tmp_path / "screen.rdc").stat().st_size < 0.5 * len(data) + 3000


def test_a_moving_gif_survives(run, tmp_path):
    pictures = [Image.fromarray(frame) for frame in drawn_clip(5, 40, 56)]
    pictures[0].save(tmp_path / "a.gif", save_all=True, append_images=pictures[1:], duration=[80, 120, 80, 80, 200], loop=0)
    assert run("encode", "a.gif", "-q", "80")[0] == 0
    assert run("decode", "a.rdc", "-o", "b.gif")[0] == 0
    with Image.open(tmp_path / "b.gif") as back:
        durations = []
        for index in range(back.n_frames):
            back.seek(index)
            durations.append(back.info["duration"])
    assert durations == [80, 120, 80, 80, 200]
    pictures[0].save(tmp_path / "still.gif")
    assert json.loads(run("encode", "still.gif", "--json")[1])["codec"] == "image"


def test_parts(run, tmp_path, phone):
    run("encode", "phone.mp4", "--gop", "3")
    run("decode", "phone.rdc", "-o", "all.mkv")
    whole = frames_of(tmp_path / "all.mkv")[1]
    for options, wanted in (
        (("--frames", "2:5"), range(2, 5)), (("--frames", "6:"), range(6, 8)), (("--every", "3"), range(0, 8, 3)),
        (("--from", "0.1", "--to", "0.2"), [i for i, t in enumerate(PHONE_TIMES) if 9000 <= t < 18000]),
    ):  # fmt: skip
        assert run("decode", "phone.rdc", "-f", "-o", "part.mkv", *options)[0] == 0
        assert np.array_equal(np.stack(frames_of(tmp_path / "part.mkv")[1]), np.stack([whole[i] for i in wanted]))
    for options in (("--frames", "8"), ("--frames", "5:99"), ("--from", "9"), ("--frames", "1:2", "--from", "0")):
        code, _, error = run("decode", "phone.rdc", "-f", "-o", "no.mkv", *options)
        assert code != 0 and error and not (tmp_path / "no.mkv").exists()


def test_a_rate_is_met_from_below(run, tmp_path):
    data = encoded(list(drawn_clip(8, 96, 128, speed=3)))
    (tmp_path / "pan.mp4").write_bytes(data)
    run("encode", "pan.mp4", "-q", "50")
    size = (tmp_path / "pan.rdc").stat().st_size
    code, out, _ = run("encode", "pan.mp4", "-f", "--size", str(size), "--json")
    facts = json.loads(out)
    assert code == 0 and 0.95 * size < facts["bytes"] <= size, "so small a file has fewer bytes at some higher qualities"
    code, out, _ = run("encode", "pan.mp4", "-f", "--size", str(size), "--effort", "1", "--json")
    assert code == 0 and 0.95 * size < json.loads(out)["bytes"] <= size
    run("encode", "pan.mp4", "-f", "-q", "50")
    plain = (tmp_path / "pan.rdc").read_bytes()
    run("encode", "pan.mp4", "-f", "-q", "50", "--effort", "1", "--tune", "eyes")
    assert plain != (tmp_path / "pan.rdc").read_bytes() and run("decode", "pan.rdc", "-f")[0] == 0
    code, _, error = run("encode", "pan.mp4", "-f", "--tune", "eyes", "--effort", "0", "-o", "no.rdc")
    assert code == 1 and "effort 0" in error
    code, _, error = run("encode", "pan.mp4", "-f", "--kbps", "0.1", "-o", "no.rdc")
    assert code == 1 and "too few" in error and not (tmp_path / "no.rdc").exists()


def test_a_damaged_file_is_named_and_salvaged(run, tmp_path, phone):
    run("encode", "phone.mp4", "--gop", "3")
    stream = bytearray((tmp_path / "phone.rdc").read_bytes())
    info = json.loads(run("info", "phone.rdc", "--json")[1])
    stream[info["chunks"][1]["offset"] + 5] ^= 1
    (tmp_path / "damaged.rdc").write_bytes(stream)
    code, _, error = run("decode", "damaged.rdc", "-o", "no.mkv")
    assert code == 1 and "chunk 1" in error and not (tmp_path / "no.mkv").exists()
    code, out, _ = run("decode", "damaged.rdc", "--salvage", "-o", "most.mkv", "--json")
    assert code == 0 and json.loads(out)["lost_groups"] == [1]
    assert (frames_of(tmp_path / "most.mkv")[1][4] == 128).all()


def flipped(path, kind, at=-20):
    """A copy of a file with a byte of its metadata chunk ``kind`` changed."""
    stream, header = parse(path.read_bytes())
    index = next(i for i in range(header.groups, len(stream.entries)) if bytes(stream.chunk(i))[:4] == kind)
    data, entry = bytearray(path.read_bytes()), stream.entries[index]
    data[entry.offset + (entry.length if at < 0 else 0) + at] ^= 1
    path.with_name("flipped.rdc").write_bytes(data)


def test_damage_to_metadata_costs_that_chunk_alone(run, tmp_path, phone):
    assert run("encode", "phone.mp4", "-q", "10")[0] == 0
    flipped(tmp_path / "phone.rdc", b"SOUN")
    assert run("decode", "flipped.rdc", "-o", "no.mkv")[0] == 1 and not (tmp_path / "no.mkv").exists()
    code, _, err = run("decode", "flipped.rdc", "--salvage", "-o", "silent.mkv")
    assert code == 0 and "lost: sound (" in err and "times" not in err and "tags" not in err
    assert frames_of(tmp_path / "silent.mkv")[2] == [round(time / 90) for time in PHONE_TIMES]
    assert VideoFile(tmp_path / "silent.mkv").sound() is None
    found = VideoCodec.load(device="cpu").decode((tmp_path / "flipped.rdc").read_bytes(), salvage=True)
    assert set(found.extras) == {b"TIME"} and any("sound" in notice for notice in found.notices)
    flipped(tmp_path / "phone.rdc", b"TIME", at=6)
    code, _, err = run("decode", "flipped.rdc", "--salvage", "-o", "even.mkv")
    assert code == 0 and "lost: times of frames (" in err and "sound" not in err
    assert packets_of((tmp_path / "even.mkv").read_bytes()) == packets_of(phone)
    flipped(tmp_path / "phone.rdc", b"TIME", at=0)
    code, _, err = run("decode", "flipped.rdc", "--salvage", "-f", "-o", "even.mkv")
    assert code == 0 and "lost: metadata (" in err


def swapped(path, kind, body):
    """A copy of a file whose metadata chunk ``kind`` holds something else, with a checksum that says so."""
    stream, _ = parse(path.read_bytes())
    chunks = [(entry.kind, stream.chunk(index)) for index, entry in enumerate(stream.entries)]
    chunks = [one for one in chunks if one[1][:4] != kind] + [(container.METADATA, kind + body)]
    data = container.write(stream_id=stream.stream_id, weights=stream.weights, signal=stream.signal, chunks=chunks)
    path.with_name("swapped.rdc").write_bytes(data)


NOISE = np.random.default_rng(5).bytes(20)


@pytest.mark.parametrize(
    ("kind", "body", "name"),
    [
        (b"TIME", NOISE, "times of frames"),
        (b"TIME", pack_times([0] * 8, 1), "times of frames"),
        (b"TAGS", b"{", "tags"),
        (b"SOUN", NOISE, "sound"),
        (b"SOUN", b"", "sound"),
        (b"SPCH", NOISE, "sound"),
    ],
    ids=["times", "equal times", "tags", "sound", "no sound", "speech"],
)
def test_metadata_that_cannot_be_read_is_lost_alone(run, tmp_path, phone, kind, body, name):
    assert run("encode", "phone.mp4", "-q", "0", "--audio", "none" if kind == b"SPCH" else "copy")[0] == 0
    swapped(tmp_path / "phone.rdc", kind, body)
    code, _, err = run("verify", "swapped.rdc")
    assert code == 1 and f": {name}: " in err
    assert run("decode", "swapped.rdc", "-o", "no.mkv")[0] == 1 and not (tmp_path / "no.mkv").exists()
    for options in ((), ("--frames", "2:5")):
        code, _, err = run("decode", "swapped.rdc", "--salvage", "-f", "-o", "most.mkv", *options)
        assert code == 0 and err.count("lost: ") == 1 and f"lost: {name} (" in err
        video, frames, _ = frames_of(tmp_path / "most.mkv")
        assert len(frames) == (3 if options else 8) and (video.sound() is None) == (name == "sound")


def test_python_takes_the_path_of_a_video(run, tmp_path, phone):
    assert run("encode", "phone.mp4", "-q", "10", "--device", "cpu")[0] == 0
    codec, expected = VideoCodec.load(device="cpu"), (tmp_path / "phone.rdc").read_bytes()
    assert codec.encode(str(tmp_path / "phone.mp4"), quality=10) == expected, "times and sound and all"
    assert codec.encode(io.BytesIO(phone), quality=10) == expected
    for number, rgb in enumerate(moving(2)):
        Image.fromarray(rgb).save(tmp_path / f"{number}.png")
    assert codec.decode(codec.encode(tmp_path / "%d.png", rate=10, quality=0)).rate == 10
    with pytest.raises(FileNotFoundError):
        codec.encode("gone.mp4")
    (tmp_path / "text.mp4").write_text("text " * 50)
    with pytest.raises(InputError, match="no video that FFmpeg reads"):
        codec.encode(tmp_path / "text.mp4")


def test_the_bar_counts_frames(phone):
    desk = Desk("cpu")
    FACE.encode(phone, EncodeOptions(quality=0), desk)
    assert desk.unit == "frames"


def test_messages_say_what_is_there_and_what_can_be(run, tmp_path, phone):
    assert run("encode", "phone.mp4", "-q", "10")[0] == 0
    for options, why in (
        (("--frames", "5", "-o", "still.jpg"), "the output still.jpg; its name must end in one of .mkv, .mp4, .webm,"),
        (("-o", "x.avi"), "the output x.avi; its name must end in one of .mkv, .mp4, .webm, .y4m, .gif, .png"),
        (("--from", "10"), "no frame from 10 s on; the video is 0.31 s long, its last frame at 0.28 s"),
        (("--from", "10", "--to", "11"), "no frame from 10 to 11 s;"),
        (("--frames", "5:200"), "frames 5:200; the video has frames 0..7, and all of them are 0:8"),
    ):
        code, _, err = run("decode", "phone.rdc", *options)
        assert code == 1 and why in err and err.count("\n") == 1, err


def test_a_rate_that_the_sound_exceeds_is_refused_at_once(run, tmp_path, phone, monkeypatch):
    facts = json.loads(run("encode", "phone.mp4", "-q", "0", "--json")[1])
    sound = facts["rate_kbps"] * facts["sound_bytes"] / facts["bytes"]
    code, _, err = run("encode", "phone.mp4", "--kbps", str(round(sound + 1)), "-o", "no.rdc")
    assert code == 1 and f"{sound + 1:.0f}.0 kbit/s are too few: quality 0 needs {facts['rate_kbps']:.1f} kbit/s" in err
    assert f"the sound {sound:.1f} kbit/s of them; --audio none leaves it out" in err
    monkeypatch.setattr(targets, "written_at", lambda *arguments: pytest.fail("encoded in vain"))
    code, _, err = run("encode", "phone.mp4", "--kbps", "20", "-o", "no.rdc")
    assert code == 1 and "20.0 kbit/s are too few: the sound alone has" in err and "--audio speech makes it smaller" in err
    code, _, err = run("encode", "phone.mp4", "--size", "1kB", "-o", "no.rdc")
    assert code == 1 and "1000 bytes are too few: the sound alone has" in err and not (tmp_path / "no.rdc").exists()


def test_info_names_sound_metadata_and_each_frame(run, tmp_path, phone):
    encoded_facts = json.loads(run("encode", "phone.mp4", "-q", "10", "--gop", "5", "--json")[1])
    facts = json.loads(run("info", "phone.rdc", "--json")[1])
    assert [chunk["kind"] for chunk in facts["chunks"]] == ["data", "data", "TIME", "SOUN"] and "frame_table" not in facts
    assert (facts["sound"], facts["sound_codec"]) == ("copied", "AAC")
    assert facts["sound_bytes"] == encoded_facts["sound_bytes"] == facts["metadata"]["SOUN"] - 4
    assert facts["bpp"] == pytest.approx(encoded_facts["bpp"], abs=1e-5)
    table = json.loads(run("info", "phone.rdc", "--frames", "--json")[1])["frame_table"]
    assert [row["frame"] for row in table] == list(range(8)) and [row["group"] for row in table] == [0] * 5 + [1] * 3
    assert [row["kind"] for row in table] == ["intra", *["inter"] * 4, "intra", *["inter"] * 2]
    for index, bits in enumerate(facts["group_bits"]):
        assert abs(sum(row["bits"] for row in table if row["group"] == index) - bits) <= 96, "check and whole words"
    code, out, _ = run("info", "phone.rdc", "--frames")
    assert code == 0 and "AAC, " in out and "copied" in out and out.count("intra") == 2 and out.count("inter") == 6
    data = bytearray((tmp_path / "phone.rdc").read_bytes())
    data[facts["chunks"][1]["offset"] + 9] ^= 1
    (tmp_path / "bad.rdc").write_bytes(data)
    code, _, err = run("info", "bad.rdc", "--frames")
    assert code == 1 and "group 1" in err and run("info", "bad.rdc")[0] == 0
    Image.new("RGB", (20, 20)).save(tmp_path / "still.png")
    assert run("encode", "still.png")[0] == 0
    assert "--frames: only for videos, and this is an image" in run("info", "still.rdc", "--frames")[2]


def test_the_order_of_frames_can_be_asked_for(run, phone):
    for option, order, references in (("--low-delay", "as shown", [3]), ("--pyramids", "pyramids of 8", [3, 5])):
        assert run("encode", "phone.mp4", option, "-q", "10", "-o", f"{order[:2]}.rdc")[0] == 0
        assert order in run("info", f"{order[:2]}.rdc")[1]
        table = json.loads(run("info", f"{order[:2]}.rdc", "--frames", "--json")[1])["frame_table"]
        assert table[4]["references"] == references


ENDED = """
import signal, sys
from rdcodec.codecs.cli.main import command
from rdcodec.codecs.video.groups import GroupPass
from rdcodec.codecs.video import codec
code = GroupPass.code
def told(*args):
    print("under way", flush=True)
    return code(*args)
GroupPass.code = told
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
signal.signal(signal.SIGHUP, signal.SIG_DFL)
sys.argv = ["codec", "encode", "%03d.png", "-o", "long.rdc", "--low-delay"]
command()
"""


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no such signals here")
@pytest.mark.parametrize("ends", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_who_ends_it_finds_no_half_of_a_file(tmp_path, ends):
    for number, frame in enumerate(drawn_clip(300, 96, 128)):  # PyAV, which reads videos, may take Ctrl-C for damage
        Image.fromarray(frame).save(tmp_path / f"{number:03}.png")
    begin = [sys.executable, "-c", ENDED]
    with subprocess.Popen(begin, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "under way\n", process.stderr.read()
        assert [path.suffix for path in tmp_path.iterdir() if path.suffix != ".png"] == [".part"]
        process.send_signal(getattr(signal, ends))
        _, told = process.communicate(timeout=60)
    assert process.returncode == 128 + getattr(signal, ends) and "Traceback" not in told, told
    assert {path.suffix for path in tmp_path.iterdir()} == {".png"}


def test_info_of_a_video_loads_no_codec(run, tmp_path, talk):
    for audio, shown in (("speech", "by the speech codec, "), ("none", "none")):
        assert run("encode", "talk.mkv", "-q", "0", "-f", "--audio", audio)[0] == 0
        code = "import sys; from rdcodec.codecs.cli.main import main; sys.argv = ['codec', 'info', 'talk.rdc']\n"
        code += "try: main()\nfinally: assert not {'torch', 'numpy', 'av', 'PIL'} & set(sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.returncode == 0 and shown in done.stdout, done.stderr


def test_what_looks_like_a_video():
    still, moving_gif = io.BytesIO(), io.BytesIO()
    picture = Image.new("RGB", (8, 8))
    picture.save(still, "GIF")
    picture.save(moving_gif, "GIF", save_all=True, append_images=[Image.new("RGB", (8, 8), "red")])
    sound = io.BytesIO()
    with av.open(sound, "w", format="mp4") as out:
        track = out.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        out.mux(track.encode(frame))
        out.mux(track.encode())
    mkv = encoded(moving(2), container="matroska")
    assert [looks_like_video(data) for data in (encoded(moving(2)), mkv, moving_gif.getvalue())] == [True] * 3
    assert [looks_like_video(data) for data in (still.getvalue(), b"RIFF....WAVEfmt ", b"", b"plain text")] == [False] * 4
