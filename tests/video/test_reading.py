"""Videos of every kind that people have, made here, to frames: pixels, times, orientation and sound."""

from __future__ import annotations

import io
from collections import Counter
from contextlib import suppress
from fractions import Fraction

import av
import numpy as np
import pytest
import video_clips
from PIL import Image
from rdcodec.codecs.video import film
from rdcodec.codecs.video.reading import VideoFile
from rdcodec.entropy_models.errors import InputError
from video_clips import as_frame, encoded, moving, packets_of, quarters

PHONE_TIMES = [0, 3000, 6700, 11100, 14100, 17800, 22200, 25200, 28900, 33300, 36300, 40000]


def phone(rotation: int = 90, container: str = "mp4", **more) -> bytes:
    """A short clip as of a phone: lying on its side, of variable frame rate, with AAC sound."""
    return encoded(
        moving(12), times=PHONE_TIMES, time_base=Fraction(1, 90000), last=3000, rotation=rotation, tone_hz=440,
        container=container, muxer={"video_track_timescale": "90000"} if container == "mp4" else None, **more,
    )  # fmt: skip


def read(source, start=0):
    video = VideoFile(source)
    return video, list(video.frames(start))


def mean_error(frames, expected):
    return max(float(np.abs(frame.rgb.astype(int) - rgb).mean()) for frame, rgb in zip(frames, expected, strict=True))


def test_a_phone_clip_keeps_its_times_and_stands_upright():
    video, frames = read(phone())
    assert (video.format.height, video.format.width) == (64, 48) and video.format.time_base == Fraction(1, 90000)
    assert [frame.time for frame in frames] == PHONE_TIMES and video.count == 12
    assert [frame.duration for frame in frames[:-1]] == np.diff(PHONE_TIMES).tolist()
    assert mean_error(frames, [np.rot90(rgb) for rgb in moving(12)]) < 4
    assert video.notices == [] and video.format.subsampling == "420" and video.format.matrix == "bt601"


@pytest.mark.parametrize("turn", [0, 90, 180, 270])
@pytest.mark.parametrize("mirror", [False, True])
def test_each_orientation_is_what_ffmpeg_shows(turn, mirror):
    """FFmpeg's matrix turns against the clock, then mirrors left to right."""
    picture = quarters(32, 48)
    target = io.BytesIO()
    with av.open(target, "w", format="mp4") as out:
        track = out.add_stream("libx264", rate=25, options={"crf": "1"})
        track.height, track.width, track.pix_fmt = 32, 48, "yuv444p"
        track.set_display_rotation(turn, hflip=mirror)
        out.mux(track.encode(as_frame(picture, "yuv444p")))
        out.mux(track.encode())
    video, (frame,) = read(target.getvalue())
    expected = np.rot90(picture, turn // 90)[:, :: -1 if mirror else 1]
    assert frame.rgb.shape == expected.shape == (video.format.height, video.format.width, 3)
    assert np.abs(frame.rgb.astype(int) - expected).mean() < 6


def test_sound_is_copied_packet_by_packet():
    source = phone()
    with VideoFile(source) as video:
        sound = video.sound()
        assert packets_of(sound) == packets_of(source)
        with av.open(io.BytesIO(sound)) as container:
            assert container.format.name.startswith("matroska") and container.streams.audio[0].codec_context.name == "aac"
            first = next(packet for packet in container.demux(audio=0) if packet.size)
            assert first.pts * first.time_base == Fraction(-21, 1000)  # what AAC needs before its first sample
    assert VideoFile(encoded(moving(2))).sound() is None


def test_transport_streams_begin_at_zero_and_sound_stays_beside_the_picture():
    source = phone(rotation=0, container="mpegts")
    with av.open(io.BytesIO(source)) as container:
        apart = container.streams.video[0].start_time - container.streams.audio[0].start_time
    video, frames = read(source)
    assert frames[0].time == apart > 0
    assert np.diff([frame.time for frame in frames]).tolist() == np.diff(PHONE_TIMES).tolist()
    with av.open(io.BytesIO(VideoFile(source).sound())) as container:
        assert container.streams.audio[0].start_time in (None, 0)


@pytest.mark.parametrize("container", ["mp4", "matroska", "mpegts", "avi"])
def test_frames_from_the_middle_are_those_of_a_whole_pass(container):
    source = encoded(moving(40), container=container, options={"g": "8"})
    video, frames = read(source)
    assert len(frames) == 40 and video.times().tolist() == [frame.time for frame in frames]
    for start in (1, 7, 8, 20, 39):
        later = list(video.frames(start))
        assert [(one.time, one.duration) for one in later] == [(one.time, one.duration) for one in frames[start:]]
        assert all(np.array_equal(a.rgb, b.rgb) for a, b in zip(later, frames[start:], strict=True))
    with pytest.raises(InputError, match="frame 40 of a video with 40 frames"):
        list(video.frames(40))


def test_a_seek_decodes_and_converts_only_what_it_needs(monkeypatch):
    video = VideoFile(encoded(moving(60), options={"g": "10", "bf": "0"}))
    done = Counter()

    def count(owner, name):
        inner = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda self, frame: done.update([name]) or inner(self, frame))

    count(film._Clock, "time_of")
    count(film.Film, "_pixels")
    next(video.frames(45))
    assert done == {"time_of": 7, "_pixels": 2}  # from the group's first frame to the one after the first wanted


