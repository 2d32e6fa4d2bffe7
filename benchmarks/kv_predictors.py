"""Bits that each predictor saves, per layer, keys and values: the honest version of predictive delta coding.

    python benchmarks/kv_predictors.py --model MODEL --text TEXT

All predictors see what a decoder has (the cache at the same steps), their residual goes through `quantized-small`'s rows
with the calibrated steps of one quality, and what is printed is ideal bits per element, side information included.
Fitted on TEXT/train, measured on TEXT/eval. Writes benchmarks/results/kv_predictors.csv (-o: elsewhere), and beside it
kv_predictors_bound.csv: the paper's bound (bits of the token over the elements of a token) and what the expectation over
next tokens costs. About 2 minutes on one core.
"""

from __future__ import annotations

import argparse
import csv
import time
from pathlib import Path

import torch
from kv_fidelity import contexts_of, profile_of
from rdcodec.codecs.kv_cache.evaluation.expectation import expected_next
from rdcodec.codecs.kv_cache.evaluation.fidelity import TAIL, prefill
from rdcodec.codecs.kv_cache.hf import calibration
from rdcodec.codecs.kv_cache.hf.model import rope_of
from rdcodec.codecs.kv_cache.modes.place import Choices, Place, tensor_name
from rdcodec.codecs.kv_cache.modes.predictive import sources
from rdcodec.codecs.kv_cache.modes.quantized import channel_rows, steps_of
from rdcodec.codecs.tensor import quantized
from rdcodec.entropy_models.rows import MeasureRows
from transformers import AutoModelForCausalLM, AutoTokenizer

RESULTS = Path(__file__).parent / "results"
BLOCK = 256
NAMES = ("none", "previous token", "layer below", "mean by token", "expectation over top 4")


def place_of(layer: int, kind: int, shape, rope, profile, quality: int, start: int = 0) -> Place:
    heads, tokens, dim = shape
    return Place(
        name=tensor_name(layer, kind), layer=layer, layers=len(profile.exponents), kind=kind, groups=heads, vectors=tokens,
        width=dim, dtype=torch.float32, start=start, rope=rope, profile=profile, choices=Choices(quality),
    )  # fmt: skip


def coded(residual: torch.Tensor, layer: int, kind: int, shape, profile, quality: int) -> tuple[torch.Tensor, float]:
    """(reconstruction of a residual, ideal bits), rows of (channels, tokens) in blocks of 256."""
    bits, parts = 0.0, []
    for part in residual.split(BLOCK, 1):
        coder = MeasureRows()
        place = place_of(layer, kind, (shape[0], part.shape[1], shape[2]), None, profile, quality)
        parts.append(quantized.code(coder, part.contiguous(), place, steps_of(part, place)))
        coder.finish()
        bits += float(coder.bits[0])
    return torch.cat(parts, 1), bits


def fit(rows: dict, ids: torch.Tensor, noise: dict) -> dict:
    """Per (layer, kind): the previous token's coefficients, the map from the layer below, the means by token."""
    generator = torch.Generator().manual_seed(0)
    noisy = {at: x + torch.randn(x.shape, generator=generator) * noise[at] for at, x in rows.items()}
    unique, index = torch.unique(ids, return_inverse=True)
    fitted = {"tokens": unique}
    for at, x in rows.items():
        mean, seen = x.mean(1, keepdim=True), noisy[at]
        centred, before = x[:, 1:] - mean, seen[:, :-1] - mean
        rho = (centred * before).sum(1, keepdim=True) / before.square().sum(1, keepdim=True)
        below = None
        if sources(*at):
            below = calibration._ridge(torch.cat([noisy[s] for s in sources(*at)]), x, with_bias=True)
        fitted[at] = mean, rho, below, calibration._token_means(x, index, len(unique)).float()
    return fitted


