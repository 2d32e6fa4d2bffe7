"""Mode ``tokens``: bits per token against the model's cross-entropy, ratios, and the seconds it costs.

    python benchmarks/kv_tokens.py --model MODEL --text TEXT

Codes 1,024-token contexts of TEXT/eval, decodes them, recomputes the cache. The model runs in float32, token by
token at both ends. Writes benchmarks/results/kv_tokens.csv (-o: elsewhere). Seconds are of CPU time; a minute per
context on one core.
"""

from __future__ import annotations

import math
import time
from typing import Annotated, Any

import numpy as np
import torch
import typer
from inputs import RESULTS, Model, Output, Text, contexts_of, load_model, show
from rdcodec.codecs.evaluation.points import write_csv
from rdcodec.codecs.kv_cache.evaluation.fidelity import TAIL
from rdcodec.codecs.kv_cache.format.header import parse_sequence
from rdcodec.codecs.kv_cache.hf.cache_io import recompute
from rdcodec.codecs.kv_cache.hf.fingerprint import fingerprint
from rdcodec.codecs.kv_cache.hf.token_sequence import decode_tokens, encode_tokens

RUN_HEADER_BYTES = 21 + 4
"""Of a coded run: its header, and the first token, which has no context."""


@torch.no_grad()
def cross_entropy(model: Any, context: torch.Tensor) -> float:
    """Bits per token of a prompt after its first token."""
    log_probs = torch.log_softmax(model(context[None, :-TAIL]).logits[0, :-1].double(), -1)
    return -float(log_probs.gather(1, context[1:-TAIL, None]).mean()) / math.log(2)


def measure(model: Any, context: torch.Tensor) -> dict[str, Any]:
    """Bits, ratios and seconds of one prompt.

    Raises:
        ValueError: decoding does not give the prompt back.
    """
    ids, name = context[:-TAIL].numpy(), fingerprint(model)
    start = time.process_time()
    data = encode_tokens(model, ids, fingerprint=name, verify=False)
    encoded = time.process_time()
    found = decode_tokens(data, model, fingerprint=name, salt=b"")
    decoded = time.process_time()
    cache = recompute(model, ids)
    recomputed = time.process_time()
    if not np.array_equal(found, ids):
        raise ValueError("decoding gives other tokens")
    elements = sum(2 * layer.keys.numel() for layer in cache.layers)
    payload = sum(entry.length - RUN_HEADER_BYTES for entry in parse_sequence(data)[0].entries)
    return {
        "tokens": len(ids),
        "cross_entropy_bits_per_token": f"{cross_entropy(model, context):.4f}",
        "coded_bits_per_token": f"{8 * payload / (len(ids) - 1):.4f}",
        "file_bytes": len(data),
        "ratio_to_bf16": f"{2 * elements / len(data):.0f}",
        "ratio_to_turboquant_3": f"{elements * 3.25 / 8 / len(data):.0f}",
        "encode_s": f"{encoded - start:.2f}",
        "decode_ids_s": f"{decoded - encoded:.2f}",
        "recompute_cache_s": f"{recomputed - decoded:.2f}",
    }


def main(
    model: Model,
    text: Text,
    contexts: Annotated[int, typer.Option(min=1, help="How many prompts.")] = 4,
    output: Output = RESULTS / "kv_tokens.csv",
) -> None:
    """Code prompts with a model's own probabilities, and recompute their caches."""
    torch.set_num_threads(1)
    running, rows = load_model(model), []
    for i, context in enumerate(contexts_of(model, text / "eval", contexts)):
        rows.append({"context": i} | measure(running, context))
        show(rows[-1])
    write_csv(output, rows)


if __name__ == "__main__":
    typer.run(main)
