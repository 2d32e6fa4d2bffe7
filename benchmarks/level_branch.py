"""What the integer level branch costs: the same training with an integer and with a float one, compared in rate.

    python benchmarks/level_branch.py TRAIN VALIDATION --steps 700 -o benchmarks/results

Both networks start alike, see the same crops in the same order and stop after the same steps. Rate is the ideal length of
the symbols an encoder would write, under Gaussian tables, levels rounded to whole tables. Writes level_branch.csv.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Literal

import lightning as L
import numpy as np
import torch
from PIL import Image
from rdcodec.codecs.evaluation.bd_rate import bd_rate
from rdcodec.codecs.evaluation.points import MeanPoint, write_csv
from rdcodec.codecs.image.distortion import PEAK
from rdcodec.codecs.image.evaluation import TASK
from rdcodec.training.image.data import ImageData
from rdcodec.training.image.losses import psnr_db, squared_error
from rdcodec.training.image.module import ImageTraining

QUALITIES = (10, 25, 40, 55, 70, 85)
PSNR = TASK.metrics[0]


def train(branch: Literal["float", "integer"], data: ImageData, steps: int) -> ImageTraining:
    """Train one variant; the seed fixes the start and the crops."""
    L.seed_everything(5)
    module = ImageTraining(level_branch=branch)
    trainer = L.Trainer(
        max_steps=steps, accelerator="auto", precision="bf16-mixed", gradient_clip_val=1.0, logger=False,
        enable_checkpointing=False, enable_model_summary=False, limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(module, data)
    return module.eval()


@torch.inference_mode()
def curve(branch: str, module: ImageTraining, images: list[torch.Tensor]) -> list[MeanPoint]:
    """Mean rate and PSNR at each quality."""
    points = []
    for quality in QUALITIES:
        rates, psnrs = [], []
        for image in images:
            rate_bpp, _, decoded = module.coded(image, torch.tensor([quality]))
            rates.append(float(rate_bpp))
            psnrs.append(float(psnr_db(squared_error(decoded, image))))
        rate, psnr = float(np.mean(rates)), float(np.mean(psnrs))
        points.append(MeanPoint(codec=branch, setting=quality, rate=rate, metrics={PSNR.column: psnr}))
    return points


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path)
    parser.add_argument("validation", type=Path)
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    paths = sorted(args.validation.glob("*.png"))[: args.images]
    images = [torch.from_numpy(np.array(Image.open(p).convert("RGB"))[None]).float() / PEAK - 0.5 for p in paths]
    data = ImageData(args.train, seed=5)
    points = curve("float", train("float", data, args.steps), images)
    points += curve("integer", train("integer", data, args.steps), images)
    rows = [
        {"level_branch": p.codec, "quality": p.setting, "rate_bpp": f"{p.rate:.5f}"}
        | {PSNR.column: f"{p.metrics[PSNR.column]:.5f}", "steps": args.steps}
        for p in points
    ]
    write_csv(args.output / "level_branch.csv", rows)
    cost = bd_rate(points, "float", PSNR, ours="integer")
    print(f"integer against float level branch: {cost:+.2f} % rate at equal PSNR after {args.steps} steps")


if __name__ == "__main__":
    main()
