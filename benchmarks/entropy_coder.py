"""Our entropy coder beside CompressAI's and constriction with a model per symbol, on a million symbols.

    python benchmarks/entropy_coder.py

One run, one thread, repetitions interleaved, the least processor time of each coder (neighbours on the machine disturb
it less than wall time or a median). Symbols are Gaussian with scales spread like a latent's: log-normal, most of them
small, none skipped. Ours is `Write` and `Read` from tensors to bytes and back: rounding, grouping, escapes, checksum. It
gets them in four calls, as the four context steps of a 1024x1024 tile come. CompressAI is `GaussianConditional.compress`
and ``decompress``, with ``build_indexes`` as its models call it on both sides, and without.
"""

from __future__ import annotations

import csv
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import constriction
import numpy as np
import torch
import typer
from rdcodec.entropy_models.coder import Measure, Read, Write
from rdcodec.entropy_models.tables import LEVELS, SCALE_MIN, gaussian_tables, scale, scale_ratio
from rich.console import Console
from rich.table import Table
from torch import Tensor

STEPS = 4
SHAPE = (STEPS, 64, 64, 64)
SYMBOLS = STEPS * 64**3
TABLES = gaussian_tables()
"""`draw` gives no level below their skip level: every symbol is coded."""
SCALES = torch.tensor([scale(level) for level in range(LEVELS)])
FIELDS = ("coder", "encode_ns_per_symbol", "decode_ns_per_symbol", "bits_per_symbol", "ideal_bits_per_symbol")

Encode = Callable[[], Any]
Decode = Callable[[Any], np.ndarray]
Coder = tuple[str, Encode, Decode, Callable[[Any], int]]
"""Name, symbols to stream, stream to symbols (flat), bytes of a stream."""


def draw(seed: int) -> tuple[Tensor, Tensor]:
    """Residuals and their levels, float32 of `SHAPE`."""
    rng = np.random.default_rng(seed)
    scales = np.exp(rng.normal(np.log(0.35), 1.0, SHAPE))
    level = np.clip(np.rint(np.log(scales / SCALE_MIN) / scale_ratio()), TABLES.skip_level, LEVELS - 1)
    residual = rng.normal(size=SHAPE) * SCALES.numpy()[level.astype(int)]
    return torch.from_numpy(residual).float(), torch.from_numpy(level).float()


def ours(residual: Tensor, level: Tensor) -> Coder:
    def encode() -> bytes:
        writer = Write(TABLES)
        for step in range(STEPS):
            writer.code(residual[step, None], level[step, None])
        return writer.close()[0]

    def decode(stream: bytes) -> np.ndarray:
        reader = Read(TABLES, [stream])
        blank = torch.zeros_like(residual[0, None])
        symbols = torch.cat([reader.code(blank, level[step, None]) for step in range(STEPS)])
        reader.close()
        return symbols.numpy().reshape(-1)

    return "rdcodec", encode, decode, len


def compressai(residual: Tensor, level: Tensor, *, indexes_are_known: bool) -> Coder:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from compressai.entropy_models import GaussianConditional
    conditional = GaussianConditional(SCALES.tolist())
    conditional.update_scale_table(SCALES.tolist())
    # its coder takes images of shape (1, channels, rows, columns)
    image, scales = residual.reshape(1, -1, 64, 64), SCALES[level.long()].reshape(1, -1, 64, 64)
    known = conditional.build_indexes(scales)

    def indexes() -> Tensor:
        return known if indexes_are_known else conditional.build_indexes(scales)

    def encode() -> list[bytes]:
        return conditional.compress(image, indexes())

    def decode(streams: list[bytes]) -> np.ndarray:
        return conditional.decompress(streams, indexes()).numpy().reshape(-1)

    name = "CompressAI, indexes known" if indexes_are_known else "CompressAI"
    return name, encode, decode, lambda streams: len(streams[0])


