"""Inputs people have, and what becomes of them."""

from __future__ import annotations

import io
import struct
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps
from rdcodec.codecs.image.picture_writing import fitting, format_of, write_picture
from rdcodec.codecs.image.pictures import Picture, as_picture, looks_like_image, read_picture


def saved(image: Image.Image, image_format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


@pytest.fixture
def rgb(scene) -> Image.Image:
    return Image.fromarray(scene(24, 31))


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "AVIF", "TIFF", "BMP"])
def test_formats(rgb, image_format):
    data = saved(rgb, image_format)
    picture = read_picture(data)
    assert looks_like_image(data) and picture.pixels.shape == (24, 31, 3) and not picture.notices
    assert np.abs(picture.pixels.astype(int) - np.asarray(rgb)).mean() < 12


@pytest.mark.parametrize(
    ("mode", "channels", "alpha"),
    [("1", 1, False), ("L", 1, False), ("LA", 1, True), ("P", 3, False), ("RGB", 3, False), ("RGBA", 3, True)],
)
def test_modes(rgb, mode, channels, alpha):
    image = rgb.convert(mode)
    if alpha:
        image.putalpha(rgb.getchannel(0))
    picture = read_picture(saved(image, "PNG"))
    assert picture.pixels.shape == (24, 31, channels) and (picture.alpha is not None) == alpha
    back = np.asarray(Image.open(io.BytesIO(write_picture(picture))))
    expected = image.convert({1: "LA", 3: "RGBA"}[channels] if alpha else {1: "L", 3: "RGB"}[channels])
    np.testing.assert_array_equal(back, np.asarray(expected))


def test_palette_transparency_becomes_alpha(rgb):
    picture = read_picture(saved(rgb.convert("P"), "PNG", transparency=0))
    assert picture.alpha is not None and set(np.unique(picture.alpha)) <= {0, 255}


def test_cmyk_is_converted_with_a_notice(rgb):
    picture = read_picture(saved(rgb.convert("CMYK"), "JPEG", quality=100))
    assert picture.pixels.shape[-1] == 3 and "CMYK" in picture.notices[0]
    assert np.abs(picture.pixels.astype(int) - np.asarray(rgb)).mean() < 12


def test_sixteen_bits_stay_sixteen_bits():
    ramp = (np.arange(24 * 31).reshape(24, 31) * 88).astype(np.uint16)
    picture = read_picture(saved(Image.fromarray(ramp), "PNG"))
    assert not picture.notices
    np.testing.assert_array_equal(picture.pixels[..., 0], ramp)
    np.testing.assert_array_equal(picture.rgb()[..., 1], np.rint(ramp / 257).astype(np.uint8))


def test_a_dark_sixteen_bit_picture_stays_dark():
    dark = np.full((24, 31), 199, np.uint16)
    picture = read_picture(saved(Image.fromarray(dark), "TIFF"))
    assert not picture.notices and (picture.pixels == 199).all()


def test_deep_pictures_are_converted_some_rows_at_a_time():
    """As a whole they would take 16 bytes and more of working memory for each pixel."""
    deep = np.arange(1000 * 700, dtype=np.uint32).reshape(1000, 700)
    for image in (Image.fromarray((deep % 65536).astype(np.uint16)), Image.fromarray((deep - 5e4).astype(np.float32), "F")):
        tracemalloc.start()
        picture = as_picture(image)
        peak_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        exact = np.asarray(image).astype(np.float64)
        exact = exact if image.mode.startswith("I") else (exact - exact.min()) * 65535 / np.ptp(exact)
        np.testing.assert_array_equal(picture.pixels[..., 0], np.rint(exact))
        assert peak_bytes < (4 + 7) * deep.size  # Pillow's own copy, ours, the result


def test_transparency_of_sixteen_bit_grey_is_kept():
    deep = np.arange(24 * 31, dtype=np.uint16).reshape(24, 31) * 70
    picture = read_picture(saved(Image.fromarray(deep), "PNG", transparency=700))
    np.testing.assert_array_equal(picture.alpha, np.where(deep == 700, 0, 65535))


