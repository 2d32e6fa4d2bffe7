"""Curves over rate, as a picture."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .points import OURS

PANELS_PER_ROW = 3
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
) -> None:
    """Panels side by side, three in a row, with one legend, as PNG or what the suffix says.

    Args:
        rates: the part of the horizontal axis to show; None: all.
        dashed: names of lines to set apart.
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
    figure.legend(list(handles.values()), list(handles), loc="outside right center")
    if title:
        figure.suptitle(title)
    figure.savefig(path, dpi=110)
