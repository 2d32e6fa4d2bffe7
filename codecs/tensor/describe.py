"""What `codec info` tells of a file of tensors. No numpy, no torch here."""

from __future__ import annotations

import math
from typing import Any

from ...entropy_models.errors import BitstreamError
from .. import container
from .header import STRUCTURE, Layout, read_base_name, read_report

_SHOWN = 400
"""Tensors listed for people."""


def describe_tensors(stream: container.Stream) -> dict[str, Any]:
    """Mode, sizes, and a list of tensors: name, type, shape, bytes, bits per weight, and what the report has of each.

    Raises:
        BitstreamError: the index is damaged; a damaged report is left out, and ``damaged`` names it.
    """
    layout = Layout.read(stream)
    entries = layout.index.entries
    coded = [0] * len(entries)
    for (_, number, _), line in zip(layout.parts(), stream.entries[1:], strict=False):
        coded[number] += line.length + container.ENTRY_BYTES
    facts: dict[str, Any] = {"mode": layout.mode}
    if any(layout.base):
        facts["base_sha256"] = layout.base.hex()
    report: dict[str, dict[str, float]] = {}
    try:
        report = read_report(stream)
        if name := read_base_name(stream):
            facts["base_name"] = name
    except BitstreamError as error:
        facts["damaged"] = f"last chunk: {error}"
    elements = sum(entry.elements for entry in entries)
    facts |= {"tensors": len(entries), "weights": elements, "raw_bytes": layout.index.raw_bytes}
    facts["bits_per_weight"] = 8 * stream.expected_bytes / max(elements, 1)
    facts["metadata"] = dict(layout.index.metadata)
    facts["by_tensor"] = [
        {"name": entry.name, "dtype": entry.dtype, "shape": list(entry.shape), "bytes": size,
         "bits_per_weight": 8 * size / max(entry.elements, 1), **report.get(entry.name, {})}
        for entry, size in zip(entries, coded, strict=True)
    ]  # fmt: skip
    return facts


def tensor_rows(facts: dict[str, Any]) -> dict[str, Any]:
    """What `describe_tensors` returned, for people: a row for each tensor."""
    rows = {key: value for key, value in facts.items() if key not in ("by_tensor", "metadata")}
    rows["bits_per_weight"] = f"{facts['bits_per_weight']:.3f}"
    if metadata := {key: value for key, value in facts["metadata"].items() if key != STRUCTURE}:
        rows["metadata"] = ", ".join(f"{key}={value}" for key, value in metadata.items())
    for number, line in enumerate(facts["by_tensor"][:_SHOWN]):
        shape = "x".join(map(str, line["shape"])) or "scalar"
        snr = line.get("snr_db", math.nan)
        error = "" if math.isnan(snr) else f"  {snr:.1f} dB"
        rows[str(number)] = f"{line['name']}  {line['dtype']} {shape}  {line['bits_per_weight']:.2f} bits{error}"
    if (more := len(facts["by_tensor"]) - _SHOWN) > 0:
        rows["more"] = f"{more} tensors (all with --json)"
    return rows
