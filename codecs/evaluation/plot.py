"""Curves over rate, as a picture."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .points import OURS

PANELS_PER_ROW = 3
RATIOS = 1, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 50, 100
"""Ticks of an axis of ratios."""
TICKS_APART = 0.06
"""Least part of the axis between two ticks, or their labels overlap."""
Line = tuple[Sequence[float], Sequence[float]]
"""Rates and values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One pair of axes."""

    label: str
    """Label of the vertical axis, with its unit."""
    lines: Mapping[str, Line]
    """Lines by name in the legend; `OURS` is drawn thick and black."""
    logarithmic: bool = False
    level: tuple[str, float] | None = None
    """Name and value of a horizontal line."""


def plot(
    path: Path,
    panels: Sequence[Panel],
    rate_label: str,
    title: str | None = None,
    *,
    rates: tuple[float, float] | None = None,
    dashed: Collection[str] = (),
    ratio: tuple[str, float] | None = None,
) -> None:
    """Panels side by side, three in a row, with one legend, as PNG or what the suffix says.

    Args:
        rates: the part of the horizontal axis to show; None: all.
        dashed: names of lines to set apart.
        ratio: label of a second axis above, and what is divided by the rate to give it.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(len(panels), PANELS_PER_ROW)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(5.5 * columns + 2, 5 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    names = dict.fromkeys(name for panel in panels for name in panel.lines)
    styles = {name: f"C{i}" for i, name in enumerate(n for n in names if n != OURS)}
    handles = {}
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    for axes, panel in zip(grid, panels, strict=False):
        for name, (x, y) in panel.lines.items():
            look = {"color": styles[name], "linewidth": 1.2} if name != OURS else {"color": "black", "linewidth": 2.4}
            line = "--" if name in dashed else "-"
            (handles[name],) = axes.plot(x, y, line, marker="o", markersize=3, zorder=3 if name == OURS else 2, **look)
        if panel.level:
            name, value = panel.level
            handles[name] = axes.axhline(value, color="grey", linestyle=":")
        axes.set(xlabel=rate_label, ylabel=panel.label, yscale="log" if panel.logarithmic else "linear")
        if rates:
            axes.set_xlim(rates)
        axes.grid(alpha=0.3)
        if ratio:
            _add_ratios(axes, *ratio)
    figure.legend(list(handles.values()), list(handles), loc="outside right center")
    if title:
        figure.suptitle(title)
    figure.savefig(path, dpi=110)


def _add_ratios(axes: Any, label: str, raw: float) -> None:
    """An axis above: how many times smaller than ``raw``."""
    low, high = axes.get_xlim()
    low = max(low, 0.0)
    axes.set_xlim(low, high)
    above = axes.secondary_xaxis("top", functions=(lambda rate: raw / np.maximum(rate, 1e-9),) * 2)
    ticks = list[float]()
    for ratio in RATIOS:
        if low <= raw / ratio <= high and (not ticks or raw / ticks[-1] - raw / ratio >= TICKS_APART * (high - low)):
            ticks.append(ratio)
    above.set_xticks(ticks)
    above.set_xticks([], minor=True)
    above.set_xticklabels([f"{tick:g}" for tick in above.get_xticks()])
    above.set_xlabel(label)