def test_pgm_holds_grey_alone(rgb):
    grey = Picture(np.asarray(rgb)[..., :1])
    assert write_picture(grey, format_of(Path("g.pgm"))).startswith(b"P5")
    with pytest.raises(ValueError, match="PGM holds grey"):
        write_picture(Picture(np.asarray(rgb)), "PGM")


def test_a_float_picture_with_holes_keeps_the_rest():
    ramp = np.linspace(0, 1, 24 * 31, dtype=np.float32).reshape(24, 31)
    holes = ramp.copy()
    holes[3, 4], holes[5, 6], holes[7, 8] = np.nan, np.inf, -np.inf
    picture = read_picture(saved(Image.fromarray(holes), "TIFF"))
    assert picture.notices == ("float grey is converted to 16 bits",)
    exact = np.rint(ramp.astype(float) * 65535)
    np.testing.assert_array_equal(picture.pixels[..., 0][np.isfinite(holes)], exact[np.isfinite(holes)])
    assert [picture.pixels[at][0] for at in ((3, 4), (5, 6), (7, 8))] == [0, 65535, 0]


def test_orientation_profile_and_xmp_are_kept(rgb):
    exif = Image.Exif()
    exif[0x0112] = 6
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    picture = read_picture(saved(rgb, "JPEG", exif=exif, icc_profile=icc))
    assert picture.pixels.shape == (24, 31, 3)  # not rotated: the flag is
    for image_format in ("PNG", "JPEG", "WEBP", "AVIF", "TIFF"):
        again = Image.open(io.BytesIO(write_picture(picture, image_format)))
        assert again.getexif()[0x0112] == 6 and again.info["icc_profile"] == icc, image_format


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "TIFF"])
def test_the_resolution_of_a_scan_is_kept(rgb, image_format):
    def dpi_of(data: bytes) -> tuple[float, ...]:
        return tuple(float(x) for x in Image.open(io.BytesIO(data)).info.get("dpi", ()))

    scan = read_picture(saved(rgb, image_format, dpi=(300, 150)))
    for target in ("PNG", "JPEG", "TIFF"):
        assert dpi_of(write_picture(scan, target)) == pytest.approx((300, 150), rel=1e-3), target
    assert read_picture(saved(rgb, "PNG", dpi=(72, 72))).exif is None  # says nothing, costs 80 bytes
    assert read_picture(saved(rgb, "TIFF")).exif is None  # Pillow makes it 1 dpi
    for unit, expected in ((3, (254, 254)), (1, ())):  # per centimetre; no unit, an aspect ratio
        exif = Image.Exif()
        exif.update({282: 100.0, 283: 100.0, 296: unit})
        assert dpi_of(write_picture(replace(scan, exif=exif.tobytes()))) == pytest.approx(expected, rel=1e-3)


def exif_with(tag: int, kind: int, count: int, value: bytes) -> bytes:
    """Little-endian EXIF of orientation 6 and one more tag, as a careless program may write it."""
    entries = sorted([(274, 3, 1, struct.pack("<HH", 6, 0)), (tag, kind, count, value)])
    body = b"".join(struct.pack("<HHI", *entry[:3]) + entry[3] for entry in entries)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + body + bytes(4)


@pytest.mark.parametrize(
    ("tag", "kind", "count", "value"),
    [(282, 2, 4, b"300\0"), (282, 10, 1, struct.pack("<I", 4)), (305, 3, 1, b"\1\0\0\0"), (296, 2, 2, b"x\0\0\0"),
     (34665, 4, 1, b"\xff\xff\0\0"), (531, 2, 1, b"a\0\0\0")],
)  # fmt: skip
def test_malformed_exif_is_no_reason_to_refuse_a_picture(rgb, tag, kind, count, value):
    picture = read_picture(saved(rgb, "JPEG", exif=exif_with(tag, kind, count, value)))
    assert picture.pixels.shape == (24, 31, 3)
    assert Image.open(io.BytesIO(write_picture(picture, "TIFF"))).getexif()[274] == 6
    for image_format in ("PNG", "JPEG", "WEBP", "BMP"):
        again = Image.open(io.BytesIO(write_picture(picture, image_format)))
        assert again.getexif().get(274) == (6 if image_format != "BMP" else None)
        assert again.size == ((31, 24) if image_format != "BMP" else (24, 31))


