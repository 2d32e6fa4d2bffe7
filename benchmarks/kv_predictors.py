"""Bits that each predictor saves, per layer, keys and values: the honest version of predictive delta coding.

    python benchmarks/kv_predictors.py --model MODEL --text TEXT

All predictors see what a decoder has (the cache at the same steps), their residual goes through `quantized-small`'s rows
with the calibrated steps of one quality, and what is printed is ideal bits per element, side information included.
Fitted on TEXT/train, measured on TEXT/eval. Writes benchmarks/results/kv_predictors.csv (-o: elsewhere), and beside it
kv_predictors_bound.csv: the paper's bound (bits of the token over the elements of a token) and what the expectation over
next tokens costs. About 2 minutes on one core.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from inputs import (
    CALIBRATION_CONTEXTS,
    RESULTS,
    Model,
    Output,
    ProfileFile,
    Text,
    contexts_of,
    load_model,
    profile_of,
    show,
)
from rdcodec.codecs.evaluation.points import write_csv
from rdcodec.codecs.kv_cache import Profile
from rdcodec.codecs.kv_cache.evaluation.expectation import expected_next
from rdcodec.codecs.kv_cache.evaluation.fidelity import TAIL, prefill
from rdcodec.codecs.kv_cache.hf import calibration
from rdcodec.codecs.kv_cache.hf.model import rope_of
from rdcodec.codecs.kv_cache.modes.place import KEY, Choices, Place, tensor_name
from rdcodec.codecs.kv_cache.modes.predictive import sources
from rdcodec.codecs.kv_cache.modes.quantized import channel_rows, steps_of
from rdcodec.codecs.kv_cache.modes.rope import Rope
from rdcodec.codecs.kv_cache.splice import Layers
from rdcodec.codecs.tensor import quantized
from rdcodec.entropy_models.rows import MeasureRows

BLOCK = 256
NAMES = ("none", "previous token", "layer below", "mean by token", "expectation over top 4")
At = tuple[int, int]
"""Layer and kind (keys 0, values 1)."""
Shape = tuple[int, int, int]
"""KV heads, tokens, head_dim."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """Predictors of the tensor at one place, from rows of (channels, tokens)."""

    mean: torch.Tensor
    """(channels, 1)."""
    rho: torch.Tensor
    """Coefficients of the previous token, (channels, 1)."""
    below: tuple[torch.Tensor, torch.Tensor] | None
    """Matrix and bias from the layer below; None for the first tensor."""
    table: torch.Tensor
    """Means by token, (tokens + 1, channels); the last for a token that was not seen."""
    tokens: torch.Tensor
    """The ids of the table, rising."""


@dataclass(slots=True)
class Totals:
    """What the contexts add up to."""

    bits: dict[At, dict[str, float]] = field(default_factory=lambda: defaultdict(lambda: dict.fromkeys(NAMES, 0.0)))
    elements: int = 0
    """Of one tensor, over all contexts."""
    surprise_bits: list[float] = field(default_factory=list)
    """Of a token, mean of each context."""
    expectation_s: list[float] = field(default_factory=list)


def place_of(at: At, shape: Shape, rope: Rope | None, profile: Profile, quality: int) -> Place:
    """A tensor of this shape, with no tokens of finer steps."""
    heads, tokens, dim = shape
    return Place(
        name=tensor_name(*at), layer=at[0], layers=len(profile.exponents), kind=at[1], groups=heads, vectors=tokens,
        width=dim, dtype=torch.float32, start=0, rope=rope, profile=profile, choices=Choices(quality),
    )  # fmt: skip


def coded(residual: torch.Tensor, at: At, shape: Shape, profile: Profile, quality: int) -> tuple[torch.Tensor, float]:
    """(reconstruction of a residual, ideal bits), rows of (channels, tokens) in blocks of 256."""
    bits, parts = 0.0, []
    for part in residual.split(BLOCK, 1):
        coder = MeasureRows()
        place = place_of(at, (shape[0], part.shape[1], shape[2]), None, profile, quality)
        parts.append(quantized.code(coder, part.contiguous(), place, steps_of(part, place)))
        coder.finish()
        bits += float(coder.bits[0])
    return torch.cat(parts, 1), bits


def fit(rows: dict[At, torch.Tensor], ids: torch.Tensor, noise: dict[At, float]) -> dict[At, Fitted]:
    """Predictors from what a decoder has: rows with the noise of their steps."""
    generator = torch.Generator().manual_seed(0)
    noisy = {at: x + torch.randn(x.shape, generator=generator) * noise[at] for at, x in rows.items()}
    unique, index = torch.unique(ids, return_inverse=True)
    fitted = {}
    for at, x in rows.items():
        mean, seen = x.mean(1, keepdim=True), noisy[at]
        centred, before = x[:, 1:] - mean, seen[:, :-1] - mean
        below = None
        if sources(*at):
            below = calibration._ridge(torch.cat([noisy[s] for s in sources(*at)]), x, with_bias=True)
        fitted[at] = Fitted(
            mean=mean,
            rho=(centred * before).sum(1, keepdim=True) / before.square().sum(1, keepdim=True),
            below=below,
            table=calibration._token_means(x, index, len(unique)).float(),
            tokens=unique,
        )
    return fitted


def guesses(
    at: At, fitted: Fitted, known: dict[At, torch.Tensor], ids: torch.Tensor, expected: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Every predictor's guess of one tensor, (channels, tokens)."""
    here = known[at]
    out = {"none": torch.zeros_like(here)}
    shifted = torch.cat([fitted.mean, here[:, :-1]], 1)
    out["previous token"] = fitted.mean + fitted.rho * (shifted - fitted.mean)
    if fitted.below is not None:
        matrix, bias = fitted.below
        out["layer below"] = matrix.T @ torch.cat([known[s] for s in sources(*at)]) + bias[:, None]
    index = torch.searchsorted(fitted.tokens, ids).clamp_max(len(fitted.tokens) - 1)
    index = torch.where(fitted.tokens[index] == ids, index, len(fitted.tokens))
    out["mean by token"] = fitted.table[index].T
    out["expectation over top 4"] = expected
    return out


