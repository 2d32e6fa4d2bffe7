"""Colour and metadata: kept, converted or named, never dropped in silence."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo
from rdcodec.codecs import container
from rdcodec.codecs.image import colour, png
from rdcodec.codecs.image.codec import ImageCodec
from rdcodec.codecs.image.colour import of_avif, of_codes, profile
from rdcodec.codecs.image.header import ALPHA, INFLATED_MAX
from rdcodec.codecs.image.metadata import parsed_texts, without_gain_map
from rdcodec.codecs.image.picture_writing import fitting, write_picture
from rdcodec.codecs.image.pictures import Picture, read_picture
from rdcodec.codecs.image.stripping import stripped
from rdcodec.entropy_models.errors import Corrupt


@pytest.fixture(scope="module")
def codec() -> ImageCodec:
    return ImageCodec.load(device="cpu")


def png_with(pixels: np.ndarray, *parts: tuple[bytes, bytes]) -> bytes:
    """A PNG with more chunks."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    head, *rest = png.chunks(buffer.getvalue())
    return png.assembled([head, *parts, *rest])


def seen(icc: bytes, values: list[int], mode: str = "RGB") -> np.ndarray:
    """What an sRGB screen shows of greys under a profile, through Little CMS."""
    image = Image.fromarray(np.repeat(np.array([values], np.uint8)[..., None], 3, -1)).convert(mode)
    source = ImageCms.ImageCmsProfile(io.BytesIO(icc))
    return np.asarray(ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB"))[0]


def srgb(light: np.ndarray) -> np.ndarray:
    """Values 0..255 of light 0..1."""
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def test_gamma_of_a_png_becomes_a_profile(scene):
    data = png_with(scene(9, 9), (b"gAMA", struct.pack(">I", 100_000)))
    picture = read_picture(data)
    assert not picture.notices
    values = np.array([0, 20, 128, 255])
    expected = srgb(values / 255)[:, None].repeat(3, 1)
    np.testing.assert_allclose(seen(picture.icc, values.tolist()), expected, atol=1.1)
    grey = read_picture(png_with(scene(9, 9)[..., 0], (b"gAMA", struct.pack(">I", 100_000))))
    np.testing.assert_allclose(seen(grey.icc, values.tolist(), "L"), expected, atol=1.1)
    assert read_picture(write_picture(picture)).icc == picture.icc


def test_what_says_srgb_needs_no_profile(scene):
    numbers = struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
    for parts in ([(b"gAMA", struct.pack(">I", 45455))], [(b"gAMA", struct.pack(">I", 45455)), (b"cHRM", numbers)],
                  [(b"sRGB", b"\0"), (b"gAMA", struct.pack(">I", 100_000))], [(b"cICP", bytes([1, 13, 0, 1]))]):  # fmt: skip
        picture = read_picture(png_with(scene(9, 9), *parts))
        assert picture.icc is None and not picture.notices


def test_display_p3_by_numbers_is_display_p3():
    """Its matrix to sRGB's light is (1.2249, -0.2249, 0), (-0.042, 1.042, 0), (-0.0197, -0.0786, 1.0979); greys stay."""
    icc = profile(of_codes(12, 13), grey=False)
    np.testing.assert_allclose(seen(icc, [0, 50, 128, 255]), np.array([0, 50, 128, 255])[:, None].repeat(3, 1), atol=1)
    image = Image.new("RGB", (1, 1), (200, 100, 100))
    out = ImageCms.profileToProfile(image, ImageCms.ImageCmsProfile(io.BytesIO(icc)), ImageCms.createProfile("sRGB"))
    np.testing.assert_allclose(out.getpixel((0, 0)), (215, 93, 97), atol=1)


@pytest.mark.parametrize(
    ("transfer", "value", "light"), [(16, 148, 1.0), (16, 129, 0.463), (18, 191, 1.0), (18, 128, 0.252)]
)
def test_pq_and_hlg_end_at_reference_white(transfer, value, light):
    """BT.2408: reference white is 58 % of PQ and 75 % of HLG."""
    icc = profile(of_codes(9, transfer), grey=False)
    assert colour.code_of(icc) == bytes([9, transfer, 0, 1])
    np.testing.assert_allclose(seen(icc, [value])[0], srgb(np.array(light)), atol=4)


def test_code_points_of_a_png_come_back(scene):
    code = bytes([9, 16, 0, 1])
    picture = read_picture(png_with(scene(9, 9), (b"cICP", code)))
    for pixels in (picture.pixels, picture.pixels.astype(np.uint16) * 257):
        written = write_picture(replace(picture, pixels=pixels))
        assert (
            dict(png.chunks(written))[b"cICP"] == code and Image.open(io.BytesIO(written)).info["icc_profile"] == picture.icc
        )
    assert read_picture(write_picture(picture, "WEBP")).icc == picture.icc
    assert "cICP 9/99" in read_picture(png_with(scene(9, 9), (b"cICP", bytes([9, 99, 0, 1])))).notices[0]


@pytest.mark.parametrize(("codes", "kept"), [((12, 13), True), ((1, 13), False), ((2, 2), False), ((9, 16), True)])
def test_code_points_of_an_avif(codes, kept):
    found, unknown = of_avif(b"\0\0\0\x13colrnclx" + struct.pack(">HHHB", *codes, 6, 0x80))
    assert not unknown and found.is_srgb != kept
    assert of_avif(b"colrnclx" + struct.pack(">HHHB", 77, 13, 6, 0))[1] == "nclx 77/13"


@pytest.mark.parametrize("numbers", [(0,) * 8, (31270, 0, 1, 1, 1, 1, 1, 1), (1 << 31,) * 8])
def test_nonsense_about_colours_is_named(scene, numbers):
    picture = read_picture(
        png_with(scene(9, 9), (b"cHRM", struct.pack(">8I", *numbers)), (b"gAMA", struct.pack(">I", 50_000)))
    )
    assert picture.icc is None and "gAMA or cHRM" in picture.notices[0]


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_the_transparent_grey_of_every_depth(depth):
    """A ramp of all greys (of 16 bits: of some), one of them transparent."""
    count = min(1 << depth, 64)
    values = np.arange(count) * ((1 << depth) // count)
    bits = "".join(f"{value:0{depth}b}" for value in values)
    bits = bits.ljust(-(-len(bits) // 8) * 8, "0")
    row = b"\0" + int(bits, 2).to_bytes(len(bits) // 8, "big")
    key = int(values[count // 2])
    data = png.assembled([
        (b"IHDR", struct.pack(">IIBBBBB", count, 1, depth, 0, 0, 0, 0)), (b"tRNS", struct.pack(">H", key)),
        (b"IDAT", zlib.compress(row)), (b"IEND", b""),
    ])  # fmt: skip
    picture = read_picture(data)
    np.testing.assert_array_equal(picture.alpha[0] == 0, values == key)


@pytest.mark.parametrize("depth", [8, 16])
def test_the_transparent_colour_of_every_depth(scene, depth):
    pixels = scene(9, 9).astype(np.uint16) * (257 if depth == 16 else 1)
    pixels[3, 4] = pixels[0, 0] + (1 if depth == 16 else 0)  # of 16 bits, all must agree
    plain = png.write_deep(pixels, b"") if depth == 16 else png_with(pixels.astype(np.uint8))
    head, *rest = png.chunks(plain)
    picture = read_picture(png.assembled([head, (b"tRNS", struct.pack(">3H", *pixels[0, 0])), *rest]))
    np.testing.assert_array_equal(picture.alpha == 0, (pixels == pixels[0, 0]).all(-1))


def test_texts_and_iptc_are_kept(scene):
    info = PngInfo()
    info.add_text("parameters", "a tree\nSteps: 40")
    info.add_itxt("Copyright", "© me")
    buffer = io.BytesIO()
    Image.fromarray(scene(9, 9)).save(buffer, "PNG", pnginfo=info)
    picture = read_picture(buffer.getvalue())
    assert parsed_texts(picture.texts) == {"parameters": "a tree\nSteps: 40", "Copyright": "© me"}
    assert Image.open(io.BytesIO(write_picture(picture))).text == {"parameters": "a tree\nSteps: 40", "Copyright": "© me"}
    records = b"\x1c\x02x\x00\x07caption"
    picture = Picture(scene(9, 9), iptc=records, texts=b'{"Comment": "hello"}')
    again = read_picture(write_picture(picture, "JPEG"))
    assert (again.iptc, parsed_texts(again.texts)) == (records, {"Comment": "hello"})
    assert read_picture(write_picture(picture, "TIFF")).iptc == records
    assert "IPTC" in fitting(picture, "PNG").notices[0] and "Comment" in fitting(picture, "TIFF").notices[0]


@pytest.mark.parametrize("texts", [b"\xff", b"[1]", b'{"a": 3}', b"[" * 100_000])
def test_whatever_a_stream_holds_as_texts_is_left_out(scene, texts):
    picture = Picture(scene(9, 9), texts=texts)
    assert read_picture(write_picture(picture)).texts is None


def test_a_gain_map_is_no_longer_claimed():
    xmp = b'<r xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" hdrgm:Version="1.0" a:b="c">'
    xmp += b"<Container:Directory>x</Container:Directory>"
    assert without_gain_map(xmp) == (b'<r a:b="c">', True)
    assert without_gain_map(b"<r/>") == (b"<r/>", False)
    assert without_gain_map(b"<hdr-gain-map/>") == (None, True)


def test_places_can_be_left_out(scene):
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "maker", 6
    exif.get_ifd(0x8825).update({1: "N", 2: (48.0, 8.0, 0.0)})
    xmp = b'<r exif:GPSLatitude="48,8N" a:b="c"><exif:GPSLongitude>11E</exif:GPSLongitude></r>'
    picture = Picture(scene(9, 9), exif=exif.tobytes(), xmp=xmp, iptc=b"i", texts=b"{}", icc=b"p")
    no_gps = stripped(picture, "gps")
    read = Image.Exif()
    read.load(no_gps.exif)
    assert dict(read) == {0x010F: "maker", 0x0112: 6} and no_gps.xmp == b'<r a:b="c"></r>' and no_gps.iptc == b"i"
    assert stripped(replace(picture, xmp=xmp.decode().encode("utf-16")), "gps").xmp is None
    for what, kept in (("exif", (no_gps.xmp, b"i", b"{}", b"p")), ("all", (None, None, None, b"p"))):
        bare = stripped(picture, what)
        read = Image.Exif()
        read.load(bare.exif)
        assert dict(read) == {0x0112: 6} and (bare.xmp, bare.iptc, bare.texts, bare.icc) == kept
    assert stripped(Picture(scene(9, 9), exif=b"garbage"), "exif").exif is None


def test_alpha_is_webp_where_that_can_hold_it(codec, scene):
    """Soft edges take less than in a PNG. Those of 16 bits, and what is too wide, are PNGs."""
    y, x = np.mgrid[:90, :120]
    soft = (255 / (1 + np.exp((np.hypot(y - 45, x - 60) - 30) / 4))).astype(np.uint8)
    for alpha, kind in ((soft, b"RIFF"), (soft.astype(np.uint16) * 257, b"\x89PNG"), (soft[:1].repeat(150, 1), b"\x89PNG")):
        Image.fromarray(alpha).save(plain := io.BytesIO(), "PNG", optimize=True)
        data = codec.encode(Picture(scene(*alpha.shape).astype(alpha.dtype), alpha))
        body = container.parse(data).chunk(container.parse(data).indices(ALPHA)[0])
        assert body[4:8] == kind and len(body) - 4 <= (0.8 if kind == b"RIFF" else 1) * plain.tell()
        np.testing.assert_array_equal(codec.decode(data).alpha, alpha)


def test_metadata_is_deflated_where_that_is_shorter(codec, scene):
    rng = np.random.default_rng(0)
    xmp, icc = b"<r>" + b"places and names " * 3000 + b"</r>", rng.bytes(3000)
    picture = Picture(scene(9, 11), xmp=xmp, icc=icc, texts=b"{}")
    data = codec.encode(picture)
    plain = len(codec.encode(Picture(scene(9, 11))))
    found = codec.decode(data)
    assert (found.xmp, found.icc, found.texts) == (xmp, icc, b"{}") and len(data) < plain + 3000 + 400
    stream = container.parse(data)
    bodies = {stream.chunk(i)[:4]: stream.chunk(i)[4:] for i in range(1, len(stream.entries))}
    assert zlib.decompress(bodies[b"xmp_"]) == xmp and bodies[b"ICCP"] == icc


@pytest.mark.parametrize(
    ("tag", "value", "message"),
    [
        (b"xmp_", zlib.compress(b"<x/>")[:-1], "cut short"),
        (b"xmp_", zlib.compress(b"<x/>") + b"more", "goes on after"),
        (b"xmp_", zlib.compress(bytes(INFLATED_MAX + 1)), "has more than"),
        (b"xmp_", b"<x/>", "incorrect header"),
        (b"Xmp_", zlib.compress(b"<x/>"), "known are"),
        (b"what", zlib.compress(b"<x/>"), "known are"),
    ],
)
def test_metadata_that_cannot_be_is_refused(codec, scene, tag, value, message):
    data = codec.encode(Picture(scene(9, 11), xmp=b"<x/>"))
    stream = container.parse(data)
    chunks = [(container.DATA, stream.chunk(0)), (container.METADATA, tag + value)]
    forged = container.write(stream_id=stream.stream_id, weights=stream.weights, signal=stream.signal, chunks=chunks)
    for call in (codec.decode, codec.verify):
        with pytest.raises(Corrupt, match=message):
            call(forged)
    assert codec.decode(forged, salvage=True).xmp is None


def test_an_image_files_bytes_are_an_image(codec, scene):
    Image.fromarray(scene(9, 11)).save(file := io.BytesIO(), "PNG")
    assert codec.encode(file.getvalue()) == codec.encode(scene(9, 11))


@pytest.mark.parametrize(
    ("image_format", "mode", "options", "message"),
    [
        ("PNG", "RGB", {}, "PNG RGB"),
        ("WEBP", "RGBA", {"lossless": True}, "WEBP RGBA"),
        ("JPEG", "L", {}, "alpha plane"),
        ("WEBP", "RGB", {"lossless": True, "size": (4000, 4000)}, "at most"),
        ("WEBP", "RGB", {"size": (4000, 4000)}, "at most"),
        ("WEBP", "RGBA", {"size": (4000, 4000)}, "at most"),
    ],
)
def test_alpha_in_other_files_is_refused(codec, scene, image_format, mode, options, message):
    """What is too large is so before Pillow gets memory for it."""
    stream = container.parse(codec.encode(Picture(scene(9, 11), scene(9, 11)[..., 0])))
    options = dict(options)
    size = options.pop("size", (11, 9))
    Image.new(mode, size, 7 if mode == "L" else (7, 7, 7, 9)[: len(mode)]).save(
        file := io.BytesIO(), image_format, **options
    )
    chunks = [(container.DATA, stream.chunk(0)), (ALPHA, bytes(4) + file.getvalue())]
    forged = container.write(stream_id=stream.stream_id, weights=stream.weights, signal=stream.signal, chunks=chunks)
    with pytest.raises(Corrupt, match=message):
        codec.decode(forged)
