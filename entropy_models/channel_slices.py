"""Channel-wise context over time (Minnen & Singh, ICIP 2020; ECC, 2026): slices of channels, one after the other, each of
them at all times at once.

A slice's means and levels see the hyper-latent and every slice before it, at their own time and near it. Means may use all
that is decoded; levels may use integers only (parse path). Tensors are (batch, frames, channels); a batch's items know
nothing of one another.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .hyperprior import LayerFactory, as_activation
from .layers import START_SHARE, Linear
from .tables import LEVELS

LRP_MAX = 0.5
"""Bound of what latent residual prediction adds, in steps of the quantiser."""


def with_neighbours(x: Tensor) -> Tensor:
    """Each frame between the one before and the one after, zeros beyond the ends: three times the channels."""
    padded = F.pad(x, (0, 0, 1, 1))
    return torch.cat([padded[:, :-2], x, padded[:, 2:]], dim=-1)


def depthwise(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Filter over time of each channel, where it lies inside: (B, T, C), ``weight`` (C, 1, taps), to (B, T - taps + 1, C).

    Without gradients as products and sums: for some ten frames torch's convolution takes three times as long.
    """
    if torch.is_grad_enabled():
        return F.conv1d(x.transpose(1, 2), weight, bias, groups=x.shape[2]).transpose(1, 2)
    total = (x.unfold(1, weight.shape[2], 1) * weight[:, 0]).sum(-1)
    return total if bias is None else total + bias


class GatedTimeBlock(nn.Module):
    """`layers.GatedBlock` over time, with a filter of ``taps`` frames."""

    def __init__(self, channels: int, taps: int = 5) -> None:
        super().__init__()
        self.expand = Linear(channels, 2 * channels)
        self.reach = taps // 2
        self.depthwise = nn.Conv1d(2 * channels, 2 * channels, taps, groups=2 * channels)
        self.project = Linear(channels, channels)
        with torch.no_grad():
            self.project.weight *= START_SHARE

    def forward(self, x: Tensor) -> Tensor:
        around = F.pad(self.expand(x), (0, 0, self.reach, self.reach))
        gate, value = depthwise(around, self.depthwise.weight, self.depthwise.bias).chunk(2, dim=-1)
        return x + self.project(F.silu(gate) * value)


class MeanSlices(nn.Module):
    """Float half: context (B, T, width) to means of each slice, its update, and latent residual prediction (LRP)."""

    def __init__(self, slices: Sequence[int], width: int) -> None:
        super().__init__()
        self.block = nn.ModuleList(GatedTimeBlock(width) for _ in slices)
        self.mean = nn.ModuleList(Linear(width, channels) for channels in slices)
        self.add = nn.ModuleList(Linear(channels, width) for channels in slices)
        self.lrp = nn.ModuleList(Linear(width, channels) for channels in slices)

    def residual(self, context: Tensor, index: int) -> Tensor:
        """What rounding took from a slice, as far as the updated context tells: in steps, -LRP_MAX to LRP_MAX."""
        return LRP_MAX * torch.tanh(self.lrp[index](context))


class LevelSlices(nn.Module):
    """Integer half: context (B, T, width) of integers to levels of each slice, and its update. Exact."""

    def __init__(self, slices: Sequence[int], width: int, knots: int, linear: LayerFactory) -> None:
        super().__init__()
        before = [0, *slices[:-1]]
        self.mix = nn.ModuleList(linear(width + knots + channels, width) for channels in before)
        self.join = nn.ModuleList(linear(3 * width, width) for _ in slices)
        self.level = nn.ModuleList(linear(width, channels, ceiling=LEVELS - 1) for channels in slices)

    def refine(self, context: Tensor, symbols: Tensor | None, knot_weights: Tensor, index: int) -> Tensor:
        """``symbols``: integers of the slice before; None at the first. ``knot_weights``: integers (batch, knots)."""
        side = knot_weights[:, None].to(context.dtype).expand(-1, context.shape[1], -1)
        parts = [context, side] if symbols is None else [context, side, as_activation(symbols.abs())]
        return self.join[index](with_neighbours(self.mix[index](torch.cat(parts, dim=-1))))

    def levels(self, context: Tensor, index: int) -> Tensor:
        """Levels 0..LEVELS-1 of a slice."""
        return self.level[index](context)
