"""Our entropy coder beside CompressAI's and constriction with a model per symbol, on a million symbols.

    python benchmarks/entropy_coder.py

One run, one thread, repetitions interleaved, the least processor time of each coder (neighbours on the machine disturb
it less than wall time or a median). Symbols are Gaussian with scales spread like a latent's: log-normal, most of them
small, none skipped. Ours is `Write` and `Read` from tensors to bytes and back: rounding, grouping, escapes, checksum. It
gets them in four calls, as the four context steps of a 1024x1024 tile come. CompressAI is `GaussianConditional.compress`
and ``decompress``, with ``build_indexes`` as its models call it on both sides, and without.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import constriction
import numpy as np
import torch
import typer
from rdcodec.codecs.evaluation.points import write_csv
from rdcodec.codecs.evaluation.timing import interleaved
from rdcodec.entropy_models.coder import Measure, Read, Write
from rdcodec.entropy_models.tables import LEVELS, SCALE_MIN, gaussian_tables, scale, scale_ratio
from rich.console import Console
from rich.table import Column, Table
from torch import Tensor

STEPS = 4
SHAPE = (STEPS, 64, 64, 64)
SYMBOLS = STEPS * 64**3
TABLES = gaussian_tables()
"""`draw` gives no level below their skip level: every symbol is coded."""
SCALES = torch.tensor([scale(level) for level in range(LEVELS)])


class Coder(NamedTuple):
    """One way to code the symbols."""

    name: str
    encode: Callable[[], Any]
    decode: Callable[[Any], np.ndarray]
    """A stream to its symbols, flat."""
    size: Callable[[Any], int]
    """Bytes of a stream."""


class Measured(NamedTuple):
    """A coder's least processor seconds, and bytes."""

    encode_s: float
    decode_s: float
    size: int


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

    return Coder("rdcodec", encode, decode, len)


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
    return Coder(name, encode, decode, lambda streams: len(streams[0]))


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

    return Coder("constriction, a Gaussian per symbol", encode, decode, lambda words: words.nbytes)


def ideal_bits(residual: Tensor, level: Tensor) -> float:
    measure = Measure(TABLES)
    for step in range(STEPS):
        measure.code(residual[step, None], level[step, None])
    return float(measure.bits[0])


def settle_allocator() -> None:
    """Free one large block, as networks have by the time a codec codes: glibc then stops returning each array to the
    system, and what is timed is coding instead of page faults. Every coder here gains."""
    np.ones(31 << 20, np.uint8)


def measure(coders: list[Coder], symbols: np.ndarray, repetitions: int) -> dict[str, Measured]:
    """Least processor seconds of encoding and decoding, and bytes, of each coder.

    Raises:
        ValueError: a coder does not return its symbols.
    """
    calls: dict[str, Callable[[], Any]] = {}
    sizes = {}
    for coder in coders:
        stream = coder.encode()
        if not np.array_equal(coder.decode(stream), symbols):
            raise ValueError(f"{coder.name} does not return what it was given")
        calls |= {f"encode {coder.name}": coder.encode, f"decode {coder.name}": partial(coder.decode, stream)}
        sizes[coder.name] = coder.size(stream)
    seconds = interleaved(calls, repetitions, clock=time.process_time, figure=min)
    return {name: Measured(seconds[f"encode {name}"], seconds[f"decode {name}"], size) for name, size in sizes.items()}


def row_of(name: str, found: Measured, ours: Measured, ideal: float) -> dict[str, str]:
    """A coder's line; ``ideal``: bits of all symbols."""
    return {
        "coder": name,
        "encode_ns_per_symbol": f"{found.encode_s * 1e9 / SYMBOLS:.1f}",
        "decode_ns_per_symbol": f"{found.decode_s * 1e9 / SYMBOLS:.1f}",
        "bits_per_symbol": f"{8 * found.size / SYMBOLS:.5f}",
        "ideal_bits_per_symbol": f"{ideal / SYMBOLS:.5f}",
        "encode_time_over_ours": f"{found.encode_s / ours.encode_s:.2f}",
        "decode_time_over_ours": f"{found.decode_s / ours.decode_s:.2f}",
    }


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
    rows = [row_of(name, found, results["rdcodec"], ideal) for name, found in results.items()]
    output.parent.mkdir(parents=True, exist_ok=True)
    write_csv(output, rows)
    headings = "encode (ns)", "decode (ns)", "bits", "ideal", "encode, ours is", "decode", "over ideal"
    table = Table(Column("coder", no_wrap=True), *headings, title=f"{SYMBOLS} symbols; times and bits of one")
    for row, found in zip(rows, results.values(), strict=True):
        *figures, encode_ratio, decode_ratio = row.values()
        over = f"{100 * (8 * found.size / ideal - 1):+.3f} %"
        table.add_row(*figures, f"{encode_ratio}x faster", f"{decode_ratio}x faster", over)
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
