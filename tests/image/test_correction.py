"""The correction of the synthesis' last layer: learnt, solved, coded, and worth its bytes."""

import numpy as np
import pytest
import torch
from contract.subject import GOLDEN
from rdcodec.codecs import container, load
from rdcodec.codecs.image.correction import REFERENCE, STEP, Correction
from rdcodec.codecs.image.tiles import TILE
from rdcodec.entropy_models.coder import Measure, Read, Write
from rdcodec.entropy_models.tables import gaussian_tables
from rdcodec.training.image.correction import Wishes, learnt

INPUTS, OUTPUTS, PATCHES = 12, 10, 400
KNOT_WEIGHTS = torch.eye(9)[4:5]  # quality 50


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


def test_more_coefficients_than_crops_can_tell_apart_stay_finite():
    """What an export from a handful of crops asks for."""
    draw = torch.Generator().manual_seed(0)
    features = torch.randn(3, PATCHES, INPUTS + 1, generator=draw) * torch.logspace(-4, 0, INPUTS + 1)
    error = 0.1 * torch.randn(3, PATCHES, OUTPUTS, generator=draw)
    moments, missing = features.mT @ features / PATCHES, features.mT @ error / PATCHES
    found = Wishes(torch.tensor([0, 50, 100]), moments, missing, error.square().sum((1, 2)) / PATCHES)
    state = learnt(found, 64, 9, (0.001, 0.2), steps=1500).state_dict()
    assert all(value.isfinite().all() for value in state.values() if value.is_floating_point())


def corrected(correction: Correction, features: torch.Tensor, error: torch.Tensor) -> tuple[torch.Tensor, Measure]:
    """What is missing after the correction, and the coder it went through."""
    measure = Measure(gaussian_tables())
    symbols = correction.code(measure, correction.solve(features, 0 * error, error, KNOT_WEIGHTS, measure.tables))
    change = correction.change(symbols.float(), KNOT_WEIGHTS)
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
        assert not correction.solve(features, 0 * error, missing, KNOT_WEIGHTS, gaussian_tables()).any()
    left, measure = corrected(correction, features, torch.zeros_like(error))
    assert not left.any() and measure.bits[0] < 2


def test_pixels_beyond_white_are_as_good_as_white(correction):
    """What looks like an error and is cut off on decoding asks for nothing."""
    features, error = next(crops(1))
    white = torch.full_like(error, 0.5)
    assert correction.solve(features, white - error, white, KNOT_WEIGHTS, gaussian_tables()).any()
    assert not correction.solve(features, white + error.abs(), white, KNOT_WEIGHTS, gaussian_tables()).any()


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

    def coded() -> tuple[int, float]:
        data = image_codec.encode(photograph, quality=quality)
        return len(data), np.mean((image_codec.decode(data).array().astype(float) - photograph) ** 2)

    size, error = coded()
    uncorrected(image_codec, monkeypatch)
    plain_size, plain_error = coded()
    assert 0 < size - plain_size <= 64 and error < 0.998 * plain_error


def uncorrected(codec, monkeypatch):
    monkeypatch.setattr(Correction, "solve", lambda *args, **options: codec.network.correction.none())


def squared_error(codec, image: np.ndarray, quality: int) -> np.ndarray:
    return (codec.decode(codec.encode(image, quality=quality)).array().astype(float) - image) ** 2


@pytest.mark.parametrize("quality", [10, 50, 90])
def test_grey_pictures_pay_for_nothing_that_is_not_seen(image_codec, photograph, quality, monkeypatch):
    """Bits and error together get no worse. Solved for three channels of which the mean is shown, they did."""
    grey = photograph.mean(2).round().astype(np.uint8)
    worth = 0.001 * 200 ** (quality / 100)

    def cost() -> float:
        return 8 * len(image_codec.encode(grey, quality=quality)) + worth * squared_error(image_codec, grey, quality).sum()

    corrected_cost = cost()
    uncorrected(image_codec, monkeypatch)
    assert corrected_cost <= cost() + 32  # a stream is a multiple of 32 bits


