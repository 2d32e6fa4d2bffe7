"""Speed of the cache modes on one core, beside zstd -3 on the same bytes in the same run.

    OMP_NUM_THREADS=1 python benchmarks/kv_speed.py --model MODEL --text TEXT

Three shapes: the model's own cache; the same contexts' heads side by side in 8 KV heads of 64; and the cache of a randomly
initialised model with the 8 KV heads of 128 that models of 8 billion parameters have (small chunks pay more for each
Python call). CPU time of this process, the least of --repeats rounds.
Small blocks pay most for each Python call as well, so the model's own cache is also coded in blocks of 1,024 tokens.
Writes benchmarks/results/kv_speed.csv (-o: elsewhere). Columns: MB/s of raw bf16; break_even_mb_s = (raw - coded bytes) /
(encode + decode time), the link speed below which coding before sending pays; decode_ns_per_saved_byte, lower is better.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
import zstandard
from entropy_coder import settle_allocator
from kv_fidelity import contexts_of
from rdcodec.codecs.kv_cache import KvSettings
from rdcodec.codecs.kv_cache.codec import Cache, KvCodec
from rdcodec.codecs.kv_cache.evaluation.fidelity import prefill
from rdcodec.codecs.kv_cache.hf.model import rope_of
from rdcodec.codecs.kv_cache.modes.rope import Rope
from rich.progress import track
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

RESULTS = Path(__file__).parent / "results"
WIDE_CONTEXTS = 4
LARGE_BLOCK = 1024
"""Tokens, where the default is 256."""


Call = Callable[[], object]


def seconds_of(call: Call) -> float:
    """CPU seconds of one call."""
    start = time.process_time()
    call()
    return time.process_time() - start


def line(shape: str, name: str, raw: int, size: int, encode_s: float, decode_s: float) -> dict[str, str]:
    """One row of the table."""
    saved = max(raw - size, 1)
    return {
        "shape": shape,
        "mode": name,
        "bits_per_element": f"{16 * size / raw:.3f}",
        "encode_mb_s": f"{raw / encode_s / 1e6:.0f}",
        "decode_mb_s": f"{raw / decode_s / 1e6:.0f}",
        "decode_ns_per_saved_byte": f"{1e9 * decode_s / saved:.2f}",
        "break_even_mb_s": f"{saved / (encode_s + decode_s) / 1e6:.0f}",
    }


def settings_for(rope: Rope | None, large_blocks: bool) -> dict[str, KvSettings]:
    """What is measured, by name."""
    found = {mode: KvSettings(mode=mode, rope=rope) for mode in ("lossless", "fp8", "turboquant", "turboquant-ec")}
    for mode in ("quantized", "quantized-small"):
        for quality in (40, 50, 60):
            found[f"{mode} q{quality}"] = KvSettings(mode=mode, quality=quality, rope=rope)
    for mode in ("quantized", "quantized-small") if large_blocks else ():
        settings = KvSettings(mode=mode, quality=50, rope=rope, block_tokens=LARGE_BLOCK)
        found[f"{mode} q50, blocks of {LARGE_BLOCK:,}"] = settings
    return found


def measure(
    shape: str, layers, ids: np.ndarray, rope: Rope | None, repeats: int, large_blocks: bool
) -> list[dict[str, str]]:
    """All modes and zstd on one cache, in turns, so that what disturbs the machine for a while disturbs all alike."""
    raw = b"".join(x.contiguous().view(torch.int16).numpy().tobytes() for pair in layers for x in pair)
    compressor, decompressor = zstandard.ZstdCompressor(level=3), zstandard.ZstdDecompressor()
    packed = compressor.compress(raw)
    calls: dict[str, tuple[int, Call, Call]] = {
        "zstd -3": (len(packed), partial(compressor.compress, raw), partial(decompressor.decompress, packed))
    }
    for name, settings in settings_for(rope, large_blocks).items():
        codec = KvCodec(settings)
        cache = Cache(ids, layers)
        data = codec.encode(cache)
        calls[name] = len(data), partial(codec.encode, cache), partial(codec.decode, data)
    settle_allocator()
    least = {name: (float("inf"), float("inf")) for name in calls}
    for _ in track(range(repeats + 1), description=shape):  # the first round warms up
        for name, (_, encode, decode) in calls.items():
            least[name] = min(least[name][0], seconds_of(encode)), min(least[name][1], seconds_of(decode))
    return [line(shape, name, len(raw), size, *least[name]) for name, (size, *_) in calls.items()]


def random_gqa(tokens: int) -> tuple[tuple, np.ndarray, Rope | None]:
    """Cache, ids and RoPE of a model with the KV heads of Llama 3 8B, four layers, random weights."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=1000, hidden_size=1024, intermediate_size=1024, num_hidden_layers=4, num_attention_heads=32,
        num_key_value_heads=8, head_dim=128,
    )  # fmt: skip
    model = LlamaForCausalLM(config).to(torch.bfloat16).eval()
    ids = torch.randint(1000, (1, tokens))
    layers = prefill(model, ids)[0]
    return layers, ids[0, : layers[0][0].shape[1]].numpy(), rope_of(model)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True, help="folder of a transformers model")
    parser.add_argument("--text", required=True, help="folder with train/*.txt and eval/*.txt")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--output", "-o", type=Path, default=RESULTS / "kv_speed.csv", help="the CSV to write")
    arguments = parser.parse_args()
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.bfloat16).eval()
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    contexts = contexts_of(tokenizer, Path(arguments.text) / "eval", WIDE_CONTEXTS)
    caches, rope = prefill(model, contexts), rope_of(model)
    ids = contexts[0, : caches[0][0][0].shape[1]].numpy()
    wide = tuple((torch.cat([c[i][0] for c in caches]), torch.cat([c[i][1] for c in caches])) for i in range(len(caches[0])))
    rows = []
    for layers, of, turns in ((caches[0], ids, rope), (wide, ids, rope), random_gqa(contexts.shape[1])):
        heads, tokens, width = layers[0][0].shape
        shape, own = f"{len(layers)} x {heads} x {tokens} x {width}", layers is caches[0]
        rows += measure(shape, layers, of, turns, arguments.repeats, large_blocks=own)
    with arguments.output.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    for row in rows:
        print("  ".join(f"{k} {v}" for k, v in row.items()))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
