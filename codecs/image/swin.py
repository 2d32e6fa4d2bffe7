"""Residual SwinV2 transforms of S2LIC: scaled cosine attention in windows, post-norm, and a dense enhancement block.

    image ─ enhance ─ conv /2 ─ RSTB ─ conv /2 ─ RSTB ─ conv /2 ─ RSTB ─ conv /2 ─▶ latent (1/16), and mirrored back

(Liu et al., "Swin Transformer V2", CVPR 2022; Lu et al., "Transformer-based Image Compression", DCC 2022, for the RSTB;
Xie et al., "Enhanced Invertible Encoding for Learned Image Compression", ACM MM 2021, for the enhancement.)
Tensors are (batch, rows, columns, channels). Windows count from the first row and column: an image's part gives what the
whole image gives if it starts at a multiple of `ALIGNMENT` latent positions and has a margin of the transform's reach.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from ...entropy_models.layers import START_SHARE, Linear, QualityGain, depth_to_space, full_precision

WINDOW = 8
"""Side of an attention window in positions; every second layer's windows are moved by half of it."""
ALIGNMENT = 4
"""Latent positions of a window at 1/8, the largest."""
POSITION_SPAN, POSITION_WIDTH, POSITION_MAX = 8.0, 512, 16.0
"""Log-spaced position bias: range of coordinates, hidden width, and bound of the bias (Swin V2, Sec. 3.3)."""
LOGIT_SCALE, LOGIT_SCALE_MAX = math.log(10), math.log(100)
MLP_RATIO = 4
ENHANCEMENT_SHARE, LEAK = 0.2, 0.2
ENHANCEMENT_REACH = 11
"""Pixels that the enhancement sees each way: eleven 3x3 filters, one after another."""


