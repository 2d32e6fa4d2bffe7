"""The report of `codec eval kv`: every mode asked for, on a model and a text of one's own; a CSV, a plot and a table."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.box import SIMPLE
from rich.progress import Progress
from rich.table import Table
from torch import Tensor

from ....entropy_models.errors import BitstreamError, InputError
from ...text.contexts import check_paths, spread, token_ids, tokenizer_of
from ..format.blocks import KvSettings
from ..hf.calibration import calibrate
from ..hf.model import check_full_attention, load_model, rope_of
from ..hf.residual import check_worth
from ..modes.profiles import Profile
from ..modes.table import MODES, OFFERED
from .fidelity import TAIL, Evaluation, Fidelity, noise_floors, plot, prefill, through, write_csv

POINTS = "kv_points.csv"
PLOT = "kv_rate_kl.png"
PROFILE = "kv_profile.safetensors"
FILES = POINTS, PLOT, PROFILE
"""Files of a report; the profile only where a mode needs it."""
QUALITIES = {
    "quantized": (30, 40, 50, 60),
    "quantized-small": (30, 40, 50, 60),
    "quantized-lanes": (30, 40, 50, 60),
    "transform": (35, 45, 55, 65),
    "predictive": (30, 40, 50, 60),
    "residual": (50, 60, 70, 80),
}
NOISE_FLOORS = 3
BITS = {"turboquant": (2, 3, 4), "turboquant-ec": (2, 3, 4)}
CALIBRATION_CONTEXTS = 16
CALIBRATION_CONTEXTS_MIN = 2


def evaluate_text(
    model: Path, text: Path, modes: str, output: Path, contexts: int, length: int, progress: Progress
) -> Table:
    """Measure modes on caches of prompts from a text; write kv_points.csv and kv_rate_kl.png.

    Caches are made in the type of the checkpoint; the fidelity is that of the model in float32. Modes that need a
    profile are calibrated on text that is not measured, and the profile is written beside (kv_profile.safetensors).

    Args:
        model: folder of a transformers model and its tokenizer.
        text: UTF-8 file; 64 tokens after each prompt are predicted from its cache.
        modes: comma-separated, of `modes.table.MODES`.
        output: folder, made if missing.
        contexts: how many prompts.
        length: tokens of a prompt.
        progress: bars are added to it.

    Raises:
        InputError: an unknown mode, no such model or text, a text too short, or a model that cannot be measured, or not in
            any of the modes: one that does not suit it is left out, with a note.
        ImportError: transformers is not installed.
    """
    wanted = _modes(modes)
    needs_profile = any(MODES[mode].needs_profile for mode in wanted)
    task = progress.add_task("loading", total=None)
    measured, others = _stretches(model, text, contexts, length, needs_profile)
    source = load_model(model)
    check_full_attention(source)
    left: dict[str, str] = {}
    if "residual" in wanted:
        with _leaving_out("residual", left, wanted):
            check_worth(source)
    exact = source
    if source.dtype != torch.float32:
        exact = load_model(model, torch.float32)
    progress.update(task, description="prompts")
    start = time.monotonic()
    evaluation = Evaluation(exact, measured, prefill(source, measured))
    progress.console.print(_time_needed(wanted, time.monotonic() - start, needs_profile))
    profile = None
    if needs_profile:
        profile = calibrate(exact, others, lambda line: progress.update(task, description=f"calibrating: {line}"))
    progress.update(task, description="noise floors")
    floors = noise_floors(evaluation, source)
    curves = _measure(evaluation, source, wanted, profile, progress, left)
    progress.remove_task(task)
    output.mkdir(parents=True, exist_ok=True)
    if profile is not None:
        profile.write(output / PROFILE)
    write_csv(output / POINTS, [*floors, *(line for lines in curves.values() for line in lines)])
    title = f"{model.name} on {text.name}: {contexts} prompts of {length} tokens, {source.dtype} cache".replace("torch.", "")
    plot(output / PLOT, _drawable(curves), floors, title)
    return _table({"noise floors": floors, **curves}, title, _notes(curves, profile, others, left))


def _time_needed(modes: list[str], of_prompts_s: float, calibration: bool) -> str:
    """How long measuring will take, told beforehand: of each point, about as long as the prompts and what follows took."""
    points = sum(len(BITS.get(mode) or QUALITIES.get(mode) or (0,)) for mode in modes)
    seconds = (points + NOISE_FLOORS) * of_prompts_s
    about = f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} minutes"
    return f"{points} points of {len(modes)} modes: about {about}{', and a calibration' if calibration else ''}"


def _modes(text: str) -> list[str]:
    """Modes of a comma-separated list, each once."""
    wanted = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    unknown = [name for name in wanted if name not in MODES]
    if unknown or not wanted:
        raise InputError(f"no mode {', '.join(unknown) or 'given'}; there are {', '.join(OFFERED)}")
    return wanted


def _stretches(model: Path, text: Path, contexts: int, length: int, calibration: bool) -> tuple[Tensor, Tensor]:
    """Token ids to measure and to calibrate on; see `_contexts`. Errors as `evaluate_text`."""
    check_paths(model, text)
    if contexts < 1 or length < 1:
        raise InputError(f"{contexts} contexts of {length} tokens; need at least 1 of 1")
    tokenizer = tokenizer_of(model)
    from transformers import AutoConfig

    limit = getattr(AutoConfig.from_pretrained(model, local_files_only=True), "max_position_embeddings", None)
    if limit and length + TAIL > limit:
        raise InputError(f"prompts of {length} tokens and {TAIL} more; {model.name} takes {limit} (--length)")
    ids = token_ids(tokenizer, text)
    return _contexts(ids, text.name, contexts, length, calibration)


def _contexts(
    ids: tuple[list[int], list[int]], name: str, count: int, length: int, calibration: bool
) -> tuple[Tensor, Tensor]:
    """Stretches to measure, (count, length + 64), and to calibrate on, from the text before all of them."""
    start, text = ids
    size = length + TAIL - len(start)
    need = size * (count + (CALIBRATION_CONTEXTS_MIN if calibration else 0))
    if len(text) < need:
        why = " and the calibration" if calibration else ""
        raise InputError(
            f"{name} has {len(text)} tokens; {count} prompts of {length} and {TAIL} more{why} need {need} "
            "(--contexts, --length, or a longer text)"
        )
    split = min(len(text) // 2, len(text) - size * count) if calibration else 0
    before = min(CALIBRATION_CONTEXTS, split // size)
    found = spread(text[split:], start, size, count)
    return found, spread(text[:split], start, size, before) if before else found[:0]


@contextmanager
def _leaving_out(mode: str, left: dict[str, str], wanted: list[str]) -> Iterator[None]:
    """One mode that this model or its caches do not suit must not cost the figures of the others, if there are others."""
    try:
        yield
    except (InputError, BitstreamError) as error:
        wanted.remove(mode)
        if not wanted:
            raise
        left[mode] = str(error)


def _measure(
    evaluation: Evaluation,
    source: Any,
    modes: list[str],
    profile: Profile | None,
    progress: Progress,
    left: dict[str, str],
) -> dict[str, list[Fidelity]]:
    """A curve for every mode that can be measured; ``left`` gets the others, with reasons."""
    settings = {mode: _settings(mode, evaluation, profile) for mode in modes}
    task = progress.add_task("measuring", total=sum(len(lines) for lines in settings.values()))
    curves: dict[str, list[Fidelity]] = {}
    for mode, lines in settings.items():
        found = []
        with _leaving_out(mode, left, modes):
            for name, one in lines.items():
                progress.update(task, description=name)
                found.append(evaluation.measure(name, through(one, source)))
                progress.advance(task)
            curves[mode] = found
    progress.remove_task(task)
    return curves


def _settings(mode: str, evaluation: Evaluation, profile: Profile | None) -> dict[str, KvSettings]:
    """Points of a mode's curve by name."""
    rope, used = rope_of(evaluation.model), profile if MODES[mode].needs_profile else None
    settings = KvSettings(mode=mode, rope=rope, profile=used)
    if mode in BITS:
        return {f"{mode} {bits} bit": replace(settings, bits=bits) for bits in BITS[mode]}
    if mode in QUALITIES:
        return {f"{mode} q{quality}": replace(settings, quality=quality) for quality in QUALITIES[mode]}
    return {mode: settings}


