"""Sketches: text with noise around it is lossy WebP where that costs least."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from rdcodec.codecs.image import choice, sketch
from rdcodec.codecs.image.codec import ImageCodec
from rdcodec.codecs.image.drawn import HEAD, NONE, Layer
from rdcodec.codecs.image.header import ImageHeader, parse
from rdcodec.entropy_models.errors import BitstreamError, Corrupt


@pytest.fixture(scope="module")
def codec() -> ImageCodec:
    return ImageCodec.load(device="cpu")


def scan(height: int, width: int, darkest: float = 1.0) -> np.ndarray:
    """Text on paper with noise, uint8 (height, width, 3), with light that falls off to the right."""
    image = Image.new("L", (width, height), 240)
    for top in range(2, height, 18):
        ImageDraw.Draw(image).text(
            (4, top), "The quick brown fox jumps over " * 40, fill=30, font=ImageFont.load_default(14)
        )
    noise = np.random.default_rng(0).normal(0, 4, (height, width))
    lit = np.asarray(image) * np.linspace(1, darkest, width)
    return np.stack([(lit + noise).clip(0, 255).round().astype(np.uint8)] * 3, -1)


def psnr(found: np.ndarray, expected: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(np.square(found.astype(float) - expected).mean(), 1e-9)))


def webp_at(least_psnr_db: float, pixels: np.ndarray) -> int:
    """Bytes of the smallest lossy WebP of a PSNR."""
    for quality in range(1, 101):
        Image.fromarray(pixels).save(buffer := io.BytesIO(), "WEBP", quality=quality, method=6)
        if psnr(np.asarray(Image.open(buffer).convert("RGB")), pixels) >= least_psnr_db:
            return buffer.tell()
    raise AssertionError(f"no WebP has {least_psnr_db} dB")


@pytest.mark.parametrize("darkest", [1.0, 0.4])
@pytest.mark.parametrize("quality", [20, 60, 85])
def test_a_scan_costs_no_more_than_lossy_webp(codec, quality, darkest):
    page = scan(240, 400, darkest)
    data = codec.encode(page, quality=quality)
    found, plain = codec.decode(data).array(), codec.without_layers().encode(page, quality=quality)
    assert parse(data)[1].sketches and data == codec.encode(page, quality=quality)
    assert len(data) <= 1.05 * webp_at(psnr(found, page), page)
    gain_db = psnr(found, page) - psnr(codec.decode(plain).array(), page)
    assert gain_db > 0 and len(data) < len(plain) * 2 ** (gain_db / 6)
    np.testing.assert_array_equal(found, codec.estimate(page, quality=quality).signal.array())
    np.testing.assert_array_equal(codec.decode(data, crop=(10, 80, 90, 130)).array(), found[10:90, 80:130])
    assert codec.verify(data) == [] and codec.measurer(page)(quality) <= len(data)
    grey = codec.decode(codec.encode(page[..., 0], quality=quality)).array()
    assert grey.shape == (240, 400) and psnr(grey, page[..., 0]) > psnr(found, page) - 1


def test_one_colour_beside_noise_stays_as_it_is(codec):
    page = scan(160, 320)
    page[:, 200:] = 12, 99, 183  # which WebP has one or two levels off
    data = codec.encode(page, quality=40)
    header, found = parse(data)[1], codec.decode(data).array()
    assert header.sketches and header.layers
    assert (found[:, 208:] == page[:, 208:]).all() and psnr(found[:, :200], page[:, :200]) > 27
    np.testing.assert_array_equal(found, codec.estimate(page, quality=40).signal.array())


def test_a_sketch_beside_a_photograph(codec, photograph):
    image = np.concatenate([scan(48, 1024), photograph[300:348, 100:180]], axis=1)
    data = codec.encode(image, quality=40)
    stream, header = parse(data)
    found = codec.decode(data).array()
    assert header.sketches and len(header.grid) == 2
    first, symbols = sketch.read(stream.chunk(0), header.pack(), 48, 1024)
    second, others = sketch.read(stream.chunk(1), header.pack(), 48, 80)
    assert first and symbols and not second and others and len(symbols) < 0.05 * len(first.file)
    np.testing.assert_array_equal(found, codec.estimate(image, quality=40).signal.array())
    np.testing.assert_array_equal(codec.decode(data, crop=(0, 1000, 40, 1050)).array(), found[:40, 1000:1050])
    alone = codec.decode(codec.without_layers().encode(photograph[300:348, 100:180], quality=40)).array()
    error = np.abs(found[:, 1024:1040].astype(int) - image[:, 1024:1040]).mean()
    assert error < np.abs(alone[:, :16].astype(int) - image[:, 1024:1040]).mean() + 2
    broken = bytearray(data)
    broken[stream.entries[0].offset + 20] ^= 1
    assert codec.decode(bytes(broken), salvage=True).lost_tiles == (0,)


def test_tiles_with_one_layer_together_and_sketches(codec):
    """Flags 2, 4 and 8: rectangles that both tiles have take one file, noise around text a sketch in each."""
    page = scan(96, 1280)
    page[16:80, 200:500] = page[16:80, 1060:1200] = 12, 99, 183
    page[48:64, 210:490] = page[48:64, 1070:1190] = 200, 10, 20
    for pixels in (page, page[..., :1]):
        data = codec.encode(pixels, quality=40)
        header, found = parse(data)[1], codec.decode(data).array()
        assert header.layers and header.together and header.sketches and len(header.grid) == 2
        np.testing.assert_array_equal(found, codec.estimate(pixels, quality=40).signal.array())
        assert (found[16:48, 208:480] == pixels.squeeze()[16:48, 208:480]).all()
        np.testing.assert_array_equal(codec.decode(data, crop=(10, 1000, 90, 1130)).array(), found[10:90, 1000:1130])
        assert codec.verify(data) == [] and codec.measurer(pixels)(40) <= len(data)
        broken = bytearray(data)
        broken[parse(data)[0].entries[1].offset + 40] ^= 1
        assert codec.decode(bytes(broken), salvage=True).lost_tiles == (1,)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (17, 33)])
@pytest.mark.parametrize("quality", [0, 30, 99])
def test_sketches_of_any_size(codec, monkeypatch, size, quality):
    """Where nothing else is cheaper."""
    monkeypatch.setattr(choice, "SKETCH_GAIN", 1e6)
    monkeypatch.setattr(choice, "_paper", lambda _: True)
    page = scan(40, 40)[: size[0], : size[1]]
    for pixels in (page, page[..., 0]):
        data = codec.encode(pixels, quality=quality)
        assert parse(data)[1].sketches or pixels.size < 4
        np.testing.assert_array_equal(codec.decode(data).array(), codec.estimate(pixels, quality=quality).signal.array())


def test_at_the_highest_quality_pages_that_may_be_drawn_are_no_sketches(codec, monkeypatch):
    monkeypatch.setattr(choice, "SKETCH_GAIN", 1e6)
    page = np.where(scan(48, 96) > 128, 255, 0).astype(np.uint8)
    assert parse(codec.encode(page, quality=99))[1].sketches
    data = codec.encode(page, quality=100)
    assert not parse(data)[1].sketches and (codec.decode(data).array() == page).all()


def test_effort_does_not_change_a_sketch(codec):
    page = scan(48, 96)
    assert codec.with_effort(1).encode(page, quality=40) == codec.encode(page, quality=40)


def test_every_flipped_byte_and_every_truncation_is_refused(codec):
    data = codec.encode(scan(24, 40), quality=30)
    assert parse(data)[1].sketches
    for place in range(len(data)):
        with pytest.raises(BitstreamError):
            codec.decode(data[:place])
        with pytest.raises(BitstreamError):
            codec.decode(data[:place] + bytes([data[place] ^ 0x40]) + data[place + 1 :])


def test_photographs_have_none(codec, photograph, monkeypatch):
    """And a part of one that may be a page tells that it is none."""
    assert choice._paper(photograph)
    monkeypatch.setattr(choice._Choice, "try_sketches", lambda _: pytest.fail("sketches of all of it were tried"))
    for quality in (20, 80):
        assert not parse(codec.encode(photograph, quality=quality))[1].sketches


def test_a_page_beside_a_photograph_of_more_edges_may_be_a_sketch(photograph):
    """The part that looks most like a page is asked, not the one with the most edges."""
    noise = np.random.default_rng(0).integers(0, 256, (512, 256, 3), np.uint8)
    desk = np.full((512, 256, 3), 120, np.uint8)  # of one brightness, but without edges
    pixels, asked = np.concatenate([noise, desk, scan(512, 520)], axis=1), []

    def learn(part: np.ndarray) -> choice.Learned:
        asked.append(part)
        return choice.Learned(np.full((16, 16), 1e4), part)

    assert choice._sketch_promises(pixels, np.zeros((32, 65), bool), 40, learn)
    assert asked[0].shape == (256, 256, 3) and np.median(asked[0]) > 200


@pytest.mark.parametrize("bits", [1e-6, 0.002, 0.02, 1.0])
def test_the_cheapest_quality_is_found(bits):
    page, price = scan(96, 160), np.full((6, 10), bits)
    costs = []
    for quality in range(101):
        one = sketch.written(page, quality, method=4)
        costs.append(8 * len(one.file) + (sketch.squares(one.pixels, page) * price).sum())
    assert costs[sketch.quality_for(page, price)] <= 1.02 * min(costs)


@pytest.mark.parametrize("colour", [(240, 240, 238), (12, 99, 183)])
def test_a_sketch_that_is_off_in_areas_of_one_colour_needs_a_layer(colour):
    """Of the first colour it would be cheaper without."""
    page = scan(96, 160)
    page[32:64, 64:96] = colour
    areas = np.zeros((6, 10), bool)
    areas[2:4, 4:6] = True
    tile = choice.divided(page, areas, 40, lambda part: choice.Learned(np.full((6, 10), 1e9), 255 - part))
    assert tile.sketch and tile.layer.mask[32:64, 64:96].all()


def test_damaged_sketches_are_refused():
    page = scan(20, 24)
    fine = sketch.written(page, 50)
    chunk = sketch.chunk(fine.file, b"head")
    found, rest = sketch.read(chunk + b"rest", b"head", 20, 24)
    assert rest == b"rest" and found.file == fine.file
    np.testing.assert_array_equal(found.pixels, fine.pixels)
    assert sketch.read(NONE + b"rest", b"head", 20, 24) == (None, b"rest")
    frames = [Image.new("RGB", (24, 20), colour) for colour in ("red", "blue")]
    frames[0].save(moving := io.BytesIO(), "WEBP", save_all=True, append_images=frames[1:])
    for broken, size, head in (
        (chunk[:5], (20, 24), b"head"),
        (chunk[:-1], (20, 24), b"head"),
        (chunk, (24, 20), b"head"),
        (chunk, (20, 24), b"other"),
        (HEAD.pack(0, 1), (20, 24), b"head"),
        (sketch.chunk(b"RIFFnothing", b"head"), (20, 24), b"head"),
        (sketch.chunk(fine.file[:60], b"head"), (20, 24), b"head"),
        (sketch.chunk(fine.file[:-40], b"head"), (20, 24), b"head"),
        (sketch.chunk(moving.getvalue(), b"head"), (20, 24), b"head"),
    ):
        with pytest.raises(BitstreamError):
            sketch.read(broken, head, *size)
    with pytest.raises(Corrupt, match="16 bits"):
        ImageHeader(width=9, height=9, quality=1, channels=3, alpha=False, depth=16, sketches=True)


def test_a_layer_lies_over_a_sketch():
    mask = np.zeros((2, 2), bool)
    mask[0] = True
    layer = Layer(np.uint8([7]) * mask[..., None].repeat(3, -1), mask)
    shown = sketch.Sketch(b"", np.full((2, 2, 3), 9, np.uint8)).under(layer)
    assert shown.whole and (shown.pixels[0] == 7).all() and (shown.pixels[1] == 9).all()


def test_the_rest_of_a_tile_beyond_whole_squares_is_asked_too():
    page, asked = scan(511, 511), []
    page[:256, :256] = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)

    def learn(part: np.ndarray) -> choice.Learned:
        asked.append(part)
        return choice.Learned(np.full((16, 16), 1e4), part)

    assert choice._sketch_promises(page, np.zeros((32, 32), bool), 40, learn)
    assert asked[0].shape == (256, 256, 3) and np.median(asked[0]) > 200
