"""Bit-exact FP8: a model's matrices in E4M3 and E5M2, a scale for each row, beside zstd.

    python benchmarks/tensors_fp8.py MODEL.safetensors

Casts every matrix as inference engines do, so that the largest number of a row is the type's largest, and writes
benchmarks/results/tensors_fp8.csv (-o: elsewhere): per cent of raw of the matrices, and MB/s of one core.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import torch
import typer
import zstandard
from rdcodec.codecs.evaluation.points import write_csv
from rdcodec.codecs.evaluation.timing import interleaved
from rdcodec.codecs.tensor import TensorCodec, Tensors
from safetensors.torch import load_file, save

RESULTS = Path(__file__).parent / "results"


def main(
    model: Annotated[Path, typer.Argument(help="safetensors file.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The CSV to write.")] = RESULTS / "tensors_fp8.csv",
) -> None:
    """Measure and write the CSV."""
    torch.set_num_threads(1)
    codec, rows = TensorCodec(), []
    matrices = {name: x.float() for name, x in load_file(model).items() if x.dim() == 2}
    for dtype in (torch.float8_e4m3fn, torch.float8_e5m2):
        tensors = {
            name: (x * (torch.finfo(dtype).max / x.abs().amax(1, keepdim=True).clamp(min=1e-30))).to(dtype)
            for name, x in matrices.items()
        }
        signal, raw = Tensors(tensors), save(tensors)
        data, zstd = codec.encode(signal), zstandard.ZstdCompressor(3).compress(raw)
        if any(
            not torch.equal(x.view(torch.uint8), tensors[name].view(torch.uint8))
            for name, x in codec.decode(data).tensors.items()
        ):
            raise ValueError("decoding gives other numbers")
        calls = {
            "encode": lambda signal=signal: codec.encode(signal),
            "decode": lambda data=data: codec.decode(data),
        }  # fmt: skip
        seconds = interleaved(calls, 7, clock=time.process_time, figure=min)
        rows.append(
            {
                "type": str(dtype).removeprefix("torch."), "raw_bytes": len(raw),
                "lossless_percent": 100 * len(data) / len(raw), "zstd_percent": 100 * len(zstd) / len(raw),
                **{f"{name}_mb_s": len(raw) / duration / 1e6 for name, duration in seconds.items()},
            }
        )  # fmt: skip
    write_csv(output, rows)
    print(Path(output).read_text())


if __name__ == "__main__":
    typer.run(main)
