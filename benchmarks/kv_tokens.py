"""Mode ``tokens``: bits per token against the model's cross-entropy, ratios, and the seconds it costs.

    python benchmarks/kv_tokens.py --model MODEL --text TEXT

Codes 1,024-token contexts of TEXT/eval, decodes them, recomputes the cache. The model runs in float32, token by
token at both ends. Writes benchmarks/results/kv_tokens.csv (-o: elsewhere). Seconds are of CPU time; a minute per
context on one core.
"""

from __future__ import annotations

import argparse
import csv
import math
import time
from pathlib import Path

import numpy as np
import torch
from kv_fidelity import contexts_of
from rdcodec.codecs.kv_cache.evaluation.fidelity import TAIL
from rdcodec.codecs.kv_cache.format.header import parse_sequence
from rdcodec.codecs.kv_cache.hf.cache_io import recompute
from rdcodec.codecs.kv_cache.hf.model import fingerprint
from rdcodec.codecs.kv_cache.hf.token_sequence import decode_tokens, encode_tokens
from transformers import AutoModelForCausalLM, AutoTokenizer

RESULTS = Path(__file__).parent / "results"
RUN_HEADER_BYTES = 21 + 4
"""Of a coded run: its header, and the first token, which has no context."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True, help="folder of a transformers model")
    parser.add_argument("--text", required=True, help="folder with train/*.txt and eval/*.txt")
    parser.add_argument("--contexts", type=int, default=4)
    parser.add_argument("--output", "-o", type=Path, default=RESULTS / "kv_tokens.csv", help="the CSV to write")
    arguments = parser.parse_args()
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    name, rows = fingerprint(model), []
    for i, context in enumerate(contexts_of(tokenizer, Path(arguments.text) / "eval", arguments.contexts)):
        ids = context[:-TAIL].numpy()
        with torch.no_grad():
            log_probs = torch.log_softmax(model(context[None, :-TAIL]).logits[0, :-1].double(), -1)
        entropy = -float(log_probs.gather(1, context[1:-TAIL, None]).mean()) / math.log(2)
        start = time.process_time()
        data = encode_tokens(model, ids, fingerprint=name, verify=False)
        encoded = time.process_time()
        found = decode_tokens(data, model, fingerprint=name, salt=b"")
        decoded = time.process_time()
        cache = recompute(model, ids)
        recomputed = time.process_time()
        assert np.array_equal(found, ids)
        elements = sum(2 * layer.keys.numel() for layer in cache.layers)
        payload = sum(entry.length - RUN_HEADER_BYTES for entry in parse_sequence(data)[0].entries)
        rows.append(
            {
                "context": i,
                "tokens": len(ids),
                "cross_entropy_bits_per_token": f"{entropy:.4f}",
                "coded_bits_per_token": f"{8 * payload / (len(ids) - 1):.4f}",
                "file_bytes": len(data),
                "ratio_to_bf16": f"{2 * elements / len(data):.0f}",
                "ratio_to_turboquant_3": f"{elements * 3.25 / 8 / len(data):.0f}",
                "encode_s": f"{encoded - start:.2f}",
                "decode_ids_s": f"{decoded - encoded:.2f}",
                "recompute_cache_s": f"{recomputed - decoded:.2f}",
            }
        )
        print("  ".join(f"{k} {v}" for k, v in rows[-1].items()), flush=True)
    with arguments.output.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
