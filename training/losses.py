"""Rate-distortion loss over a continuous range of qualities."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..entropy_models.hyperprior import QUALITY_MAX

PEAK = 255.0


def rate_distortion_weight(quality: Tensor, lowest: float, highest: float) -> Tensor:
    """Lambda of each quality 0..100, log-linear: bits per pixel traded for MSE on the 0..255 scale."""
    return lowest * torch.exp(quality / QUALITY_MAX * math.log(highest / lowest))


def rate_distortion(rate_bpp: Tensor, mse: Tensor, weight: Tensor) -> Tensor:
    """Mean of (rate + weight * mse) / sqrt(weight); the division keeps high qualities from owning the gradient."""
    return ((rate_bpp + weight * mse) / weight.sqrt()).mean()


def psnr_db(mse: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of an MSE on the 0..255 scale."""
    return 10 * torch.log10(PEAK**2 / mse.clamp_min(1e-9))
