"""Hyperprior (Ballé et al., ICLR 2018): side information z that says how each part of the latent is distributed.

    y ──▶ hyper analysis ──▶ z ── coder ──▶ z_hat ──▶ mean synthesis (float) ──▶ mean context
                                            └───────▶ level synthesis (integer) ──▶ level context

The decoder side is split: the float half only moves means (pixel path), the integer half decides which
table a symbol uses (parse path).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .integer_net import ACTIVATION_MAX
from .layers import GatedBlock, Linear, QualityGain, depth_to_space, space_to_depth
from .tables import LEVELS

HYPER_STRIDE = 4
"""Latent positions per hyper-latent position, each way."""
QUALITY_MAX = 100
"""Quality is an integer 0..100."""

LayerFactory = Callable[..., nn.Module]
"""Builds a layer of the parse path: (inputs, outputs) or (channels)."""


def integer_knot_weights(quality: Tensor, knots: int) -> Tensor:
    """Integer weights (0..255) of evenly spaced knots around each quality: shape (batch,) to (batch, knots)."""
    position = quality.long()[:, None] * (knots - 1)
    centre = torch.arange(knots, device=quality.device) * QUALITY_MAX
    distance = (position - centre).abs().clamp_max(QUALITY_MAX)
    return torch.div(ACTIVATION_MAX * (QUALITY_MAX - distance), QUALITY_MAX, rounding_mode="floor")


def float_knot_weights(quality: Tensor, knots: int, dtype: torch.dtype) -> Tensor:
    """The same for the pixel path, summing to about one."""
    return integer_knot_weights(quality, knots).to(dtype) / ACTIVATION_MAX


def as_activation(symbols: Tensor) -> Tensor:
    """Integer symbols to layer inputs: 16 units per step up to 8, then 2, at most 255; odd; exact."""
    magnitude = symbols.abs()
    squeezed = torch.minimum(16 * magnitude, 112 + 2 * magnitude).clamp_max(ACTIVATION_MAX)
    return squeezed * symbols.sign()


class HyperAnalysis(nn.Module):
    """Latent (B, H, W, latent) to float z (B, ceil(H/4), ceil(W/4), hyper). Encoder only."""

    def __init__(self, latent_channels: int, width: int, hyper_channels: int, knots: int) -> None:
        super().__init__()
        self.first = Linear(latent_channels, width)
        self.down1 = Linear(4 * width, width)
        self.block1 = GatedBlock(width)
        self.down2 = Linear(4 * width, width)
        self.block2 = GatedBlock(width)
        self.last = Linear(width, hyper_channels)
        self.gain = QualityGain(hyper_channels, knots)

    def forward(self, y: Tensor, knot_weights: Tensor) -> Tensor:
        _, rows, columns, _ = y.shape
        y = F.pad(y, (0, 0, 0, -columns % HYPER_STRIDE, 0, -rows % HYPER_STRIDE))
        x = F.silu(self.first(y))
        x = self.block1(self.down1(space_to_depth(x, 2)))
        x = self.block2(self.down2(space_to_depth(x, 2)))
        return self.last(x) * self.gain(knot_weights)


class MeanSynthesis(nn.Module):
    """z_hat to the first mean context (B, 4H, 4W, context). Float."""

    def __init__(self, hyper_channels: int, width: int, context_channels: int, knots: int) -> None:
        super().__init__()
        self.first = Linear(hyper_channels, width)
        self.block1 = GatedBlock(width)
        self.up1 = Linear(width, 4 * width)
        self.block2 = GatedBlock(width)
        self.up2 = Linear(width, 4 * context_channels)
        self.gain = QualityGain(context_channels, knots)

    def forward(self, z_hat: Tensor, knot_weights: Tensor) -> Tensor:
        x = self.block1(self.first(z_hat))
        x = self.block2(depth_to_space(self.up1(x), 2))
        return depth_to_space(self.up2(x), 2) * self.gain(knot_weights)


class LevelSynthesis(nn.Module):
    """z_hat to the first level context (B, 4H, 4W, width), integers 0..255. Exact."""

    def __init__(self, hyper_channels: int, width: int, knots: int, linear: LayerFactory, depthwise: LayerFactory) -> None:
        super().__init__()
        self.first = linear(hyper_channels + knots, width)
        self.up1 = linear(width, 4 * width)
        self.mix1 = depthwise(width)
        self.up2 = linear(width, 4 * width)
        self.mix2 = depthwise(width)

    def forward(self, z_hat: Tensor, knot_weights: Tensor) -> Tensor:
        quality = knot_weights[:, None, None].to(z_hat.dtype).expand(*z_hat.shape[:3], -1)
        x = self.first(torch.cat([as_activation(z_hat), quality], dim=-1))
        x = self.mix1(depth_to_space(self.up1(x), 2))
        return self.mix2(depth_to_space(self.up2(x), 2))


class HyperPrior(nn.Module):
    """Level of each z channel at each quality: a factorised, zero-mean prior. Exact."""

    def __init__(self, hyper_channels: int, knots: int, linear: LayerFactory) -> None:
        super().__init__()
        self.level = linear(knots, hyper_channels, ceiling=LEVELS - 1)

    def forward(self, knot_weights: Tensor) -> Tensor:
        """Levels 0..LEVELS-1, shape (batch, 1, 1, channels)."""
        return self.level(knot_weights.to(torch.float32))[:, None, None]
