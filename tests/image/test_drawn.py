"""Drawn layers: what is drawn stays as it is, and photographs are coded as ever."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from rdcodec.codecs import container
from rdcodec.codecs.image import choice, drawn
from rdcodec.codecs.image.codec import ImageCodec
from rdcodec.codecs.image.drawn import Layer, filled
from rdcodec.codecs.image.header import LAYER, ImageHeader, parse
from rdcodec.codecs.image.tile_coder import learned
from rdcodec.entropy_models.errors import BitstreamError, Corrupt


@pytest.fixture(scope="module")
def codec() -> ImageCodec:
    return ImageCodec.load(device="cpu")


def page(height: int, width: int) -> np.ndarray:
    """Text on white, uint8 (height, width, 3)."""
    image = Image.new("RGB", (width, height), "white")
    for top in range(2, height, 16):
        text = "The quick brown fox jumps over 0123456789" * 3
        ImageDraw.Draw(image).text((4, top), text, fill=(0, 0, 120), font=ImageFont.load_default(12))
    return np.asarray(image)


def mixed(photograph: np.ndarray) -> np.ndarray:
    """Text left, a photograph right; (112, 208, 3)."""
    return np.concatenate([page(112, 96), photograph[200:312, 200:312]], axis=1)


def psnr(found: np.ndarray, expected: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(np.square(found.astype(float) - expected).mean(), 1e-9)))


@pytest.mark.parametrize("size", [(1, 1), (17, 32), (70, 90)])
@pytest.mark.parametrize("quality", [20, 90])
@pytest.mark.parametrize("colour", [(255, 255, 255), (255, 0, 0), (0, 0, 255), (128, 128, 128), (200, 60, 90)])
def test_flat_stays_flat(codec, colour, quality, size):
    flat = np.full((*size, 3), colour, np.uint8)
    found = codec.decode(codec.encode(flat, quality=quality)).array()
    assert np.abs(found.astype(int) - flat).max() <= 1


@pytest.mark.parametrize("quality", [20, 40, 60])
@pytest.mark.parametrize("colour", [(255, 255, 255), (255, 0, 0), (90, 120, 60)])
@pytest.mark.parametrize("beside_text", [False, True])
def test_a_patch_within_a_photograph_stays_flat(codec, photograph, colour, quality, beside_text):
    image = photograph[:192, :320].copy()
    image[81:129, 101:149] = colour  # 48 x 48: two by two blocks at any place
    if beside_text:
        image[:, 176:] = page(192, 144)
    drawn_share = (choice.drawn_bits(image) <= choice.CERTAIN_BITS).mean()
    assert (drawn_share > choice.CERTAIN_LEAST) == beside_text
    data = codec.encode(image, quality=quality)
    assert (codec.decode(data).array()[96:128, 112:144] == colour).all()
    grey = image[..., :1]
    found = codec.decode(codec.encode(grey, quality=quality)).array()
    assert (found[96:128, 112:144] == colour[0]).all()
    if not beside_text:
        assert len(data) <= len(codec.without_layers().encode(image, quality=quality)) + 100


@pytest.mark.parametrize("quality", [20, 60])
@pytest.mark.parametrize("colour", [(65535, 65535, 65535), (65535, 0, 0), (30000, 1234, 257)])
def test_16_bits_stay_flat(codec, photograph, colour, quality):
    deep = photograph[:112, :160].astype(np.uint16) * 256 + np.arange(160, dtype=np.uint16)[:, None] % 7
    deep[30:90, 40:100] = colour
    data = codec.encode(deep, quality=quality)
    found = codec.decode(data).array()
    assert found.dtype == np.uint16 and (found[48:80, 48:96] == colour).all()
    np.testing.assert_array_equal(found, codec.estimate(deep, quality=quality).signal.array())
    assert len(data) <= len(codec.without_layers().encode(deep, quality=quality)) + 150
    for flat in (np.full((37, 50, 3), colour, np.uint16), np.full((37, 50), colour[0], np.uint16)):
        np.testing.assert_array_equal(codec.decode(codec.encode(flat, quality=quality)).array(), flat)


@pytest.mark.parametrize("quality", [20, 60])
@pytest.mark.parametrize("margin", [0, 20])
def test_text_costs_less_and_looks_better(codec, quality, margin):
    text = np.pad(page(128, 192)[:, 8:168], [(0, 0), (margin, margin), (0, 0)], constant_values=255)
    ours, plain = codec.encode(text, quality=quality), codec.without_layers().encode(text, quality=quality)
    assert len(ours) < 0.7 * len(plain)
    assert psnr(codec.decode(ours).array(), text) > psnr(codec.decode(plain).array(), text) + 5


def test_at_the_highest_quality_drawings_are_exact(codec):
    text = page(64, 96)
    data = codec.encode(text, quality=100)
    np.testing.assert_array_equal(codec.decode(data).array(), text)
    assert len(data) <= len(drawn.webp(text, np.ones((64, 96), bool), best=True)) + 60
    grey = text[..., :1]
    np.testing.assert_array_equal(codec.decode(codec.encode(grey, quality=100)).array(), grey[..., 0])


def test_a_page_with_a_photograph_has_both(codec, photograph):
    image = mixed(photograph)
    data = codec.encode(image, quality=50)
    stream, header = parse(data)
    layer, symbols = drawn.read(stream.chunk(0), header.pack(), *image.shape[:2])
    assert header.layers and layer.mask[:, :64].mean() > 0.9 and layer.mask[:, 112:].mean() < 0.1 and symbols
    found = codec.decode(data)
    np.testing.assert_array_equal(found.array(), codec.estimate(image, quality=50).signal.array())
    np.testing.assert_array_equal(codec.decode(data, crop=(10, 80, 90, 130)).array(), found.array()[10:90, 80:130])
    assert codec.verify(data) == [] and codec.measurer(image)(50) <= len(data)
    plain = codec.without_layers()
    other = plain.encode(image, quality=50)
    assert len(data) < len(other) and psnr(found.array(), image) > psnr(plain.decode(other).array(), image)


def test_a_tile_that_is_all_drawn_beside_one_that_is_not(codec, photograph):
    image = np.concatenate([page(40, 1024), photograph[300:340, 100:180]], axis=1)
    data = codec.encode(image, quality=40)
    _, header = parse(data)
    found = codec.decode(data).array()
    assert header.layers and len(header.grid) == 2
    np.testing.assert_array_equal(found, codec.estimate(image, quality=40).signal.array())
    assert psnr(found[:, :1024], image[:, :1024]) > 33 and psnr(found[:, 1024:], image[:, 1024:]) > 25
    np.testing.assert_array_equal(codec.decode(data, crop=(0, 1000, 40, 1050)).array(), found[:, 1000:1050])
    broken = bytearray(data)
    broken[parse(data)[0].entries[0].offset + 20] ^= 1
    saved = codec.decode(bytes(broken), salvage=True)
    assert saved.lost_tiles == (0,)


def test_tiles_that_are_drawn_have_one_file_together(codec):
    image = np.concatenate([page(80, 650)] * 2, axis=1)
    data = codec.encode(image, quality=40)
    stream, header = parse(data)
    assert header.layers and header.together and len(header.grid) == 2
    found = codec.decode(data).array()
    np.testing.assert_array_equal(found, codec.estimate(image, quality=40).signal.array())
    np.testing.assert_array_equal(codec.decode(data, crop=(10, 1020, 70, 1290)).array(), found[10:70, 1020:1290])
    assert codec.verify(data) == [] and codec.measurer(image)(40) <= len(data)
    assert [entry.kind for entry in stream.entries] == [container.DATA, container.DATA, LAYER]
    assert stream.chunk(0) == stream.chunk(1) == b""
    assert (found == image).all() and len(data) <= len(codec.encode(image, quality=100))  # equal tiles stay equal
    broken = bytearray(data)
    broken[stream.entries[2].offset + 20] ^= 1
    with pytest.raises(Corrupt, match="no tile"):
        codec.decode(bytes(broken), salvage=True)
    with pytest.raises(BitstreamError):
        codec.decode(data[: len(data) - 1])


def test_tiles_together_with_a_photograph(codec, photograph):
    strip = photograph[300:396, :176]
    image = np.concatenate([page(96, 960), strip, page(96, 200)], axis=1)
    data = codec.encode(image, quality=60)
    stream, header = parse(data)
    assert header.together and all(len(stream.chunk(index)) for index in range(2))
    found = codec.decode(data).array()
    np.testing.assert_array_equal(found, codec.estimate(image, quality=60).signal.array())
    assert psnr(found[:, 960:1136], strip) > 28
    broken = bytearray(data)
    broken[stream.entries[1].offset + 20] ^= 1
    saved = codec.decode(bytes(broken), salvage=True)
    assert saved.lost_tiles == (1,)
    np.testing.assert_array_equal(saved.array()[:, :900], found[:, :900])


def test_tiles_that_repeat_nothing_keep_files_of_their_own(codec):
    dots = np.random.default_rng(0).integers(0, 4, (24, 60, 1), np.uint8) * np.uint8([60, 20, 80])
    image = np.concatenate([page(96, 1024), dots.repeat(4, 0).repeat(4, 1)], axis=1)
    data = codec.encode(image, quality=100)
    _, header = parse(data)
    assert header.layers and not header.together
    np.testing.assert_array_equal(codec.decode(data).array(), image)
    broken = bytearray(data)
    broken[parse(data)[0].entries[0].offset + 20] ^= 1
    np.testing.assert_array_equal(codec.decode(bytes(broken), salvage=True).array()[:, 1024:], image[:, 1024:])


def test_a_layer_of_all_tiles_is_read_once(codec, monkeypatch):
    data = bytearray(codec.encode(np.concatenate([page(80, 650)] * 2, axis=1), quality=40))
    stream, _ = parse(bytes(data))
    chunks = [(entry.kind, stream.chunk(index)) for index, entry in enumerate(stream.entries)]
    wrong = chunks[2][1][:4] + bytes(4) + chunks[2][1][8:]
    calls = []
    monkeypatch.setattr(drawn, "read", lambda *args, read=drawn.read: calls.append(args) or read(*args))
    for body, message in ((wrong, "checksum"), (chunks[2][1] + b"more", "after it"), (drawn.NONE, "drawn layer")):
        forged = container.write(
            stream_id=1, weights=stream.weights, signal=stream.signal, chunks=[*chunks[:2], (LAYER, body)]
        )
        calls.clear()
        with pytest.raises(Corrupt, match=message):
            codec.verify(forged)
        assert len(calls) == 1


@pytest.mark.parametrize("deep", [False, True])
def test_sides_that_no_webp_has(codec, photograph, deep):
    if deep:
        image = np.tile(photograph[:512, :48], (17, 1, 1))[:8201].astype(np.uint16) * 257
        image[100:160], image[3000:3100] = 777, 5
    else:
        image = np.tile(page(16, 1025), (1, 16, 1))[:, :16400]
    data = codec.encode(image, quality=40)
    assert not parse(data)[1].together and codec.measurer(image)(40) <= len(data)
    found = codec.decode(data).array()
    assert (found[112:144] == 777).all() if deep else psnr(found, image) > 30


def test_a_file_of_one_dot_is_enlarged_at_little_cost():
    layer = Layer(np.full((1, 1, 3), 7, np.uint8), np.ones((1, 1), bool))
    large = Layer(np.full((8, 1 << 20, 3), 7, np.uint8), np.ones((8, 1 << 20), bool))
    found, _ = drawn.read(large.chunk(layer.file(), b""), b"", 8, 1 << 20)
    np.testing.assert_array_equal(found.pixels, large.pixels)


@pytest.mark.parametrize("left", [1000, 992, 1009])
def test_areas_across_tiles_keep_their_colour(codec, photograph, left):
    image = np.concatenate([photograph[:112, :512]] * 3, axis=1)[:, :1060].copy()
    image[30:78, left : left + 48] = 250, 3, 90
    found = codec.decode(codec.encode(image, quality=60)).array()
    first = -(-left // 16) * 16
    assert (found[32:64, first : first + 32] == (250, 3, 90)).all()


@pytest.mark.parametrize("quality", [5, 20, 60])
def test_a_gradient_shows_no_line_between_tiles(codec, quality):
    y, x = np.mgrid[:300, :1200]
    grey = 200 - 100 * y / 1160 + 30 * x / 1400
    image = np.stack([0.6 * grey, 0.8 * grey, np.minimum(grey + 50, 255)], -1).astype(np.uint8)
    found = codec.decode(codec.encode(image, quality=quality)).array().astype(int)
    assert np.abs(found - image).max() <= 20
    plain = codec.decode(codec.without_layers().encode(image, quality=quality)).array()
    np.testing.assert_array_equal(found, plain)


@pytest.mark.parametrize("quality", [20, 60])
def test_what_is_learned_beside_a_tile_that_is_drawn_shows_nothing_of_that(codec, photograph, quality):
    strip = photograph[300:396, :128]
    image = np.concatenate([page(96, 1024), strip], axis=1)
    data = codec.encode(image, quality=quality)
    assert parse(data)[1].layers
    found = codec.decode(data).array()
    np.testing.assert_array_equal(found, codec.estimate(image, quality=quality).signal.array())
    np.testing.assert_array_equal(codec.decode(data, crop=(8, 1000, 90, 1100)).array(), found[8:90, 1000:1100])
    assert codec.verify(data) == [] and codec.measurer(image)(quality) <= len(data)
    alone = codec.decode(codec.encode(strip, quality=quality)).array()
    beside, usual = (np.square(shown[:, :8].astype(float) - strip[:, :8]).mean() for shown in (found[:, 1024:], alone))
    assert beside < 1.6 * usual


@pytest.mark.parametrize("quality", [20, 60, 100])
def test_dithers_are_exact_and_small(codec, photograph, quality):
    image = np.asarray(Image.fromarray(photograph[:160, :200]).convert("1").convert("RGB"))
    data = codec.encode(image, quality=quality)
    np.testing.assert_array_equal(codec.decode(data).array(), image)
    assert len(data) <= len(drawn.webp(image, np.ones((160, 200), bool), best=True)) + 60
    board = np.indices((120, 136)).sum(0).astype(np.uint8) % 2 * np.uint8(255)
    data = codec.encode(board, quality=quality)
    np.testing.assert_array_equal(codec.decode(data).array(), board)
    assert len(data) < 200


class TestChoice:
    """With a learned codec that is made up."""

    def picture(self) -> tuple[np.ndarray, np.ndarray]:
        """Noise of which each pixel differs from its neighbours, text, and an area of one colour; and the area's blocks."""
        noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8)
        pixels = np.concatenate([noise, page(96, 96), np.full((96, 48, 3), 77, np.uint8)], axis=1)
        areas = np.zeros((6, 15), bool)
        areas[:, 12:] = True
        return pixels, areas

    def test_areas_are_drawn_whatever_they_cost(self):
        pixels, areas = self.picture()

        def nearly_free(part: np.ndarray) -> choice.Learned:
            return choice.Learned(np.zeros((6, 15)), np.where(part > 127, part - 1, part + 1).astype(np.uint8))

        tile = choice.divided(pixels, areas, 20, nearly_free)
        np.testing.assert_array_equal(tile.layer.mask, choice.spread(areas, 96, 240))
        assert choice.divided(pixels, areas & False, 20, nearly_free) is None

    def test_areas_stay_drawn_where_the_first_try_was_right(self):
        pixels, areas = self.picture()
        calls = []

        def right_at_first(part: np.ndarray) -> choice.Learned:
            shown = part.copy() if not calls else part ^ 1
            shown[:16, -16:] ^= 1
            calls.append(part)
            return choice.Learned(np.ones((6, 15)), shown)

        tile = choice.divided(pixels, areas, 20, right_at_first)
        np.testing.assert_array_equal(tile.layer.mask, choice.spread(areas, 96, 240))

    def test_areas_lose_no_colour_with_others(self, monkeypatch):
        monkeypatch.setattr(choice._Choice, "try_sketches", lambda _: None)
        pixels = np.random.default_rng(0).integers(90, 110, (24, 40, 3), np.uint8).repeat(4, 0).repeat(4, 1)
        pixels[32:64, 64:96] = 101, 98, 103
        areas = np.zeros((6, 10), bool)
        areas[2:4, 4:6] = True
        tile = choice.divided(pixels, areas, 20, lambda part: choice.Learned(np.full((6, 10), 1e3), 255 - part))
        shown = tile.layer.pixels
        assert tile.layer.whole and len(np.unique(shown.reshape(-1, 3), axis=0)) < 40
        assert (shown[32:64, 64:96] == (101, 98, 103)).all()

    def test_text_all_over_is_drawn_as_a_whole_where_that_is_cheapest(self):
        pixels = np.concatenate([page(96, 160)[:, 8:]] * 2, axis=1)
        noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
        pixels[:16, :16] = noise  # no candidate
        price = choice.drawn_bits(pixels)
        assert price[0, 0] > choice.CANDIDATE_BITS and price.mean() < choice.TEXT_BITS
        tile = choice.divided(
            pixels, np.zeros(price.shape, bool), 100, lambda part: choice.Learned(np.full(price.shape, 1e4), part ^ 1)
        )
        assert tile.layer.whole and tile.filled is None


