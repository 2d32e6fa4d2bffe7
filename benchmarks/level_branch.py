"""What the integer level branch costs: the same training with an integer and with a float one, compared in rate.

    python benchmarks/level_branch.py TRAIN VALIDATION --steps 700 -o benchmarks/results

Both networks start alike, see the same crops in the same order and stop after the same steps. Rate is the ideal length of
the symbols an encoder would write, under Gaussian tables, levels rounded to whole tables. Writes level_branch.csv.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import lightning as L
import numpy as np
import torch
from bjontegaard import bd_rate
from PIL import Image
from rdcodec.training.image.data import ImageData
from rdcodec.training.image.module import ImageTraining
from rdcodec.training.losses import PEAK, psnr_db

QUALITIES = (10, 25, 40, 55, 70, 85)


def train(branch: str, data: ImageData, steps: int) -> ImageTraining:
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
def curve(module: ImageTraining, images: list[torch.Tensor]) -> list[tuple[float, float]]:
    """Mean rate (bpp) and PSNR (dB) at each quality."""
    points = []
    for quality in QUALITIES:
        rates, psnrs = [], []
        for image in images:
            rate_bpp, mse, _ = module.rate_and_distortion(image, torch.tensor([quality]))
            rates.append(float(rate_bpp))
            psnrs.append(float(psnr_db(mse)))
        points.append((float(np.mean(rates)), float(np.mean(psnrs))))
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
    curves = {branch: curve(train(branch, data, args.steps), images) for branch in ("float", "integer")}
    with (args.output / "level_branch.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["level_branch", "quality", "rate_bpp", "psnr_db", "steps"])
        for branch, points in curves.items():
            for quality, point in zip(QUALITIES, points, strict=True):
                writer.writerow([branch, quality, *(f"{v:.5f}" for v in point), args.steps])
    a, b = (np.array(curves[branch]).T for branch in ("float", "integer"))
    cost = bd_rate(*a, *b, method="akima", require_matching_points=False, min_overlap=0)
    print(f"integer against float level branch: {cost:+.2f} % rate at equal PSNR after {args.steps} steps")


if __name__ == "__main__":
    main()
