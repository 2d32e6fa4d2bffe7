"""Tiles: no seams, crops, salvage, and damage named by tile."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from rdcodec.codecs import container
from rdcodec.codecs.cli import main as cli
from rdcodec.codecs.image.header import STREAM_ID, ImageHeader
from rdcodec.codecs.image.tile_coder import TileDecoder, TileEncoder
from rdcodec.codecs.image.tiles import TILE, RecentTiles, TileGrid
from rdcodec.entropy_models.errors import BitstreamError, Corrupt
from typer.testing import CliRunner


@pytest.mark.parametrize("size", [(5, 4), (1, 20), (20, 1), (1, 1)])
def test_few_tiles_are_known_at_a_time(size):
    """In one pass, tile by tile with its neighbours; each is coded once."""
    grid, coded = TileGrid(size[0] * TILE, size[1] * TILE), []
    recent = RecentTiles(grid)
    for index in range(len(grid)):
        recent.start(index)
        window = grid.latent_box(index, 7)
        for tile in recent.missing(window):
            top, left, bottom, right = grid.latent_box(tile)
            recent.put(tile, torch.full((1, bottom - top, right - left, 1), float(tile)))
            coded.append(tile)
        assert set(recent.window(window).unique().tolist()) == set(grid.touching(window))
        assert len(recent) <= (2 * grid.columns + 3 if min(size) > 1 else 3)
    assert sorted(coded) == list(range(len(grid)))


@pytest.fixture(scope="module")
def tiled(image_codec, photograph):
    """A photograph of 2x2 tiles, its stream and its reconstruction."""
    image = np.asarray(Image.fromarray(photograph).resize((TILE + 90, TILE + 70), Image.Resampling.LANCZOS))
    data = image_codec.encode(image, quality=20)
    return image, data, image_codec.decode(data).array()


def test_tiles_leave_no_seams(image_codec, tiled):
    """The same content has at most 0.4 dB more error on a border than when the image is shifted and it lies inside."""
    image = tiled[0]
    errors, borders = [], []
    for shift in (0, 96, 192):
        shifted = np.roll(image, (shift, shift), (0, 1))
        error = ((shifted.astype(float) - image_codec.decode(image_codec.encode(shifted, quality=20)).array()) ** 2).mean(-1)
        border = np.zeros(error.shape, bool)
        border[TILE - 4 : TILE + 4] = border[:, TILE - 4 : TILE + 4] = True
        errors.append(np.roll(error, (-shift, -shift), (0, 1)))
        borders.append(np.roll(border, (-shift, -shift), (0, 1)))
    on = sum(errors[i][borders[i]].mean() for i in range(3))
    inside = sum(errors[i][borders[i - 1]].mean() for i in range(3))
    assert 10 * np.log10(on / inside) < 0.4


def test_a_tile_gives_the_latent_that_the_whole_image_gives(image_codec, tiled):
    image, _, _ = tiled
    header = ImageHeader(width=image.shape[1], height=image.shape[0], quality=20, channels=3, alpha=False)
    whole = torch.nn.functional.pad(
        torch.from_numpy(image.copy()).float().permute(2, 0, 1)[None] / 255 - 0.5,
        (0, -image.shape[1] % 16, 0, -image.shape[0] % 16), mode="replicate",
    )  # fmt: skip
    with torch.inference_mode():
        y = image_codec.network.to_latent(whole.permute(0, 2, 3, 1), torch.tensor([20]))
    encoder = TileEncoder(image_codec.network, image_codec.tables, header, image, lambda: None)
    for index in range(4):
        top, left, bottom, right = header.grid.latent_box(index)
        torch.testing.assert_close(encoder.latent(index), y[:, top:bottom, left:right], atol=1e-4, rtol=1e-4)


def test_crop_is_that_part_of_the_whole(image_codec, tiled):
    _, data, decoded = tiled
    for box in ((0, 0, 5, 5), (1000, 1010, 1060, 1090), (TILE, TILE, TILE + 70, TILE + 90), (3, 1020, 40, 1030)):
        part = image_codec.decode(data, crop=box).pixels
        off = np.abs(part.astype(int) - decoded[box[0] : box[2], box[1] : box[3]])
        assert off.max() <= 1 and (off > 0).mean() < 0.01  # float sums may tie differently in another window
    with pytest.raises(ValueError, match="does not lie"):
        image_codec.decode(data, crop=(0, 0, TILE + 71, 5))


def test_crop_decodes_only_the_tiles_it_needs(image_codec, tiled, monkeypatch):
    read = []
    original = TileDecoder.read
    monkeypatch.setattr(TileDecoder, "read", lambda self, index: read.append(index) or original(self, index))
    image_codec.decode(tiled[1], crop=(10, 10, 50, 50))
    assert read == [0]


def test_salvage_recovers_the_undamaged_tiles(image_codec, tiled):
    _, data, decoded = tiled
    stream = container.parse(data)
    at = stream.entries[3].offset + 10
    damaged = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
    with pytest.raises(BitstreamError):
        image_codec.decode(damaged)
    picture = image_codec.decode(damaged, salvage=True)
    np.testing.assert_array_equal(picture.pixels[: TILE - 96, : TILE - 96], decoded[: TILE - 96, : TILE - 96])
    assert len(picture.notices) == 1 and picture.notices[0].startswith("tile 3 (of 0..3) is lost (chunk 3 has checksum")
    cut = image_codec.decode(data[: stream.entries[2].offset + 9], salvage=True)
    assert (picture.lost_tiles, cut.lost_tiles) == ((3,), (2, 3))
    assert len(cut.notices) == 2 and cut.pixels.shape == decoded.shape
    with pytest.raises(Corrupt, match="no tile is undamaged"):
        image_codec.decode(damaged, crop=(TILE + 2, TILE + 2, TILE + 40, TILE + 50), salvage=True)


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
    forged = container.write(stream_id=STREAM_ID, weights=stream.weights, signal=stream.signal, chunks=chunks)
    for check in (image_codec.decode, image_codec.verify):
        with pytest.raises(Corrupt, match=r"^tile 2 \(of 0\.\.3\): symbols have checksum"):
            check(forged)


@pytest.mark.parametrize("quality", [5, 20, 60])
def test_a_smooth_sky_shows_no_line_between_tiles(image_codec, quality):
    """The mean error at a border is no further from that around it than elsewhere, give or take a fifth of a grey level."""
    y, x = np.mgrid[:128, : TILE + 256]
    grain = np.random.default_rng(0).normal(0, 1, (*x.shape, 3))
    sky = np.stack([90 + y / 5 + 10 * np.sin(x / 700), 140 + y / 6 + 8 * np.sin(x / 900), 210 + y / 12], -1) + grain
    image = sky.clip(0, 255).round().astype(np.uint8)
    error = (image_codec.estimate(image, quality=quality).signal.pixels.astype(float) - image).mean(-1)

    def line(at: int) -> float:
        beside, around = slice(at - 4, at + 4), np.r_[at - 16 : at - 8, at + 8 : at + 16]
        return float(np.abs([part[:, beside].mean() - part[:, around].mean() for part in np.split(error, 2)]).mean())

    elsewhere = np.mean([line(at) for at in range(128, TILE - 64, 64)])
    assert line(TILE) < 1.2 * elsewhere + 0.2, (line(TILE), elsewhere)
