"""The distortion that the speech codec trades against rate, in training and where an encoder refines."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ....entropy_models.hyperprior import QUALITY_MAX
from .intelligibility import Unintelligibility
from .perceptual import Disturbance
from .similarity import Dissimilarity
from .spectra import RESOLUTIONS, Spectral, level_error, spectral_errors

DISTURBANCE_MAX = 8.0
SAMPLES_MIN = 8000
"""Shorter sounds are filled up with zeros: measures of syllables need some."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """Of the terms of a distortion."""

    magnitude: float = 3.0
    """Of `spectra.Spectral`'s terms, this and the next but one."""
    complex_: float = 2.0
    complex_floor: float = 0.2
    """Share of the complex weight at quality 0, from where it grows to all of it at 100: few bits cannot afford phases."""
    mel: float = 0.6
    disturbance: float = 2.0
    """Of `perceptual.Disturbance` (PESQ)."""
    intelligibility: float = 12.0
    """Of `intelligibility.Unintelligibility` (STOI)."""
    similarity: float = 28.0
    """Of `similarity.Dissimilarity` (ViSQOL)."""
    level: float = 0.3
    """Of `spectra.level_error`, per decibel: what those three do not hear."""


WEIGHTS = Weights()
LAMBDA_RANGE = 0.18, 12.0
"""kbit/s that a unit of this distortion is worth at quality 0 and 100: what the shipped weights were trained for. Others are
refined at this slope, too."""


def worth_kbps(quality: int) -> float:
    """kbit/s that a unit of distortion is worth at a quality, log-linear."""
    lowest, highest = LAMBDA_RANGE
    return lowest * (highest / lowest) ** (quality / QUALITY_MAX)


class Distortion(nn.Module):
    """Distance of decoded speech from the original, some 5 to 30 for each signal."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.weights = weights
        self.disturbance, self.unintelligibility, self.dissimilarity = Disturbance(), Unintelligibility(), Dissimilarity()

    def forward(
        self, original: Tensor, decoded: Tensor, quality: Tensor, windows: Iterable[int] = RESOLUTIONS
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The distortion of each signal, (batch,), and its terms' means.

        To be called outside autocast, for correlations are differences of large numbers.

        Args:
            original, decoded: float32 (batch, samples) at 16 kHz, full scale at 1.
            quality: 0..100, (batch,).
            windows: resolutions of the spectra that are compared.
        """
        missing = max(0, SAMPLES_MIN - original.shape[-1])
        original, decoded = F.pad(original, (0, missing)), F.pad(decoded, (0, missing))
        w = self.weights
        each = [spectral_errors(original, decoded, window) for window in windows]
        errors = Spectral(
            **{name: torch.stack([getattr(e, name) for e in each]).mean(0) for name in ("magnitude", "complex_", "mel")}
        )
        disturbance = self.disturbance(original, decoded).clamp(max=DISTURBANCE_MAX)
        unintelligibility = self.unintelligibility(original, decoded)
        dissimilarity = self.dissimilarity(original, decoded)
        level_db = level_error(original, decoded)
        phases = w.complex_floor + (1 - w.complex_floor) * quality / QUALITY_MAX
        total = (
            w.magnitude * errors.magnitude + w.complex_ * phases * errors.complex_ + w.mel * errors.mel
            + w.disturbance * disturbance + w.intelligibility * unintelligibility + w.similarity * dissimilarity
            + w.level * level_db
        )  # fmt: skip
        figures = {
            "stoi": 1 - unintelligibility.mean(),
            "similarity": 1 - dissimilarity.mean(),
            "level_error_db": level_db.mean(),
            "magnitude": errors.magnitude.mean(),
            "complex": errors.complex_.mean(),
            "mel": errors.mel.mean(),
            "disturbance": disturbance.mean(),
        }
        return total, figures
