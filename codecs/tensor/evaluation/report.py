"""The report of `codec eval tensors`: every way to store a file, measured; CSVs, a plot and a table."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from rich.box import SIMPLE
from rich.progress import Progress
from rich.table import Table
from safetensors.torch import load, save
from torch import Tensor

from ....entropy_models.errors import InputError
from ...container import write_file
from ...evaluation.plot import Panel, plot
from ...evaluation.points import OURS, write_csv
from ...text.contexts import contexts_of
from ..header import Index
from ..hf import collect_energy, model_of
from ..rates import is_quantised
from ..sources import SafetensorsSource
from ..writing import TensorSettings
from .fidelity import Evaluation
from .methods import BY_BOTH, BY_CHANNEL, METHODS, QUANTIZED, WEIGHTED, Method, State, chosen, ours

POINTS, MATCHED, PLOT = "tensor_points.csv", "tensor_matched.csv", "tensor_rate.png"
ENERGY = "tensor_energy.safetensors"
"""What ``codec encode --activations`` takes."""
FILES = POINTS, MATCHED, PLOT, ENERGY
_CURVES = "kl", "kl_by_channel", "kl_by_activations", "kl_by_both"
_RUNS, _RUNS_S = 9, 1.0
"""Runs that are timed of one method, until so many seconds are spent."""
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Reading:
    """A model that reads texts; without one there is no KL."""

    model: Path | None
    """Folder of the transformers model that the file is of."""
    text: Path | None
    calibration: Path | None
    """Another text, for steps by activations."""
    count: int
    """Contexts of a text."""
    length: int
    """Tokens of a context."""

    def contexts(self) -> Tensor | None:
        """Token ids of the text, (count, length); InputError for a model without a text, or what `contexts_of` raises."""
        if (self.model is None) != (self.text is None) or self.calibration and self.model is None:
            raise InputError("--model and --text belong together, and --calibration to both")
        return contexts_of(self.model, self.text, self.count, self.length) if self.model and self.text else None

    def energy(self, tensors: State) -> State:
        """Mean squares of inputs on the text for calibration; empty without one."""
        if not self.model or not self.calibration:
            return {}
        model = model_of(tensors, self.model, torch.float32)
        return collect_energy(model, contexts_of(self.model, self.calibration, self.count, self.length))


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A file, stored in one way."""

    method: str
    setting: float
    bytes: int
    percent_of_raw: float
    bits_per_weight: float
    """8 x bytes of the whole file, headers and what is not quantised among them, over all weights."""
    snr_db: float
    """Squared error over the mean square of its tensor, the mean over quantised weights; infinite if there is none."""
    encode_mb_s: float
    decode_mb_s: float
    """Megabytes of tensors in a second of CPU time, one thread, in the best of up to `_RUNS` runs."""
    kl_bits: float = math.nan
    perplexity: float = math.nan


def evaluate_file(file: Path, reading: Reading, names: str, output: Path, progress: Progress) -> Table:
    """Store a file in every way there is; write tensor_points.csv, tensor_matched.csv and tensor_rate.png.

    Args:
        file: safetensors.
        names: of `methods.METHODS`, comma-separated; empty: all that run here.
        output: folder, made if missing.
        progress: bars are added to it.

    Raises:
        InputError: no such file, or the model or text do not suit it.
        MissingPackage: transformers is not installed, and there is a model.
    """
    methods = chosen(names)
    contexts = reading.contexts()
    raw = file.read_bytes()
    source = SafetensorsSource(raw)
    before: State = {name: tensor.clone() for name, tensor in load(raw).items()}
    task = progress.add_task("loading", total=sum(len(method.settings) for method in methods.values()))
    evaluation = Evaluation(before, reading.model, contexts) if reading.model and contexts is not None else None
    output.mkdir(parents=True, exist_ok=True)
    if energy := reading.energy(before):
        write_file(output / ENERGY, save(energy))
        methods = _with_energy(methods, {name: mean.numpy() for name, mean in energy.items()})
    points, threads = [], torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for name, method in methods.items():
            for setting in method.settings:
                progress.update(task, description=f"{name} {setting or ''}")
                points.append(_measured(name, method, setting, raw, source.index, before, evaluation))
                progress.advance(task)
    finally:
        torch.set_num_threads(threads)
    write_csv(output / POINTS, [_row(point) for point in points])
    if matched := _matched(points):
        write_csv(output / MATCHED, matched)
    if any(method.lossy for method in methods.values()):
        _draw(output / PLOT, points, evaluation)
    own = f"; perplexity of the model itself {evaluation.perplexity:.3f}" if evaluation else ""
    return _table(points, f"{file.name}, {source.index.raw_bytes / 1e6:.1f} MB{own}", matched)


