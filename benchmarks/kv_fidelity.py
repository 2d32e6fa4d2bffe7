"""Fidelity and size of every cache mode on a real model, beside TurboQuant, the transformers caches and int4.

    python benchmarks/kv_fidelity.py --model MODEL --text TEXT

Writes benchmarks/results/kv_fidelity.csv (a line per mode and quality; -o: elsewhere), and beside it
kv_fidelity_matched.csv (bytes at the KL that each baseline reaches) and kv_fidelity.png. Prompts are 1,024 tokens from
TEXT/eval, tails 64 tokens; calibration uses TEXT/train. Greedy columns use the first 8 contexts. About 12 minutes on one
core; --contexts 8 takes two. With --redraw nothing is measured: the plot is made of the table.
"""

from __future__ import annotations

import csv
import math
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from inputs import RESULTS, Model, Output, ProfileFile, Text, contexts_of, load_model, profile_of
from inputs import show as show_row
from rdcodec.codecs.evaluation import points
from rdcodec.codecs.kv_cache import KvSettings, Profile
from rdcodec.codecs.kv_cache.evaluation.fidelity import (
    TAIL,
    Coded,
    Evaluation,
    Fidelity,
    bits_at,
    noise_floors,
    plot,
    prefill,
    through,
    write_csv,
)
from rdcodec.codecs.kv_cache.hf.model import rope_of
from rdcodec.codecs.kv_cache.modes.rope import Rope
from rdcodec.codecs.kv_cache.splice import Layers
from transformers.cache_utils import HQQQuantizedLayer, QuantoQuantizedLayer

EXACT_AND_FP8 = "lossless", "lossless-1", "fp8"
QUALITIES = {
    "quantized": (10, 15, 20, 30, 40, 45, 50, 60),
    "quantized-small, calibrated": (45, 55, 65),
    "transform": (35, 45, 55, 65),
    "predictive": (30, 40, 50, 60),
}


def int4_group64(layers: Layers, ids: np.ndarray) -> tuple[Layers, int]:
    """Asymmetric 4 bits, a float16 scale and minimum for each 64 channels of a token: 4.5 bits per element."""
    elements = sum(x.numel() for pair in layers for x in pair)
    return tuple((_int4(keys), _int4(values)) for keys, values in layers), elements // 2 + elements // 64 * 4


def _int4(x: torch.Tensor) -> torch.Tensor:
    groups = x.float().reshape(-1, 64)
    low = groups.amin(1, keepdim=True).half().float()
    scale = ((groups.amax(1, keepdim=True) - low) / 15).clamp_min(1e-8).half().float()
    return (((groups - low) / scale).round().clamp(0, 15) * scale + low).reshape(x.shape).to(x.dtype)


def hugging_face(layer_class: type[Any], nbits: int, **axes: int) -> Coded:
    """A transformers QuantizedCache layer: codes plus a bf16 scale and zero point per group of 64."""

    def coded(layers: Layers, ids: np.ndarray) -> tuple[Layers, int]:
        out = []
        for keys, values in layers:
            layer = layer_class(nbits=nbits, q_group_size=64, **axes)
            layer.update(keys[None], values[None])
            found = [layer._dequantize(q)[0].to(keys.dtype) for q in (layer._quantized_keys, layer._quantized_values)]
            out.append((found[0], found[1]))
        elements = sum(x.numel() for pair in layers for x in pair)
        return tuple(out), elements * nbits // 8 + elements // 64 * 4

    return coded


