"""What each part of the speech codec's entropy model gives: the rate at equal PESQ and STOI when it is switched off.

    python benchmarks/speech_parts.py FOLDER -o benchmarks/results

Of the shipped weights; nothing is trained anew, so a part that others could stand in for looks worth more than it is. Rates
are ideal bits, in means over clips as the scores; writes speech_parts.csv, a line for each part and score.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any
from unittest.mock import patch

import numpy as np
import torch
import typer
from parts import EVERYTHING, lines_of, report
from rdcodec.codecs import load
from rdcodec.codecs.speech import ecc
from rdcodec.codecs.speech.codec import SpeechCodec
from rdcodec.codecs.speech.evaluation import TASK
from rdcodec.codecs.speech.header import SAMPLE_RATE
from rdcodec.codecs.speech.metrics import pesq_wb, stoi
from rdcodec.entropy_models import channel_slices
from rdcodec.entropy_models.channel_slices import LevelSlices, MeanSlices
from references import RESULTS, Output
from rich.progress import track
from torch import Tensor

QUALITIES = (10, 30, 50, 70, 90)
SCORES = {"PESQ-WB": pesq_wb, "STOI": stoi}


def no_hyper_latent(network: ecc.HyperAnalysis, y: Tensor, knot_weights: Tensor) -> Tensor:
    """For `HyperAnalysis.forward`."""
    batch, frames, _ = y.shape
    return y.new_zeros(batch, frames // ecc.HYPER_STRIDE, network.last.out_features)


def nothing_known(network: ecc.SpeechNetwork, index: int, context: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """For `SpeechNetwork._after`."""
    return context, network.mean_slices.residual(context.float(), index)


def no_symbols(slices: LevelSlices, context: Tensor, symbols: Tensor | None, *rest: Any) -> Tensor:
    """For `LevelSlices.refine`."""
    return refine(slices, context, None if symbols is None else torch.zeros_like(symbols), *rest)


def no_neighbours(x: Tensor) -> Tensor:
    """For `with_neighbours`."""
    nothing = torch.zeros_like(x)
    return torch.cat([nothing, x, nothing], dim=-1)


def one_frame(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """For `depthwise`."""
    reach = weight.shape[2] // 2
    return x[:, reach : x.shape[1] - reach] * weight[:, 0, reach] + bias


def no_prediction(slices: MeanSlices, context: Tensor, index: int) -> Tensor:
    """For `MeanSlices.residual`."""
    return context.new_zeros(*context.shape[:2], slices.lrp[index].out_features)


refine = LevelSlices.refine
PARTS: dict[str, list[Callable[[], Any]]] = {
    EVERYTHING: [],
    "hyperprior": [lambda: patch.object(ecc.HyperAnalysis, "forward", no_hyper_latent)],
    "channel context": [
        lambda: patch.object(ecc.SpeechNetwork, "_after", nothing_known),
        lambda: patch.object(LevelSlices, "refine", no_symbols),
    ],
    "neighbouring frames": [
        lambda: patch.object(channel_slices, "with_neighbours", no_neighbours),
        lambda: patch.object(ecc, "with_neighbours", no_neighbours),
        lambda: patch.object(channel_slices, "depthwise", one_frame),
    ],
    "latent residual prediction": [lambda: patch.object(MeanSlices, "residual", no_prediction)],
    "entropy skip": [lambda: patch.object(SpeechCodec, "tables_at", lambda codec, level: codec.tables.with_skip_level(1))],
}
"""What is switched off."""


def points_of(codec: SpeechCodec, samples: np.ndarray) -> np.ndarray:
    """Rate in kbit/s, then the scores, at every quality: (qualities, 1 + scores)."""
    points = []
    for quality in QUALITIES:
        estimate = codec.estimate(samples, quality=quality)
        rate_kbps = estimate.bits / len(samples) * SAMPLE_RATE / 1000
        points.append([rate_kbps, *(score(samples, estimate.signal.array()) for score in SCORES.values())])
    return np.array(points)


def main(
    folder: Annotated[Path, typer.Argument(help="Folder with the sounds.")],
    output: Output = RESULTS,
    every: Annotated[int, typer.Option(help="Only every so many of them.")] = 1,
) -> None:
    """Measure, and write speech_parts.csv."""
    codec = load("speech", device="cpu")
    points: dict[str, list[np.ndarray]] = {name: [] for name in PARTS}
    for path in track(TASK.find(folder)[::every], "sounds"):
        samples = TASK.read(path)
        for name, switched_off in PARTS.items():
            with ExitStack() as stack:
                for one in switched_off:
                    stack.enter_context(one())
                points[name].append(points_of(codec, samples))
    means = {name: np.mean(found, axis=0) for name, found in points.items()}
    lines = []
    for column, score in enumerate(SCORES, 1):
        lines += lines_of({"score": score}, {name: found[:, [0, column]] for name, found in means.items()})
    report(output / "speech_parts.csv", lines)


if __name__ == "__main__":
    typer.run(main)
