"""The correction of the synthesis' last layer: learnt, solved, coded, and worth its bytes."""

import numpy as np
import pytest
import torch
from rdcodec.codecs.image.correction import Correction
from rdcodec.codecs.image.tiles import TILE, TileGrid
from rdcodec.entropy_models.coder import Measure, Read, Write
from rdcodec.entropy_models.tables import gaussian_tables
from rdcodec.training.correction import Wishes, learnt

INPUTS, OUTPUTS, PATCHES = 12, 10, 400
HATS = torch.eye(9)[4:5]  # quality 50


def crops(count: int, seed: int = 0):
    """Features and errors of crops that each ask for a mixture of two hidden directions, and noise."""
    draw = torch.Generator().manual_seed(0)
    hidden = torch.einsum("ki,ko->kio", torch.randn(2, INPUTS, generator=draw), torch.randn(2, OUTPUTS, generator=draw))
    draw.manual_seed(seed + 1)
    for _ in range(count):
        features = torch.randn(PATCHES, INPUTS, generator=draw)
        wish = torch.einsum("k,kio->io", 0.02 * torch.randn(2, generator=draw), hidden)
        yield features, features @ wish + 0.002 * torch.randn(PATCHES, OUTPUTS, generator=draw)


@pytest.fixture(scope="module")
def correction() -> Correction:
    ones = torch.ones(PATCHES, 1)
    rows = []
    for features, error in crops(60):
        features = torch.cat([features, ones], 1)
        rows.append((features.T @ features / PATCHES, features.T @ error / PATCHES, error.square().sum() / PATCHES))
    found = Wishes(torch.full((60,), 50), *(torch.stack(parts) for parts in zip(*rows, strict=True)))
    return learnt(found, 4, 9, (0.001, 0.2), steps=60)


def corrected(correction: Correction, features: torch.Tensor, error: torch.Tensor) -> tuple[torch.Tensor, Measure]:
    """What is missing after the correction, and the coder it went through."""
    measure = Measure(gaussian_tables())
    symbols = correction.code(measure, correction.wanted(features, 0 * error, error, HATS, measure.tables))
    change = correction.change(symbols.float(), HATS)
    return error - features @ change[:-1] - change[-1], measure


def test_hidden_directions_are_found_and_used(correction):
    """The noise alone remains of crops that were never seen."""
    for features, error in crops(5, seed=1):
        left, measure = corrected(correction, features, error)
        noise = 0.002**2 * error.numel()
        assert left.square().sum() < noise + 0.15 * (error.square().sum() - noise)
        assert 4 < measure.bits[0] < 60


def test_without_a_gain_there_is_no_correction(correction):
    features, error = next(crops(1))
    for missing in (torch.zeros_like(error), 1e-5 * torch.randn_like(error), error * torch.nan):
        assert not correction.wanted(features, 0 * error, missing, HATS, gaussian_tables()).any()
    left, measure = corrected(correction, features, torch.zeros_like(error))
    assert not left.any() and measure.bits[0] < 2


def test_pixels_beyond_white_are_as_good_as_white(correction):
    """What looks like an error and is cut off on decoding asks for nothing."""
    features, error = next(crops(1))
    white = torch.full_like(error, 0.5)
    assert correction.wanted(features, white - error, white, HATS, gaussian_tables()).any()
    assert not correction.wanted(features, white + error.abs(), white, HATS, gaussian_tables()).any()


def test_the_correction_comes_back_from_a_stream(correction):
    """Of a batch, one tile with and one without."""
    wanted = torch.cat([torch.tensor([[1.0, 3.2, -90.0, 0.1, 0.1]]), correction.none()])
    writer = Write(gaussian_tables(), 2)
    symbols = correction.code(writer, wanted)
    assert symbols.tolist() == [[3, -90, 0, 0], [0, 0, 0, 0]]
    reader = Read(gaussian_tables(), writer.close())
    assert torch.equal(correction.code(reader, correction.none(2)), symbols)
    reader.close()


@pytest.mark.parametrize("quality", [10, 50, 90])
def test_it_is_worth_its_bytes(image_codec, photograph, quality, monkeypatch):
    """Less error for at most 64 bytes more, on a photograph that no one trained on."""
    correction = image_codec.network.correction

    def coded() -> tuple[int, float]:
        data = image_codec.encode(photograph, quality)
        return len(data), np.mean((image_codec.decode(data).astype(float) - photograph) ** 2)

    size, error = coded()
    monkeypatch.setattr(Correction, "wanted", lambda *args: correction.none())
    plain_size, plain_error = coded()
    assert 0 < size - plain_size <= 64 and error < 0.998 * plain_error


def test_it_is_solved_where_no_other_tile_reaches():
    grid = TileGrid(TILE + 40, 3 * TILE)
    side = TILE // 16
    assert grid.own_box(0, 6) == (0, 0, side - 6, side - 6)
    assert grid.own_box(4, 6) == (side + 6, side + 6, side + 6, 2 * side - 6)  # three rows, all in reach: empty
    assert TileGrid(500, 700).own_box(0, 6) == (0, 0, 32, 44)
