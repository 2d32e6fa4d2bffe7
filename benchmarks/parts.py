"""What the parts of a codec give: rates at equal quality when each is switched off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import bjontegaard
import numpy as np
from rdcodec.codecs.evaluation.bd_rate import rising
from rdcodec.codecs.evaluation.points import write_csv
from rich.console import Console
from rich.table import Table

EVERYTHING = "everything"
"""Name of the curve with nothing switched off."""


def lines_of(facts: Mapping[str, str], curves: Mapping[str, np.ndarray]) -> list[dict[str, str]]:
    """A line for each part that curves, (points, 2) of rate and quality, are without: ``facts``, and its BD-rate."""

    def bd_rate(found: np.ndarray) -> float:
        full, without = rising(*curves[EVERYTHING].T), rising(*found.T)
        rate: float = bjontegaard.bd_rate(*full, *without, method="akima", require_matching_points=False, min_overlap=0)
        return rate

    return [
        {"part": name, **facts, "bd_rate_percent": f"{bd_rate(found):.2f}"}
        for name, found in curves.items()
        if name != EVERYTHING
    ]


def report(path: Path, lines: Sequence[Mapping[str, str]]) -> None:
    """Write the lines, and print them in a table."""
    write_csv(path, lines)
    columns = list(dict.fromkeys(tuple(line.values())[1] for line in lines))
    table = Table("without", *(f"{column}, %" for column in columns), title="more rate at equal quality")
    for name in dict.fromkeys(line["part"] for line in lines):
        table.add_row(name, *(line["bd_rate_percent"] for line in lines if line["part"] == name))
    Console().print(table)