def per_symbol(residual: Tensor, level: Tensor) -> Coder:
    symbols = residual.round().numpy().astype(np.int32).reshape(-1)
    scales = SCALES[level.long()].double().numpy().reshape(-1)
    means, bound = np.zeros_like(scales), int(np.abs(symbols).max())
    model = constriction.stream.model.QuantizedGaussian(-bound, bound)

    def encode() -> np.ndarray:
        encoder = constriction.stream.queue.RangeEncoder()
        encoder.encode(symbols, model, means, scales)
        return encoder.get_compressed()

    def decode(words: np.ndarray) -> np.ndarray:
        return constriction.stream.queue.RangeDecoder(words).decode(model, means, scales)

    return "constriction, a Gaussian per symbol", encode, decode, lambda words: words.nbytes


def ideal_bits(residual: Tensor, level: Tensor) -> float:
    measure = Measure(TABLES)
    for step in range(STEPS):
        measure.code(residual[step, None], level[step, None])
    return float(measure.bits[0])


def settle_allocator() -> None:
    """Free one large block, as networks have by the time a codec codes: glibc then stops returning each array to the
    system, and what is timed is coding instead of page faults. Every coder here gains."""
    np.ones(31 << 20, np.uint8)


def measure(coders: list[Coder], symbols: np.ndarray, repetitions: int) -> dict[str, tuple[float, float, int]]:
    """Least processor seconds of encoding and decoding, and bytes, of each coder.

    Raises:
        ValueError: a coder does not return its symbols.
    """
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name, *_ in coders}
    sizes = {}
    for _ in range(repetitions):
        for name, encode, decode, size in coders:
            start = time.process_time()
            stream = encode()
            middle = time.process_time()
            decoded = decode(stream)
            seconds[name].append((middle - start, time.process_time() - middle))
            sizes[name] = size(stream)
            if not np.array_equal(decoded, symbols):
                raise ValueError(f"{name} does not return what it was given")
    least = {name: np.min(values, axis=0) for name, values in seconds.items()}
    return {name: (float(s[0]), float(s[1]), sizes[name]) for name, s in least.items()}


def main(
    output: Annotated[Path, typer.Option("--output", "-o")] = Path("benchmarks/results/entropy_coder.csv"),
    repetitions: Annotated[int, typer.Option(min=5)] = 15,
    seed: int = 1,
) -> None:
    """Time all coders, check that each returns its symbols, print a table and write the CSV."""
    torch.set_num_threads(1)
    residual, level = draw(seed)
    coders = [
        ours(residual, level), compressai(residual, level, indexes_are_known=False),
        compressai(residual, level, indexes_are_known=True), per_symbol(residual, level),
    ]  # fmt: skip
    settle_allocator()
    results = measure(coders, residual.round().numpy().reshape(-1), repetitions)
    ideal = ideal_bits(residual, level)
    headings = (
        "coder",
        "encode (ns/symbol)",
        "decode (ns/symbol)",
        "bits/symbol",
        "over ideal",
        "encode, ours is",
        "decode",
    )
    table = Table(*headings, title=f"{SYMBOLS} symbols, {ideal / SYMBOLS:.4f} bits/symbol ideal")
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*FIELDS, "encode_time_over_ours", "decode_time_over_ours"])
        for name, (encode_s, decode_s, size) in results.items():
            ratios = encode_s / results["rdcodec"][0], decode_s / results["rdcodec"][1]
            times = encode_s * 1e9 / SYMBOLS, decode_s * 1e9 / SYMBOLS
            bits = 8 * size / SYMBOLS
            figures = [
                *(f"{t:.1f}" for t in times),
                f"{bits:.5f}",
                f"{ideal / SYMBOLS:.5f}",
                *(f"{r:.2f}" for r in ratios),
            ]
            writer.writerow([name, *figures])
            over = f"{100 * (8 * size / ideal - 1):+.3f} %"
            table.add_row(name, *(f"{t:.1f}" for t in times), f"{bits:.4f}", over, *(f"{r:.1f}x faster" for r in ratios))
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
