"""`Train` against the other three coders, on coding passes of any shape."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rdcodec.entropy_models.channel_context import active_mask
from rdcodec.entropy_models.coder import Coder, Measure, Read, Write
from rdcodec.entropy_models.relaxed import PROBABILITY_MIN
from rdcodec.entropy_models.tables import LEVELS, scale
from rdcodec.training import coder as train_coder
from rdcodec.training.coder import SKIP_LEVEL, Train, start_tables
from torch import Tensor

TABLES = start_tables()
SCALES = torch.tensor([scale(level) for level in range(LEVELS)])
SPLITS = "whole", "twice", "slices", "checkerboard", "repeated masks", "overlapping masks", "masks of items"


class Call(NamedTuple):
    """Arguments of `Coder.code`."""

    residual: Tensor
    level: Tensor
    active: Tensor | None
    side: bool


class Tolerant(Measure):
    """A `Measure` that also adds up by how much the bits of a float32 Gaussian may differ from its tables'.

    A table's count is half a unit off, and the float32 probability, a difference of two near each other, half a unit more:
    together at most 2 / count bits for counts above ten. The most frequent entry, zero, takes what all others' roundings
    leave over, at most a unit each. The logarithm's and the scale's own rounding come to 1e-5 bits within four scales.
    """

    def __init__(self, batch: int) -> None:
        super().__init__(TABLES, batch)
        self.tolerance = 0.0

    def tally(self, level: int, entries: np.ndarray) -> None:
        counts = self.tables.counts[level]
        assert counts[entries].min() > 10, "a symbol so rare that its count says little of its probability"
        zero = entries == self.tables.reach[level]
        self.tolerance += (np.where(zero, len(counts), 2) / counts[entries] + 1e-5).sum()


def calls_of(shape: tuple[int, ...], split: str, side: bool, random: torch.Generator) -> list[Call]:
    """The calls that code one latent (batch, ...), whose residuals reach four scales and are skipped nowhere."""
    level = torch.randint(SKIP_LEVEL, LEVELS, shape, generator=random)
    residual = torch.randn(shape, generator=random).clamp(-4, 4) * SCALES[level]
    if split == "slices":
        parts = zip(residual.split(2, -1), level.split(2, -1), strict=True)
        return [Call(part, levels, None, side) for part, levels in parts]
    parity = sum(torch.meshgrid(*map(torch.arange, shape[1:]), indexing="ij")) % 2 == 0
    some = torch.rand((3, *shape), generator=random) < 0.5
    masks = {
        "whole": [None],
        "twice": [None, None],
        "checkerboard": [parity, ~parity],
        "repeated masks": [parity, ~parity, parity],
        "overlapping masks": list(some[:, 0]),
        "masks of items": list(some),
    }[split]
    return [Call(residual / (1 + i), level, mask, side) for i, mask in enumerate(masks)]


@st.composite
def passes(draw: st.DrawFn) -> list[Call]:
    """Calls of up to four latents, each with its own rank, size and way to be coded; any of them is side information."""
    batch, random = draw(st.integers(1, 3)), torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    calls: list[Call] = []
    for _ in range(draw(st.integers(1, 4))):
        shape = batch, *draw(st.lists(st.integers(1, 7), min_size=1, max_size=3))
        calls += calls_of(shape, draw(st.sampled_from(SPLITS)), draw(st.booleans()), random)
    return calls


def run(coder: Coder, calls: list[Call]) -> list[Tensor]:
    return [coder.code(*call[:3], side=call.side) for call in calls]


def assert_train_equals_measure(calls: list[Call]) -> None:
    batch = len(calls[0].residual)
    train, measures = Train(), {True: Tolerant(batch), False: Tolerant(batch)}
    expected = [measures[call.side].code(*call[:3]) for call in calls]
    for symbols, same in zip(run(train, calls), expected, strict=True):
        assert torch.equal(symbols, same)
    side, latent = train.side_bits().numpy(), train.latent_bits().numpy()
    assert side == pytest.approx(measures[True].bits, rel=1e-6, abs=measures[True].tolerance)
    assert latent == pytest.approx(measures[False].bits, rel=1e-6, abs=measures[False].tolerance)
    assert train.bits().numpy() == pytest.approx(side + latent)


@settings(max_examples=150, deadline=None)
@given(calls=passes())
def test_train_codes_and_counts_what_measure_does(calls):
    assert_train_equals_measure(calls)


@settings(max_examples=50, deadline=None)
@given(calls=passes())
def test_any_pass_is_read_as_it_was_written(calls):
    batch = len(calls[0].residual)
    writer = Write(TABLES, batch)
    written = run(writer, calls)
    reader = Read(TABLES, writer.close())
    for expected, symbols in zip(written, run(reader, [c._replace(residual=0 * c.residual) for c in calls]), strict=True):
        assert torch.equal(symbols, expected)
    reader.close()
    assert reader.checks == writer.checks


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("shape", [(2, 40), (2, 30, 6), (2, 6, 5, 8)])
def test_two_hyper_latents_and_two_resolutions(split, shape):
    """Every way to code a latent, after two hyper-latents a half and a quarter as long."""
    random = torch.Generator().manual_seed(1)
    half, quarter = ((2, shape[1] // step, *shape[2:]) for step in (2, 4))
    hyper = calls_of(quarter, "whole", True, random) + calls_of(half, "whole", True, random)
    assert_train_equals_measure(hyper + calls_of(half, split, False, random) + calls_of(shape, split, False, random))


def test_levels_and_masks_broadcast():
    """One level a channel and one flag an item cost what they do written out, in all four coders."""
    random = torch.Generator().manual_seed(0)
    level, flag = torch.arange(10.0, 14.0), torch.tensor([[[True]], [[False]]])
    residual = torch.randn((2, 5, 4), generator=random).clamp(-4, 4) * SCALES[level.long()]
    short = [Call(residual, level, None, True), Call(residual, level, flag, False)]
    shape = residual.shape
    full = [Call(residual, level.expand(shape), None, True), Call(residual, level.expand(shape), flag.expand(shape), False)]
    assert_train_equals_measure(short)
    writers = Write(TABLES, 2), Write(TABLES, 2)
    written = run(writers[0], short), run(writers[1], full)
    assert all(map(torch.equal, *written)) and not written[0][1][1].any()
    streams = writers[0].close()
    assert streams == writers[1].close()
    assert all(map(torch.equal, run(Read(TABLES, streams), short), written[0]))


@pytest.mark.parametrize("level, active", [((5, 4), None), ((5, 1), (5, 4)), ((3, 1), None)])
def test_levels_and_masks_beyond_the_residual_are_refused(level, active):
    call = torch.zeros(2, 5, 1), torch.full(level, 9.0), None if active is None else torch.ones(active, dtype=torch.bool)
    for coder in (Train(), Measure(TABLES, 2), Write(TABLES, 2), Read(TABLES, [b"", b""])):
        with pytest.raises(RuntimeError, match="expanded size"):
            coder.code(*call)


def test_what_train_charges_where_an_encoder_has_no_entry():
    """Beyond a table's reach a flat 30 bits, less or more than the escape; below the skip level, what is never coded."""
    far = Call(torch.tensor([[float(TABLES.reach[20]) + 1], [3000.0]]), torch.full((2, 1), 20.0), None, False)
    train, measure = Train(), Measure(TABLES, 2)
    assert torch.equal(run(train, [far])[0], run(measure, [far])[0])
    assert train.bits().numpy() == pytest.approx(-np.log2(PROBABILITY_MIN))
    assert measure.bits[0] == pytest.approx(25) and measure.bits[1] > 40
    skipped = Call(torch.tensor([[0.0], [1.0]]), torch.full((2, 1), SKIP_LEVEL - 1.0), None, False)
    train, measure = Train(), Measure(TABLES, 2)
    assert run(train, [skipped])[0].tolist() == [[0.0], [1.0]] and not run(measure, [skipped])[0].any()
    bits = train.bits().numpy()
    assert 0 < bits[0] < 3e-4 and bits[1] > 10 and not measure.bits.any()