class Conv(nn.Conv2d):
    """`nn.Conv2d` on channels-last tensors, zero padding; keeps the variance of white noise to begin with."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride=stride, padding=kernel // 2, groups=groups)
        nn.init.kaiming_normal_(self.weight, nonlinearity="linear")
        nn.init.zeros_(self.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class Up(nn.ConvTranspose2d):
    """Transposed 3x3 convolution of stride 2 on channels-last tensors."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, stride=2, padding=1, output_padding=1)
        nn.init.normal_(self.weight, std=(4 / (9 * inputs)) ** 0.5)  # 9/4 taps meet in a pixel
        nn.init.zeros_(self.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class DenseBlock(nn.Module):
    """Five 3x3 filters, each of which sees the input and all before it."""

    def __init__(self, inputs: int, outputs: int, growth: int) -> None:
        super().__init__()
        self.grow = nn.ModuleList(Conv(inputs + i * growth, growth) for i in range(4))
        self.last = Conv(inputs + 4 * growth, outputs)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.grow:
            x = torch.cat([x, F.leaky_relu(layer(x), LEAK)], dim=-1)
        return self.last(x)


class Enhancement(nn.Module):
    """Dense enhancement of three channels at full resolution; begins as the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = DenseBlock(3, width, width // 2)
        self.middle = nn.Sequential(Conv(width, width, 1), Conv(width, width), Conv(width, width, 1))
        self.last = DenseBlock(width, 3, width // 2)
        nn.init.zeros_(self.last.last.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + ENHANCEMENT_SHARE * self.last(self.middle(self.first(x)))


class PositionBias(nn.Module):
    """Bias of every head for every pair of positions of a window, (heads, WINDOW^2, WINDOW^2), from log-spaced distances."""

    distances: Tensor
    pairs: Tensor

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.hidden = Linear(2, POSITION_WIDTH)
        self.bias = Linear(POSITION_WIDTH, heads, bias=False)
        reach = torch.arange(1 - WINDOW, WINDOW, dtype=torch.float32) / (WINDOW - 1) * POSITION_SPAN
        spaced = torch.sign(reach) * torch.log2(1 + reach.abs()) / math.log2(POSITION_SPAN)
        distances = torch.stack(torch.meshgrid(spaced, spaced, indexing="ij"), dim=-1).flatten(0, 1)
        at = torch.cartesian_prod(torch.arange(WINDOW), torch.arange(WINDOW))
        apart = at[:, None] - at + WINDOW - 1
        self.register_buffer("distances", distances, persistent=False)
        self.register_buffer("pairs", apart[..., 0] * (2 * WINDOW - 1) + apart[..., 1], persistent=False)

    def forward(self) -> Tensor:
        table = POSITION_MAX * torch.sigmoid(self.bias(F.relu(self.hidden(self.distances))))
        return table[self.pairs].permute(2, 0, 1)


class WindowAttention(nn.Module):
    """Scaled cosine attention in windows moved up and left by ``shift`` positions; nothing beyond the image is seen."""

    def __init__(self, channels: int, heads: int, shift: int) -> None:
        super().__init__()
        self.heads, self.shift = heads, shift
        self.query, self.value = Linear(channels, channels), Linear(channels, channels)
        self.key = Linear(channels, channels, bias=False)
        self.logit_scale = nn.Parameter(torch.full((heads, 1, 1), LOGIT_SCALE))
        self.position = PositionBias(heads)
        self.project = Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        _, rows, columns, _ = x.shape
        down, right = -(rows + self.shift) % WINDOW, -(columns + self.shift) % WINDOW
        around = self.shift, right, self.shift, down
        seen = F.pad(torch.ones(1, rows, columns, 1, dtype=torch.bool, device=x.device), (0, 0, *around))
        x = F.pad(x, (0, 0, *around))
        down, right = (size // WINDOW for size in x.shape[1:3])
        split = "b (h r) (w c) (n d) -> (b h w) n (r c) d"
        sizes = {"r": WINDOW, "c": WINDOW}
        query, key, value = (rearrange(f(x), split, n=self.heads, **sizes) for f in (self.query, self.key, self.value))
        query = F.normalize(query.float(), dim=-1) * self.logit_scale.clamp_max(LOGIT_SCALE_MAX).exp()
        hidden = ~rearrange(seen, split, n=1, **sizes).transpose(-1, -2)
        logits = query @ F.normalize(key.float(), dim=-1).transpose(-1, -2) + full_precision_bias(self.position, x)
        logits = logits.unflatten(0, (-1, down * right)).masked_fill(hidden, -math.inf).flatten(0, 1)
        mixed = logits.softmax(-1).to(value.dtype) @ value
        joined = rearrange(mixed, "(b h w) n (r c) d -> b (h r) (w c) (n d)", h=down, w=right, **sizes)
        return self.project(joined[:, self.shift : self.shift + rows, self.shift : self.shift + columns])


def full_precision_bias(position: PositionBias, x: Tensor) -> Tensor:
    """The position bias, outside autocast."""
    with torch.autocast(x.device.type, enabled=False):
        bias: Tensor = position()
    return bias


class SwinLayer(nn.Module):
    """Attention and perceptron, each normalised after the fact (Swin V2, Sec. 3.2)."""

    def __init__(self, channels: int, heads: int, shift: int) -> None:
        super().__init__()
        self.attention = WindowAttention(channels, heads, shift)
        self.attention_norm = nn.LayerNorm(channels)
        self.expand, self.project = Linear(channels, MLP_RATIO * channels), Linear(MLP_RATIO * channels, channels)
        self.mlp_norm = nn.LayerNorm(channels)
        for norm in (self.attention_norm, self.mlp_norm):
            nn.init.constant_(norm.weight, START_SHARE)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention_norm(self.attention(x))
        return x + self.mlp_norm(self.project(F.gelu(self.expand(x))))


class SwinBlock(nn.Sequential):
    """Residual SwinV2 transformer block (RSTB): layers with windows by turns in place and moved, and a way around them."""

    def __init__(self, channels: int, heads: int, depth: int) -> None:
        super().__init__(*(SwinLayer(channels, heads, i % 2 * WINDOW // 2) for i in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class SwinAnalysis(nn.Module):
    """Image (B, H, W, 3) in -0.5..0.5, sides multiples of 16, to latent (B, H/16, W/16, latent)."""

    def __init__(
        self, channels: int, latent: int, depths: tuple[int, ...], heads: tuple[int, ...], enhancement: int, knots: int
    ) -> None:
        super().__init__()
        self.enhancement = Enhancement(enhancement)
        self.first = Conv(3, channels, 5, stride=2)
        self.gain = QualityGain(channels, knots)
        self.blocks = nn.ModuleList(SwinBlock(channels, h, d) for h, d in zip(heads, depths, strict=True))
        self.downs = nn.ModuleList(Conv(*ends, stride=2) for ends in pairwise([channels] * len(depths) + [latent]))
        halve(*self.downs)

    def forward(self, image: Tensor, knot_weights: Tensor) -> Tensor:
        x = full_precision(self.first, self.enhancement(image).to(image.dtype)) * self.gain(knot_weights)
        *downs, last = self.downs
        for block, down in zip(self.blocks, downs, strict=False):
            x = down(block(x))
        return full_precision(last, self.blocks[-1](x).to(image.dtype))


class SwinSynthesis(nn.Module):
    """Mirror of `SwinAnalysis`; the last step up is a sub-pixel filter."""

    def __init__(
        self, channels: int, latent: int, depths: tuple[int, ...], heads: tuple[int, ...], enhancement: int, knots: int
    ) -> None:
        super().__init__()
        self.gain = QualityGain(channels, knots)
        self.ups = nn.ModuleList(Up(*ends) for ends in pairwise([latent] + [channels] * len(depths)))
        self.blocks = nn.ModuleList(SwinBlock(channels, h, d) for h, d in zip(heads[::-1], depths[::-1], strict=True))
        self.last = Conv(channels, 4 * 3)
        halve(*self.ups[1:], self.last)
        self.enhancement = Enhancement(enhancement)

    def features(self, y_hat: Tensor, knot_weights: Tensor) -> Tensor:
        """The image before its enhancement, (B, 16H, 16W, 3)."""
        x = y_hat
        for i, (up, block) in enumerate(zip(self.ups, self.blocks, strict=True)):
            x = full_precision(up, x) * self.gain(knot_weights) if i == 0 else up(x)
            x = block(x)
        return depth_to_space(full_precision(self.last, x.to(y_hat.dtype)), 2)

    def image(self, features: Tensor) -> Tensor:
        """The image (B, 16H, 16W, 3)."""
        return self.enhancement(features).to(features.dtype)


@torch.no_grad()
def halve(*filters: nn.Module) -> None:
    """Halve the start of filters after a `SwinBlock`, which begins as about twice the identity."""
    for each in filters:
        assert isinstance(each.weight, Tensor)
        each.weight *= 0.5


def reach(depths: tuple[int, ...]) -> int:
    """Latent positions beyond an aligned border that either transform of these depths depends on, in whole `ALIGNMENT`s."""
    at = 0  # how far before the border, in positions of the scale at hand
    for depth in depths[::-1]:  # analysis, from 1/8 to 1/2; a step of stride 2 sees one position more
        at = 2 * through(at, depth) + 1
    analysis = -(-(2 * at + 2 + ENHANCEMENT_REACH) // 16)
    at = -(-ENHANCEMENT_REACH // 2) + 1
    for depth in depths:  # synthesis, from 1/2 to 1/8
        at = -(-through(at, depth) // 2) + 1
    return -(-max(analysis, at) // ALIGNMENT) * ALIGNMENT


def through(at: int, depth: int) -> int:
    """How far before a border a block's output ``at`` positions before it looks back."""
    for i in reversed(range(depth)):
        shift = i % 2 * WINDOW // 2
        at = -(-(at - shift) // WINDOW) * WINDOW + shift if at > shift or not shift else shift
    return at
