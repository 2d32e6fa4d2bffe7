"""Trainable shadows of the integer layers: float weights, integer arithmetic forward, straight-through backward.

A module built from these computes the very integers that the frozen module will compute
(`freeze` copies them), so nothing changes at export (Ballé, Johnston & Minnen, ICLR 2019).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..entropy_models import integer_net
from ..entropy_models.integer_net import ACTIVATION_MAX, ACTIVATION_SCALE, WEIGHT_MAX, Bounded, rescaled
from ..entropy_models.relaxed import straight_through

MAX_SHIFT = 14
BIAS_MAX = 2**21
HIDDEN_GAIN, HIDDEN_BIAS = 1.5, 0.5
"""Start of a hidden layer: variance of its weights times its inputs, and its bias."""
LEVEL_SPREAD, LEVEL_BIAS = 0.1, 1.5
"""Start of a layer that gives levels: share of that deviation, and bias. All are near 24; level 0 would code nothing."""


class _Shadow(nn.Module):
    """Float weight and bias with their integer counterparts. ``axis`` is the weight's input axis."""

    weight: nn.Parameter
    bias: nn.Parameter
    axis: int

    def integers(self) -> tuple[Tensor, Tensor, Tensor]:
        """Weight (int8 range), bias (accumulator units) and shift, as floats that carry gradients."""
        peak = self.weight.detach().abs().amax(self.axis).clamp_min(1e-6)
        shift = torch.floor(torch.log2(WEIGHT_MAX / peak)).clamp(0, MAX_SHIFT)
        unit = torch.exp2(shift)
        weight = self.weight * (unit.unsqueeze(1) if self.axis == 1 else unit)
        weight = straight_through(weight.round().clamp(-WEIGHT_MAX, WEIGHT_MAX), weight)
        bias = self.bias * unit * ACTIVATION_SCALE
        return weight, straight_through(bias.round().clamp(-BIAS_MAX, BIAS_MAX), bias), shift

    def frozen_state(self) -> dict[str, Tensor]:
        """State of the integer layer of the same name."""
        weight, bias, shift = (t.detach() for t in _Shadow.integers(self))  # of the ablation, too
        return {"weight": weight.to(torch.int8), "bias": bias.to(torch.int32), "shift": shift.to(torch.uint8)}


class ShadowLinear(_Shadow):
    """Trainable `IntegerLinear`."""

    axis = 1

    def __init__(self, inputs: int, outputs: int, *, ceiling: int = ACTIVATION_MAX) -> None:
        super().__init__()
        self.ceiling = ceiling
        hidden = ceiling == ACTIVATION_MAX
        spread, bias = (1.0, HIDDEN_BIAS) if hidden else (LEVEL_SPREAD, LEVEL_BIAS)
        self.weight = nn.Parameter(torch.randn(outputs, inputs) * spread * (HIDDEN_GAIN / inputs) ** 0.5)
        self.bias = nn.Parameter(torch.full((outputs,), bias))

    def settled(self, total: Tensor, bias: Tensor, shift: Tensor) -> Tensor:
        """As `IntegerLinear.settled`."""
        return rescaled(total, bias, shift, self.ceiling)

    def forward(self, x: Tensor) -> Tensor:
        weight, bias, shift = self.integers()
        return self.settled(F.linear(x, weight), bias, shift)


class ShadowDepthwise(_Shadow):
    """Trainable `IntegerDepthwise`; starts as the identity plus a little blur."""

    axis = 0

    def __init__(self, channels: int) -> None:
        super().__init__()
        weight = torch.randn(9, channels) * 0.05 + 0.03
        weight[4] += 0.7
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        weight, bias, shift = self.integers()
        return rescaled(integer_net.sum_of_shifts(x, weight), bias, shift, ACTIVATION_MAX)


class FloatLinear(ShadowLinear):
    """The ablation: the same layer and gradient path without any rounding."""

    def integers(self) -> tuple[Tensor, Tensor, Tensor]:
        """Weight, bias and shift of none; no integers."""
        return self.weight, self.bias * ACTIVATION_SCALE, torch.zeros_like(self.bias)

    def settled(self, total: Tensor, bias: Tensor, shift: Tensor) -> Tensor:
        """As `IntegerLinear.settled`."""
        return Bounded.apply(total + bias, self.ceiling)


class FloatDepthwise(ShadowDepthwise):
    """Depthwise filter of the ablation, as `FloatLinear`."""

    def forward(self, x: Tensor) -> Tensor:
        return Bounded.apply(integer_net.sum_of_shifts(x, self.weight) + self.bias * ACTIVATION_SCALE, ACTIVATION_MAX)


LAYERS = {"integer": (ShadowLinear, ShadowDepthwise), "float": (FloatLinear, FloatDepthwise)}
"""Builders of the trainable parse path: what can be exported, and the ablation."""