def test_the_steps_of_a_latent_are_one_evaluation(monkeypatch):
    """Disjoint masks of one shape are charged together; a hyper-latent, a second round and another size are not."""
    sizes = []

    def counted(charge: train_coder.Charge) -> Tensor:
        sizes.append(charge.residual.shape[1])
        return expected_bits(charge)

    expected_bits = train_coder.expected_bits
    monkeypatch.setattr(train_coder, "expected_bits", counted)
    train = Train()
    residual, level = torch.randn(2, 6, 6, 8), torch.full((2, 6, 6, 8), 20.0)
    train.code(residual[:, :3], level[:, :3], side=True)
    for size in (6, 6, 4):
        for step in range(5):
            mask = active_mask(size, 6, 8, step, residual.device)
            train.code(residual[:, :size], level[:, :size], mask)
    train.bits()
    assert sizes == [3, 6, 6, 4]


def test_levels_learn_from_symbols_and_residuals_from_noise():
    """A level too low for its symbols rises, even one that is never coded; a residual is pulled towards zero."""
    residual = torch.full((1, 4, 4, 4), 1.1).requires_grad_()
    for start in (0.0, 10.0):
        level = torch.full((1, 4, 4, 4), start).requires_grad_()
        coder = Train()
        coder.code(residual, level, torch.ones(4, 4, 4, dtype=torch.bool))
        residual.grad = None
        coder.bits().sum().backward()
        assert (level.grad < -0.3).all() and residual.grad.sum() > 1


def test_what_is_not_active_costs_and_learns_nothing():
    """Merged or not, gradients are those of each call alone."""
    random = torch.Generator().manual_seed(2)
    idle = Train()
    idle.code(torch.ones(1, 1000), torch.full((1, 1000), 9.0), torch.zeros(1000, dtype=torch.bool))
    assert idle.bits() == 0
    first, second = calls_of((2, 6, 6, 4), "checkerboard", False, random)
    gradients = []
    for together in (True, False):
        coders = [Train()] * 2 if together else [Train(), Train()]
        leaves = [call.level.float().requires_grad_() for call in (first, second)]
        for coder, call, level in zip(coders, (first, second), leaves, strict=True):
            coder.code(call.residual, level, call.active)
        sum(coder.bits().sum() for coder in set(coders)).backward()
        gradients.append([level.grad for level in leaves])
        assert not leaves[0].grad[:, second.active].any() and leaves[0].grad[:, first.active].any()
    for merged, alone in zip(*gradients, strict=True):
        torch.testing.assert_close(merged, alone)