def test_heads_of_layers_that_cannot_be_are_refused():
    fine = ImageHeader(width=1300, height=40, quality=40, channels=3, alpha=False, layers=True, together=True)
    assert ImageHeader.unpack(fine.pack()) == fine
    flags = 10
    for place, value in ((flags, 4), (flags, 16)):
        broken = bytearray(fine.pack())
        broken[place] = value
        with pytest.raises(BitstreamError):
            ImageHeader.unpack(bytes(broken))
    with pytest.raises(Corrupt, match="8388608"):
        ImageHeader(width=4096, height=2049, quality=40, channels=3, alpha=False, layers=True, together=True)


def test_a_photograph_is_coded_as_ever(codec, photograph):
    part = photograph[100:228, 100:260]
    assert codec.encode(part, quality=50) == codec.without_layers().encode(part, quality=50)


def test_of_an_enlarged_photograph_little_is_tried(codec, photograph, monkeypatch):
    """Its pixels tell of each other as a page's do, and it may be tried for ten times as long."""
    part = np.asarray(Image.fromarray(photograph[100:164, 230:294]).resize((512, 512), Image.Resampling.BICUBIC))
    price, tried = choice.drawn_bits(part), []
    assert (price <= choice.CERTAIN_BITS).mean() >= choice.CERTAIN_LEAST

    def learn(pixels: np.ndarray) -> choice.Learned:
        tried.append(pixels.size)
        return learned(codec.network, codec.tables, 50, pixels)

    monkeypatch.setattr(choice, "quality_for", lambda *_: pytest.fail("a sketch was tried"))
    assert choice.divided(part, np.zeros(price.shape, bool), 50, learn) is None and sum(tried) == 1.25 * part.size


