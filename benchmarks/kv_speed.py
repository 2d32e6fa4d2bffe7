r"""Speed of the cache modes on one core, beside zstd on the same bytes in the same run: at level 3, and at level 1 on the
high bytes and then the low bytes, turned left by a bit, so that exponents are together.

    OMP_NUM_THREADS=1 python benchmarks/kv_speed.py --model MODEL --text TEXT
    OMP_NUM_THREADS=1 python benchmarks/kv_speed.py --model MODEL --text TEXT --only lossless,lossless-1 \
        -o benchmarks/results/kv_lossless.csv

Three shapes: the model's own cache; the same contexts' heads side by side in 8 KV heads of 64; and the cache of a randomly
initialised model with the 8 KV heads of 128 that models of 8 billion parameters have (small chunks pay more for each
Python call). CPU time of this process, the least of --repeats rounds.
Small blocks pay most for each Python call as well, so the model's own cache is also coded in blocks of 1,024 tokens.
Writes benchmarks/results/kv_speed.csv (-o: elsewhere). Columns: MB/s of raw bf16; break_even_mb_s = (raw - coded bytes) /
(encode + decode time), the link speed below which coding before sending pays; decode_ns_per_saved_byte, lower is better.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Annotated, NamedTuple

import numpy as np
import torch
import typer
import zstandard
from entropy_coder import settle_allocator
from inputs import RESULTS, Model, Output, Text, contexts_of, load_model, show
from rdcodec.codecs.evaluation.points import write_csv
from rdcodec.codecs.evaluation.timing import Call, interleaved
from rdcodec.codecs.kv_cache import KvSettings
from rdcodec.codecs.kv_cache.codec import Cache, KvCodec
from rdcodec.codecs.kv_cache.evaluation.fidelity import prefill
from rdcodec.codecs.kv_cache.hf.model import rope_of
from rdcodec.codecs.kv_cache.modes.rope import Rope
from rdcodec.codecs.kv_cache.splice import Layers
from transformers import LlamaConfig, LlamaForCausalLM

WIDE_CONTEXTS = 4
LARGE_BLOCK = 1024
"""Tokens, where the default is 256."""


class Coder(NamedTuple):
    """One way to code a cache."""

    size: int
    """Bytes of the coded cache."""
    encode: Call
    decode: Call


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


def planes(raw: bytes) -> np.ndarray:
    """High bytes of 16-bit words turned left by a bit, then low bytes."""
    words = np.frombuffer(raw, np.uint16)
    return np.concatenate((words << 1 | words >> 15).view(np.uint8).reshape(-1, 2).T[::-1])


def from_planes(body: bytes) -> np.ndarray:
    """Inverse of `planes`."""
    high, low = np.frombuffer(body, np.uint8).reshape(2, -1)
    words = np.stack([low, high], 1).reshape(-1).view(np.uint16)
    return words >> 1 | words << 15


def settings_for(rope: Rope | None, large_blocks: bool) -> dict[str, KvSettings]:
    """What is measured, by name."""
    plain = "lossless", "lossless-1", "fp8", "turboquant", "turboquant-ec"
    found = {mode: KvSettings(mode=mode, rope=rope) for mode in plain}
    for mode in ("quantized", "quantized-small"):
        for quality in (40, 50, 60):
            found[f"{mode} q{quality}"] = KvSettings(mode=mode, quality=quality, rope=rope)
    for mode in ("quantized", "quantized-small") if large_blocks else ():
        settings = KvSettings(mode=mode, quality=50, rope=rope, block_tokens=LARGE_BLOCK)
        found[f"{mode} q50, blocks of {LARGE_BLOCK:,}"] = settings
    return found


def measure(
    layers: Layers, ids: np.ndarray, rope: Rope | None, repeats: int, large_blocks: bool, only: list[str]
) -> list[dict[str, str]]:
    """All modes and zstd on one cache, in turns, so that what disturbs the machine for a while disturbs all alike."""
    heads, tokens, width = layers[0][0].shape
    raw = b"".join(x.contiguous().view(torch.int16).numpy().tobytes() for pair in layers for x in pair)
    compressor, decompressor = zstandard.ZstdCompressor(level=3), zstandard.ZstdDecompressor()
    plain = compressor.compress(raw)
    coders = {"zstd -3": Coder(len(plain), partial(compressor.compress, raw), partial(decompressor.decompress, plain))}
    cache = Cache(ids, layers)
    fast = zstandard.ZstdCompressor(level=1)
    packed = fast.compress(planes(raw))
    coders["zstd -1, byte planes"] = Coder(
        len(packed), lambda: fast.compress(planes(raw)), lambda: from_planes(decompressor.decompress(packed))
    )
    if from_planes(decompressor.decompress(packed)).tobytes() != raw:
        raise ValueError("byte planes do not come back")
    found = settings_for(rope, large_blocks)
    for name, settings in ((name, found[name]) for name in found if not only or name in only):
        codec = KvCodec(settings)
        data = codec.encode(cache)
        coders[name] = Coder(len(data), partial(codec.encode, cache), partial(codec.decode, data))
    settle_allocator()
    calls = {f"{way} {name}": getattr(coder, way) for name, coder in coders.items() for way in ("encode", "decode")}
    seconds = interleaved(calls, repeats, clock=time.process_time, figure=min)
    shape = f"{len(layers)} x {heads} x {tokens} x {width}"
    return [
        line(shape, name, len(raw), coder.size, seconds[f"encode {name}"], seconds[f"decode {name}"])
        for name, coder in coders.items()
    ]


def random_gqa(tokens: int) -> tuple[Layers, np.ndarray, Rope | None]:
    """Cache, ids and RoPE of a model with the KV heads of Llama 3 8B, four layers, random weights."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=1000, hidden_size=1024, intermediate_size=1024, num_hidden_layers=4, num_attention_heads=32,
        num_key_value_heads=8, head_dim=128,
    )  # fmt: skip
    model = LlamaForCausalLM(config).bfloat16().eval()
    ids = torch.randint(1000, (1, tokens))
    layers = prefill(model, ids)[0]
    return layers, ids[0, : layers[0][0].shape[1]].numpy(), rope_of(model)


def main(
    model: Model,
    text: Text,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds, of which the least time counts.")] = 20,
    only: Annotated[str, typer.Option(help="These modes alone, separated by commas; none: all.")] = "",
    output: Output = RESULTS / "kv_speed.csv",
) -> None:
    """Time every mode and zstd on three caches, print the rows and write the CSV."""
    torch.set_num_threads(1)
    running = load_model(model, torch.bfloat16)
    contexts = contexts_of(model, text / "eval", WIDE_CONTEXTS)
    caches, rope = prefill(running, contexts), rope_of(running)
    own = caches[0]
    ids = contexts[0, : own[0][0].shape[1]].numpy()
    wide = tuple((torch.cat([c[i][0] for c in caches]), torch.cat([c[i][1] for c in caches])) for i in range(len(own)))
    rows = []
    for layers, of, turns in ((own, ids, rope), (wide, ids, rope), random_gqa(contexts.shape[1])):
        rows += measure(layers, of, turns, repeats, layers is own, [name for name in only.split(",") if name])
    write_csv(output, rows)
    for row in rows:
        show(row)


if __name__ == "__main__":
    typer.run(main)
