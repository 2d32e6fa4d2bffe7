"""What each part of the video codec gives: the rate at equal PSNR when it is switched off, of the shipped weights.

    python benchmarks/video_parts.py FOLDER --every 3 -o benchmarks/results

Nothing is trained anew, so a part that others could stand in for looks worth more than it is. Rates are ideal bits of the
groups' symbols; writes video_parts.csv, a line for each part and clip.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any
from unittest.mock import patch

import numpy as np
import torch
import typer
from parts import EVERYTHING, lines_of, report
from rdcodec.codecs import load
from rdcodec.codecs.evaluation.metrics import psnr_db
from rdcodec.codecs.video import groups
from rdcodec.codecs.video.clip import Clip
from rdcodec.codecs.video.codec import VideoCodec
from rdcodec.codecs.video.evaluation import TASK
from rdcodec.codecs.video.header import LOW_DELAY, PYRAMID
from rdcodec.codecs.video.stem import StemNetwork
from rdcodec.entropy_models.coder import Measure
from references import RESULTS, Output
from rich.progress import track

FRAMES = 17
QUALITIES = (10, 30, 60)


def still(frame: torch.Tensor, reference: torch.Tensor, expected: torch.Tensor, *rest: Any, **more: Any) -> torch.Tensor:
    """No motion, for `groups.searched`."""
    return torch.zeros_like(expected)


def nothing_copied(network: StemNetwork, y: torch.Tensor, moved: torch.Tensor, quality: torch.Tensor) -> torch.Tensor:
    """For `StemNetwork.worth_copying`."""
    return torch.zeros(y.shape[:3])


def not_fused(network: StemNetwork, coded: torch.Tensor, *rest: Any) -> torch.Tensor:
    """For `StemNetwork.fused`."""
    return coded


PARTS: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    EVERYTHING: (nullcontext, {}),
    "no copies": (lambda: patch.object(StemNetwork, "worth_copying", nothing_copied), {}),
    "no fusion": (lambda: patch.object(StemNetwork, "fused", not_fused), {}),
    "frames as shown, without pyramids": (nullcontext, {"lifts": LOW_DELAY}),
    "no motion": (lambda: patch.object(groups, "searched", still), {}),
    "first frames at the quality of the rest": (nullcontext, {"lifts": (PYRAMID[1], *PYRAMID[1:])}),
    "every frame on its own": (nullcontext, {"group": 1, "lifts": (0, 0)}),
}
"""What is switched off, and fields of the header."""


def curve(codec: VideoCodec, frames: np.ndarray, change: dict[str, Any]) -> np.ndarray:
    """Rate in bits per pixel and PSNR in dB at every quality, (qualities, 2)."""
    points = []
    for quality in QUALITIES:
        header = replace(codec.header_of(Clip(frames=frames), quality, FRAMES, low_delay=False), **change)
        bits, psnrs_db = 0.0, []
        for start in range(0, len(frames), header.group):
            measure = Measure(codec.tables)
            group = frames[start : start + header.group]
            encoder = groups.GroupEncoder(codec.image, codec.stem, codec.tables, header, frames=len(group))
            for frame in group:
                psnrs_db += [psnr_db(group[coded.number], coded.shown) for coded in encoder.code(measure, frame)]
            bits += float(measure.bits[0])
        points.append((bits / frames[..., 0].size, float(np.mean(psnrs_db))))
    return np.array(points)


def main(
    folder: Annotated[Path, typer.Argument(help="Folder with the videos.")],
    output: Output = RESULTS,
    every: Annotated[int, typer.Option(help="Only every so many of them.")] = 1,
) -> None:
    """Measure, and write video_parts.csv."""
    codec = load("video", device="cpu", threads=1)
    lines = []
    for path in track(TASK.find(folder)[::every], "videos"):
        frames = TASK.read(path).rgb[:FRAMES]
        curves = {}
        for name, (switched_off, change) in PARTS.items():
            with switched_off():
                curves[name] = curve(codec, frames, change)
        lines += lines_of({"clip": path.name}, curves)
    report(output / "video_parts.csv", lines)


if __name__ == "__main__":
    typer.run(main)