def baselines(evaluation: Evaluation) -> list[Fidelity]:
    """Fixed-rate TurboQuant, int4, and what transformers offers."""
    lines = [evaluation.measure(f"turboquant {b} bit", through(KvSettings(mode="turboquant", bits=b))) for b in (2, 3, 4)]
    lines += [
        evaluation.measure(f"turboquant-ec {b} bit", through(KvSettings(mode="turboquant-ec", bits=b))) for b in (3, 4)
    ]
    lines.append(evaluation.measure("int4 group 64", int4_group64))
    for name, layer, axes in (
        ("hqq", HQQQuantizedLayer, {"axis_key": 1, "axis_value": 1}),
        ("quanto", QuantoQuantizedLayer, {"axis_key": 0, "axis_value": 0}),
    ):
        for nbits in (4, 2):
            try:
                lines.append(evaluation.measure(f"{name} {nbits} bit", hugging_face(layer, nbits, **axes)))
            except (ImportError, RuntimeError, OSError, ValueError) as error:
                print(f"{name} {nbits} bit: not measured: {error}")
    return lines


def matched(curves: dict[str, list[Fidelity]], lines: list[Fidelity]) -> list[dict[str, str]]:
    """Bytes at each baseline's mean KL, as a share of the baseline's."""
    out = []
    for base in lines:
        row = {
            "baseline": base.name,
            "bits_per_element": f"{base.bits_per_element:.4f}",
            "kl_bits": f"{base.kl_mean:.6f}",
        }
        for name, curve in curves.items():
            bits = bits_at(curve, base.kl_mean)
            row[f"{name}: bits"] = "" if math.isnan(bits) else f"{bits:.4f}"
            row[f"{name}: fewer bytes %"] = "" if math.isnan(bits) else f"{100 * (1 - bits / base.bits_per_element):.1f}"
        out.append(row)
    return out


def in_small_codes(evaluation: Evaluation, line: Fidelity, settings: KvSettings) -> Fidelity:
    """The line of ``quantized-small``: that of ``quantized``, whose numbers it decodes to (checked), with its own bytes."""
    default, small = through(settings), through(replace(settings, mode="quantized-small"))
    size, seconds = 0, 0.0
    for cache, ids in zip(evaluation.caches, evaluation.contexts[:, :-TAIL].numpy(), strict=True):
        start = time.perf_counter()
        found, spent = small(cache, ids)
        size, seconds = size + spent, seconds + time.perf_counter() - start
        pairs = zip(found, default(cache, ids)[0], strict=True)
        if not all(torch.equal(x, y) for ours, theirs in pairs for x, y in zip(ours, theirs, strict=True)):
            raise ValueError(f"{line.name}: quantized-small decodes to other numbers")
    bits = 8 * size / sum(x.numel() for cache in evaluation.caches for pair in cache for x in pair)
    ratio = line.ratio * line.bits_per_element / bits
    name = line.name.replace("quantized", "quantized-small")
    return replace(line, name=name, bits_per_element=bits, ratio=ratio, seconds=seconds)


def settings_of(name: str, rope: Rope | None) -> KvSettings:
    """``lossless``, or ``quantized-lanes q60``."""
    mode, _, quality = name.partition(" q")
    return KvSettings(mode=mode, rope=rope, quality=int(quality or 60))


def replace_rows(output: Path, lines: list[Fidelity]) -> None:
    """Put lines into a CSV in the place of those of their names, or before those of ``fp8``."""
    for line in lines:
        show(line)
    part = output.with_stem(f"{output.stem}_only")
    write_csv(part, lines)
    found, new = ({row["name"]: row for row in csv.DictReader(file.read_text().splitlines())} for file in (output, part))
    part.unlink()
    kept = [row for name, row in found.items() if name not in new]
    at = next(i for i, row in enumerate(kept) if row["name"] == "fp8")
    points.write_csv(output, [*kept[:at], *new.values(), *kept[at:]])


def draw(output: Path, model: Path, text: Path) -> None:
    """The plot of a CSV, beside it."""
    with output.open() as table:
        rows = list(csv.DictReader(table))
    counts = {"contexts", "greedy_contexts"}
    lines = [
        Fidelity(**{name: x if name == "name" else int(x) if name in counts else float(x) for name, x in row.items()})
        for row in rows
    ]
    names = ["turboquant", "quantized", "quantized-small", *list(QUALITIES)[1:]]
    curves = {
        name: [line for line in lines if re.fullmatch(rf"{re.escape(name)} (q\d+|\d bit)", line.name)] for name in names
    }
    floors = [line for line in lines if line.ratio == 1]
    title = f"{model.name} on {text.name}: {lines[0].contexts} prompts of 1,024 tokens, bf16 cache"
    plot(output.with_suffix(".png"), curves, floors, title)


