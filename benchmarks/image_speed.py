"""Speed and memory of the image codec beside CompressAI's hyperprior.

    python benchmarks/image_speed.py [PHOTOGRAPH] --threads 2

One process, models loaded, repetitions interleaved, medians of wall time: ours at quality 50 against
``bmshj2018_hyperprior(quality=4)`` through its own ``compress`` and ``decompress``, both on the same 768x512 picture.
CompressAI's weights cannot be had offline. Random ones give it all-zero symbols, so its latent is multiplied until its
file has about as many bits as ours and the coder has real work; its networks take the same time with any weights
and are reported on their own as well. Then whole processes of the command ``codec``: seconds, peak memory, imports.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from PIL import Image, ImageOps
from rdcodec.codecs import load
from rdcodec.codecs.evaluation.points import write_csv
from rdcodec.codecs.evaluation.timing import interleaved
from rdcodec.codecs.image.demo import sample_photograph
from rich.console import Console
from rich.table import Table
from torch import Tensor

WIDTH, HEIGHT = 768, 512
LARGE = (6000, 4000)
"""24 megapixels."""
QUALITY = 50
HEAVY = ("compressai", "lightning", "torchvision")
"""Packages that encoding and decoding must not import."""
PROBE = """
import json, sys
arguments, heavy = json.loads(sys.argv[1]), sys.argv[2].split(",")
sys.argv[1:] = arguments  # where the command looks before it loads anything
from rdcodec.codecs.cli.main import app, leave
try:
    code = app(arguments, prog_name="codec", standalone_mode=False) or 0
finally:
    # not getrusage: its maximum is inherited from the process that starts this one
    with open("/proc/self/status") as status:
        peak = next((int(line.split()[1]) for line in status if line.startswith("VmHWM")), None)
    print(json.dumps([peak, [name for name in heavy if name in sys.modules]]), file=sys.stderr)
leave(code)
sys.exit(code)
"""
Row = tuple[str, str, float, str]
"""What, measure, value, unit."""


def hyperprior(pixels: np.ndarray, bits: int) -> tuple[Any, Tensor]:
    """CompressAI's model with random weights whose file of ``pixels`` has about ``bits``, and its input."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from compressai.zoo import bmshj2018_hyperprior
    torch.manual_seed(0)
    model = bmshj2018_hyperprior(quality=4, metric="mse", pretrained=False).eval()
    model.update()
    image = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255
    last, weight = model.g_a[-1], model.g_a[-1].weight.data.clone()
    low, high = 0.0, 16.0  # binary logarithm of the factor; more of it means more bits
    for _ in range(8):
        middle = (low + high) / 2
        last.weight.data = weight * 2**middle
        too_many = 8 * sum(len(s[0]) for s in model.compress(image)["strings"]) > bits
        low, high = (low, middle) if too_many else (middle, high)
    return model, image


@torch.inference_mode()
def loaded_models(pixels: np.ndarray, repetitions: int, threads: int) -> list[Row]:
    """Ours and CompressAI's, both loaded, with as many threads."""
    codec = load("image", device="cpu", threads=threads)
    data = codec.encode(pixels, quality=QUALITY)
    model, image = hyperprior(pixels, 8 * len(data))
    coded = model.compress(image)
    y = model.g_a(image)
    z = model.h_a(y)
    strings, shape = coded["strings"], coded["shape"]
    seconds = interleaved(
        {
            "rdcodec encode": lambda: codec.encode(pixels, quality=QUALITY),
            "hyperprior encode": lambda: model.compress(image),
            "rdcodec decode": lambda: codec.decode(data).array(),
            "hyperprior decode": lambda: model.decompress(strings, shape),
            "hyperprior encode, networks": lambda: (model.g_a(image), model.h_a(y), model.h_s(z)),
            "hyperprior decode, networks": lambda: (model.h_s(z), model.g_s(y)),
        },
        repetitions,
    )
    rows: list[Row] = [(name, "wall time", value, "s") for name, value in seconds.items()]
    for way in ("encode", "decode"):
        ratio = seconds[f"hyperprior {way}"] / seconds[f"rdcodec {way}"]
        rows.append((f"hyperprior {way} / rdcodec {way}", "ratio of times", ratio, ""))
        ratio = seconds[f"hyperprior {way}, networks"] / seconds[f"rdcodec {way}"]
        rows.append((f"hyperprior {way}, networks / rdcodec {way}", "ratio of times", ratio, ""))
    area = pixels.shape[0] * pixels.shape[1]
    rows.append(("rdcodec", "rate", 8 * len(data) / area, "bpp"))
    rows.append(("hyperprior, random weights", "rate", 8 * sum(len(s[0]) for s in strings) / area, "bpp"))
    return rows