@pytest.mark.parametrize("exif", [b"garbage garbage", b"II*\0", exif_with(282, 2, 4, b"300\0"), bytes(40)])
def test_whatever_a_stream_holds_as_exif_is_written_or_named(rgb, exif):
    picture = replace(as_picture(np.asarray(rgb)), exif=exif)
    for image_format in ("PNG", "JPEG", "TIFF", "BMP"):
        assert Image.open(io.BytesIO(write_picture(picture, image_format))).size in ((31, 24), (24, 31))
    assert any("EXIF" in notice for notice in fitting(picture, "BMP").notices)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_formats_without_exif_hold_the_picture_upright(rgb, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(saved(rgb, "PNG", exif=exif))))
    picture = read_picture(saved(rgb, "PNG", exif=exif))
    for image_format in ("BMP", "PPM"):
        again = Image.open(io.BytesIO(write_picture(picture, image_format)))
        np.testing.assert_array_equal(np.asarray(again), np.asarray(expected))


def test_dark_sixteen_bit_maps_stay_dark():
    values = np.arange(200, dtype=">u2").reshape(10, 20)
    picture = read_picture(b"P5 20 10 65535\n" + values.tobytes())
    np.testing.assert_array_equal(picture.pixels[..., 0], values)


@pytest.mark.parametrize("mode", ["P", "CMYK", "YCbCr", "LA", "1", "RGB"])
def test_an_image_of_pillow_is_what_it_shows(rgb, mode):
    image = rgb.convert(mode)
    expected = np.asarray(image.convert({"LA": "LA", "1": "L"}.get(mode, "RGB")))
    np.testing.assert_array_equal(as_picture(image).array(), expected)


@pytest.mark.parametrize(("image_format", "side"), [("JPEG", 65536), ("WEBP", 16384), ("AVIF", 65536)])
def test_a_side_too_long_for_a_format_is_named(image_format, side):
    with pytest.raises(ValueError, match=f"{side}x1 pixels; {image_format} holds at most {side - 1} a side"):
        write_picture(Picture(np.zeros((1, side, 1), np.uint8)), image_format)


@pytest.mark.parametrize(
    ("mode", "profile", "kept"),
    [("RGB", b"RGB ", True), ("L", b"GRAY", True), ("LAB", b"Lab ", False), ("L", b"RGB ", False), ("P", b"GRAY", False)],
)
def test_a_profile_stays_only_with_pixels_it_describes(rgb, mode, profile, kept):
    icc = bytes(16) + profile + bytes(108)
    image = Image.new("LAB", (9, 9), (120, 130, 120)) if mode == "LAB" else rgb.convert(mode)
    picture = read_picture(saved(image, "TIFF", icc_profile=icc))
    assert picture.icc == (icc if kept else None)
    assert any("ICC profile" in notice for notice in picture.notices) != kept


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "AVIF", "TIFF"])
def test_xmp_is_written_and_read_back(scene, image_format):
    exif = Image.Exif()
    exif[0x010F] = "maker"
    picture = Picture(scene(24, 31), exif=exif.tobytes(), xmp="<x:xmpmeta>é</x:xmpmeta>".encode())
    assert not fitting(picture, image_format).notices
    data = write_picture(picture, image_format)
    assert read_picture(data).xmp == picture.xmp and Image.open(io.BytesIO(data)).getexif()[0x010F] == "maker"