def _drawable(curves: dict[str, list[Fidelity]]) -> dict[str, list[Fidelity]]:
    """Curves with a KL that a logarithmic axis can show; all of them if there is none."""
    return {name: lines for name, lines in curves.items() if any(line.kl_mean > 0 for line in lines)} or curves


def _notes(curves: dict[str, list[Fidelity]], profile: Profile | None, others: Tensor, left: dict[str, str]) -> str:
    """What the figures leave out; ``left``: modes, with reasons."""
    notes = [f"{mode} is left out: {why}." for mode, why in left.items()]
    if exact := curves.keys() - _drawable(curves).keys():
        notes.append(f"not drawn, as its KL is 0: {', '.join(sorted(exact))}.")
    if profile is not None:
        modes = ", ".join(mode for mode in curves if MODES[mode].needs_profile)
        notes.append(
            f"{modes}: calibrated on {others.numel():,} other tokens of the same text; the profile, "
            f"{len(profile.data):,} bytes for all caches of the model, is not counted."
        )
    return " ".join(notes)


def _table(curves: dict[str, list[Fidelity]], title: str, notes: str) -> Table:
    """Fits 80 columns; the CSV has all figures and more decimals."""
    table = Table(title=title, caption=notes or None, caption_justify="left", box=SIMPLE, padding=0)
    table.add_column("mode", no_wrap=True)
    for name in ("bits / element", "ratio", "KL (bit)", "KL p99", "top-1", "attn. error", "same greedy tokens"):
        table.add_column(name, justify="right")
    for lines in curves.values():
        for line in lines:
            table.add_row(
                line.name, f"{line.bits_per_element:.3f}", f"{line.ratio:.1f}", f"{line.kl_mean:.5f}",
                f"{line.kl_p99:.4f}", f"{line.top1_agreement:.3f}",
                "unknown" if math.isnan(line.attention_error) else f"{line.attention_error:.4f}",
                f"{line.greedy_first_divergence:.1f}",
            )  # fmt: skip
    return table
