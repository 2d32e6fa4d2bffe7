"""Distortions of images."""

from __future__ import annotations

import torch
from pytorch_msssim import ms_ssim
from torch import Tensor

from ...entropy_models.errors import InputError

PEAK = 255.0
MS_SSIM_WORTH, MS_SSIM_GROWTH = 1.35, 0.0526
"""Bits per pixel that a unit of MS-SSIM is worth at quality 0, and the growth of their logarithm from quality to quality."""
MS_SSIM_SIDE_MIN = 160
"""Pixels that each side must exceed, for five scales of an 11-tap window."""


def squared_error(decoded: Tensor, image: Tensor) -> Tensor:
    """MSE on the 0..255 scale, (batch,), of images (batch, rows, columns, 3) in -0.5..0.5."""
    return (decoded - image).square().mean((1, 2, 3)) * PEAK**2


def psnr_db(mse: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of an MSE on the 0..255 scale."""
    return 10 * torch.log10(PEAK**2 / mse.clamp_min(1e-9))


def ms_ssim_distortion(decoded: Tensor, image: Tensor, quality: Tensor) -> Tensor:
    """1 - MS-SSIM (Wang et al., Asilomar 2003) in the bits per pixel it is worth at each quality, float32 (batch,).

    Worth 1.35 exp(0.0526 q): the slope of rate over MS-SSIM of a model trained for squared error alone, so that either
    distortion asks for about the same rate.

    Args:
        decoded, image: (batch, rows, columns, 3), -0.5..0.5; sides above `MS_SSIM_SIDE_MIN`.
        quality: 0..100, (batch,).

    Raises:
        InputError: a side is too small.
    """
    if min(image.shape[1:3]) <= MS_SSIM_SIDE_MIN:
        raise InputError(f"MS-SSIM of {image.shape[1]}x{image.shape[2]} pixels; both sides must be above {MS_SSIM_SIDE_MIN}")
    pair = ((x.float() + 0.5).clamp(0, 1).permute(0, 3, 1, 2) for x in (decoded, image))
    with torch.autocast(image.device.type, enabled=False):
        similarity: Tensor = ms_ssim(*pair, data_range=1.0, size_average=False)
    return MS_SSIM_WORTH * torch.exp(MS_SSIM_GROWTH * quality) * (1 - similarity)
