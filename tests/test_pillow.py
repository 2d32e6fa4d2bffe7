"""The plugin: .rdc pictures as Pillow's images, both ways."""

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest
import rdcodec.pillow  # noqa: F401  registers the format
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from rdcodec.codecs import container


@pytest.fixture
def pixels(photograph):
    return photograph[:60, :80]


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_what_is_saved_is_what_the_codec_writes_and_is_opened_again(tmp_path, pixels, image_codec, mode):
    image = Image.fromarray(pixels).convert(mode)
    if "A" in mode:
        image.putalpha(Image.fromarray(pixels[..., 0]))
    image.save(tmp_path / "x.rdc", quality=80)
    data = (tmp_path / "x.rdc").read_bytes()
    assert data == image_codec.encode(np.asarray(image), quality=80)
    with Image.open(tmp_path / "x.rdc") as opened:
        assert (opened.format, opened.mode, opened.size) == ("RDC", mode, (80, 60)) and opened.info["quality"] == 80
        assert np.array_equal(np.asarray(opened), image_codec.decode(data).array())
        assert np.array_equal(np.asarray(opened.convert("RGB").crop((10, 10, 20, 20))).shape, (10, 10, 3))


def test_sixteen_bits_are_opened_as_far_as_pillow_has_modes(pixels, image_codec):
    deep = pixels.astype(np.uint16) * 257 + 3
    Image.fromarray(deep[..., 0]).save(file := io.BytesIO(), "RDC", quality=90)
    with Image.open(file) as opened:
        assert opened.mode == "I;16"
        assert np.array_equal(np.asarray(opened), image_codec.decode(file.getvalue()).array())
    with Image.open(io.BytesIO(data := image_codec.encode(deep, quality=90))) as opened:
        assert opened.mode == "RGB" and np.array_equal(np.asarray(opened), image_codec.decode(data).rgb())


def test_what_is_changed_is_a_warning(pixels):
    with pytest.warns(UserWarning, match="float grey is converted to 16 bits"):
        Image.fromarray(pixels[..., 0] / np.float32(255)).save(io.BytesIO(), "RDC")


def test_profile_exif_and_xmp_go_along(pixels):
    exif, icc = Image.Exif(), ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(file := io.BytesIO(), "RDC", exif=exif, icc_profile=icc, xmp=b"<x/>")
    with Image.open(file) as opened:
        assert (opened.info["icc_profile"], opened.info["xmp"], opened.getexif()[0x0112]) == (icc, b"<x/>", 6)
        assert ImageOps.exif_transpose(opened).size == (60, 80)
        opened.save(again := io.BytesIO(), "RDC")
    with Image.open(again) as opened:
        assert (opened.info["icc_profile"], opened.getexif()[0x0112]) == (icc, 6)


def test_other_files_are_no_pictures_and_damaged_ones_are_refused(pixels):
    Image.fromarray(pixels).save(file := io.BytesIO(), "RDC")
    data = file.getvalue()
    other = container.write(stream_id=4, weights=bytes(8), signal=b"", chunks=[])
    unknown = data[:8] + bytes(range(8)) + data[16:]
    for bad in (other, b"junk"):
        with pytest.raises(UnidentifiedImageError):
            Image.open(io.BytesIO(bad))
    for bad in (data[:10], data[:-5], data[:-1] + bytes([data[-1] ^ 1]), unknown):
        with pytest.raises(OSError):
            Image.open(io.BytesIO(bad)).load()
    with pytest.raises(ValueError, match="quality 101"):
        Image.fromarray(pixels).save(io.BytesIO(), "RDC", quality=101)


@pytest.mark.parametrize(("module", "known"), [("rdcodec.codecs", False), ("rdcodec.pillow", True)])
def test_pillow_itself_is_left_alone_until_the_plugin_is_imported(module, known):
    code = f"import {module}; from PIL import Image; Image.init(); print('RDC' in Image.OPEN)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout == f"{known}\n", f"{run.stderr}\nthe folder codecs/pillow is the package rdcodec.pillow"
