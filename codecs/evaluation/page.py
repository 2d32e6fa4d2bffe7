"""What pages of reports share: which signals are on them, files within the page, and figures for people."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Mapping, Sequence
from pathlib import Path


def spread(paths: Sequence[Path], count: int) -> list[Path]:
    """So many of the paths, evenly over all.

    >>> spread(list(range(10)), 3)
    [0, 3, 6]
    """
    return [paths[i * len(paths) // count] for i in range(count)] if len(paths) > count else list(paths)


def data_uri(kind: str, data: bytes) -> str:
    """A file of this media type, to stand where a link would."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def scores_list(scores: Mapping[str, float]) -> str:
    """Names and values as a list of definitions."""
    rows = (f"<div><dt>{html.escape(name)}</dt><dd>{shown(value)}</dd></div>" for name, value in scores.items())
    return f"<dl>{''.join(rows)}</dl>"


def shown(value: float) -> str:
    """Two digits behind the point, three below 1.

    >>> shown(3.8), shown(0.9514), shown(math.nan)
    ('3.80', '0.951', '–')
    """
    return "–" if math.isnan(value) else f"{value:.{2 if value >= 1 else 3}f}"