def test_effort_goes_to_what_is_learned(codec, photograph):
    image = mixed(photograph)
    data = codec.with_effort(2).encode(image, quality=50)
    assert parse(data)[1].layers and psnr(codec.decode(data).array(), image) > 30


def layer_and_chunk() -> tuple[Layer, bytes]:
    mask = np.zeros((20, 24), bool)
    mask[:16, :16] = True
    layer = Layer(page(20, 24) * mask[..., None].astype(np.uint8), mask)
    return layer, layer.chunk(layer.file(), b"head")


def test_a_layer_is_read_as_it_was_written():
    layer, chunk = layer_and_chunk()
    found, rest = drawn.read(chunk + b"rest", b"head", 20, 24)
    assert rest == b"rest" and not found.whole
    np.testing.assert_array_equal(found.pixels, layer.pixels)
    np.testing.assert_array_equal(found.mask, layer.mask)
    assert drawn.read(drawn.NONE + b"rest", b"head", 20, 24) == (None, b"rest")


@pytest.mark.parametrize(
    ("height", "width", "times", "stored"),
    [(40, 70, 10, 10), (44, 75, 10, 10), (33, 20, 2, 2), (9, 50, 50, 50), (1, 1, 1, 1), (30, 30, 7, 1)],
    ids=["whole dots", "cut dots", "by two", "one row", "one dot", "a size that does not tell seven from six"],
)
def test_enlarged_drawings_are_stored_at_their_own_size(height, width, times, stored):
    size = -(-height // times), -(-width // times), 1
    dots = np.random.default_rng(0).integers(0, 4, size, np.uint8) * np.uint8([60, 20, 80])
    pixels = dots.repeat(times, 0).repeat(times, 1)[:height, :width]
    layer = Layer(pixels, np.ones((height, width), bool))
    chunk = layer.chunk(layer.file(), b"head")
    with Image.open(io.BytesIO(chunk[8:])) as image:
        assert image.size == (-(-width // stored), -(-height // stored))
    found, rest = drawn.read(chunk, b"head", height, width)
    assert found.whole and not rest
    np.testing.assert_array_equal(found.pixels, pixels)
    for other in ((height, width + 2 * times), (height + 2 * times, width)):
        with pytest.raises(Corrupt):
            drawn.read(chunk, b"head", *other)


def test_a_part_of_an_enlarged_drawing_is_stored_at_its_own_size():
    pixels = np.random.default_rng(0).integers(0, 3, (5, 6, 1), np.uint8).repeat(8, 0).repeat(8, 1) * np.uint8([1, 2, 3])
    mask = np.zeros((40, 48), bool)
    mask[:16, 16:] = True
    layer = Layer(pixels * mask[..., None], mask)
    chunk = layer.chunk(layer.file(), b"head")
    with Image.open(io.BytesIO(chunk[8:])) as image:
        assert image.size == (6, 5)
    found, _ = drawn.read(chunk, b"head", 40, 48)
    np.testing.assert_array_equal(found.mask, mask)
    np.testing.assert_array_equal(found.pixels, pixels * mask[..., None])


def test_halves_of_16_bits_in_different_places_are_refused():
    mask = np.ones((32, 16), bool)
    mask[:16] = False
    body = drawn.webp(np.full((32, 16, 3), 7, np.uint8), mask)
    with pytest.raises(Corrupt, match="different places"):
        drawn.read(len(body).to_bytes(4, "little") + bytes(4) + body, b"head", 16, 16, 16)


def test_large_and_moving_layers_are_refused_without_a_warning(recwarn):
    size = 12_999 | 12_999 << 14
    bomb = b"WEBPVP8L" + (5).to_bytes(4, "little") + b"/" + size.to_bytes(4, "little") + b"\0"
    frames = [Image.new("RGBA", (16, 16), colour) for colour in ("red", "blue")]
    frames[0].save(moving := io.BytesIO(), "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    for body in (b"RIFF" + len(bomb).to_bytes(4, "little") + bomb, moving.getvalue()):
        with pytest.raises(Corrupt, match="should have"):
            drawn.read(len(body).to_bytes(4, "little") + bytes(4) + body, b"", 16, 16)
    assert not recwarn.list


def test_damaged_layers_are_refused():
    _, chunk = layer_and_chunk()
    with pytest.raises(Corrupt, match="should have"):
        drawn.read(chunk, b"head", 20, 25)
    for bad, head, size in ((chunk, b"other", (20, 24)), (chunk, b"head", (24, 20)), (chunk[:-1], b"head", (20, 24)),
                            (chunk[:5], b"head", (20, 24)), (b"\0\0\0\0\1\0\0\0", b"head", (20, 24))):  # fmt: skip
        with pytest.raises(BitstreamError):
            drawn.read(bad, head, *size)
    rng = np.random.default_rng(0)
    for _ in range(200):
        body = bytearray(chunk)
        body[rng.integers(len(body))] ^= 1 << rng.integers(8)
        try:
            found, _ = drawn.read(bytes(body), b"head", 20, 24)
            assert found is None or np.array_equal(found.pixels, layer_and_chunk()[0].pixels)
        except BitstreamError:
            pass


def test_symbols_after_a_tile_that_is_all_drawn_are_refused(codec):
    stream = container.parse(codec.encode(page(32, 48), quality=100))
    data = container.write(
        stream_id=1, weights=stream.weights, signal=stream.signal, chunks=[(container.DATA, stream.chunk(0) + b"more")]
    )
    with pytest.raises(BitstreamError):
        codec.decode(data)


def test_what_is_filled_is_smooth(photograph):
    part = photograph[:50, :70]
    mask = np.zeros((50, 70), bool)
    mask[16:32, 16:48] = True
    found = filled(part, mask)
    np.testing.assert_array_equal(found[~mask], part[~mask])
    edge = part[14:34, 14:50].astype(int)
    assert found[mask].min() >= edge.min() - 40 and found[mask].max() <= edge.max() + 40
    assert (filled(np.full((9, 9, 3), 77, np.uint8), np.eye(9, dtype=bool)) == 77).all()


def test_prices_tell_drawings_from_photographs(photograph):
    text, photo = (choice.drawn_bits(pixels) for pixels in (page(128, 128), photograph[:256, :256]))
    assert (text <= choice.CANDIDATE_BITS).all() and (text <= choice.CERTAIN_BITS).mean() > choice.CERTAIN_LEAST
    assert (photo <= choice.CERTAIN_BITS).mean() < choice.CERTAIN_LEAST
