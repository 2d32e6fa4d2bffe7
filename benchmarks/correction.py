"""What the tiles' corrections are worth: the shipped model with them and without, real bytes and real decoding.

    python benchmarks/correction.py KODAK -o benchmarks/results

Writes correction.csv: mean rate and PSNR over the images at each quality.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from kodak import RATES_BPP
from rdcodec.codecs import load
from rdcodec.codecs.evaluation.bd_rate import bd_rate
from rdcodec.codecs.evaluation.points import OURS, means, write_means
from rdcodec.codecs.evaluation.run import evaluate
from rdcodec.codecs.image.codec import ImageCodec
from rdcodec.codecs.image.evaluation import TASK, reference_of
from rdcodec.entropy_models.coder import Write
from rich.progress import track

QUALITIES = (10, 25, 40, 55, 70, 85)


def no_correction(codec: ImageCodec, coder: Write) -> None:
    """None, as an encoder codes it that never looks for one."""
    assert codec.network.correction is not None
    codec.network.correction.code(coder, codec.network.correction.none())


@contextmanager
def without_correction() -> Iterator[None]:
    """Encoders want none."""
    with patch.object(ImageCodec, "_code_correction", lambda self, coder, *args: no_correction(self, coder)):
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="folder of PNG files")
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    corrected = reference_of(load("image"), QUALITIES)

    def encode_without(rgb: np.ndarray, quality: float) -> bytes:
        with without_correction():
            return corrected.encode(rgb, quality=quality)

    codecs = {OURS: corrected, "uncorrected": replace(corrected, encode=encode_without)}
    files = track(sorted(args.images.glob("*.png")), description="with and without")
    rows = means(point for file in files for point in evaluate(TASK, codecs, [file]))
    write_means(args.output / "correction.csv", TASK, rows)
    cost = bd_rate(rows, "uncorrected", TASK.metrics[0], RATES_BPP)
    print(f"corrections: {cost:+.2f} % rate at equal PSNR")


if __name__ == "__main__":
    main()
