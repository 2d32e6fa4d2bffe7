"""Fidelity and size of every cache mode on a real model, beside TurboQuant, the transformers caches and int4.

    python benchmarks/kv_fidelity.py --model MODEL --text TEXT

Writes benchmarks/results/kv_fidelity.csv (a line per mode and quality; -o: elsewhere), and beside it
kv_fidelity_matched.csv (bytes at the KL that each baseline reaches) and kv_fidelity.png. Prompts are 1,024 tokens from
TEXT/eval, tails 64 tokens; calibration uses TEXT/train. Greedy columns use the first 8 contexts. About 12 minutes on one
core; --contexts 8 takes two.
"""

from __future__ import annotations

import argparse
import csv
import math
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from rdcodec.codecs.kv_cache import KvSettings, Profile, calibrate
from rdcodec.codecs.kv_cache.evaluation.fidelity import (
    TAIL,
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
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.cache_utils import HQQQuantizedLayer, QuantoQuantizedLayer

RESULTS = Path(__file__).parent / "results"
PROMPT = 1024
CALIBRATION_CONTEXTS = 24
QUALITIES = {
    "quantized": (10, 15, 20, 30, 40, 45, 50, 60),
    "quantized-small, calibrated": (45, 55, 65),
    "transform": (35, 45, 55, 65),
    "predictive": (30, 40, 50, 60),
}


def contexts_of(tokenizer, folder: Path, count: int) -> torch.Tensor:
    """``count`` stretches of prompt and tail, spread evenly over the files of a folder, int64 (count, 1088)."""
    files = sorted(folder.glob("*.txt"))
    length, out = PROMPT + TAIL, []
    for i, file in enumerate(files):
        share = count // len(files) + (i < count % len(files))
        ids = tokenizer(file.read_text(errors="ignore")[:1_500_000], add_special_tokens=False)["input_ids"]
        stride = (len(ids) - length) // max(share, 1)
        out += [[tokenizer.bos_token_id or 0, *ids[k * stride : k * stride + length - 1]] for k in range(share)]
    return torch.tensor(out)


def int4_group64(layers, ids):
    """Asymmetric 4 bits, a float16 scale and minimum for each 64 channels of a token: 4.5 bits per element."""
    out = []
    for pair in layers:
        out.append(tuple(_int4(x) for x in pair))
    elements = sum(x.numel() for pair in layers for x in pair)
    return tuple(out), elements // 2 + elements // 64 * 4


def _int4(x: torch.Tensor) -> torch.Tensor:
    groups = x.float().reshape(-1, 64)
    low = groups.amin(1, keepdim=True).half().float()
    scale = ((groups.amax(1, keepdim=True) - low) / 15).clamp_min(1e-8).half().float()
    return (((groups - low) / scale).round().clamp(0, 15) * scale + low).reshape(x.shape).to(x.dtype)


def hugging_face(layer_class, nbits: int, **axes):
    """A transformers QuantizedCache layer: codes plus a bf16 scale and zero point per group of 64."""

    def coded(layers, ids):
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


def profile_of(arguments, model, tokenizer) -> Profile:
    """Calibrated once, kept in runs/."""
    path = Path(arguments.profile)
    if path.exists():
        return Profile.read(path)
    start = time.perf_counter()
    profile = calibrate(model, contexts_of(tokenizer, Path(arguments.text) / "train", CALIBRATION_CONTEXTS))
    path.parent.mkdir(exist_ok=True, parents=True)
    profile.write(path)
    print(f"calibrated in {time.perf_counter() - start:.0f} s: {len(profile.data):,} bytes")
    return profile


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


def show(line: Fidelity) -> None:
    """One line of the table."""
    print(
        f"{line.name:36s} {line.bits_per_element:7.3f} bits  KL {line.kl_mean:.5f} p99 {line.kl_p99:.4f}  top-1 "
        f"{line.top1_agreement:.4f}  attention {line.attention_error:.4f}  diverges "
        f"at {line.greedy_first_divergence:.1f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True, help="folder of a transformers model")
    parser.add_argument("--text", required=True, help="folder with train/*.txt and eval/*.txt")
    parser.add_argument("--contexts", type=int, default=64)
    parser.add_argument("--greedy-contexts", type=int, default=8)
    parser.add_argument("--profile", default="runs/kv_profile.safetensors")
    parser.add_argument("--output", "-o", type=Path, default=RESULTS / "kv_fidelity.csv", help="the CSV to write")
    arguments = parser.parse_args()
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    profile, rope = profile_of(arguments, model, tokenizer), rope_of(model)
    contexts = contexts_of(tokenizer, Path(arguments.text) / "eval", arguments.contexts)
    half = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.bfloat16).eval()
    evaluation = Evaluation(model, contexts, prefill(half, contexts), arguments.greedy_contexts)
    floors = noise_floors(evaluation, half)
    lines = floors + [evaluation.measure(mode, through(KvSettings(mode=mode, rope=rope))) for mode in ("lossless", "fp8")]
    reference = baselines(evaluation)
    lines += reference
    for line in lines:
        show(line)
    curves: dict[str, list[Fidelity]] = {"turboquant": [x for x in reference if x.name.startswith("turboquant ")]}
    for name, qualities in QUALITIES.items():
        mode, used = name.split(",")[0], None if name == "quantized" else profile
        curves[name] = []
        for quality in qualities:
            settings = KvSettings(mode=mode, quality=quality, rope=rope, profile=used)
            line = evaluation.measure(f"{name} q{quality}", through(settings))
            show(line)
            curves[name].append(line)
            if name == "quantized":
                small = in_small_codes(evaluation, line, settings)
                show(small)
                curves.setdefault("quantized-small", []).append(small)
        lines += curves[name]
    lines += curves["quantized-small"]
    write_csv(arguments.output, lines)
    plot(arguments.output.with_suffix(".png"), curves, floors)
    table = matched({name: curve for name, curve in curves.items() if name != "turboquant"}, reference)
    with arguments.output.with_stem(f"{arguments.output.stem}_matched").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    for row in table:
        print(row)
    print(f"profile: {len(profile.data):,} bytes, shared by all caches of the model, not counted above")


if __name__ == "__main__":
    np.seterr(all="raise", under="ignore")
    torch.set_num_threads(1)
    main()
