"""Models of the image codec against the shipped one: rate at equal quality on Kodak, size and speed.

    python benchmarks/models.py KODAK -o benchmarks/results --models image-10,image-fast-2

Writes models_points.csv (every file; a second call goes on where the first was interrupted) and models.csv. Models that are
not installed lie in folders of the variable RDCODEC_WEIGHTS. Times are CPU seconds of the coding of one picture of 768x512,
networks and coder together, all models in turns.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from kodak import RATES_BPP, extended
from PIL import Image
from rdcodec.codecs import load
from rdcodec.codecs.evaluation.bd_rate import bd_rate
from rdcodec.codecs.evaluation.points import means, write_csv
from rdcodec.codecs.evaluation.timing import interleaved
from rdcodec.codecs.image.codec import ImageCodec
from rdcodec.codecs.image.evaluation import TASK, reference_of

QUALITIES = 8, 24, 40, 56, 72, 88
TIMED, TIMED_QUALITY, ROUNDS = "kodim05.png", 50, 5


def parameters(codec: ImageCodec) -> int:
    """Numbers that were learned, buffers of the integer layers among them."""
    return sum(tensor.numel() for tensor in codec.network.state_dict().values())


def times(codecs: dict[str, ImageCodec], picture: Path) -> dict[str, dict[str, float]]:
    """CPU seconds of each model's encoding and decoding."""
    pixels = np.asarray(Image.open(picture))
    encoded = {name: codec.encode(pixels, quality=TIMED_QUALITY) for name, codec in codecs.items()}
    calls = {
        "encode": {name: lambda codec=codec: codec.encode(pixels, quality=TIMED_QUALITY) for name, codec in codecs.items()},
        "decode": {name: lambda codec=codec, data=encoded[name]: codec.decode(data) for name, codec in codecs.items()},
    }
    return {what: interleaved(of, ROUNDS, clock=time.process_time, figure=min) for what, of in calls.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="folder of Kodak's PNG files")
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--models", default="image-10,image-fast-2", help="the first is what the others are compared with")
    args = parser.parse_args()
    torch.set_num_threads(1)
    codecs = {name: load("image", model=name, device="cpu") for name in args.models.split(",")}
    path = args.output / "models_points.csv"
    for name, codec in codecs.items():
        points = extended(path, name, reference_of(codec, QUALITIES), args.images)
    seconds, first, rows = times(codecs, args.images / TIMED), next(iter(codecs)), means(points)
    table = []
    for name, codec in codecs.items():
        rates = [0.0 if name == first else bd_rate(rows, first, metric, RATES_BPP, ours=name) for metric in TASK.metrics]
        table.append({
            "model": name, "parameters": parameters(codec), "bd_rate_psnr_percent": f"{rates[0]:.2f}",
            "bd_rate_ms_ssim_percent": f"{rates[1]:.2f}", "encode_s": f"{seconds['encode'][name]:.4f}",
            "decode_s": f"{seconds['decode'][name]:.4f}",
        })  # fmt: skip
    write_csv(args.output / "models.csv", table)


if __name__ == "__main__":
    main()