def guesses(at, fitted, known, ids, expected) -> dict[str, torch.Tensor]:
    """Every predictor's guess of one tensor, (channels, tokens)."""
    mean, rho, below, table = fitted[at]
    here = known[at]
    out = {"none": torch.zeros_like(here)}
    shifted = torch.cat([mean, here[:, :-1]], 1)
    out["previous token"] = mean + rho * (shifted - mean)
    if below is not None:
        out["layer below"] = below[0].T @ torch.cat([known[s] for s in sources(*at)]) + below[1][:, None]
    index = torch.searchsorted(fitted["tokens"], ids).clamp_max(len(fitted["tokens"]) - 1)
    index = torch.where(fitted["tokens"][index] == ids, index, len(fitted["tokens"]))
    out["mean by token"] = table[index].T
    out["expectation over top 4"] = expected[at]
    return out


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True, help="folder of a transformers model")
    parser.add_argument("--text", required=True, help="folder with train/*.txt and eval/*.txt")
    parser.add_argument("--profile", default="runs/kv_profile.safetensors")
    parser.add_argument("--contexts", type=int, default=4)
    parser.add_argument("--quality", type=int, default=55)
    parser.add_argument("--output", "-o", type=Path, default=RESULTS / "kv_predictors.csv", help="the CSV to write")
    arguments = parser.parse_args()
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    profile, rope = profile_of(arguments, model, tokenizer), rope_of(model)
    train = contexts_of(tokenizer, Path(arguments.text) / "train", 24)
    rows = calibration._rows(prefill(model, train), rope)
    places = {at: place_of(*at, (1, 1, rows[at].shape[0]), None, profile, arguments.quality) for at in rows}
    noise = {at: float(torch.tensor(1.1063) ** steps_of(rows[at], place).exponent) / 12**0.5 for at, place in places.items()}
    fitted = fit(rows, train[:, :-TAIL].reshape(-1), noise)
    contexts = contexts_of(tokenizer, Path(arguments.text) / "eval", arguments.contexts)
    total: dict[tuple, dict[str, float]] = {}
    seconds, elements, surprise = 0.0, 0, []
    for context, cache in zip(contexts, prefill(model, contexts), strict=True):
        ids, shape = context[:-TAIL], cache[0][0].shape
        known, restored = {}, []
        for layer, pair in enumerate(cache):
            turned = []
            for kind in (0, 1):
                place = place_of(layer, kind, shape, rope, profile, arguments.quality)
                known[layer, kind] = coded(channel_rows(pair[kind], place), layer, kind, shape, profile, arguments.quality)[
                    0
                ]
                x = known[layer, kind].view(shape[0], shape[2], shape[1])
                turned.append((rope.turned(x.contiguous(), 0, 1.0) if rope and kind == 0 else x).transpose(1, 2))
            restored.append(tuple(turned))
        start = time.perf_counter()
        guess = expected_next(model, ids, restored)
        seconds += time.perf_counter() - start
        with torch.no_grad():
            log_probs = torch.log_softmax(model(ids[None]).logits[0, :-1].float(), -1)
        surprise.append(-log_probs.gather(1, ids[1:, None]).mean() / torch.log(torch.tensor(2.0)))
        for at in known:
            place = place_of(*at, shape, rope, profile, arguments.quality)
            true, expected = (channel_rows(x[at[0]][at[1]], place) for x in (cache, guess))
            for name, g in guesses(at, fitted, known, ids, {at: expected}).items():
                bits = coded(true - g, *at, shape, profile, arguments.quality)[1]
                line = total.setdefault(at, dict.fromkeys(NAMES, 0.0))
                line[name] += bits
        elements += cache[0][0].numel()
    write(arguments.output, total, elements)
    per_token = 2 * len(profile.exponents) * shape[0] * shape[2]
    bits, cost_s = float(torch.stack(surprise).mean()), seconds / arguments.contexts
    print(f"bound: {bits:.3f} bits per token = {bits / per_token:.5f} bits per element, reached by mode tokens")
    print(f"expectation over top 4: {cost_s:.1f} s per context of {len(ids)} tokens")
    with arguments.output.with_stem(f"{arguments.output.stem}_bound").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["bound_bits_per_token", "bound_bits_per_element", "expectation_s_per_context", "context_tokens"])
        writer.writerow([f"{bits:.4f}", f"{bits / per_token:.6f}", f"{cost_s:.2f}", len(ids)])


def write(path: Path, total: dict, elements: int) -> None:
    """The table, bits per element, with means of all layers at the end."""
    lines = []
    for (layer, kind), bits in total.items():
        lines.append([layer, "kv"[kind], *(f"{bits[n] / elements:.4f}" if bits[n] else "" for n in NAMES)])
    for kind in (0, 1):
        mean = [sum(b[n] or b["none"] for at, b in total.items() if at[1] == kind) for n in NAMES]
        lines.append(["all", "kv"[kind], *(f"{m / elements / (len(total) // 2):.4f}" for m in mean)])
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["layer", "tensor", *NAMES])
        writer.writerows(lines)
    for line in lines:
        print(line)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
