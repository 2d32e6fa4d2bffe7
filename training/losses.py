"""Rate-distortion loss over a continuous range of qualities."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..entropy_models.hyperprior import QUALITY_MAX


def stratified_qualities(batch: int) -> Tensor:
    """One random quality from each of ``batch`` equal parts of 0..100: less noise than independent draws."""
    return ((torch.arange(batch) + torch.rand(batch)) * (QUALITY_MAX + 1) / batch).long()


def rate_distortion_weight(quality: Tensor, lowest: float, highest: float) -> Tensor:
    """Lambda of each quality 0..100, log-linear: the rate traded for a unit of distortion."""
    return lowest * torch.exp(quality / QUALITY_MAX * math.log(highest / lowest))


def rate_distortion(rate: Tensor, distortion: Tensor, weight: Tensor) -> Tensor:
    """Mean of (rate + distortion) / sqrt(weight); the division keeps high qualities from owning the gradient.

    Args:
        rate: (batch,), in bits per pixel or another unit of the signal.
        distortion: (batch,), in the rate it is worth: ``weight`` times the squared error, say.
        weight: of each quality, `rate_distortion_weight`.
    """
    return ((rate + distortion) / weight.sqrt()).mean()