def _with_energy(methods: dict[str, Method], energy: dict[str, np.ndarray]) -> dict[str, Method]:
    """Mode quantized by activations, with one step for a tensor's rows and with one for each, beside what there is."""

    def weighted(like: str, scaling: str) -> Method:
        return ours(
            True,
            METHODS[like].settings,
            lambda quality: TensorSettings(mode="quantized", quality=int(quality), energy=energy, scaling=scaling),
        )

    return methods | {WEIGHTED: weighted(QUANTIZED, "tensor"), BY_BOTH: weighted(BY_CHANNEL, "channel")}


def _measured(
    name: str, method: Method, setting: float, raw: bytes, index: Index, before: State, evaluation: Evaluation | None
) -> Point:
    coded, encode_s = _timed(lambda: method.encode(raw, setting))
    found, decode_s = _timed(lambda: method.decode(coded))
    size, megabytes = method.size(coded), index.raw_bytes / 1e6
    if not method.lossy and not all(_same(found[key], tensor) for key, tensor in before.items()):
        raise AssertionError(f"{name} does not give the tensors back")
    fidelity = evaluation.measure(found) if evaluation and method.lossy else None
    exact = 0.0 if evaluation and not method.lossy else math.nan
    return Point(
        method=name,
        setting=setting,
        bytes=size,
        percent_of_raw=100 * size / len(raw),
        bits_per_weight=8 * size / sum(entry.elements for entry in index.entries),
        snr_db=_snr_db(index, before, found) if method.lossy else math.inf,
        encode_mb_s=megabytes / encode_s,
        decode_mb_s=megabytes / decode_s,
        kl_bits=fidelity.kl_bits if fidelity else exact,
        perplexity=fidelity.perplexity if fidelity else evaluation.perplexity if evaluation else math.nan,
    )


def _timed(call: Callable[[], Result]) -> tuple[Result, float]:
    """What a call returns, and the CPU seconds of its best run; those that take long have one."""
    best, spent, result = math.inf, 0.0, None
    for _ in range(_RUNS):
        result = None  # the memory of the run before is free for this one
        start = time.process_time()
        result = call()
        took = max(time.process_time() - start, 1e-9)
        best, spent = min(best, took), spent + took
        if spent > _RUNS_S:
            break
    assert result is not None
    return result, best


