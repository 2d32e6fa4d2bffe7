"""A model file larger than memory should be: what `codec encode`, `verify` and `decode` take in memory and time.

    python benchmarks/tensors_large.py --gigabytes 10

Writes a safetensors file of that size in bf16 (normal numbers, each tensor of another spread), encodes it, deletes it, and
decodes it again, whose bytes must be the same. It needs 1.7 times that much space where temporary files go (TMPDIR).
Writes benchmarks/results/tensors_large.csv (-o: elsewhere): largest resident memory and CPU seconds of each command, and
those of encoding a file of 0.5 MB beside them, most of which is Python with torch. Six minutes on one core.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rdcodec.codecs.evaluation.points import write_csv

RESULTS = Path(__file__).parent / "results"
CODEC = Path(sys.executable).with_name("codec")
SHAPE = 8192, 16384
"""Of each tensor: 268 MB, the size of a projection in a model of 70 billion weights."""
SMALL = 16, SHAPE[1]


def write_model(path: Path, tensors: int, shape: tuple[int, int]) -> str:
    """A file of so many tensors, written a few rows at a time; its sha256."""
    size, digest = 2 * shape[0] * shape[1], hashlib.sha256()
    lines = {
        f"layers.{number}.weight": {
            "dtype": "BF16", "shape": shape, "data_offsets": [number * size, (number + 1) * size]
        }
        for number in range(tensors)
    }  # fmt: skip
    text = json.dumps(lines).encode()
    draw = np.random.default_rng(0)
    with path.open("wb") as file:

        def write(part: bytes) -> None:
            digest.update(part)
            file.write(part)

        write(len(text).to_bytes(8, "little") + text)
        for _ in range(tensors):
            spread = np.float32(draw.uniform(0.01, 0.1))
            for _ in range(shape[0] // SMALL[0]):
                rows = draw.standard_normal((SMALL[0], shape[1]), np.float32) * spread
                write((rows.view(np.uint32) >> 16).astype("<u2").tobytes())
    return digest.hexdigest()


def measured(*arguments: str | Path) -> tuple[float, float]:
    """Largest resident memory of a command in MB, and its CPU seconds.

    Raises:
        CalledProcessError: it fails.
    """
    process = subprocess.Popen([CODEC, *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if code := os.waitstatus_to_exitcode(status):
        raise subprocess.CalledProcessError(code, list(map(str, arguments)))
    return usage.ru_maxrss / 1000 * 1.024, usage.ru_utime + usage.ru_stime


def digest_of(path: Path) -> str:
    """sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main(
    gigabytes: Annotated[float, typer.Option(help="Size of the file.")] = 10,
    output: Annotated[Path, typer.Option("--output", "-o", help="The CSV to write.")] = RESULTS / "tensors_large.csv",
) -> None:
    """Measure and write the CSV."""
    with tempfile.TemporaryDirectory() as scratch:
        small, model, coded, back = (
            Path(scratch) / name for name in ("small.st", "model.st", "model.rdc", "back.safetensors")
        )
        write_model(small, 1, SMALL)
        digest = write_model(model, max(1, round(gigabytes * 1e9 / (2 * SHAPE[0] * SHAPE[1]))), SHAPE)
        rows = list[dict[str, Any]]()

        def note(command: str, raw: int, *arguments: str | Path) -> None:
            memory_mb, seconds = measured(*arguments)
            row = {"command": command, "raw_bytes": raw, "memory_mb": memory_mb, "cpu_s": seconds}
            rows.append(row | {"mb_s": raw / seconds / 1e6})
            print(rows[-1], flush=True)

        note("encode 0.5 MB", small.stat().st_size, "encode", small, "-o", small.with_suffix(".rdc"))
        raw = model.stat().st_size
        note("encode", raw, "encode", model, "-o", coded)
        model.unlink()
        note("verify", raw, "verify", coded)
        note("decode", raw, "decode", coded, "-o", back)
        if digest_of(back) != digest:
            raise ValueError("decoding gives other bytes")
    write_csv(output, rows)


if __name__ == "__main__":
    typer.run(main)