def show(line: Fidelity) -> None:
    """One line of the table."""
    print(
        f"{line.name:36s} {line.bits_per_element:7.3f} bits  KL {line.kl_mean:.5f} p99 {line.kl_p99:.4f}  top-1 "
        f"{line.top1_agreement:.4f}  attention {line.attention_error:.4f}  diverges "
        f"at {line.greedy_first_divergence:.1f}",
        flush=True,
    )


def curves_of(evaluation: Evaluation, rope: Rope | None, profile: Profile) -> dict[str, list[Fidelity]]:
    """A curve for each of `QUALITIES`, and for ``quantized-small``, shown as they are measured."""
    curves: dict[str, list[Fidelity]] = {}
    small: list[Fidelity] = []
    for name, qualities in QUALITIES.items():
        curves[name] = []
        for quality in qualities:
            used = None if name == "quantized" else profile
            settings = KvSettings(mode=name.split(",")[0], quality=quality, rope=rope, profile=used)
            curves[name].append(evaluation.measure(f"{name} q{quality}", through(settings)))
            show(curves[name][-1])
            if name == "quantized":
                small.append(in_small_codes(evaluation, curves[name][-1], settings))
                show(small[-1])
    return curves | {"quantized-small": small}


def main(
    model: Model,
    text: Text,
    contexts: Annotated[int, typer.Option(min=1, help="How many prompts.")] = 64,
    greedy_contexts: Annotated[int, typer.Option(min=1, help="How many of them are continued greedily.")] = 8,
    profile: ProfileFile = Path("runs/kv_profile.safetensors"),
    only: Annotated[
        str, typer.Option(help="Like lossless,quantized-lanes q60: these alone; other rows of the CSV stay.")
    ] = "",
    redraw: Annotated[bool, typer.Option("--redraw", help="Draw the plot of the table that is there.")] = False,
    output: Output = RESULTS / "kv_fidelity.csv",
) -> None:
    """Measure modes and baselines; a table, a plot, and bytes at equal KL."""
    if redraw:
        draw(output, model, text)
        return
    np.seterr(all="raise", under="ignore")
    torch.set_num_threads(1)
    exact, half = load_model(model), load_model(model, torch.bfloat16)
    rope, ids = rope_of(exact), contexts_of(model, text / "eval", contexts)
    evaluation = Evaluation(exact, ids, prefill(half, ids), greedy_contexts)
    if only:
        settings = {name: settings_of(name, rope) for name in only.split(",")}
        replace_rows(output, [evaluation.measure(name, through(it)) for name, it in settings.items()])
        draw(output, model, text)
        return
    calibrated = profile_of(profile, exact, model, text)
    floors = noise_floors(evaluation, half)
    lines = floors + [evaluation.measure(mode, through(KvSettings(mode=mode, rope=rope))) for mode in EXACT_AND_FP8]
    reference = baselines(evaluation)
    lines += reference
    for line in lines:
        show(line)
    curves = curves_of(evaluation, rope, calibrated)
    write_csv(output, [*lines, *(line for curve in curves.values() for line in curve)])
    draw(output, model, text)
    curves = {name: curves[name] for name in ("quantized", "quantized-small", *curves)}
    table = matched(curves, reference)
    points.write_csv(output.with_stem(f"{output.stem}_matched"), table)
    for row in table:
        show_row(row)
    print(f"profile: {len(calibrated.data):,} bytes, shared by all caches of the model, not counted above")


if __name__ == "__main__":
    typer.run(main)
