"""The list of layers of a whole cache (`whole`): what each keeps. No numpy or torch here."""

from __future__ import annotations

import json
from typing import Any

from ....entropy_models.errors import Corrupt
from ... import container
from .header import LAYERS_MAX, chunk_count

KINDS = ("full", "window", "states", "full+states", "window+states", "none")
"""What a layer keeps: every position, the last ones, recurrent states, or nothing (it uses another layer's)."""
FIRST_RUN = 2
"""Chunks before the runs."""


def layers_of(stream: container.Stream) -> list[dict[str, Any]]:
    """A line for each layer: ``kind``, one of `KINDS`, ``seen`` and ``window`` in tokens, and maybe ``run``.

    Raises:
        BitstreamError: damage.
    """
    if chunk_count(stream) < FIRST_RUN:
        raise Corrupt(f"{chunk_count(stream)} chunks; a whole cache has at least {FIRST_RUN}")
    try:
        lines = json.loads(stream.chunk(0))["layers"]
        sane = isinstance(lines, list) and 1 <= len(lines) <= LAYERS_MAX and all(_is_line(line) for line in lines)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        sane = False
    if not sane:
        raise Corrupt("the list of layers is none")
    out: list[dict[str, Any]] = lines
    return out


def _is_line(line: Any) -> bool:
    numbers = [line["seen"], line["window"], line.get("run", 0)]
    return line["kind"] in KINDS and all(type(n) is int and 0 <= n < 1 << 40 for n in numbers)
