"""Files that people have and that once went wrong, from `../shared`, where it is there."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rdcodec.codecs.image import colour
from rdcodec.codecs.image.metadata import parsed_texts
from rdcodec.codecs.image.picture_writing import write_picture
from rdcodec.codecs.image.pictures import Picture, looks_like_image, read_picture

CASES = Path(__file__).parents[3] / "shared" / "cases" / "image"
pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason="needs ../shared/cases")


def read(name: str) -> Picture:
    return read_picture((CASES / name).read_bytes())


@pytest.mark.parametrize(
    ("name", "said"),
    [("IMG_1.dng", "preview of a raw file"), ("x.eps", "PostScript"), ("x.heic", "HEIC.*pillow-heif"),
     ("dot_underscore_IMG.jpg", "AppleDouble")],
)  # fmt: skip
def test_what_is_not_read_is_named(name, said):
    assert looks_like_image((CASES / name).read_bytes())
    with pytest.raises(ValueError, match=said):
        read(name)


def test_transparency():
    assert set(np.unique(read("grey2_trns1.png").alpha)) == {0, 255}
    assert set(np.unique(read("rgb16_trns.png").alpha)) == {0, 65535}
    assert read("opaque.png").alpha is None
    assert write_picture(read("opaque.png"), "JPEG")


def test_large_profiles_and_texts():
    assert len(read("bigicc.png").icc) > 1_000_000 and len(read("bigitxt_xmp.png").xmp) > 1_000_000
    assert read_picture(write_picture(read("bigicc.png"))).icc == read("bigicc.png").icc


def test_colour():
    assert read("gama1.png").icc
    assert colour.code_of(read("cicp_pq.png").icc)[:2] == bytes([9, 16])
    assert read("pq10.avif").pixels.dtype == np.uint16


def test_metadata():
    ultrahdr = read("ultrahdr.jpg")
    assert "gain map" in ultrahdr.notices[0] and b"hdrgm" not in (ultrahdr.xmp or b"")
    assert parsed_texts(read("ai.png").texts).keys() == {"parameters", "Copyright"}
    assert b"caption" in read("iptc.jpg").iptc


def test_a_jpeg_without_its_end():
    data = (CASES / "noeoi.jpg").read_bytes()
    picture = read_picture(data)
    assert "end of the JPEG is missing" in picture.notices[0]
    np.testing.assert_array_equal(picture.pixels, np.asarray(Image.open(io.BytesIO(data + b"\xff\xd9")).convert("RGB")))
    for missing in (3, 40, 400):
        with pytest.raises(ValueError, match="damaged"):
            read_picture(data[:-missing])
