"""Pictures of more than 8 bits: coded at their depth."""

from __future__ import annotations

import io
from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image
from rdcodec.codecs.image import deep
from rdcodec.codecs.image.codec import ImageCodec
from rdcodec.codecs.image.picture_writing import fitting, flattened, write_picture
from rdcodec.codecs.image.pictures import Picture, as_picture, eight_bits, read_picture
from rdcodec.codecs.video.references import leave_realtime

PEAK = 1023


def sky(height: int = 64, width: int = 96) -> np.ndarray:
    """A smooth picture of 10 bits in full range, uint16 (height, width, 3)."""
    y, x = np.mgrid[:height, :width]
    planes = [300 + 2 * y + x / 3, 420 + y + x / 4, 700 - y / 2 + x / 5]
    return np.rint(np.rint(np.stack(planes, -1)) * (65535 / PEAK)).astype(np.uint16)


def psnr_10_bits(found: np.ndarray, expected: np.ndarray) -> float:
    """PSNR of pictures in 0..65535 at 10 bits: rounded to them."""
    levels = [np.rint(picture * (PEAK / 65535)) for picture in (found, expected)]
    return float(10 * np.log10(PEAK**2 / np.square(levels[0] - levels[1]).mean()))


def coded(frame: av.VideoFrame, codec: str, **options: object) -> bytes:
    """A frame as a file of its own."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="avif" if "av1" in codec else "image2pipe") as file:
        stream = file.add_stream(codec, rate=1)
        stream.width, stream.height, stream.pix_fmt, stream.time_base = (
            frame.width,
            frame.height,
            frame.format.name,
            Fraction(1),
        )
        for name, value in options.items():
            setattr(stream.codec_context, name, value)
        stream.codec_context.open()
        leave_realtime()  # libsvtav1's, as root
        file.mux([*stream.encode(frame), *stream.encode(None)])
    return buffer.getvalue()


@pytest.fixture(scope="module")
def codec() -> ImageCodec:
    return ImageCodec.load(device="cpu")


@pytest.mark.parametrize(("codec_name", "layout"), [("png", "rgb48be"), ("tiff", "rgb48le")])
def test_sixteen_bits_of_colour_are_read_as_they_are(codec_name, layout):
    pixels = sky()
    picture = read_picture(coded(av.VideoFrame.from_ndarray(pixels, format="rgb48le").reformat(format=layout), codec_name))
    assert not picture.notices
    np.testing.assert_array_equal(picture.pixels, pixels)


def test_ten_bits_of_avif_are_read():
    pixels = sky()
    frame = av.VideoFrame.from_ndarray(pixels, format="rgb48le").reformat(format="yuv420p10le", dst_colorspace="ITU601")
    data = coded(frame, "libsvtav1", options={"crf": "1", "preset": "10"})
    assert deep.avif_depth(data) == 10
    picture = read_picture(data)
    assert picture.pixels.dtype == np.uint16 and not picture.notices
    seen = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(float) * 257
    assert np.abs(picture.pixels - seen).max() < 4 * 257  # Pillow's own 8 bits
    assert psnr_10_bits(picture.pixels, pixels) > psnr_10_bits(seen, pixels)


def test_ten_bits_keep_more_than_eight(codec):
    pixels = sky()
    deep_bytes, plain_bytes = (codec.encode(given, quality=95) for given in (pixels, eight_bits(pixels)))
    found = codec.decode(deep_bytes)
    assert found.pixels.dtype == np.uint16 and abs(len(deep_bytes) - len(plain_bytes)) < 0.05 * len(plain_bytes)
    assert np.unique(found.pixels % 257).size > 100  # not eight bits, scaled
    plain = codec.decode(plain_bytes).pixels.astype(np.uint16) * 257
    assert psnr_10_bits(found.pixels, pixels) > psnr_10_bits(plain, pixels) + 0.3


def test_what_the_encoder_estimates_is_what_is_decoded(codec):
    picture = Picture(sky(33, 20), sky(33, 20)[..., 0])
    found = codec.decode(codec.encode(picture, quality=50))
    np.testing.assert_array_equal(found.array(), codec.estimate(picture, quality=50).signal.array())
    np.testing.assert_array_equal(found.alpha, picture.alpha)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("image_format", ["PNG", "TIFF"])
def test_sixteen_bits_are_written_with_their_metadata(channels, image_format):
    exif = Image.Exif()
    exif[0x010F], exif[282], exif[283] = "maker", 300.0, 300.0
    exif.get_ifd(0x8769)[0x9003] = "2024:05:06 07:08:09"
    array = np.concatenate([sky(), sky()[..., :1]], -1)[
        ..., [3] if channels == 1 else [0, 3] if channels == 2 else range(channels)
    ]
    icc = bytes(16) + (b"GRAY" if channels < 3 else b"RGB ") + bytes(108)
    if channels == 2 and image_format == "TIFF":
        assert "8 bits" in fitting(as_picture(array), "TIFF").notices[0]
        return
    picture = replace(as_picture(array), exif=exif.tobytes(), xmp=b"<x/>", icc=icc)
    assert not fitting(picture, image_format).notices
    data = write_picture(picture, image_format)
    again = read_picture(data)
    np.testing.assert_array_equal(again.array(), picture.array())
    assert (again.icc, again.xmp, again.notices) == (icc, b"<x/>", ())
    read = Image.open(io.BytesIO(data)).getexif()
    assert (read[0x010F], read.get_ifd(0x8769)[0x9003]) == ("maker", "2024:05:06 07:08:09")


def test_formats_of_eight_bits_say_so():
    picture = as_picture(sky())
    for image_format in ("JPEG", "WEBP", "AVIF", "BMP", "PPM"):
        assert "8 bits" in fitting(picture, image_format).notices[0]
    np.testing.assert_array_equal(read_picture(write_picture(picture, "WEBP")).pixels, eight_bits(picture.pixels))


def test_alpha_on_a_background():
    array = np.full((4, 4, 4), 200, np.uint8)
    array[:2, :, 3], array[2:, :, 3] = 0, 255
    flat = flattened(as_picture(array), (10, 20, 30))
    assert flat.alpha is None and flat.pixels[0, 0].tolist() == [10, 20, 30] and flat.pixels[3, 0].tolist() == [200] * 3
    deep_flat = flattened(as_picture(array.astype(np.uint16) * 257), (10, 20, 30))
    assert deep_flat.pixels[0, 0].tolist() == [2570, 5140, 7710]
