"""The entropy coder alone: random tables and levels, escapes, exact agreement of write, read and measure."""

from __future__ import annotations

import constriction
import numpy as np
import pytest
import torch
from rdcodec.entropy_models.coder import SYMBOL_MAX, Measure, Plan, Read, Write
from rdcodec.entropy_models.errors import BitstreamError, Corrupt
from rdcodec.entropy_models.escapes import exponent_counts
from rdcodec.entropy_models.tables import (
    LEVELS,
    TOTAL,
    Tables,
    categorical,
    gaussian_tables,
    integer_counts,
    scale,
)  # fmt: skip


def random_tables(seed: int, skip_level: int = 2) -> Tables:
    rng = np.random.default_rng(seed)
    return Tables([integer_counts(rng.random(2 * rng.integers(1, 40) + 2) ** 4) for _ in range(LEVELS)], skip_level)


def random_case(seed: int, shape=(2, 5, 7, 16), outliers: int = 20):
    """Residuals that fit their levels, but for a few far beyond any table."""
    rng = np.random.default_rng(seed)
    level = rng.integers(0, LEVELS, shape)
    residual = rng.normal(size=shape) * np.array([scale(i) for i in range(LEVELS)])[level]
    flat = residual.reshape(-1)
    flat[rng.choice(flat.size, outliers, replace=False)] *= 10.0 ** rng.integers(1, 6, outliers)
    active = torch.from_numpy(rng.random(shape[1:]) < 0.7)
    return torch.from_numpy(residual).float(), torch.from_numpy(level).float(), active


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("masked", [False, True])
def test_read_returns_what_write_returned(seed, masked):
    tables = random_tables(seed) if seed % 2 else gaussian_tables(3)
    residual, level, active = random_case(seed)
    mask = active if masked else None
    writer = Write(tables, batch=2)
    written = [writer.code(residual, level, mask), writer.code(residual.flip(-1), level, mask)]
    reader = Read(tables, writer.close())
    for expected in written:
        assert torch.equal(reader.code(torch.zeros_like(residual), level, mask), expected)
    reader.close()
    assert reader.checks == writer.checks


@pytest.mark.parametrize("seed", range(3))
def test_symbols_are_rounded_residuals_except_where_skipped(seed):
    tables, (residual, level, active) = gaussian_tables(3), random_case(seed)
    coded = Write(tables, batch=2).code(residual, level, active)
    expected = residual.round() * (level >= 3) * active
    assert torch.equal(coded, expected) and coded.abs().max() > 1000


def test_a_dead_zone_pulls_towards_zero_and_decodes():
    tables, (residual, level, _) = gaussian_tables(3).with_deadzone(0.05), random_case(4)
    writer = Write(tables, batch=2)
    coded = writer.code(residual, level)
    pull = torch.from_numpy(tables.deadzone)[level.long()]
    expected = (residual.abs() - pull).clamp_min(0).round() * residual.sign() * (level >= 3)
    assert torch.equal(coded.abs(), expected.abs()) and 0.01 < pull.mean() < 0.3
    assert not torch.equal(coded, Write(gaussian_tables(3), batch=2).code(residual, level))
    assert torch.equal(Read(tables, writer.close()).code(residual * 0, level), coded)


@pytest.mark.parametrize("seed", range(3))
def test_measure_is_the_length_that_write_gives(seed):
    tables = gaussian_tables(3)
    residual, level, _ = random_case(seed, shape=(1, 40, 40, 64), outliers=0)
    writer, measure = Write(tables), Measure(tables)
    assert torch.equal(writer.code(residual, level), measure.code(residual, level))
    real = 8 * len(writer.close()[0])
    assert -1 <= real - measure.bits[0] <= 64 + 0.001 * measure.bits[0]


def test_ideal_bits_of_escapes_are_elias_gamma():
    tables = gaussian_tables(3)
    level = torch.full((1, 1), 10.0)
    reach = int(tables.reach[10])
    for excess, gamma in ((1, 1), (2, 3), (5, 5), (70000, 33)):
        measure = Measure(tables)
        measure.code(torch.tensor([[-float(reach + excess)]]), level)
        assert measure.bits[0] == pytest.approx(tables.bits[10][-1] + gamma + 1)


