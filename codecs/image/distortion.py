"""Distortions of pictures in the bits they are worth: what an encoder's refinement and training weigh against rate."""

from __future__ import annotations

import torch
from torch import Tensor

from ...entropy_models.errors import InputError

PEAK = 255.0
LAMBDA_RANGE = 0.001, 0.2
"""Bits per pixel that a unit of squared error on 0..255 is worth at quality 0 and 100."""
MS_SSIM_WORTH, MS_SSIM_GROWTH = 1.35, 0.0526
"""Bits per pixel that a unit of MS-SSIM is worth at quality 0, and the growth of their logarithm from quality to quality."""
MS_SSIM_SIDE_MIN = 160
"""Pixels that each side must exceed, for five scales of an 11-tap window."""


def bits_per_square(quality: int) -> float:
    """Bits that a unit of squared error is worth, of one of a pixel's three values in -0.5..0.5: the weights' own slope."""
    lowest, highest = LAMBDA_RANGE
    return lowest * (highest / lowest) ** (quality / 100) * PEAK**2 / 3


def distortion_bits(decoded: Tensor, image: Tensor, quality: int, ms_ssim_share: float) -> Tensor:
    """Squared error and 1 - MS-SSIM in bits, a scalar.

    Args:
        decoded, image: (1, rows, columns, 3), -0.5..0.5; ``decoded`` may leave the range, which costs nothing.
        quality: 0..100.
        ms_ssim_share: of the distortion; pictures too small for MS-SSIM have squared error alone.
    """
    _, rows, columns, _ = image.shape
    share = ms_ssim_share if min(rows, columns) > MS_SSIM_SIDE_MIN else 0.0
    bits = (1 - share) * bits_per_square(quality) * (decoded.clamp(-0.5, 0.5) - image).square().sum()
    if not share:
        return bits
    at = torch.tensor([quality], dtype=torch.float32, device=image.device)
    return bits + share * rows * columns * ms_ssim_distortion(decoded, image, at).sum()


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
    from pytorch_msssim import ms_ssim

    if min(image.shape[1:3]) <= MS_SSIM_SIDE_MIN:
        raise InputError(f"MS-SSIM of {image.shape[1]}x{image.shape[2]} pixels; both sides must be above {MS_SSIM_SIDE_MIN}")
    pair = ((x.float() + 0.5).clamp(0, 1).permute(0, 3, 1, 2) for x in (decoded, image))
    with torch.autocast(image.device.type, enabled=False):
        similarity: Tensor = ms_ssim(*pair, data_range=1.0, size_average=False)
    return MS_SSIM_WORTH * torch.exp(MS_SSIM_GROWTH * quality) * (1 - similarity)