def whole_process(name: str, arguments: list[str], threads: int) -> tuple[list[Row], list[str]]:
    """Run ``codec`` in a process of its own; rows, and which of `HEAVY` it imported.

    Raises:
        RuntimeError: the command fails.
    """
    start = time.perf_counter()
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    run = [sys.executable, "-c", PROBE, json.dumps(arguments), ",".join(HEAVY)]
    done = subprocess.run(run, capture_output=True, text=True, check=False, env=environment)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(f"codec {' '.join(arguments)}: {done.stderr}")
    peak_kib, imported = json.loads(done.stderr.strip().splitlines()[-1])
    peak_gib = math.nan if peak_kib is None else peak_kib / 2**20
    return [(name, "whole process", seconds, "s"), (name, "peak memory", peak_gib, "GiB")], imported


def whole_processes(photograph: Image.Image, pixels: np.ndarray, threads: int) -> list[Row]:
    """The command line on a small and on a 24-megapixel picture.

    Raises:
        RuntimeError: a command fails, or imports one of `HEAVY`.
    """
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        small, large = Path(folder, "small.png"), Path(folder, "large.png")
        Image.fromarray(pixels).save(small)
        ImageOps.fit(photograph, LARGE, Image.Resampling.BICUBIC).save(large, compress_level=1)
        for name, path in ((f"{WIDTH}x{HEIGHT}", small), ("24 megapixels", large)):
            stream, back = str(path.with_suffix(".rdc")), str(path.with_suffix(".ppm"))
            for verb, arguments in {
                "encode": ["encode", str(path), "-o", stream, "-q", str(QUALITY), "--device", "cpu"],
                "decode": ["decode", stream, "-o", back, "--device", "cpu"],
                "info": ["info", stream],
            }.items():
                measured, imported = whole_process(f"codec {verb}, {name}", arguments, threads)
                if imported:
                    raise RuntimeError(f"codec {verb} imports {', '.join(imported)}")
                rows += measured
    return rows


def main(
    photograph: Annotated[Path | None, typer.Argument(help="Default: the photograph of `codec demo`.")] = None,
    threads: Annotated[int, typer.Option(min=1)] = 2,
    repetitions: Annotated[int, typer.Option(min=3)] = 9,
    output: Annotated[Path, typer.Option("--output", "-o")] = Path("benchmarks/results/image_speed.csv"),
) -> None:
    """Measure, print a table, and write the CSV."""
    torch.set_num_threads(threads)
    with Image.open(photograph or sample_photograph()) as file:
        picture = file.convert("RGB")
    pixels = np.asarray(ImageOps.fit(picture, (WIDTH, HEIGHT), Image.Resampling.LANCZOS))
    rows = loaded_models(pixels, repetitions, threads) + whole_processes(picture, pixels, threads)
    table = Table("what", "measure", "value", "unit", title=f"{threads} threads, {WIDTH}x{HEIGHT}, quality {QUALITY}")
    output.parent.mkdir(parents=True, exist_ok=True)
    lines = [(what, measure, f"{value:.4g}", unit) for what, measure, value, unit in rows]
    for line in lines:
        table.add_row(*line)
    columns = "what", "measure", "value", "unit", "threads"
    write_csv(output, [dict(zip(columns, (*line, threads), strict=True)) for line in lines])
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
