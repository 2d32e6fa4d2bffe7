"""BD-rates of curves whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from rdcodec.codecs.evaluation.bd_rate import bd_rate, between, curve, rising
from rdcodec.codecs.evaluation.metrics import psnr_db, similarity_db
from rdcodec.codecs.evaluation.points import OURS, MeanPoint
from rdcodec.codecs.evaluation.task import Metric

pytest.importorskip("bjontegaard")

PSNR = Metric("psnr_db", "PSNR", "PSNR (dB)", psnr_db)
ERROR = Metric("error", "Error", "error", lambda a, b: 0.0, higher_is_better=False)
SIMILARITY = Metric("similarity", "Similarity", "similarity (dB)", lambda a, b: 0.0, scaled=similarity_db)


def rows(codec: str, rates: np.ndarray, values: np.ndarray, column: str = "psnr_db") -> list[MeanPoint]:
    pairs = zip(rates.tolist(), values.tolist(), strict=True)
    return [MeanPoint(codec=codec, setting=i, rate=x, metrics={column: y}) for i, (x, y) in enumerate(pairs)]


RATES = np.geomspace(0.05, 4, 9)
QUALITY = 30 + 6 * np.log2(RATES)


@pytest.mark.parametrize("factor", [0.5, 0.9, 1.0, 1.3])
def test_the_same_quality_at_a_share_of_the_rate(factor):
    points = rows("jpeg", RATES, QUALITY) + rows(OURS, RATES * factor, QUALITY)
    assert bd_rate(points, "jpeg", PSNR) == pytest.approx(100 * (factor - 1), abs=1e-6)


def test_where_less_is_better():
    points = rows("jpeg", RATES, -QUALITY, "error") + rows(OURS, RATES * 0.8, -QUALITY, "error")
    assert bd_rate(points, "jpeg", ERROR) == pytest.approx(-20, abs=1e-6)


def test_a_metric_is_taken_on_its_scale():
    """Decibels of a similarity are linear in the logarithm of the rate here; the similarity itself is not."""
    similarity = 1 - 10 ** (-QUALITY / 10)
    points = rows("jpeg", RATES, similarity, "similarity") + rows(OURS, RATES * 0.8, similarity, "similarity")
    assert curve(points, OURS, SIMILARITY)[1] == pytest.approx(QUALITY)
    assert bd_rate(points, "jpeg", SIMILARITY) == pytest.approx(-20, abs=1e-6)
    assert similarity_db(1.0) == 100


def test_a_bd_rate_between_two_rates_does_not_hang_on_where_points_lie():
    """Ours takes 0.7 of the rate at 0.05 bpp, and a tenth more with each doubling."""
    theirs, figures = np.geomspace(0.05, 4, 30), []
    for count in (9, 10, 11, 12, 13):
        rates = np.geomspace(0.05, 4, count)
        ours = rows(OURS, rates * (0.7 + 0.1 * np.log2(rates / 0.05)), 30 + 6 * np.log2(rates))
        points = ours + rows("jpeg", theirs, 30 + 6 * np.log2(theirs))
        figures.append(bd_rate(points, "jpeg", PSNR, (0.2, 1.0)))
    assert max(figures) - min(figures) < 0.02
    assert bd_rate(points, "jpeg", PSNR, (0.05, 0.2)) < -15 < figures[-1]


def test_ours_counts_at_other_rates_than_the_reference():
    points = rows("jpeg", RATES, QUALITY) + rows(OURS, RATES * 0.1, QUALITY)
    assert bd_rate(points, "jpeg", PSNR, (0.3, 1.5), our_rates=(0.0, math.inf)) == pytest.approx(-90, abs=0.01)
    assert math.isnan(bd_rate(points, "jpeg", PSNR, (0.3, 1.5)))  # ours is better there than theirs ever is


def test_the_ends_of_a_curve_are_interpolated():
    rates, values = between(RATES.tolist(), QUALITY.tolist(), (0.2, 1.0))
    assert (rates[0], rates[-1]) == (0.2, 1.0) and all(0.2 < rate < 1.0 for rate in rates[1:-1])
    assert values == pytest.approx([30 + 6 * math.log2(rate) for rate in rates], abs=1e-9)
    assert between(RATES.tolist(), QUALITY.tolist(), (0.0, math.inf))[0] == pytest.approx(RATES)


@pytest.mark.filterwarnings("error")
def test_too_few_points_or_none_in_common_are_no_figure():
    ours, far = rows(OURS, RATES, QUALITY), rows("far", RATES, QUALITY + 100)
    assert math.isnan(bd_rate(ours + rows("jpeg", RATES[:3], QUALITY[:3]), "jpeg", PSNR))
    assert math.isnan(bd_rate(ours + far, "far", PSNR))
    assert math.isnan(bd_rate(ours, "absent", PSNR))
    assert math.isnan(bd_rate(ours + rows("jpeg", RATES, QUALITY), "jpeg", PSNR, (100.0, 200.0)))
    falling = rows("falling", RATES, -QUALITY)
    assert math.isnan(bd_rate(ours + falling, "falling", PSNR))


def test_what_is_not_better_than_something_cheaper_does_not_count():
    assert rising([1, 2, 3, 4], [10, 12, 11, 13]) == ([1, 2, 4], [10, 12, 13])
    assert rising([2, 1, 1, 2], [20, 10, 11, 19]) == ([1, 2], [11, 20])  # two settings of one rate
    equal = rows("jpeg", np.repeat(RATES, 2), np.repeat(QUALITY, 2) - np.tile([0.0, 1.0], 9))
    assert bd_rate(equal + rows(OURS, RATES * 0.8, QUALITY), "jpeg", PSNR) == pytest.approx(-20, abs=1e-6)


def test_points_without_the_metric_are_left_out():
    unknown = rows("jpeg", RATES / 2, np.full(9, math.nan))
    points = rows("jpeg", RATES, QUALITY) + unknown + rows(OURS, RATES * 0.8, QUALITY)
    assert bd_rate(points, "jpeg", PSNR) == pytest.approx(-20, abs=1e-6)


def test_psnr():
    a = np.array([[0, 255], [10, 20]], np.uint8)
    assert psnr_db(a, a) == 100
    assert psnr_db(a, np.array([[255, 0], [10, 20]], np.uint8)) == pytest.approx(10 * math.log10(2))
    assert psnr_db(np.array([0.0, 1.0]), np.array([0.0, 0.9]), peak=1.0) == pytest.approx(10 * math.log10(200))
