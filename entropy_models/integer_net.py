"""Exact integer layers: the same output on every device, thread count and batch size.

The parse path (which table a symbol is coded with) may not depend on the order in which a machine
happens to add numbers. These layers hold integers in float tensors and keep every product sum
below 2^24, the range in which float32 represents integers exactly, so any order of summation gives
the same result (Ballé, Johnston & Minnen, ICLR 2019, with a plain shift as the divisor).

Activations are integers 0..255 that stand for value * 16; weights are int8 with one shift per output
channel. Eight bits hold each of them, so products by way of bfloat16 with sums in float32 (torch's ``medium`` precision) are
exact as well. Only matrix products and additions are used, never a convolution, which a library may
compute by Winograd or FFT.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .errors import InputError
from .layers import linear
from .relaxed import straight_through

ACTIVATION_MAX = 255
"""Largest activation; hidden layers are ReLUs clamped here."""
ACTIVATION_SCALE = 16
"""Integer units per real unit of an activation."""
WEIGHT_MAX = 127
EXACT_LIMIT = 2**24
"""Float32 holds every integer of at most this magnitude."""


class IntegerLinear(nn.Module):
    """``clamp((weight @ x + bias + half) >> shift, 0, ceiling)`` on the last axis, exactly."""

    weight: Tensor
    bias: Tensor
    shift: Tensor

    def __init__(self, inputs: int, outputs: int, *, ceiling: int = ACTIVATION_MAX) -> None:
        super().__init__()
        self.ceiling = ceiling
        self.register_buffer("weight", torch.zeros(outputs, inputs, dtype=torch.int8))
        self.register_buffer("bias", torch.zeros(outputs, dtype=torch.int32))
        self.register_buffer("shift", torch.zeros(outputs, dtype=torch.uint8))

    def integers(self) -> tuple[Tensor, Tensor, Tensor]:
        """Weight, bias and shift as floats that hold integers exactly."""
        dtype = exact_dtype(self.weight)
        return self.weight.to(dtype), self.bias.to(dtype), self.shift.to(dtype)

    def settled(self, total: Tensor, bias: Tensor, shift: Tensor) -> Tensor:
        """The result, from the product sum."""
        return rescaled(total, bias, shift, self.ceiling)

    def forward(self, x: Tensor) -> Tensor:
        """``x``: integers as float, shape (..., inputs), magnitude at most 255. Same for the result."""
        weight, bias, shift = self.integers()
        return self.settled(linear(x.to(weight.dtype), weight), bias, shift)

    def check(self) -> None:
        """Raise ValueError unless no input can push a sum out of the exact range."""
        worst = self.weight.abs().to(torch.int64).sum(1) * ACTIVATION_MAX + self.bias.abs() + 2 ** self.shift.long()
        if int(worst.max()) >= EXACT_LIMIT:
            raise InputError(f"a product sum can reach {int(worst.max())}, integer layers allow {EXACT_LIMIT - 1}")


class IntegerDepthwise(nn.Module):
    """3x3 depthwise filter, zero padding, on (batch, rows, columns, channels); else as `IntegerLinear`."""

    weight: Tensor
    bias: Tensor
    shift: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(9, channels, dtype=torch.int8))
        self.register_buffer("bias", torch.zeros(channels, dtype=torch.int32))
        self.register_buffer("shift", torch.zeros(channels, dtype=torch.uint8))

    def forward(self, x: Tensor) -> Tensor:
        dtype = exact_dtype(x)
        total = sum_of_shifts(x.to(dtype), self.weight.to(dtype))
        return rescaled(total, self.bias.to(dtype), self.shift.to(dtype), ACTIVATION_MAX)

    def check(self) -> None:
        """Raise ValueError as `IntegerLinear.check` does; nine int8 products cannot leave the range, a bias could."""
        if int(self.bias.abs().max()) >= EXACT_LIMIT // 2:
            raise InputError(f"bias {int(self.bias.abs().max())} is outside the exact range")


def exact_dtype(x: Tensor) -> torch.dtype:
    """Float32 on CPU; float64 on CUDA, where float32 products may go through TF32."""
    return torch.float64 if x.is_cuda else torch.float32


def sum_of_shifts(x: Tensor, weight: Tensor) -> Tensor:
    """3x3 depthwise correlation as nine products and sums. ``x`` (B, H, W, C), ``weight`` (9, C)."""
    _, rows, columns, _ = x.shape
    padded = F.pad(x, (0, 0, 1, 1, 1, 1))
    total = padded[:, :rows, :columns] * weight[0]
    add = torch.addcmul if torch.is_grad_enabled() else Tensor.addcmul_
    for tap in range(1, 9):
        i, j = divmod(tap, 3)
        total = add(total, padded[:, i : i + rows, j : j + columns], weight[tap])
    return total


def rescale(total: Tensor, bias: Tensor, shift: Tensor) -> Tensor:
    """``(total + bias) / 2**shift`` rounded half up; exact, since only powers of two divide."""
    return (total + (bias + torch.exp2(shift - 1).floor())).mul_(torch.exp2(-shift)).floor_()


def rescaled(total: Tensor, bias: Tensor, shift: Tensor, ceiling: int) -> Tensor:
    """`rescale` within 0..ceiling; where gradients are wanted, with a straight-through one."""
    if not torch.is_grad_enabled() or not (total.requires_grad or bias.requires_grad):
        return rescale(total, bias, shift).clamp_(0, ceiling)
    with torch.no_grad():
        exact = rescale(total, bias, shift)
    return Bounded.apply(straight_through(exact, (total + bias) * torch.exp2(-shift)), ceiling)


class Bounded(torch.autograd.Function):
    """Clamp to 0..ceiling. Above it, gradients pass that pull the value back; below zero, only for levels.

    A hidden activation at zero is an ordinary ReLU; a level at either end must be able to return.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, ceiling: int) -> Tensor:
        ctx.save_for_backward(x)
        ctx.ceiling = ceiling
        return x.clamp(0, ceiling)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        above = (x <= ctx.ceiling) | (gradient > 0)
        below = (x >= 0) | ((gradient < 0) & (ctx.ceiling != ACTIVATION_MAX))
        return gradient * (above & below), None
