"""What the image codec owes its users, from 1x1 upwards, on the shipped weights."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont
from rdcodec.codecs import REGISTRY, container, load
from rdcodec.codecs.cli import main as cli
from rdcodec.codecs.image import extras
from rdcodec.codecs.image.codec import ImageCodec
from rdcodec.codecs.image.header import STREAM_ID, ImageHeader
from rdcodec.codecs.image.pictures import Picture
from rdcodec.codecs.image.rate_control import encode_to_bytes, quality_for_bytes
from rdcodec.codecs.image.tiles import TILE, RecentTiles, TileGrid
from rdcodec.entropy_models.errors import BitstreamError, Corrupt, Truncated, Unsupported
from typer.testing import CliRunner

SIZES = [(1, 1), (1, 9), (17, 1), (16, 16), (33, 50), (64, 64), (65, 130)]


def psnr_db(a, b):
    return 10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2))


@pytest.mark.parametrize("quality", [0, 50, 100])
@pytest.mark.parametrize("size", SIZES)
def test_decode_returns_what_estimate_predicts(image_codec, size, quality, scene):
    image = scene(*size)
    np.testing.assert_array_equal(
        image_codec.decode(image_codec.encode(image, quality)), image_codec.estimate(image, quality).pixels
    )


@pytest.mark.parametrize("size", [(5, 4), (1, 20), (20, 1), (1, 1)])
def test_few_tiles_are_known_at_a_time(size):
    """In one pass, tile by tile with its neighbours; each is computed once."""
    grid, computed = TileGrid(size[0] * TILE, size[1] * TILE), []
    recent = RecentTiles(grid, lambda index: computed.append(index) or torch.zeros(1))
    for index in range(len(grid)):
        window = grid.latent_box(index, 7)
        for tile in grid.touching(window):
            recent(tile)
        assert len(recent._known) <= (3 * grid.columns if min(size) > 1 else 4)
    assert sorted(computed) == list(range(len(grid)))


def test_a_size_gives_the_highest_quality_that_fits(image_codec, photograph):
    picture = Picture(photograph[:96, :120])
    for quality in (0, 10, 20, 99, 100):
        size = len(image_codec.encode(picture, quality))
        data, found = encode_to_bytes(image_codec, picture, size)
        assert len(data) <= size and found >= quality
        assert found == 100 or len(image_codec.encode(picture, found + 1)) > size
    with pytest.raises(ValueError, match=r"quality 0 needs \d+ bytes"):
        encode_to_bytes(image_codec, picture, len(image_codec.encode(picture, 0)) - 1)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    height=st.integers(1, 150), width=st.integers(1, 150), channels=st.integers(1, 4),
    quality=st.integers(0, 100), seed=st.integers(0, 9),
)  # fmt: skip
def test_any_size_channels_and_quality(image_codec, height, width, channels, quality, seed, scene):
    image = scene(height, width, channels, seed)
    decoded = image_codec.decode(image_codec.encode(image, quality))
    assert decoded.dtype == np.uint8
    assert decoded.shape == ((height, width) if channels == 1 else image.shape)
    if channels in (2, 4):
        np.testing.assert_array_equal(decoded[..., -1], image[..., -1])  # alpha is lossless


@pytest.mark.parametrize("quality", [0, 30, 60, 90])
def test_real_bits_are_within_one_percent_and_64_bytes_of_ideal(image_codec, photograph, quality):
    real = 8 * len(image_codec.encode(photograph, quality))
    ideal = image_codec.estimate(photograph, quality).bits
    assert 0 < real - ideal <= 0.01 * ideal + 64 * 8
    assert abs(image_codec.measure_bytes(photograph, quality) - real / 8) <= 40  # it takes the correction for 24


def test_search_for_a_size_compresses_alpha_once(image_codec, photograph, monkeypatch):
    picture = Picture(photograph[:90, :80], photograph[100:190, :80, 0].copy(), icc=b"profile" * 50, xmp=b"<x/>")
    wanted = image_codec.encode(picture, 40)
    assert abs(image_codec.measure_bytes(picture, 40) - len(wanted)) <= 40
    compressed, original = [], extras._png
    monkeypatch.setattr(extras, "_png", lambda alpha: compressed.append(1) or original(alpha))
    assert abs(quality_for_bytes(image_codec, picture, len(wanted) + 16) - 40) <= 1
    assert len(compressed) == 1


def test_rate_and_psnr_rise_with_quality(image_codec, photograph):
    streams = {q: image_codec.encode(photograph, q) for q in (0, 25, 50, 75, 100)}
    rates = [len(data) * 8 / photograph[..., 0].size for data in streams.values()]
    psnrs = [psnr_db(photograph, image_codec.decode(data)) for data in streams.values()]
    assert rates == sorted(rates) and psnrs == sorted(psnrs)
    assert rates[0] < 0.25 < 1.0 < rates[-1] and psnrs[0] > 26 and psnrs[-1] > 36


def test_encoding_twice_and_in_a_batch_gives_the_same_bytes(image_codec, photograph, scene):
    images = [photograph[:90, :77], scene(33, 50), photograph[100:190, :77]]
    one_by_one = [image_codec.encode(image.copy(), 40) for image in images]
    assert image_codec.encode_batch(images, 40) == one_by_one
    for a, b in zip(image_codec.decode_batch(one_by_one), map(image_codec.decode, one_by_one), strict=True):
        np.testing.assert_array_equal(a, b)


def test_every_prefix_is_refused(image_codec, scene):
    data = image_codec.encode(scene(20, 30, 4), 30)
    for n in range(len(data)):
        with pytest.raises(BitstreamError):
            image_codec.decode(data[:n])


def test_every_flipped_byte_is_refused(image_codec, scene):
    data = image_codec.encode(scene(20, 30, 4), 30)
    for i in range(len(data)):
        with pytest.raises(BitstreamError):
            image_codec.decode(data[:i] + bytes([data[i] ^ 0x40]) + data[i + 1 :])


def test_trailing_bytes_are_refused(image_codec, scene):
    with pytest.raises(Corrupt, match="adds up"):
        image_codec.decode(image_codec.encode(scene(8, 8)) + b"\0")


@pytest.mark.parametrize(
    "change",
    [{"width": 31}, {"height": 21}, {"quality": 31}, {"quality": 29}, {"channels": 1}, {"width": 30 + 1024}],
)
def test_a_lying_header_with_a_good_checksum_is_refused(image_codec, change, scene):
    stream = container.parse(image_codec.encode(scene(20, 30), 30))
    fields = {"width": 30, "height": 20, "quality": 30, "channels": 3, "alpha": False} | change
    forged = container.write(
        codec_id=STREAM_ID, weights=stream.weights, signal=ImageHeader(**fields).pack(),
        chunks=[(0, stream.chunk(0))],
    )  # fmt: skip
    with pytest.raises(Corrupt):
        image_codec.decode(forged)


def test_foreign_weights_codecs_and_versions_are_named(image_codec, scene):
    data = image_codec.encode(scene(8, 8))
    stream = container.parse(data)
    parts = {"codec_id": 1, "weights": stream.weights, "signal": stream.signal, "chunks": [(0, stream.chunk(0))]}
    for read in (image_codec.decode, image_codec.verify):
        with pytest.raises(Unsupported, match="0102030405060708"):
            read(container.write(**parts | {"weights": bytes(range(1, 9))}))
    with pytest.raises(Unsupported, match="codec id 77"):
        image_codec.decode(container.write(**parts | {"codec_id": 77}))
    with pytest.raises(Unsupported, match="version 9"):
        image_codec.decode(data[:4] + b"\x09" + data[5:])
    with pytest.raises(Truncated):
        image_codec.decode(data[:10])


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), "uint8"),
        (np.zeros((4, 4, 5), np.uint8), "uint8 array"),
        (np.zeros((0, 4, 3), np.uint8), "uint8 array"),
    ],
)
def test_bad_arrays_are_refused(image_codec, image, message):
    with pytest.raises(ValueError, match=message):
        image_codec.encode(image)


@pytest.mark.parametrize("quality", [-1, 101, 50.5])
def test_bad_quality_is_refused(image_codec, quality, scene):
    with pytest.raises(ValueError, match="quality"):
        image_codec.encode(scene(8, 8), quality)


@pytest.fixture(scope="module")
def tiled(image_codec, photograph):
    """A photograph of 2x2 tiles, its stream and its reconstruction."""
    image = np.asarray(Image.fromarray(photograph).resize((TILE + 90, TILE + 70), Image.Resampling.LANCZOS))
    data = image_codec.encode(image, 20)
    return image, data, image_codec.decode(data)


def test_tiles_leave_no_seams(image_codec, tiled):
    """The same content has at most 0.2 dB more error on a border than when the image is shifted and it lies inside."""
    image = tiled[0]
    errors, borders = [], []
    for shift in (0, 96, 192):
        shifted = np.roll(image, (shift, shift), (0, 1))
        error = ((shifted.astype(float) - image_codec.decode(image_codec.encode(shifted, 20))) ** 2).mean(-1)
        border = np.zeros(error.shape, bool)
        border[TILE - 4 : TILE + 4] = border[:, TILE - 4 : TILE + 4] = True
        errors.append(np.roll(error, (-shift, -shift), (0, 1)))
        borders.append(np.roll(border, (-shift, -shift), (0, 1)))
    on = sum(errors[i][borders[i]].mean() for i in range(3))
    inside = sum(errors[i][borders[i - 1]].mean() for i in range(3))
    assert 10 * np.log10(on / inside) < 0.2


def test_a_tile_gives_the_latent_that_the_whole_image_gives(image_codec, tiled):
    image, _, _ = tiled
    header = ImageHeader(width=image.shape[1], height=image.shape[0], quality=20, channels=3, alpha=False)
    whole = torch.nn.functional.pad(
        torch.from_numpy(image.copy()).float().permute(2, 0, 1)[None] / 255 - 0.5,
        (0, -image.shape[1] % 16, 0, -image.shape[0] % 16), mode="replicate",
    )  # fmt: skip
    with torch.inference_mode():
        y = image_codec.network.to_latent(whole.permute(0, 2, 3, 1), torch.tensor([20]))
    for index in range(4):
        top, left, bottom, right = header.grid.latent_box(index)
        torch.testing.assert_close(
            image_codec._latent(image, header, index), y[:, top:bottom, left:right], atol=1e-4, rtol=1e-4
        )


def test_crop_is_that_part_of_the_whole(image_codec, tiled):
    _, data, decoded = tiled
    for box in ((0, 0, 5, 5), (1000, 1010, 1060, 1090), (TILE, TILE, TILE + 70, TILE + 90), (3, 1020, 40, 1030)):
        part = image_codec.decode_picture(data, crop=box).pixels
        off = np.abs(part.astype(int) - decoded[box[0] : box[2], box[1] : box[3]])
        assert off.max() <= 1 and (off > 0).mean() < 0.01  # float sums may tie differently in another window
    with pytest.raises(ValueError, match="does not lie"):
        image_codec.decode_picture(data, crop=(0, 0, TILE + 71, 5))


def test_crop_decodes_only_the_tiles_it_needs(image_codec, tiled, monkeypatch):
    read = []
    original = ImageCodec._read
    monkeypatch.setattr(ImageCodec, "_read", lambda self, c, h, i: read.append(i) or original(self, c, h, i))
    image_codec.decode_picture(tiled[1], crop=(10, 10, 50, 50))
    assert read == [0]


def test_salvage_recovers_the_undamaged_tiles(image_codec, tiled):
    _, data, decoded = tiled
    stream = container.parse(data)
    at = stream.entries[3].offset + 40
    damaged = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
    with pytest.raises(BitstreamError):
        image_codec.decode(damaged)
    picture = image_codec.decode_picture(damaged, salvage=True)
    np.testing.assert_array_equal(picture.pixels[: TILE - 96, : TILE - 96], decoded[: TILE - 96, : TILE - 96])
    assert len(picture.notices) == 1 and picture.notices[0].startswith("tile 3 (of 0..3) is lost (chunk 3 has checksum")
    cut = image_codec.decode_picture(data[: stream.entries[2].offset + 9], salvage=True)
    assert (picture.lost_tiles, cut.lost_tiles) == ((3,), (2, 3))
    assert len(cut.notices) == 2 and cut.pixels.shape == decoded.shape
    with pytest.raises(Corrupt, match="no tile is undamaged"):
        image_codec.decode_picture(damaged, crop=(TILE + 2, TILE + 2, TILE + 40, TILE + 50), salvage=True)


def test_verify_tells_how_much_is_damaged(image_codec, tiled):
    _, data, _ = tiled
    damaged = bytearray(data)
    for index, count in ((3, ""), (1, r" \(and 1 more of 4 chunks\)")):
        damaged[container.parse(data).entries[index].offset + 9] ^= 1
        with pytest.raises(Corrupt, match=rf"^tile {index} \(of 0..3\): .*says \w+{count}$"):
            image_codec.verify(bytes(damaged))


def test_a_salvaged_picture_is_a_success_that_names_the_lost_tiles(tiled, tmp_path):
    entry = container.parse(tiled[1]).entries[3]
    (tmp_path / "cut.rdc").write_bytes(tiled[1][: entry.offset])
    crop = f"{TILE - 100},{TILE - 100},120,120"  # all four tiles, few pixels
    arguments = ["decode", str(tmp_path / "cut.rdc"), "--salvage", "--crop", crop, "--json"]
    done = CliRunner().invoke(cli.app, arguments)
    assert done.exit_code == 0 and (tmp_path / "cut.png").exists(), done.output
    assert json.loads(done.stdout)["lost_tiles"] == [3] and "note: tile 3 (of 0..3) is lost" in done.stderr


def test_wrong_symbols_name_their_tile_as_info_counts_chunks(image_codec, tiled):
    stream = container.parse(tiled[1])
    chunks = [(entry.kind, stream.chunk(i)) for i, entry in enumerate(stream.entries)]
    chunks[2] = (0, bytes(4) + chunks[2][1][4:])
    forged = container.write(codec_id=STREAM_ID, weights=stream.weights, signal=stream.signal, chunks=chunks)
    for check in (image_codec.decode, image_codec.verify):
        with pytest.raises(Corrupt, match=r"^tile 2 \(of 0\.\.3\): symbols have checksum"):
            check(forged)


def test_metadata_travels(image_codec, scene):
    picture = Picture(scene(9, 11), scene(9, 11)[..., 0], icc=b"profile", exif=b"exif", xmp=b"<x/>")
    back = image_codec.decode_picture(image_codec.encode(picture, 10))
    assert (back.icc, back.exif, back.xmp) == (b"profile", b"exif", b"<x/>")
    np.testing.assert_array_equal(back.alpha, picture.alpha)


def test_registry():
    assert REGISTRY["image"].stream_id == 1 and REGISTRY["kv"].stream_id == 4  # pinned for ever
    assert type(load("image")).__name__ == "ImageCodec"
    with pytest.raises(KeyError, match="no codec 'jpeg'"):
        load("jpeg")
    with pytest.raises(KeyError, match="no image model"):
        load("image", model="nothing")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="no CUDA"):
            load("image", device="cuda")


def drawn(kind: str) -> np.ndarray:
    """What is no photograph, uint8 (128, 192, 3)."""
    y, x = np.mgrid[:128, :192]
    if kind == "text":
        page = Image.new("L", (192, 128), 255)
        for line in range(8):
            text = "The quick brown fox jumps over 0123456789"
            ImageDraw.Draw(page).text((4, 2 + 16 * line), text, fill=0, font=ImageFont.load_default(12))
        plane = np.asarray(page)
    else:
        noise = np.random.default_rng(0).random((128, 192)) > 0.5
        planes = {"noise": noise, "dots": (x + y) % 2, "squares": (x // 8 + y // 8) % 2, "lines": x % 2}
        plane = (planes[kind] * 255).astype(np.uint8)
    return np.repeat(plane[..., None], 3, 2)


def test_the_synthesis_does_not_run_away():
    """Gates multiply, five blocks in a row: unbounded, a latent three times too large gave pixels of 10^24 times white."""
    network = load("image", device="cpu").network
    noise = torch.randn(1, 8, 8, network.config.latent_channels, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found = [float(network.to_image(scale * noise, torch.tensor([60])).abs().max()) for scale in (3, 30)]
    assert found[0] < 50 and found[1] < 1000 * found[0], found


@pytest.mark.parametrize("kind", ["text", "noise", "dots", "squares", "lines"])
def test_what_is_no_photograph_is_coded_all_the_same(kind):
    """The loop of means and residuals stays bounded: nothing is refused, and text and shapes gain from quality."""
    codec, image = load("image", device="cpu"), drawn(kind)
    found = []
    for quality in (0, 60, 100):
        decoded = codec.decode(codec.encode(image, quality))
        assert np.array_equal(decoded, codec.estimate(image, quality).pixels)
        found.append(10 * np.log10(255**2 / np.square(decoded.astype(float) - image).mean()))
    if kind in ("text", "squares"):
        assert found[0] > 15 and found[2] > found[1] - 1 and found[1] > found[0] + 5, found