class Predictors:
    """A model, a profile and the predictors fitted to them; measures contexts."""

    def __init__(self, model: Any, profile: Profile, quality: int, train: torch.Tensor) -> None:
        self.model, self.profile, self.quality, self.rope = model, profile, quality, rope_of(model)
        rows = calibration._rows(prefill(model, train), self.rope)
        noise = {}
        for at, x in rows.items():
            place = place_of(at, (1, 1, x.shape[0]), None, profile, quality)
            noise[at] = float(torch.tensor(1.1063) ** steps_of(x, place).exponent) / 12**0.5
        self.fitted = fit(rows, train[:, :-TAIL].reshape(-1), noise)

    def rows_of(self, at: At, x: torch.Tensor) -> torch.Tensor:
        """A tensor (heads, tokens, dim) as rows of (channels, tokens), RoPE undone."""
        heads, tokens, dim = x.shape
        return channel_rows(x, place_of(at, (heads, tokens, dim), self.rope, self.profile, self.quality))

    def restored(self, cache: Layers) -> tuple[dict[At, torch.Tensor], Layers]:
        """What a decoder has of a cache: rows of each tensor, and keys and values."""
        known, layers = {}, []
        for layer, pair in enumerate(cache):
            turned = []
            for kind, tensor in enumerate(pair):
                heads, tokens, dim = tensor.shape
                at, shape = (layer, kind), (heads, tokens, dim)
                known[at], _ = coded(self.rows_of(at, tensor), at, shape, self.profile, self.quality)
                x = known[at].view(heads, dim, tokens)
                turned.append((self.rope.turned(x.contiguous(), 0, 1.0) if self.rope and kind == KEY else x).transpose(1, 2))
            layers.append((turned[0], turned[1]))
        return known, tuple(layers)

    def measure(self, context: torch.Tensor, cache: Layers, totals: Totals) -> None:
        """Add one context's bits and times."""
        ids = context[:-TAIL]
        known, layers = self.restored(cache)
        start = time.perf_counter()
        expected = expected_next(self.model, ids, layers)
        totals.expectation_s.append(time.perf_counter() - start)
        with torch.no_grad():
            log_probs = torch.log_softmax(self.model(ids[None]).logits[0, :-1].float(), -1)
        totals.surprise_bits.append(-float(log_probs.gather(1, ids[1:, None]).mean()) / math.log(2))
        for at in known:
            layer, kind = at
            heads, tokens, dim = cache[layer][kind].shape
            true, next_guess = (self.rows_of(at, x[layer][kind]) for x in (cache, expected))
            for name, guess in guesses(at, self.fitted[at], known, ids, next_guess).items():
                totals.bits[at][name] += coded(true - guess, at, (heads, tokens, dim), self.profile, self.quality)[1]
        totals.elements += cache[0][0].numel()


def table_of(totals: Totals) -> list[dict[str, str]]:
    """Bits per element, with means of all layers at the end."""
    rows = []
    for (layer, kind), bits in totals.bits.items():
        figures = {name: f"{bits[name] / totals.elements:.4f}" if bits[name] else "" for name in NAMES}
        rows.append({"layer": str(layer), "tensor": "kv"[kind]} | figures)
    for kind in (0, 1):
        of_kind = [bits for at, bits in totals.bits.items() if at[1] == kind]
        means = {name: sum(bits[name] or bits["none"] for bits in of_kind) / totals.elements for name in NAMES}
        rows.append({"layer": "all", "tensor": "kv"[kind]} | {name: f"{x / len(of_kind):.4f}" for name, x in means.items()})
    return rows


def main(
    model: Model,
    text: Text,
    profile: ProfileFile = Path("runs/kv_profile.safetensors"),
    contexts: Annotated[int, typer.Option(min=1, help="How many prompts.")] = 4,
    quality: Annotated[int, typer.Option(min=0, max=100, help="Whose steps are taken.")] = 55,
    output: Output = RESULTS / "kv_predictors.csv",
) -> None:
    """Measure every predictor; a table, the bound, and what the expectation costs."""
    torch.set_num_threads(1)
    running = load_model(model)
    calibrated = profile_of(profile, running, model, text)
    predictors = Predictors(running, calibrated, quality, contexts_of(model, text / "train", CALIBRATION_CONTEXTS))
    measured = contexts_of(model, text / "eval", contexts)
    totals, caches = Totals(), prefill(running, measured)
    for context, cache in zip(measured, caches, strict=True):
        predictors.measure(context, cache, totals)
    rows = table_of(totals)
    write_csv(output, rows)
    for row in rows:
        show(row)
    heads, tokens, dim = caches[0][0][0].shape
    bits = sum(totals.surprise_bits) / contexts
    bound = {
        "bound_bits_per_token": f"{bits:.4f}",
        "bound_bits_per_element": f"{bits / (2 * len(caches[0]) * heads * dim):.6f}",
        "expectation_s_per_context": f"{sum(totals.expectation_s) / contexts:.2f}",
        "context_tokens": tokens,
    }
    write_csv(output.with_stem(f"{output.stem}_bound"), [bound])
    show(bound)


if __name__ == "__main__":
    typer.run(main)
