"""Symbols refined at encode time: less of bits and distortion together, whatever the codec."""

from __future__ import annotations

import pytest
import torch
from rdcodec.codecs.refinement import Relaxed, Replay, refined, refined_latent
from rdcodec.entropy_models.coder import Measure, Read, Write
from rdcodec.entropy_models.tables import gaussian_tables

TABLES = gaussian_tables(3).with_deadzone(0.06)
WEIGHT = 9.0
"""Of squared error, for a curvature of 18."""


class Blurred:
    """A codec in miniature: side information, then latents in two steps, the second with a mean and a level from the first;
    synthesis blurs, so that plain rounding of each entry alone is not best."""

    def __init__(self, seed: int = 0) -> None:
        draw = torch.Generator().manual_seed(seed)
        self.y = torch.randn(1, 40, 12, generator=draw) * 1.5
        mixing = torch.eye(12) + 0.12 * torch.randn(12, 12, generator=draw)
        self.synthesis = mixing
        self.signal = self.y @ mixing

    def coding_pass(self, coder, y):
        z_hat = coder.code(y.mean(-1, keepdim=True), torch.full((1, 40, 1), 20), side=True)
        active = torch.arange(12) % 2 == 0
        first = coder.code(y * active, torch.full_like(y, 24), active)
        neighbour = first.roll(1, -1)
        mean = (0.3 * neighbour + 0.1 * z_hat) * ~active
        level = (22 + neighbour.abs().clamp(0, 4)).round()
        return first + mean + coder.code((y - mean) * ~active, level, ~active)

    def distortion(self, coder):
        return WEIGHT * (self.coding_pass(coder, self.y) @ self.synthesis - self.signal).square().sum()

    def total(self, symbols=None):
        measure = Measure(TABLES)
        with torch.no_grad():
            distortion = self.distortion(measure if symbols is None else Replay(measure, symbols))
        return float(measure.bits[0]) + float(distortion)


def test_refined_symbols_cost_less_than_rounded_ones():
    for seed in range(5):
        codec = Blurred(seed)
        totals = [codec.total(), *(codec.total(refined(codec.distortion, TABLES, steps)) for steps in (1, 3, 12))]
        assert totals[3] < totals[2] < totals[0] and totals[1] <= totals[0]
        assert totals[3] < 0.97 * totals[0]


def test_no_steps_are_plain_rounding():
    codec = Blurred()
    assert codec.total(refined(codec.distortion, TABLES, 0)) == codec.total()


def test_a_stream_of_refined_symbols_is_read_as_any_other():
    codec = Blurred()
    symbols = refined(codec.distortion, TABLES, 3)
    writer = Write(TABLES)
    written = codec.coding_pass(Replay(writer, symbols), codec.y)
    reader = Read(TABLES, writer.close())
    assert torch.equal(codec.coding_pass(reader, torch.zeros_like(codec.y)), written)
    reader.close()
    assert not torch.equal(written, codec.coding_pass(Write(TABLES), codec.y))


def test_side_information_stays_as_it_was():
    codec, plain = Blurred(), Relaxed(TABLES, [], [])
    codec.distortion(plain)
    for steps in (1, 6):
        symbols = refined(codec.distortion, TABLES, steps)
        assert torch.equal(symbols[0], plain.symbols[0]) and len(symbols) == 3


def test_the_best_on_the_way_is_kept():
    """Of a distortion that turns worse with every call, the first."""
    codec, calls = Blurred(), []

    def worse(coder):
        calls.append(codec.distortion(coder) + 1e6 * len(calls))
        return calls[-1]

    assert codec.total(refined(worse, TABLES, 4)) == codec.total()
    assert len(calls) == 5


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_the_callers_gradient_mode_does_not_matter(mode):
    codec = Blurred()
    expected = refined(codec.distortion, TABLES, 2)
    with mode():
        found = refined(codec.distortion, TABLES, 2)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_a_refined_latent_costs_less_than_a_poor_analysis_gives():
    for seed in range(3):
        codec = Blurred(seed)
        poor = 0.5 * codec.y

        def distortion(coder, y, codec=codec):
            return WEIGHT * (codec.coding_pass(coder, y) @ codec.synthesis - codec.signal).square().sum()

        def total(y, distortion=distortion):
            measure = Measure(TABLES)
            with torch.no_grad():
                worth = float(distortion(measure, y))
            return float(measure.bits[0]) + worth

        totals = [total(refined_latent(distortion, poor, torch.ones(1, 1, 12), TABLES, steps)) for steps in (0, 2, 12)]
        assert totals[0] == total(poor) and totals[2] < totals[1] < totals[0] and totals[2] < 0.9 * totals[0]
        assert torch.equal(poor, 0.5 * codec.y) and not poor.requires_grad


def test_a_latent_is_refined_from_any_gradient_mode():
    codec = Blurred()

    def distortion(coder, y):
        return (codec.coding_pass(coder, y) @ codec.synthesis - codec.signal).square().sum()

    expected = refined_latent(distortion, codec.y, torch.ones(12), TABLES, 3)
    with torch.inference_mode():
        assert torch.equal(refined_latent(distortion, codec.y, torch.ones(12), TABLES, 3), expected)
