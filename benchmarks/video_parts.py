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
from rdcodec.codecs.video.stem import Past, StemNetwork
from rdcodec.entropy_models.coder import Coder, Measure
from references import RESULTS, Output
from rich.progress import track
from torch import Tensor

FRAMES = 17
QUALITIES = (10, 30, 60)


def still(frame: Tensor, reference: Tensor, expected: Tensor, *rest: Any, **more: Any) -> Tensor:
    """No motion, for `groups.searched`."""
    return torch.zeros_like(expected)


def nothing_copied(network: StemNetwork, y: Tensor, moved: Tensor, quality: Tensor) -> Tensor:
    """For `StemNetwork.worth_copying`."""
    return torch.zeros(y.shape[:3])


def not_fused(network: StemNetwork, coded: Tensor, *rest: Any) -> Tensor:
    """For `StemNetwork.fused`."""
    return coded


class NoSide:
    """A coder whose hyper-latents are zeros, for those of frames after the first."""

    def __init__(self, coder: Coder) -> None:
        self._coder = coder

    def code(self, residual: Tensor, level: Tensor, active: Tensor | None = None, *, side: bool = False) -> Tensor:
        """`Coder.code`."""
        return self._coder.code(torch.zeros_like(residual) if side else residual, level, active, side=side)


PASS = StemNetwork.coding_pass


def without_hyper(
    network: StemNetwork, coder: Coder, y: Tensor, quality: Tensor, moved: Tensor | None, past: Past, copies: Tensor
) -> Tensor:
    """For `StemNetwork.coding_pass`, as the next ones are."""
    return PASS(network, NoSide(coder), y, quality, moved, past, copies)


def without_latent(
    network: StemNetwork, coder: Coder, y: Tensor, quality: Tensor, moved: Tensor | None, past: Past, copies: Tensor
) -> Tensor:
    """The nearest reference's own latent is zeros."""
    return PASS(network, coder, y, quality, moved, past._replace(y_hat=torch.zeros_like(past.y_hat)), copies)


def without_symbols(
    network: StemNetwork, coder: Coder, y: Tensor, quality: Tensor, moved: Tensor | None, past: Past, copies: Tensor
) -> Tensor:
    """The nearest reference's symbols and levels are zeros."""
    nothing = past._replace(symbols=torch.zeros_like(past.symbols), levels=torch.zeros_like(past.levels))
    return PASS(network, coder, y, quality, moved, nothing, copies)


PARTS: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    EVERYTHING: (nullcontext, {}),
    "no copies": (lambda: patch.object(StemNetwork, "worth_copying", nothing_copied), {}),
    "no fusion": (lambda: patch.object(StemNetwork, "fused", not_fused), {}),
    "frames as shown, without pyramids": (nullcontext, {"lifts": LOW_DELAY}),
    "no motion": (lambda: patch.object(groups, "searched", still), {}),
    "no symbols and levels of the nearest reference": (
        lambda: patch.object(StemNetwork, "coding_pass", without_symbols),
        {},
    ),
    "no latent of the nearest reference, but the moved one": (
        lambda: patch.object(StemNetwork, "coding_pass", without_latent),
        {},
    ),
    "no hyper-latents": (lambda: patch.object(StemNetwork, "coding_pass", without_hyper), {}),
    "no frame on its own but the first": (lambda: patch.object(groups, "NEW_SHARE", float("inf")), {}),
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
