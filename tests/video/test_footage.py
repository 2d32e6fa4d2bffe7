"""Reading frames for measurements: pixels, planes, matrices and ranges."""

from __future__ import annotations

import io
from fractions import Fraction

import numpy as np
import pytest
from rdcodec.codecs.video.footage import Colours, Footage, planes_of, read_footage, split
from rdcodec.codecs.video.references import REFERENCES
from rdcodec.entropy_models.errors import InputError

av = pytest.importorskip("av")
from av.video.reformatter import Colorspace, Interpolation


def written(planes: np.ndarray, *, matrix: int = 6, color_range: int = 1, pix_fmt: str = "yuv420p") -> bytes:
    """A lossless file of planes."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as container:
        stream = container.add_stream("ffv1", rate=Fraction(30000, 1001))
        stream.width, stream.height = planes.shape[2], planes.shape[1] * 2 // 3
        context = stream.codec_context
        context.pix_fmt, context.colorspace, context.color_range = pix_fmt, matrix, color_range
        for index, one in enumerate(planes):
            frame = av.VideoFrame.from_ndarray(one, format="yuv420p")
            frame.pts, frame.time_base = index, Fraction(1001, 30000)
            frame.colorspace, frame.color_range = matrix, color_range
            if pix_fmt != "yuv420p":
                frame = frame.reformat(format=pix_fmt)
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
    return buffer.getvalue()


def flat(y: int, u: int, v: int) -> np.ndarray:
    """Two frames of one colour, 32x16."""
    frame = np.concatenate([np.full(512, y), np.full(128, u), np.full(128, v)]).reshape(24, 32)
    return np.stack([frame, frame]).astype(np.uint8)


@pytest.mark.parametrize(
    ("matrix", "color_range", "expected"),
    [(6, 1, (255, 0, 0)), (5, 1, (255, 0, 0)), (1, 1, (255, 25, 0)), (2, 1, (255, 0, 0)), (6, 2, (238, 14, 15))],
)
def test_matrix_and_range_are_those_of_the_file(matrix, color_range, expected):
    """Red of BT.601 in limited range: Y 81, U 90, V 240 (rounded)."""
    footage = read_footage(written(flat(81, 90, 240), matrix=matrix, color_range=color_range))
    assert footage.rgb.shape == (2, 16, 32, 3) and footage.rate == Fraction(30000, 1001)
    assert footage.rgb[1, 8, 16].tolist() == pytest.approx(expected, abs=1)
    assert footage.colours == Colours(6 if matrix == 2 else matrix, color_range == 2)


@pytest.mark.parametrize("colours", [Colours(1), Colours(6), Colours(6, True)])
def test_planes_become_pixels_and_pixels_planes(moving, colours):
    planes = planes_of(moving.rgb[:4], colours)
    footage = read_footage(written(planes, matrix=colours.matrix, color_range=1 + colours.full_range))
    assert footage.colours == colours and np.array_equal(footage.planes(), planes)
    again = planes_of(footage.rgb, colours)
    for one, other, bound in zip(split(again), split(planes), (0.2, 3, 3), strict=True):
        error = one.astype(float) - other
        assert (error**2).mean() < bound and abs(error.mean()) < 0.05
    error = footage.rgb - moving.rgb[:4].astype(float)
    assert np.abs(error.mean((0, 1, 2))).max() < 0.1, "no shift of levels"


def test_pixels_are_those_of_ffmpeg_at_its_most_exact(moving):
    """For H.264, whose chroma it takes to lie on the left."""
    data = REFERENCES["x264-medium-g12"].encode(moving, 20)
    flags = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
    with av.open(io.BytesIO(data)) as container:
        frames = [
            frame.reformat(format="rgb24", src_colorspace=Colorspace.ITU709, interpolation=flags).to_ndarray()
            for frame in container.decode(video=0)
        ]
    error = np.abs(read_footage(data).rgb - np.stack(frames).astype(float))
    assert error.mean() < 0.02 and error.max() <= 2


def test_other_formats_become_eight_bits_and_odd_sides_even():
    planes = planes_of(np.full((3, 18, 22, 3), (200, 60, 90), np.uint8), Colours())
    for pix_fmt in ("yuv422p", "yuv444p10le"):
        footage = read_footage(written(planes, pix_fmt=pix_fmt))
        assert np.abs(footage.planes().astype(int) - planes).max() <= 1
        assert np.abs(footage.rgb.astype(int) - (200, 60, 90)).max() <= 2
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 21, 17, "bgr0"
        frame = av.VideoFrame.from_ndarray(np.full((17, 21, 3), (200, 60, 90), np.uint8), format="rgb24")
        for packet in (*stream.encode(frame.reformat(format="bgr0")), *stream.encode(None)):
            container.mux(packet)
    footage = read_footage(buffer.getvalue())
    assert footage.rgb.shape == (1, 16, 20, 3) and footage.planes().shape == (1, 24, 20)
    assert np.abs(footage.rgb.astype(int) - (200, 60, 90)).max() <= 1


def test_the_first_frames_alone(moving):
    data = written(moving.planes()[:9])
    assert len(read_footage(data, 5).rgb) == 5 and len(read_footage(data).rgb) == 9


def test_what_is_no_video_is_refused(tmp_path, moving):
    path = tmp_path / "notes.mkv"
    path.write_bytes(b"no video")
    sound = io.BytesIO()
    with av.open(sound, "w", format="wav") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        frame.rate = 8000
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)
    for source in (path, sound.getvalue(), written(moving.planes()[:1])[:600]):
        with pytest.raises(InputError):
            read_footage(source)


def test_own_planes_are_kept(moving):
    other = Footage(moving.rgb, moving.rate, moving.colours, np.zeros_like(moving.planes()))
    assert not other.planes().any() and moving.planes().any()