def test_a_model_has_exactly_the_counts_it_is_made_from():
    """Coding each symbol alone costs what its integer count says: constriction rounds nothing."""
    rng = np.random.default_rng(0)
    counts = integer_counts(rng.random(50) ** 6)
    model = categorical(counts)
    for symbol in range(50):
        encoder = constriction.stream.queue.RangeEncoder()
        encoder.encode(np.full(4096, symbol, np.int32), model)
        assert encoder.num_bits() == pytest.approx(4096 * -np.log2(counts[symbol] / TOTAL), abs=64)


def decoded(words: np.ndarray, model: constriction.stream.model.Categorical) -> list[int]:
    """Up to 2000 symbols, or as many as come before the decoder finds the words impossible."""
    decoder, symbols = constriction.stream.queue.RangeDecoder(words), []
    try:
        while len(symbols) < 2000:
            symbols.append(decoder.decode(model))
    except AssertionError:
        pass
    return symbols


@pytest.mark.parametrize("seed", range(5))
def test_scan_and_bisection_decode_the_same(seed):
    """From any words, not only from those an encoder writes."""
    rng = np.random.default_rng(seed)
    words = rng.integers(0, 2**31, 1000, dtype=np.uint32)
    for size in (4, 6, 10, 50):
        counts = integer_counts(rng.random(size) ** 6)
        scanned = decoded(words, categorical(counts, scan=True))
        assert scanned == decoded(words, categorical(counts)) and len(scanned) > 10


def test_tables_survive_storage():
    tables = random_tables(3)
    again = Tables.from_arrays(tables.to_arrays())
    assert all(np.array_equal(a, b) for a, b in zip(tables.counts, again.counts, strict=True))
    again = Tables.from_arrays(tables.with_deadzone(0.05).to_arrays())
    assert np.array_equal(again.deadzone, tables.with_deadzone(0.05).deadzone)
    assert again.skip_level == tables.skip_level and exponent_counts().sum() == TOTAL


@pytest.mark.parametrize(
    "change",
    [lambda t: t[:-1], lambda t: [*t[:-1], t[-1] * 2], lambda t: [*t[:-1], t[-1][:-1]], lambda t: [t[0] * 0, *t[1:]]],
)
def test_bad_tables_are_refused(change):
    with pytest.raises(ValueError, match="table|need"):
        Tables(change(gaussian_tables().counts), 1)


def test_wrong_levels_do_not_pass_unnoticed():
    tables, (residual, level, _) = gaussian_tables(3), random_case(1)
    writer = Write(tables, batch=2)
    writer.code(residual, level)
    reader = Read(tables, writer.close())
    try:
        reader.code(torch.zeros_like(residual), (level + 1).clamp_max(LEVELS - 1))
        reader.close()
    except BitstreamError:
        return
    assert reader.checks != writer.checks


def test_leftover_words_are_refused():
    tables, (residual, level, _) = gaussian_tables(3), random_case(1)
    writer = Write(tables, batch=2)
    writer.code(residual, level)
    reader = Read(tables, [data + b"\x12\x34\x56\x78" * 4 for data in writer.close()])
    reader.code(torch.zeros_like(residual), level)
    with pytest.raises(Corrupt, match="left over"):
        reader.close()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 4.0 * SYMBOL_MAX])
def test_values_that_cannot_be_coded_are_refused(value):
    with pytest.raises(ValueError, match="finite|magnitude"):
        Write(gaussian_tables()).code(torch.full((1, 3), value), torch.full((1, 3), 9.0))


def test_a_value_that_is_not_finite_is_refused_even_where_nothing_is_coded():
    residual, level = torch.tensor([[1.0, float("nan")]]), torch.tensor([[9.0, 0.0]])
    for coder in (Write(gaussian_tables()), Measure(gaussian_tables())):
        with pytest.raises(ValueError, match="finite"):
            coder.code(residual, level)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_residuals_of_any_dtype_are_coded(dtype):
    residual, level, active = random_case(3, outliers=0)
    residual = residual.to(dtype)
    coded = Write(gaussian_tables(3), batch=2).code(residual, level, active)
    assert coded.dtype == torch.float32 and torch.equal(coded, residual.round().float() * (level >= 3) * active)


def test_plan_groups_by_level_in_tensor_order():
    level = np.array([5, 0, 3, 5, 1, 3], np.uint8)
    plan = Plan(level, skip_level=2)
    assert plan.order.tolist() == [2, 5, 0, 3]
    assert [(i, run.start, run.stop) for i, run in plan.runs] == [(3, 0, 2), (5, 2, 4)]