@pytest.mark.parametrize("quality", [20, 60, 90])
def test_a_drawing_does_not_spoil_what_is_beside_it(image_codec, quality, monkeypatch):
    """A checkerboard of single pixels owned the solution: the ramp beside it had 60 times the error."""
    y, x = np.mgrid[:128, :640]
    board = (x < 512) * 255 * ((x + y) % 2) + (x >= 512) * (60 + (x - 512 + y) // 2)
    image = np.repeat(board.astype(np.uint8)[..., None], 3, 2)
    ramp = squared_error(image_codec, image, quality)[:, 544:].mean()
    uncorrected(image_codec, monkeypatch)
    assert ramp <= 1.2 * squared_error(image_codec, image, quality)[:, 544:].mean() + 0.5


@pytest.mark.parametrize("quality", [30, 60, 100])
@pytest.mark.parametrize("kind", ["black", "stripes", "squares", "text-like"])
def test_drawings_never_get_worse(image_codec, kind, quality, monkeypatch):
    """Pixels beyond white count as white: they once were taken for errors, and black lost 2 dB."""
    y, x = np.mgrid[:96, :128]
    strokes = np.random.default_rng(0).random((24, 16)) > 0.6
    planes = {
        "black": 0 * x, "stripes": 255 * (x // 5 % 2), "squares": 255 * ((x // 8 + y // 8) % 2),
        "text-like": 255 * strokes[y // 4, x // 8],
    }  # fmt: skip
    image = np.repeat(planes[kind].astype(np.uint8)[..., None], 3, 2)
    error = squared_error(image_codec, image, quality).mean()
    uncorrected(image_codec, monkeypatch)
    assert error <= 1.001 * squared_error(image_codec, image, quality).mean()


def test_corrections_of_two_tiles_leave_no_seam(image_codec, monkeypatch):
    """Two smooth tiles with an edge between them. Solved away from the border, corrections cost 7.9 dB along it."""
    y, x = np.mgrid[:144, :TILE]
    slopes = [x * 200 // TILE + 20, y * 200 // 144 + 20, (x + y) * 200 // (TILE + 144)]
    image = np.tile(np.stack(slopes, -1).astype(np.uint8), (1, 2, 1))
    border = slice(TILE - 12, TILE + 12)
    error = squared_error(image_codec, image, 30)
    uncorrected(image_codec, monkeypatch)
    plain = squared_error(image_codec, image, 30)
    assert error.mean() < plain.mean() and error[:, border].mean() < 1.05 * plain[:, border].mean()


def test_a_step_is_worth_what_the_quality_says(image_codec):
    """Bits per squared error of the pixels, at the ends of the range the shipped model was trained for."""
    for quality, weight in ((0, 0.001), (100, 0.2)):
        knot_weights = image_codec.network.knot_weights(torch.tensor([quality]), torch.float32)
        found = float(image_codec.network.correction.gain(knot_weights)) ** 2 * STEP**2 / REFERENCE
        assert found == pytest.approx(weight * 255**2 / 3, rel=0.05)


def test_the_solution_is_the_best_near_it(correction):
    """No neighbouring integers save more than they cost in bits beyond it."""
    features, error = next(crops(1, seed=3))
    measure = Measure(gaussian_tables())
    best = correction.solve(features, 0 * error, error, KNOT_WEIGHTS, measure.tables)
    worth = 0.001 * 200**0.5 * 255**2 / 3

    def value(wanted: torch.Tensor) -> float:
        coder = Measure(gaussian_tables())
        change = correction.change(correction.code(coder, wanted).float(), KNOT_WEIGHTS)
        return float(coder.bits[0] + worth * (error - features @ change[:-1] - change[-1]).square().sum())

    for k in (1, 2):
        for step in (-1, 1):
            other = best.round()
            other[0, k] += step
            assert value(best) < value(other) + 0.5


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*-corrected.rdc")), ids=lambda path: path.stem)
def test_a_golden_stream_holds_a_correction(path, monkeypatch):
    held, data = [], path.read_bytes()
    codec = load("image", stream_hash=container.parse(data).weights, device="cpu")
    code = Correction.code
    monkeypatch.setattr(Correction, "code", lambda self, *given: held.append(code(self, *given)) or held[-1])
    codec.verify(data)
    assert len(held) == 1 and held[0].count_nonzero() > 20