def test_several_iterators_share_a_file(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(encoded(moving(10)))
    for source in (path, str(path), path.read_bytes(), path.open("rb")):
        with VideoFile(source) as video:
            pairs = zip(video.frames(), video.frames(), strict=True)
            assert sum(np.array_equal(a.rgb, b.rgb) for a, b in pairs) == 10


def test_the_frame_at_a_time():
    with VideoFile(phone()) as video:
        assert [video.index_at(second) for second in (-1, 0, 0.0333, 0.0334, 0.2, 9)] == [0, 0, 0, 1, 5, 11]


@pytest.mark.parametrize(
    ("form", "subsampling", "depth", "error"),
    [
        ("yuv420p", "420", 8, 3.0), ("yuv422p", "422", 8, 2.5), ("yuv444p", "444", 8, 1.5), ("yuv420p10le", "420", 10, 3.0),
        ("yuv422p10le", "422", 10, 2.5), ("yuv444p12le", "444", 12, 1.0), ("yuv411p", "420", 8, 5.0),
        ("bgr0", "rgb", 8, 0.0), ("gbrp10le", "rgb", 10, 0.0),
    ],
)  # fmt: skip
@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("matrix", [("bt601", 5), ("bt709", 1), ("bt2020nc", 9)])
def test_every_sampling_range_and_matrix_gives_the_pixels_back(form, subsampling, depth, error, full_range, matrix):
    source = encoded(moving(3), "ffv1", "matroska", form, full_range=full_range, matrix=matrix[1])
    video, frames = read(source)
    assert (video.format.subsampling, video.format.depth) == (subsampling, depth)
    if subsampling != "rgb":
        assert (video.format.full_range, video.format.matrix) == (full_range, matrix[0])
    assert mean_error(frames, moving(3)) <= error
    assert video.notices == ([f"{depth} bits a sample are rounded to 8"] if depth > 8 else [])


def test_a_matrix_that_is_not_told_is_guessed_from_the_size():
    for (height, width), matrix in (((48, 64), "bt601"), ((48, 1280), "bt709"), ((577, 16), "bt709")):
        source = encoded([np.zeros((height, width, 3), np.uint8)], "ffv1", "matroska", "yuv444p", matrix=2)
        assert VideoFile(source).format.matrix == matrix


@pytest.mark.parametrize(("full_range", "exact"), [(True, 0), (False, 1)])
def test_gray_of_both_ranges(full_range, exact):
    levels = np.tile(np.arange(16, 232, 3, dtype=np.uint8), (16, 1))
    coded = levels if full_range else np.rint(levels * (219 / 255) + 16).astype(np.uint8)
    target = io.BytesIO()
    with av.open(target, "w", format="matroska") as out:
        track = out.add_stream("ffv1", rate=25)
        track.height, track.width, track.pix_fmt = *coded.shape, "gray"
        track.color_range = 2 if full_range else 1
        out.mux(track.encode(av.VideoFrame.from_ndarray(coded, format="gray")))
        out.mux(track.encode())
    video, (frame,) = read(target.getvalue())
    assert video.format.subsampling == "gray" and video.format.full_range == full_range
    assert np.abs(frame.rgb.astype(int) - levels[..., None]).max() <= exact


def test_extreme_blues_do_not_wrap_round():
    """swscale's own way to 8 bits makes no blue at all of these."""
    frame = av.VideoFrame(16, 16, "yuv444p")
    for plane, value in zip(frame.planes, (248, 248, 252), strict=True):
        plane.update(bytes([value]) * plane.buffer_size)
    target = io.BytesIO()
    with av.open(target, "w", format="matroska") as out:
        track = out.add_stream("ffv1", rate=25)
        track.height, track.width, track.pix_fmt, track.color_range, track.colorspace = 16, 16, "yuv444p", 1, 5
        out.mux(track.encode(frame))
        out.mux(track.encode())
    assert read(target.getvalue())[1][0].rgb[8, 8].tolist() == [255, 122, 255]


@pytest.mark.parametrize(("height", "width"), [(31, 47), (16, 17), (33, 16)])
def test_odd_sizes(height, width):
    video, frames = read(encoded(moving(3, height, width), "ffv1", "matroska"))
    assert (video.format.height, video.format.width) == frames[0].rgb.shape[:2] == (height, width)
    assert mean_error(frames, moving(3, height, width)) < 4


def test_a_gif_keeps_its_delays():
    pictures = [Image.fromarray(rgb) for rgb in moving(4)]
    target = io.BytesIO()
    pictures[0].save(target, "GIF", save_all=True, append_images=pictures[1:], duration=[40, 100, 250, 70], loop=0)
    video, frames = read(target.getvalue())
    assert video.format.time_base == Fraction(1, 100) and video.format.subsampling == "rgb"
    assert [(frame.time, frame.duration) for frame in frames] == [(0, 4), (4, 10), (14, 25), (39, 7)]
    assert mean_error(frames, moving(4)) < 12


def test_y4m_and_avi_and_raw_h264():
    for codec, container in (("rawvideo", "yuv4mpegpipe"), ("libx264", "avi"), ("libx264", "h264"), ("mjpeg", "avi")):
        form = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        video, frames = read(encoded(moving(6), codec, container, form, full_range=codec == "mjpeg"))
        assert [frame.time for frame in frames] == list(range(6)) == video.times().tolist()
        assert {frame.duration for frame in frames} == {1} and video.format.time_base == Fraction(1, 25)
        assert mean_error(frames, moving(6)) < 6


def test_a_still_recording_of_a_screen():
    screen = quarters(48, 64)
    shown = [screen] * 50 + [screen[::-1].copy()] * 50
    video, frames = read(encoded(shown, form="yuv444p"))
    assert len(frames) == 100 and mean_error(frames, shown) < 2


@pytest.fixture
def shots(tmp_path):
    for number, rgb in enumerate(moving(11)):
        Image.fromarray(rgb).save(tmp_path / f"shot{number}.png")
    return tmp_path


@pytest.mark.parametrize("name", ["", "*.png", "shot%d.png"])
def test_folders_and_patterns_in_the_order_of_numbers(shots, name):
    (shots / "notes.txt").write_text("no picture")
    with VideoFile(shots / name, rate=Fraction(30000, 1001)) as video:
        frames = list(video.frames())
        assert video.format.rate == Fraction(30000, 1001) == 1 / video.format.time_base and video.count == 11
        assert [frame.time for frame in frames] == list(range(11))
        assert all(np.array_equal(frame.rgb, rgb) for frame, rgb in zip(frames, moving(11), strict=True))
        assert np.array_equal(next(video.frames(10)).rgb, moving(11)[10]) and video.sound() is None
    assert VideoFile(shots).format.rate == 25


def test_pictures_that_do_not_fit_are_named(shots):
    Image.new("RGB", (20, 20)).save(shots / "shot2.png")
    with pytest.raises(InputError, match=r"shot2\.png is of 20x20 pixels"):
        list(VideoFile(shots).frames())
    Image.new("RGBA", (64, 48), (1, 2, 3, 99)).save(shots / "shot2.png")
    with pytest.raises(InputError, match=r"shot2\.png is not opaque"):
        list(VideoFile(shots).frames())
    (shots / "shot2.png").write_text("text")
    with pytest.raises(InputError, match=r"shot2\.png: not an image"):
        list(VideoFile(shots).frames())
    with pytest.raises(InputError, match="no pictures there"):
        VideoFile(shots / "*.jpg")


def test_alpha_is_refused_where_it_is_used():
    opaque = [np.concatenate([rgb, np.full((48, 64, 1), 255, np.uint8)], -1) for rgb in moving(3)]
    _, frames = read(encoded(opaque, "png", "mov", "rgba"))
    assert mean_error(frames, moving(3)) == 0
    opaque[2] = opaque[2].copy()
    opaque[2][5, 5, 3] = 254
    with pytest.raises(InputError, match=r"after 0\.08 s: it is not opaque.*no alpha channel"):
        read(encoded(opaque, "png", "mov", "rgba"))
    with pytest.raises(InputError, match="alpha channel"):
        read(encoded(opaque, "libvpx-vp9", "webm", "yuva420p"))


@pytest.mark.parametrize(
    ("codec", "container", "form"),
    [
        ("libx264", "mp4", "yuv420p"), ("libx264", "matroska", "yuv420p"), ("rawvideo", "yuv4mpegpipe", "yuv420p"),
        ("libx264", "avi", "yuv420p"), ("gif", "gif", "rgb8"),
    ],
)  # fmt: skip
def test_what_is_cut_off_is_refused_at_once(codec, container, form):
    source = encoded(moving(8), codec, container, form)
    read(source)
    for size in (len(source) - 1, len(source) * 2 // 3, len(source) // 3):
        with pytest.raises(InputError, match="cut off"):
            VideoFile(source[:size])


def test_what_is_no_video_is_refused(tmp_path):
    picture = io.BytesIO()
    Image.new("RGB", (20, 20)).save(picture, "PNG")
    sound = video_clips.encoded(moving(12), tone_hz=440)
    only_sound = VideoFile(sound).sound()
    for name, data, why in (
        ("a.mp4", b"hello, this is text\n" * 50, "no video that FFmpeg reads"),
        ("a.txt", b"hello, this is text\n" * 50, "no video that FFmpeg reads"),
        ("a.mp4", b"", "empty"),
        ("a.png", picture.getvalue(), "no video, but"),
        ("a.mka", only_sound, "no video track in this Matroska"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match=why):
            VideoFile(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        VideoFile(tmp_path / "gone.mp4")


def test_a_list_of_files_opens_none_of_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.ts").write_bytes(encoded(moving(3), container="mpegts"))
    playlist = b"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nother.ts\n#EXT-X-ENDLIST\n"
    for name, text in (("a.ffconcat", b"ffconcat version 1.0\nfile 'other.ts'\n"), ("a.m3u8", playlist)):
        (tmp_path / name).write_bytes(text)
        with pytest.raises(InputError, match="no video that FFmpeg reads"):
            VideoFile(tmp_path / name)


def test_frames_of_another_size_are_refused():
    halves = [encoded(moving(3, *size), container="mpegts") for size in ((48, 64), (64, 96))]
    with pytest.raises(InputError, match="change from 64x48 to 96x64"):
        read(b"".join(halves))


def test_damage_that_ffmpeg_mends_is_a_notice_and_other_damage_an_error():
    told = set()
    source = encoded(moving(30))
    for start in range(len(source) // 3, len(source) // 2, 90):  # whether FFmpeg sees one depends on where it falls
        with suppress(InputError):
            told.update(read(source[:start] + bytes(20) + source[start + 20 :])[0].notices)
    assert told == {"some frames are damaged; they are shown as FFmpeg mends them"}
    source = bytearray(encoded(moving(30), "png", "mov", "rgb24"))
    source[len(source) // 2 : len(source) // 2 + 9] = bytes(9)
    with pytest.raises(InputError, match=r"after 0\.\d\d s: damaged: \w+"):
        read(bytes(source))


def test_streams_that_cannot_seek(monkeypatch):
    class Pipe(io.BytesIO):
        def seekable(self):
            return False

        def seek(self, *_):
            raise OSError("not seekable")

    source = encoded(moving(6))
    assert len(read(Pipe(source))[1]) == 6
    monkeypatch.setattr("sys.stdin", type("Stdin", (), {"buffer": Pipe(source)}))
    assert len(read("-")[1]) == 6


def test_tags_are_read():
    assert VideoFile(encoded(moving(2), metadata={"title": "A walk", "encoder": "x"})).tags == {"title": "A walk"}
