"""BD-rate: how much more or fewer bytes at equal quality (package ``bjontegaard``, Akima interpolation).

Bjøntegaard, "Calculation of average PSNR differences between RD-curves", VCEG-M33.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from .points import OURS, MeanPoint
from .task import Metric

POINTS_MIN = 4
"""Fewest points of a curve that is interpolated."""
Rates = tuple[float, float]
ANY_RATE: Rates = (0.0, math.inf)
Curve = tuple[list[float], list[float]]
"""Rates, rising, and qualities."""


def curve(rows: Sequence[MeanPoint], codec: str, metric: Metric[Any], rates: Rates = ANY_RATE) -> Curve:
    """Rates and scaled metric of one codec inside ``rates`` (and the neighbours just outside), where it is defined."""
    points = [(row.rate, row.metrics[metric.column]) for row in rows if row.codec == codec]
    defined = sorted((rate, metric.scaled(value)) for rate, value in points if not math.isnan(value))
    low = max([rate for rate, _ in defined if rate <= rates[0]], default=0.0)
    high = min([rate for rate, _ in defined if rate >= rates[1]], default=math.inf)
    kept = [(rate, value) for rate, value in defined if low <= rate <= high]
    return [rate for rate, _ in kept], [value for _, value in kept]


def rising(rates: Sequence[float], values: Sequence[float]) -> Curve:
    """The points of a curve that are better than every cheaper one; interpolation needs both strictly rising."""
    kept: list[tuple[float, float]] = []
    for rate, value in sorted(zip(rates, values, strict=True), key=lambda point: (point[0], -point[1])):
        if not kept or value > kept[-1][1]:
            kept.append((rate, value))
    return [rate for rate, _ in kept], [value for _, value in kept]


def between(rates: Sequence[float], values: Sequence[float], limits: Rates) -> Curve:
    """A curve from one rate to another, its ends interpolated (Akima, over the logarithm of the rate).

    Ending at a point outside instead, a codec that gets better moves that point, and its BD-rate jumps by half a per cent.
    """
    import numpy as np
    from scipy.interpolate import Akima1DInterpolator

    low, high = max(limits[0], rates[0]), min(limits[1], rates[-1])
    inside = [i for i, rate in enumerate(rates) if low < rate < high]
    first, last = Akima1DInterpolator(np.log(rates), values)(np.log([low, high]))
    return [low, *(rates[i] for i in inside), high], [float(first), *(values[i] for i in inside), float(last)]


def bd_rate(
    rows: Sequence[MeanPoint],
    reference: str,
    metric: Metric[Any],
    rates: Rates = ANY_RATE,
    ours: str = OURS,
    our_rates: Rates | None = None,
) -> float:
    """Rate of ours over the reference's at equal quality, percent (negative: ours is smaller).

    Each curve counts between its ``rates``, and where both have one quality; nan if they have none in common, or a
    curve has fewer than four points that rise.

    Args:
        our_rates: None: the reference's. A codec that needs half the bytes has its qualities at half the rates.
    """
    import bjontegaard

    found = []
    for codec, limits in (reference, rates), (ours, our_rates or rates):
        x, y = curve(rows, codec, metric, limits)
        x, y = rising(x, y if metric.higher_is_better else [-value for value in y])
        if len(x) < POINTS_MIN:
            return math.nan
        found.append(between(x, y, limits))
    (their_x, theirs), (our_x, ours_at) = found
    if max(theirs[0], ours_at[0]) >= min(theirs[-1], ours_at[-1]):
        return math.nan
    options = {"method": "akima", "require_matching_points": False, "min_overlap": 0}
    return float(bjontegaard.bd_rate(their_x, theirs, our_x, ours_at, **options))
