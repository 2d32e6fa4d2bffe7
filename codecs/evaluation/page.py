"""What pages of reports share: which signals are on them, files within the page, and figures for people."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

HEAD = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root {
  color-scheme: light dark;
  --back: #f7f6f3; --card: #fff; --text: #1d1d20; --soft: #66666e; --line: #dddbd4; --mark: #b5367a;
}
@media (prefers-color-scheme: dark) {
  :root { --back: #141417; --card: #1d1d22; --text: #ececf0; --soft: #9c9ca6; --line: #34343c; --mark: #fc8961; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--text); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 22px; margin: 8px 0; }
h2 { font-size: 15px; margin: 0 0 10px; overflow-wrap: anywhere; }
p { margin: 4px 0; color: var(--soft); max-width: 75ch; }
nav { position: sticky; top: 0; z-index: 1; background: var(--back); border-bottom: 1px solid var(--line); }
legend { float: left; margin-right: 8px; }
label { cursor: pointer; }
input { accent-color: var(--mark); }
.clip { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 14px; margin-bottom: 16px; }
.clip:focus-within, .clip:focus { outline: 2px solid var(--mark); outline-offset: 1px; }
figure { margin: 0; }
figure[hidden] { display: none; }
figcaption { display: flex; gap: 8px; align-items: baseline; flex-wrap: wrap; margin-bottom: 6px; font-weight: 600; }
small { color: var(--soft); font-weight: 400; font-variant-numeric: tabular-nums; }
kbd { border: 1px solid var(--line); border-radius: 4px; padding: 0 6px; font: 13px ui-monospace, monospace; }
kbd { color: var(--soft); }
dl div { display: flex; gap: 6px; }
dt { color: var(--soft); }
dd { margin: 0; font-weight: 600; }
"""
"""A page up to the rules of its own, for `string.Template`: colours, headings and boxes that all have."""


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
