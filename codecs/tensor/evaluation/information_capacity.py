"""Information Capacity (2511.08066): how much shorter a text gets by a model, over the logarithm of what the model costs.

    capacity = (text bits - bits of the model's entropy + b) / log2(FLOPs),  each per token

Text bits depend on the tokenizer: more for one with longer tokens. ``b`` is a constant that the paper fits for each data set
so that models of one family and many sizes come out equal. It is no law: a capacity is comparable only under the same one.
The paper stops at the entropy. Here tokens are also coded with the model's probabilities (`text.token_model`), which
shows what of it a file attains.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.box import SIMPLE
from rich.progress import Progress
from rich.table import Table
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ...evaluation.points import write_csv
from ...text.contexts import contexts_of, tokenizer_of
from ...text.token_model import FIRST_TOKEN_BITS, TokenModel, encode_ids
from ..file_api import load_file
from ..hf import model_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is measured."""

    bias: float
    """b, bits per token."""
    contexts: int
    coded: int
    """Contexts that are coded."""
    length: int
    """Tokens of a context."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """The terms, each the mean over all tokens but the first of each context."""

    weights: str
    bits_per_weight: float
    """8 x bytes of the weights' file over the model's parameters."""
    text_bits_per_token: float
    entropy_bits_per_token: float
    """The model's cross-entropy."""
    coded_bits_per_token: float
    """Of the contexts that are coded; nan: none."""
    coded_entropy_bits_per_token: float
    """Cross-entropy of the same contexts."""
    bias: float
    flops_per_token: float
    """Of all matrix products of a context, over its tokens; attention is to all of the context, as of its last token."""
    log2_flops: float
    capacity: float
    capacity_without_bias: float


def evaluate_capacity(
    model: Path, text: Path, files: Sequence[Path], settings: Settings, output: Path, progress: Progress
) -> Table:
    """Measure a model, and the same one with the weights of .rdc files; write a CSV.

    Raises:
        InputError: no such model, text or file, or one that does not suit the others.
        BitstreamError: anything wrong with a file.
        MissingPackage: transformers is not installed.
    """
    ids = contexts_of(model, text, settings.contexts, settings.length)
    text_bits = text_bits_per_token(tokenizer_of(model), ids)
    task = progress.add_task("measuring", total=1 + len(files))
    rows = []
    for file in (None, *files):
        progress.update(task, description=file.name if file else model.name)
        running = model_of(load_file(file) if file else None, model, torch.float32)
        size = file.stat().st_size if file else sum(path.stat().st_size for path in model.glob("*.safetensors"))
        rows.append(measured(running, ids, text_bits, settings, file.name if file else "as they are", size))
        progress.advance(task)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_csv(output, [asdict(row) for row in rows])
    return _table(rows, f"{model.name} on {text.name}, b = {settings.bias:g} (fitted, not universal)")


def text_bits_per_token(tokenizer: Any, ids: Tensor) -> float:
    """Bits of the text, UTF-8, that all tokens but the first of each context stand for, over their number."""
    return 8 * sum(len(tokenizer.decode(row[1:]).encode()) for row in ids) / (len(ids) * (ids.shape[1] - 1))


def measured(model: Any, ids: Tensor, text_bits: float, settings: Settings, name: str, size: int) -> Capacity:
    """The terms of a model in float32; ``size`` of its weights' file, bytes."""
    entropies = [cross_entropy_bits(model, row) for row in ids]
    entropy, coded, coded_entropy = sum(entropies) / len(entropies), math.nan, math.nan
    if settings.coded:
        chosen = ids[: settings.coded]
        lengths = [8 * len(encode_ids(TokenModel(model), row.numpy())) - FIRST_TOKEN_BITS for row in chosen]
        coded = sum(lengths) / (len(chosen) * (ids.shape[1] - 1))
        coded_entropy = sum(entropies[: settings.coded]) / settings.coded
    flops = flops_per_token(model, ids[:1])
    scale = math.log2(flops)
    return Capacity(
        weights=name,
        bits_per_weight=8 * size / sum(parameter.numel() for parameter in model.parameters()),
        text_bits_per_token=text_bits,
        entropy_bits_per_token=entropy,
        coded_bits_per_token=coded,
        coded_entropy_bits_per_token=coded_entropy,
        bias=settings.bias,
        flops_per_token=flops,
        log2_flops=scale,
        capacity=(text_bits - entropy + settings.bias) / scale,
        capacity_without_bias=(text_bits - entropy) / scale,
    )


@torch.no_grad()
def cross_entropy_bits(model: Any, ids: Tensor) -> float:
    """Bits per token of a context after its first."""
    log_probabilities = torch.log_softmax(model(ids[None, :-1]).logits[0].double(), -1)
    return -float(log_probabilities.gather(1, ids[1:, None]).mean()) / math.log(2)


@torch.no_grad()
def flops_per_token(model: Any, ids: Tensor) -> float:
    """Floating-point operations of the matrix products of a context, int64 (1, length), over its tokens."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")  # whose products are seen
    try:
        with FlopCounterMode(display=False) as counter:
            model(ids)
    finally:
        model.set_attn_implementation(before)
    return float(counter.get_total_flops()) / ids.shape[1]


def _table(rows: Sequence[Capacity], title: str) -> Table:
    """Fits 80 columns; the CSV has all terms and more decimals."""
    first = rows[0]
    note = f"text {first.text_bits_per_token:.3f} bits per token, log2 FLOPs {first.log2_flops:.3f} per token"
    table = Table(title=title, caption=note, caption_justify="left", box=SIMPLE, padding=0)
    table.add_column("weights", no_wrap=True)
    for name in ("bits/weight", "entropy", "coded", "its entropy", "capacity", "without b"):
        table.add_column(name, justify="right")
    for row in rows:
        coded, claimed = (
            "" if math.isnan(v) else f"{v:.4f}" for v in (row.coded_bits_per_token, row.coded_entropy_bits_per_token)
        )
        table.add_row(
            row.weights, f"{row.bits_per_weight:.2f}", f"{row.entropy_bits_per_token:.4f}", coded, claimed,
            f"{row.capacity:.4f}", f"{row.capacity_without_bias:.4f}",
        )  # fmt: skip
    return table
