"""What the tiles' corrections are worth: the shipped model with them and without, real bytes and real decoding.

    python benchmarks/correction.py KODAK -o benchmarks/results

Writes correction.csv: mean rate and PSNR over the images at each quality.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch
from kodak import RATES_BPP
from rdcodec.codecs import load
from rdcodec.codecs.image import evaluation, references
from rdcodec.codecs.image.codec import ImageCodec
from rdcodec.codecs.image.pictures import read_picture
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
    codec, points = load("image"), []
    for path in track(sorted(args.images.glob("*.png")), description="with and without"):
        rgb = read_picture(path.read_bytes()).rgb()
        for quality in QUALITIES:
            coded = references.timed(partial(codec.encode, rgb, quality), codec.decode)
            points.append(evaluation.point("rdcodec", quality, path.name, rgb, coded))
            with without_correction():
                coded = references.timed(partial(codec.encode, rgb, quality), codec.decode)
            points.append(evaluation.point("uncorrected", quality, path.name, rgb, coded))
    rows = evaluation.means(points)
    evaluation.write_csv(args.output / "correction.csv", rows)
    print(f"corrections: {evaluation.bd_rate(rows, 'uncorrected', rates=RATES_BPP):+.2f} % rate at equal PSNR")


if __name__ == "__main__":
    main()