@pytest.mark.parametrize(
    ("image_format", "name", "value"),
    [("BMP", "xmp", b"<x/>"), ("PPM", "icc", b"profile"), ("PNG", "xmp", b"\xff\xfe<"), ("JPEG", "xmp", b"x" * 70000),
     ("JPEG", "exif", 70000)],
)  # fmt: skip
def test_metadata_that_a_format_cannot_hold_is_left_out_with_a_notice(scene, image_format, name, value):
    if name == "exif":
        exif = Image.Exif()
        exif[0x010E] = "e" * value
        value = exif.tobytes()
    picture = Picture(scene(24, 31), **{name: value})
    assert name.upper() in fitting(picture, image_format).notices[0]
    assert getattr(read_picture(write_picture(picture, image_format)), name) is None


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK", "LAB", "YCbCr", "I;16", "F"])
def test_tiff_to_tiff(rgb, mode):
    """Tags that describe the first file's pixels do not reach the second."""
    if mode == "LAB":
        image = ImageCms.profileToProfile(
            rgb, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
        )
    elif mode == "I;16":
        image = Image.fromarray(np.asarray(rgb.convert("L")).astype(np.uint16) * 257)
    else:
        image = rgb.convert(mode)
    exif = Image.Exif()
    exif[0x010E], exif[0x8298] = "a scene", "somebody"
    picture = read_picture(saved(image, "TIFF", exif=exif))
    old = Image.Exif()
    old.load(picture.exif)
    assert set(old) & {256, 258, 259, 262, 273, 277, 279, 339} == set()
    old[262], old[273], old[279], old[320] = 5, 9, 9, (1, 2, 3)  # as older files hold them
    for exif_bytes in (picture.exif, old.tobytes()):
        data = write_picture(replace(picture, exif=exif_bytes), "TIFF")
        with Image.open(io.BytesIO(data)) as again:
            np.testing.assert_array_equal(np.asarray(again), picture.array())
            assert again.mode == {"L": "L", "I;16": "I;16", "F": "I;16"}.get(mode, "RGB")
            assert (again.getexif()[0x010E], again.getexif()[0x8298]) == ("a scene", "somebody")
    expected = rgb.convert("L") if picture.pixels.shape[-1] == 1 else rgb
    assert np.abs(picture.rgb()[..., : picture.pixels.shape[-1]].squeeze().astype(int) - np.asarray(expected)).mean() < 12


def test_first_frame_of_an_animation(rgb):
    data = saved(rgb, "GIF", save_all=True, append_images=[rgb.rotate(90, expand=False)])
    assert "first of 2 frames" in read_picture(data).notices[0]


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"", "not an image"), (b"hello, world", "not an image"), (b"\x89PNG\r\n\x1a\n" + b"\0" * 40, "image")],
)
def test_broken_input_is_one_clear_error(data, message):
    with pytest.raises(ValueError, match=message):
        read_picture(data)


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "AVIF", "TIFF", "GIF"])
def test_a_truncated_image_is_called_one(rgb, image_format):
    data = saved(rgb, image_format)[:30]
    assert looks_like_image(data)
    with pytest.raises(ValueError, match="(?i)damaged"):
        read_picture(data)
    assert not looks_like_image(b"") and not looks_like_image(b"RIFF1234WAVE") and not looks_like_image(b"hello, world")


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "AVIF", "TIFF"])
def test_damaged_files_never_crash(rgb, image_format):
    data, rng = saved(rgb, image_format), np.random.default_rng(1)
    for _ in range(60):
        body = bytearray(data[: rng.integers(10, len(data) + 1)])
        for at in rng.integers(0, len(body), 3):
            body[at] = rng.integers(256)
        try:
            assert read_picture(bytes(body)).pixels.dtype == np.uint8
        except ValueError as error:
            assert str(error)


def test_unknown_output_formats_are_named():
    from pathlib import Path

    assert format_of(Path("a.JPG")) == "JPEG"
    with pytest.raises(ValueError, match=r"\.xyz.*\.png"):
        format_of(Path("a.xyz"))
    with pytest.raises(ValueError, match=r"'out' has no suffix.*\.png"):
        format_of(Path("out"))
