"""Adaptive channel-wise and global-inter attention contexts of S2LIC, on a tile's decoded slices. Float: means only.

Each has a depthwise branch beside its own, and either branch gates the other: one by channel, one by position (after Chen
et al., "Dual Aggregation Transformer", ICCV 2023). Layer norms stand where the paper has batch norms, so that no statistics
of training decide what is decoded. Tensors are (batch, rows, columns, channels).
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from ...entropy_models.layers import Linear
from .swin import Conv

KEY_STRIDE = 4
"""Positions per key of the global attention, each way: a tile has 4,096 positions and 256 keys."""


class ChannelMap(nn.Module):
    """Gate of each channel, from its mean over all positions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(channels // 8, 1)
        self.squeeze, self.expand = Linear(channels, inner), Linear(inner, channels)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.expand(F.gelu(self.squeeze(x.mean((1, 2), keepdim=True)))))


class SpatialMap(nn.Module):
    """Gate of each position, from its channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(channels // 16, 1)
        self.squeeze, self.expand = Linear(channels, inner), Linear(inner, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.expand(F.gelu(self.squeeze(x))))


class Depthwise(nn.Module):
    """Depthwise branch."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.filter = Conv(channels, channels, groups=channels)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.norm(self.filter(x)))


class AdaptiveChannel(nn.Module):
    """Adaptive channel-wise context."""

    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__()
        self.first, self.second = Conv(inputs, channels), Conv(channels, channels)
        self.narrow, self.depthwise = Linear(inputs, channels), Depthwise(channels)
        self.spatial, self.channel = SpatialMap(channels), ChannelMap(channels)

    def forward(self, known: Tensor) -> Tensor:
        filtered = F.gelu(self.second(F.gelu(self.first(known))))
        beside = self.depthwise(self.narrow(known))
        return filtered * self.spatial(beside) + beside * self.channel(filtered)


class DeformableAttention(nn.Module):
    """Attention of all positions to keys sampled between positions, where offsets move a regular grid to (Xia et al.,
    "Vision Transformer with Deformable Attention", CVPR 2022)."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (Linear(channels, channels) for _ in range(3))
        self.near = Conv(channels, channels, 5, stride=KEY_STRIDE, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.offset = Linear(channels, 2)
        self.mix = Conv(channels, channels, 5)

    def forward(self, x: Tensor) -> Tensor:
        query = self.query(x)
        moved = KEY_STRIDE * torch.tanh(self.offset(F.gelu(self.norm(self.near(query)))).float())  # columns, rows
        sampled = self.sampled(x.float(), moved).to(x.dtype)
        split = "b h w (n d) -> b n (h w) d"
        parts = (rearrange(part, split, n=self.heads) for part in (query, self.key(sampled), self.value(sampled)))
        mixed = F.scaled_dot_product_attention(*parts)
        return self.mix(rearrange(mixed, "b n (h w) d -> b h w (n d)", h=x.shape[1]))

    @staticmethod
    def sampled(x: Tensor, moved: Tensor) -> Tensor:
        """``x`` between its positions, at every `KEY_STRIDE`-th one moved by (columns, rows)."""
        rows, columns = x.shape[1:3]
        down, across = (KEY_STRIDE * torch.arange(n, device=x.device, dtype=x.dtype) for n in moved.shape[1:3])
        at = torch.stack(torch.meshgrid(across, down, indexing="xy"), dim=-1) + moved
        at = (2 * at + 1) / at.new_tensor([columns, rows]) - 1
        found = F.grid_sample(x.permute(0, 3, 1, 2), at, padding_mode="border", align_corners=False)
        return found.permute(0, 2, 3, 1)


class GlobalInter(nn.Module):
    """Global-inter context: over all of the tile."""

    def __init__(self, inputs: int, channels: int, heads: int) -> None:
        super().__init__()
        self.narrow = Linear(inputs, channels)
        self.attention, self.depthwise = DeformableAttention(channels, heads), Depthwise(channels)
        self.spatial, self.channel = SpatialMap(channels), ChannelMap(channels)

    def forward(self, known: Tensor) -> Tensor:
        x = self.narrow(known)
        attended, beside = self.attention(x), self.depthwise(x)
        return attended * self.channel(beside) + beside * self.spatial(attended)


class SliceContext(nn.Module):
    """Both contexts of a slice, from the slices before it: (B, H, W, inputs) to (B, H, W, channel + inter channels)."""

    def __init__(self, inputs: int, channel: int, inter: int, heads: int) -> None:
        super().__init__()
        self.channel, self.inter = AdaptiveChannel(inputs, channel), GlobalInter(inputs, inter, heads)

    def forward(self, known: Tensor) -> Tensor:
        return torch.cat([self.channel(known), self.inter(known)], dim=-1)
