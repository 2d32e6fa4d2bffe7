"""Modes on shapes that the trained model of kv_fidelity.py has not, with random weights.

    python benchmarks/kv_shapes.py

A Llama with grouped queries (4 heads on 2 of keys and values), and one with as many of each, the only kind for which
``residual`` stores less than keys and values are. 4 layers, width 256, heads of 64; 8 prompts of 512 random ids. Random
weights make next tokens nearly equally likely whatever the cache holds, so errors say more here than KL does. Writes
benchmarks/results/kv_shapes.csv (-o: elsewhere); a minute on one core.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import typer
from inputs import RESULTS, Output, load_model
from rdcodec.codecs.kv_cache import KvSettings
from rdcodec.codecs.kv_cache.evaluation.fidelity import (
    TAIL,
    Evaluation,
    Fidelity,
    noise_floors,
    prefill,
    through,
    write_csv,
)
from rdcodec.codecs.kv_cache.hf.model import rope_of
from rdcodec.codecs.kv_cache.modes.table import MODES
from transformers import LlamaConfig, LlamaForCausalLM

PROMPTS, PROMPT, VOCABULARY = 8, 512, 1000
KINDS = {"GQA": 2, "MHA": 4}
"""Heads of keys and values."""
POINTS = {
    "lossless": (60,), "fp8": (60,), "turboquant": (60,), "quantized": (40, 60), "quantized-small": (60,),
    "residual": (60, 70, 80),
}  # fmt: skip
"""Qualities of each mode; one where it has none."""


def models(kv_heads: int) -> tuple[LlamaForCausalLM, LlamaForCausalLM]:
    """The same random weights in bfloat16, and these in float32."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=256, intermediate_size=512, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=kv_heads,
    )  # fmt: skip
    with TemporaryDirectory() as folder:
        LlamaForCausalLM(config).bfloat16().save_pretrained(folder)
        return load_model(Path(folder), torch.bfloat16), load_model(Path(folder), torch.float32)


def measure(kind: str, kv_heads: int) -> list[Fidelity]:
    """Lines of one model."""
    source, exact = models(kv_heads)
    contexts = torch.randint(VOCABULARY, (PROMPTS, PROMPT + TAIL), generator=torch.Generator().manual_seed(1))
    evaluation = Evaluation(exact, contexts, prefill(source, contexts))
    lines = noise_floors(evaluation, source)
    for mode, qualities in POINTS.items():
        for quality in qualities if mode != "residual" or kind == "MHA" else ():
            settings = KvSettings(mode=mode, quality=quality, rope=rope_of(source))
            name = f"{mode} q{quality}" if MODES[mode].option == "quality" else mode
            lines.append(evaluation.measure(name, through(settings, source)))
    return [replace(line, name=f"{kind}: {line.name}") for line in lines]


def main(output: Output = RESULTS / "kv_shapes.csv") -> None:
    """Measure the modes on both models, print the lines and write the CSV."""
    torch.set_num_threads(1)
    lines = [line for kind, heads in KINDS.items() for line in measure(kind, heads)]
    write_csv(output, lines)
    for line in lines:
        print(
            f"{line.name:32s} {line.bits_per_element:7.3f} bits  keys {line.key_error:.4f} values {line.value_error:.4f}  "
            f"attention {line.attention_error:.4f}  KL {line.kl_mean:.6f}"
        )


if __name__ == "__main__":
    typer.run(main)
