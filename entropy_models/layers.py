"""Float building blocks of the pixel path, on tensors of shape (batch, rows, columns, channels)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

R = TypeVar("R")
ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


FEW_ROWS = 32


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x @ weight.T + bias``. Inference in float32 on a CPU goes to oneDNN, as torch's own low precisions do: its call into
    MKL reaches less than half of that on AMD processors (measured: 100 against 220 GFLOP/s on one Zen 5 core). For few rows
    oneDNN's rearranging of the weights costs more than it saves. Inputs and weights with gaps it takes by a path that is a
    hundred times slower, and of a bias with gaps it reads what lies between."""
    wanted = ONEDNN and torch.backends.mkldnn.enabled and not torch.is_grad_enabled()
    wanted = wanted and x.numel() >= FEW_ROWS * x.shape[-1] and x.device.type == "cpu"
    if wanted and not torch.is_autocast_enabled("cpu") and x.dtype == weight.dtype == torch.float32:
        bias = None if bias is None else bias.contiguous()
        return torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight.contiguous(), bias, "none", [], "")
    return F.linear(x, weight, bias)


def full_precision(run: Callable[..., R], *inputs: Tensor | int | None) -> R:
    """``run(*inputs)`` outside autocast: for the parse path, whose sums are exact, and for the ends of a transform, where
    bf16 would cost more than it saves."""
    device = next(x.device.type for x in inputs if isinstance(x, Tensor))
    with torch.autocast(device, enabled=False):
        return run(*inputs)


def bounded(x: Tensor, limit: float) -> Tensor:
    """``x`` within ``limit`` of zero: means steer what is coded, and that steers means, a loop that could run away."""
    return x.clamp(-limit, limit)


class Linear(nn.Linear):
    """`nn.Linear` by way of `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


START_SHARE = 0.1
"""Share of the usual random weights with which a residual branch starts: blocks in a row begin near the identity, and so
need no normalisation layers."""


class GatedBlock(nn.Module):
    """Residual block: 1x1 expansion, 3x3 depthwise, gate, 1x1 projection (after DCVC-RT's depthwise blocks, Sec. 3.3).

    Channels-last and matrix products, so that CPU and CUDA run it as a few large GEMMs. Costs three
    multiplications per channel pair and position, and sees one neighbour in each direction.

    Args:
        channels: in and out.
        bound: of what a gate lets through, either sign. Gate times value grows with the square of the input, so blocks in a
            row can run away on what training never showed.
    """

    def __init__(self, channels: int, bound: float = math.inf) -> None:
        super().__init__()
        self.bound = bound
        self.expand = Linear(channels, 2 * channels)
        self.depthwise = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1, groups=2 * channels)
        self.project = Linear(channels, channels)
        with torch.no_grad():
            self.project.weight *= START_SHARE

    def forward(self, x: Tensor) -> Tensor:
        h = self.depthwise(self.expand(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        gate, value = h.chunk(2, dim=-1)
        if torch.is_grad_enabled() or torch.is_autocast_enabled(x.device.type):
            passed = F.silu(gate) * value
            return x + self.project(passed if self.bound == math.inf else passed.clamp(-self.bound, self.bound))
        passed = F.silu(gate).mul_(value)  # the same numbers without new memory
        if self.bound < math.inf:
            passed.clamp_(-self.bound, self.bound)
        return self.project(passed).add_(x)


class QualityGain(nn.Module):
    """One positive gain per channel, log-linear between knots of quality (variable rate with one set of weights).

    ``span`` is the ratio of the last knot's gain to the first's at the start of training.
    """

    def __init__(self, channels: int, knots: int, span: float = 1.0, start: float = 1.0) -> None:
        super().__init__()
        ramp = torch.linspace(0, 1, knots) * torch.log(torch.tensor(span)) + torch.log(torch.tensor(start))
        self.log_gain = nn.Parameter(ramp[:, None].repeat(1, channels))

    def forward(self, knot_weights: Tensor) -> Tensor:
        """``knot_weights``: float weights of the knots, shape (batch, knots). Returns (batch, 1, 1, channels)."""
        return torch.exp(knot_weights.to(self.log_gain.dtype) @ self.log_gain)[:, None, None]


def space_to_depth(x: Tensor, factor: int) -> Tensor:
    """(B, H*f, W*f, C) to (B, H, W, f*f*C)."""
    batch, rows, columns, channels = x.shape
    x = x.reshape(batch, rows // factor, factor, columns // factor, factor, channels)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(batch, rows // factor, columns // factor, -1)


def depth_to_space(x: Tensor, factor: int) -> Tensor:
    """Inverse of `space_to_depth`."""
    batch, rows, columns, channels = x.shape
    x = x.reshape(batch, rows, columns, factor, factor, channels // factor**2)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(batch, rows * factor, columns * factor, -1)