def _same(a: Tensor, b: Tensor) -> bool:
    """Bit for bit."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8))


def _snr_db(index: Index, before: State, found: State) -> float:
    error, weights = 0.0, 0
    for entry in index.entries:
        power = float(before[entry.name].double().square().mean()) if is_quantised(entry) else 0.0
        if 0 < power < math.inf:
            difference = before[entry.name].double() - found[entry.name].double()
            error += entry.elements * float(difference.square().mean()) / power
            weights += entry.elements
    return -10 * math.log10(max(error / max(weights, 1), 1e-30))


def _row(point: Point) -> dict[str, Any]:
    return {name: "" if isinstance(value, float) and math.isnan(value) else value for name, value in asdict(point).items()}


def _matched(points: Sequence[Point]) -> list[dict[str, Any]]:
    """Bits that mode quantized needs for each quantiser's error, and for its KL; nothing where the curve ends before."""
    by_error = [(p.snr_db, p.bits_per_weight) for p in points if p.method == QUANTIZED]
    by_kl = {
        name: [(math.log(p.kl_bits), p.bits_per_weight) for p in points if p.method == method and p.kl_bits > 0]
        for name, method in zip(_CURVES, (QUANTIZED, BY_CHANNEL, WEIGHTED, BY_BOTH), strict=True)
    }
    rows = []
    for other in points:
        if other.method.startswith(("int", "nf")):
            row: dict[str, Any] = {"method": other.method, "bits_per_weight": other.bits_per_weight, "snr_db": other.snr_db}
            at = math.log(other.kl_bits) if other.kl_bits > 0 else math.nan
            row |= _saving("snr", by_error, other.snr_db, other.bits_per_weight)
            row["kl_bits"] = other.kl_bits if other.kl_bits > 0 else ""
            for name, curve in by_kl.items():
                row |= _saving(name, curve, at, other.bits_per_weight)
            rows.append(row)
    return rows


def _saving(name: str, curve: list[tuple[float, float]], at: float, bits: float) -> dict[str, Any]:
    """Bits of ours between the points of a curve, (where, bits), and how many per cent less; nothing outside them."""
    needed = math.nan
    if curve and not math.isnan(at):
        x, y = np.array(sorted(curve)).T
        needed = float(np.interp(at, x, y, left=math.nan, right=math.nan))
    known = not math.isnan(needed)
    return {
        f"quantized_bits_at_{name}": needed if known else "",
        f"fewer_bits_at_{name}_percent": 100 * (1 - needed / bits) if known else "",
    }


def _draw(path: Path, points: Sequence[Point], evaluation: Evaluation | None) -> None:
    names = {QUANTIZED: OURS}
    lossy: dict[str, list[Point]] = {}
    for point in points:
        if point.method not in METHODS or METHODS[point.method].lossy:
            lossy.setdefault(names.get(point.method, point.method), []).append(point)
    rates = {name: [point.bits_per_weight for point in line] for name, line in lossy.items()}
    panels = [Panel(label="SNR (dB)", lines={name: (rates[name], [p.snr_db for p in line]) for name, line in lossy.items()})]
    if evaluation:
        lines = {name: (rates[name], [p.kl_bits for p in line]) for name, line in lossy.items()}
        panels.append(Panel(label="next-token KL (bits)", lines=lines, logarithmic=True))
    plot(path, panels, "bits per weight")


def _table(points: Sequence[Point], title: str, matched: list[dict[str, Any]]) -> Table:
    """Fits 80 columns; the CSV has more decimals."""
    notes = [
        f"quantized takes {row['fewer_bits_at_snr_percent']:.1f} % fewer bits than {row['method']} at its error"
        + (f", {row['fewer_bits_at_kl_percent']:.1f} % at its KL." if row["fewer_bits_at_kl_percent"] != "" else ".")
        for row in matched
        if row["fewer_bits_at_snr_percent"] != ""
    ]
    table = Table(title=title, caption=" ".join(notes) or None, caption_justify="left", box=SIMPLE, padding=0)
    table.add_column("method", no_wrap=True)
    for name in ("bits", "% of raw", "SNR (dB)", "KL (bit)", "perplexity", "enc. MB/s", "dec. MB/s"):
        table.add_column(name, justify="right")
    for p in points:
        kl, perplexity = ("" if math.isnan(v) else f"{v:.4g}" for v in (p.kl_bits, p.perplexity))
        table.add_row(
            f"{p.method} {p.setting:g}" if p.setting else p.method, f"{p.bits_per_weight:.3f}", f"{p.percent_of_raw:.1f}",
            "exact" if math.isinf(p.snr_db) else f"{p.snr_db:.2f}", kl, perplexity, f"{p.encode_mb_s:.0f}",
            f"{p.decode_mb_s:.0f}",
        )  # fmt: skip
    return table
