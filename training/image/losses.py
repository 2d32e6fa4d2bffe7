"""Distortions of images in training; MS-SSIM's is the encoder's, `codecs.image.distortion`."""

from __future__ import annotations

import torch
from torch import Tensor

from ...codecs.image.distortion import PEAK


def squared_error(decoded: Tensor, image: Tensor) -> Tensor:
    """MSE on the 0..255 scale, (batch,), of images (batch, rows, columns, 3) in -0.5..0.5."""
    return (decoded - image).square().mean((1, 2, 3)) * PEAK**2


def psnr_db(mse: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of an MSE on the 0..255 scale."""
    return 10 * torch.log10(PEAK**2 / mse.clamp_min(1e-9))
