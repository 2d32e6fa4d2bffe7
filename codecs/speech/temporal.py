"""Layers over time that run in pieces: on all frames at once, or on some at a time with what they remember in between.

Tensors are (batch, frames, channels); masks (batch, frames, 1) are 1 on frames of the signal and 0 before and after it,
where layers see zeros. A layer that looks ``ahead`` gives its output that many frames late, mask and all; so the pieces
may be of any length, and give together what the whole gives.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...entropy_models.channel_slices import depthwise
from ...entropy_models.layers import START_SHARE, Linear, QualityGain

Past = Tensor | None
"""What a layer remembers: (batch, frames, numbers of its own); None: nothing, at a signal's start."""


def remembered(past: Past, x: Tensor, frames: int) -> tuple[Tensor, Tensor]:
    """``x`` behind the last ``frames`` frames before it, zeros at the start; and what is to be remembered then."""
    if past is None:
        past = x.new_zeros(x.shape[0], frames, x.shape[2])
    whole = torch.cat([past.to(x.dtype), x], dim=1)
    return whole, whole[:, whole.shape[1] - frames :]


def delayed(x: Tensor, frames: int, past: Past) -> tuple[Tensor, Tensor]:
    """``x``, late by so many frames."""
    whole, past = remembered(past, x, frames)
    return whole[:, : x.shape[1]], past


class ConvBlock(nn.Module):
    """ConvNeXt block over time (Liu et al., CVPR 2022; Vocos, Siuzdak, 2023): depthwise filter, norm, two linear layers.

    Args:
        channels: in and out.
        knots: qualities that own a gain on what the block adds.
        ahead: frames that it looks ahead, of the filter's ``kernel``.
    """

    def __init__(self, channels: int, knots: int, ahead: int, *, kernel: int = 7, expansion: int = 3) -> None:
        super().__init__()
        self.kernel, self.ahead, self.behind = kernel, ahead, kernel - 1 - ahead
        self.depthwise = nn.Conv1d(channels, channels, kernel, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.expand = Linear(channels, expansion * channels)
        self.project = Linear(expansion * channels, channels)
        self.scale = QualityGain(channels, knots, start=START_SHARE)

    def forward(self, x: Tensor, mask: Tensor, knot_weights: Tensor, past: Past = None) -> tuple[Tensor, Tensor, Past]:
        both, past = remembered(past, torch.cat([x * mask, mask.to(x.dtype)], dim=-1), self.kernel - 1)
        here = both[:, self.behind : self.behind + x.shape[1]]
        filtered = depthwise(both[..., :-1], self.depthwise.weight, self.depthwise.bias)
        change = self.project(F.gelu(self.expand(self.norm(filtered))))
        return here[..., :-1] + self.scale(knot_weights)[:, 0] * change, here[..., -1:], past


class Mixer(nn.Module):
    """Time mixing after RWKV (Peng et al., EMNLP 2023, Sec. 3; in LALIC and ECC beside convolutions): an average of values
    over the last frames, weighted by keys and by a decay of each channel's own, behind a gate.

    RWKV's average reaches back for ever; this one sees ``WINDOW`` frames, so it is a depthwise filter of weighted values
    over one of weights, and a decoder that starts in the middle soon knows all there is to know.
    """

    WINDOW = 16
    behind = WINDOW - 1
    KEY_MAX = 8.0

    def __init__(self, channels: int, knots: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.keys = Linear(channels, 3 * channels)
        self.decay = nn.Parameter(torch.linspace(-3.0, 1.0, channels))
        self.bonus = nn.Parameter(torch.zeros(channels))
        self.project = Linear(channels, channels)
        self.scale = QualityGain(channels, knots, start=START_SHARE)

    def forward(self, x: Tensor, mask: Tensor, knot_weights: Tensor, past: Past = None) -> tuple[Tensor, Tensor, Past]:
        key, value, gate = self.keys(self.norm(x)).chunk(3, dim=-1)
        weight = torch.exp(self.KEY_MAX * torch.tanh(key.float() / self.KEY_MAX)) * mask
        both, past = remembered(past, torch.cat([weight * value, weight], dim=-1), self.behind)
        age = torch.arange(self.WINDOW - 1, -1, -1, device=x.device)
        taps = torch.exp(F.pad(self.bonus[:, None], (self.WINDOW - 1, 0)) - F.softplus(self.decay)[:, None] * age)
        taps = taps.repeat(2, 1)[:, None].to(both.dtype)
        total, weights = depthwise(both, taps).chunk(2, dim=-1)
        return (
            x + self.scale(knot_weights)[:, 0] * self.project(torch.sigmoid(gate) * (total / (weights + 1e-4)).to(x.dtype)),
            mask,
            past,
        )


class Trunk(nn.Module):
    """Layers in a row; their pasts are a list."""

    def __init__(self, *layers: ConvBlock | Mixer) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.behind = sum(layer.behind for layer in layers)
        """Frames that the layers look back together."""

    def forward(
        self, x: Tensor, mask: Tensor, knot_weights: Tensor, past: Sequence[Past]
    ) -> tuple[Tensor, Tensor, list[Past]]:
        after: list[Past] = []
        for layer, before in zip(self.layers, past or [None] * len(self.layers), strict=True):
            x, mask, kept = layer(x, mask, knot_weights, before)
            after.append(kept)
        return x, mask, after
