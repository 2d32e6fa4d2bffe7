"""Validation as a user would measure: real bytes from the frozen codec, real decoding, PESQ, STOI, and BD-rate against
Opus."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ...codecs.evaluation.bd_rate import bd_rate
from ...codecs.evaluation.points import OURS, Point, means
from ...codecs.evaluation.run import code, point
from ...codecs.speech.codec import SpeechCodec
from ...codecs.speech.ecc import SpeechNetwork
from ...codecs.speech.evaluation import TASK, reference_of
from ...codecs.speech.header import FRAME
from ...codecs.weights_file import Architecture
from ...entropy_models.hyperprior import QUALITY_MAX
from ..coder import start_tables
from ..freeze import frozen
from .signals import decoded, latent

QUALITIES = (0, 25, 50, 75, 100)
REFERENCE = "opus"
METRICS = ("pesq_wb", "stoi")


def provisional_codec(network: SpeechNetwork, architecture: Architecture[SpeechNetwork]) -> SpeechCodec:
    """A codec around a network that is still training; its streams carry a zero hash."""
    return SpeechCodec(frozen(network, architecture), start_tables(), bytes(8))


class TransformValidation:
    """Collects the scores of sounds through the transforms alone, which are what quantised ones can reach at best."""

    def __init__(self, network: SpeechNetwork, architecture: Architecture[SpeechNetwork]) -> None:
        self.network = frozen(network, architecture)
        self.scores: dict[str, list[float]] = {name: [] for name in METRICS}

    def add(self, batch: Tensor) -> np.ndarray:
        """Transform one sound, float32 (samples,), and back."""
        sound = batch.cpu()[: len(batch) // FRAME * FRAME]
        quality = torch.tensor([QUALITY_MAX])
        with torch.inference_mode():
            shown = decoded(self.network, latent(self.network, sound[None], quality), quality)[0].numpy()
        for metric in TASK.metrics:
            if metric.column in METRICS:
                self.scores[metric.column].append(metric.of(sound.numpy(), shown))
        return shown

    def figures(self) -> dict[str, float]:
        """Mean scores."""
        return {name: float(np.nanmean(values)) for name, values in self.scores.items()}


class SpeechValidation:
    """Collects rate and quality over sounds, ours and Opus's."""

    def __init__(self, network: SpeechNetwork, architecture: Architecture[SpeechNetwork]) -> None:
        ours = provisional_codec(network, architecture)
        self.codecs = {OURS: reference_of(ours, QUALITIES), REFERENCE: TASK.references[REFERENCE]}
        self.points: list[Point] = []

    def add(self, batch: Tensor) -> np.ndarray:
        """Code one sound, float32 (samples,); returns it as decoded at the middle quality."""
        sound, name = batch.cpu().numpy(), str(len(self.points))
        shown = sound
        for codec, reference in self.codecs.items():
            for setting in reference.settings:
                coded = code(reference, sound, setting)
                self.points.append(point(TASK, codec, setting, name, sound, coded))
                if (codec, setting) == (OURS, QUALITIES[len(QUALITIES) // 2]):
                    shown = coded.signal
        return shown

    def figures(self) -> dict[str, float]:
        """Figures for the log: BD-rates in percent, mean rate and scores at each quality."""
        rows = means(self.points)
        metrics = [metric for metric in TASK.metrics if metric.column in METRICS]
        figures = {f"bd_rate_{REFERENCE}_{metric.name}_percent": bd_rate(rows, REFERENCE, metric) for metric in metrics}
        for row in rows:
            if row.codec == OURS:
                figures[f"rate_kbps_q{row.setting}"] = row.rate
                figures |= {f"{metric.column}_q{row.setting}": row.metrics[metric.column] for metric in metrics}
        return {name: value for name, value in figures.items() if math.isfinite(value)}
