"""Image networks after "S2LIC: Learned Image Compression with the SwinV2 Block, Adaptive Channel-wise and Global-inter
Attention Context" (Wang et al., 2024, arXiv 2403.14471).

    image ─▶ SwinV2 analysis ─▶ y (1/16) ─▶ slices of channels, each: anchors, then the others ─▶ bytes
    image ◀─ SwinV2 synthesis ◀─ y_hat ◀─── mean: hyperprior, both contexts, the slice's anchors (float)
                                            level: hyperprior and symbols (integer); then residual prediction

Unlike the paper: scales are levels that come from an integer branch, so that a stream decodes everywhere; one set of weights
covers quality 0..100 by per-channel gains; the other half of a slice sees its anchors, which the paper's figure has and the
released code has not; the hyper networks are `entropy_models.hyperprior`'s.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...entropy_models.channel_context import LevelContext, phases
from ...entropy_models.channel_slices import LRP_MAX
from ...entropy_models.coder import Coder
from ...entropy_models.errors import InputError
from ...entropy_models.hyperprior import (
    HYPER_STRIDE,
    HyperAnalysis,
    HyperPrior,
    LayerFactory,
    LevelSynthesis,
    MeanSynthesis,
    integer_knot_weights,
)
from ...entropy_models.integer_net import IntegerDepthwise, IntegerLinear
from ...entropy_models.layers import QualityGain, bounded, full_precision
from .acgc import SliceContext
from .beyond import NOTHING, Margins, mirrored, repeated
from .dcvc_rt import CONTEXT_MAX, GAIN_SPAN, GAIN_START, HYPER_MAX, MEAN_MAX
from .network import ImageTransforms
from .swin import ALIGNMENT, Conv, SwinAnalysis, SwinSynthesis, reach

HALVES = 2
"""Anchors of the checkerboard, then the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class S2licConfig:
    """Architecture of the S2LIC networks: the defaults are the small one, `PAPER` is the paper's size."""

    channels: int = 112
    """Width of the transforms (the paper's N); a multiple of every number of heads."""
    latent_channels: int = 256
    """Channels of y at 1/16 (M), a multiple of the slices."""
    slices: int = 8
    """Groups of channels that are coded one after the other."""
    depths: tuple[int, ...] = (1, 2, 3)
    """Attention layers at 1/2, 1/4 and 1/8."""
    heads: tuple[int, ...] = (4, 8, 16)
    """Heads of each of them."""
    enhancement_channels: int = 16
    """Width of the dense enhancement at full resolution, the costliest part for a pixel."""
    hyper_channels: int = 96
    """Channels of z at 1/64."""
    hyper_width: int = 96
    """Width of the hyper networks' float halves."""
    context_channels: int = 128
    """Channels of the hyperprior's mean context."""
    level_channels: int = 96
    """Width of the integer level branch; its largest layer must stay exact in float32."""
    channel_context: int = 48
    """Channels of the adaptive channel-wise context."""
    inter_context: int = 32
    """Channels of the global-inter context, a multiple of its heads, and those are `inter_heads`."""
    inter_heads: int = 4
    anchor_context: int = 32
    """Channels that tell the other half of a slice about its anchors; 0: it does not see them, as in the released code."""
    mean_widths: tuple[int, ...] = (96, 64)
    """Hidden widths of the nets that give means."""
    residual_widths: tuple[int, ...] = (32,)
    """Hidden widths of latent residual prediction."""
    knots: int = 9
    """Qualities, evenly spaced, that own a gain vector; the others interpolate."""

    def __post_init__(self) -> None:
        if self.latent_channels % self.slices:
            raise InputError(f"latent_channels={self.latent_channels} is not a multiple of slices={self.slices}")
        if len(self.depths) != 3 or len(self.heads) != 3:
            raise InputError(f"depths={self.depths} and heads={self.heads}; need three each, for 1/2, 1/4 and 1/8")
        if wrong := [h for h in self.heads if self.channels % h]:
            raise InputError(f"channels={self.channels} is not a multiple of heads {', '.join(map(str, wrong))}")

    @property
    def halo(self) -> int:
        """Latent positions around a tile that its pixels depend on, in either transform."""
        return reach(self.depths)

    @property
    def alignment(self) -> int:
        """Latent positions of which windows of the image begin at a multiple, or the transforms differ."""
        return ALIGNMENT


PAPER = S2licConfig(
    channels=192, latent_channels=320, slices=10, enhancement_channels=64, hyper_channels=192, hyper_width=576,
    context_channels=640, level_channels=192, channel_context=64, inter_context=32, anchor_context=64,
    mean_widths=(320, 256, 128), residual_widths=(224, 128),
)  # fmt: skip
"""The paper's size."""


def chain(inputs: int, widths: tuple[int, ...], outputs: int, kernel: int) -> nn.Sequential:
    """Filters with GELU between them."""
    layers: list[nn.Module] = []
    for width in widths:
        layers += [Conv(inputs, width, kernel), nn.GELU()]
        inputs = width
    last = Conv(inputs, outputs, kernel)
    with torch.no_grad():
        last.weight *= 0.1  # the first predictions are small
    return nn.Sequential(*layers, last)


class MeanSlices(nn.Module):
    """Float half of the entropy model: what the slices before, and a slice's anchors, tell of its means and residuals."""

    def __init__(self, c: S2licConfig) -> None:
        super().__init__()
        own, steps = c.latent_channels // c.slices, range(HALVES * c.slices)
        attention = c.channel_context + c.inter_context
        self.contexts = nn.ModuleList(
            SliceContext(i * own, c.channel_context, c.inter_context, c.inter_heads) for i in range(1, c.slices)
        )
        anchors = c.slices if c.anchor_context else 0
        self.anchors = nn.ModuleList(Conv(own, c.anchor_context, 5) for _ in range(anchors))
        inputs = [c.context_channels + (k >= HALVES) * attention + k % HALVES * c.anchor_context for k in steps]
        self.mean = nn.ModuleList(chain(n, c.mean_widths, own, 1) for n in inputs)
        inputs = [c.context_channels + (k // HALVES + 1) * own for k in steps]
        self.residual = nn.ModuleList(chain(n, c.residual_widths, own, 3) for n in inputs)

    def context(self, hyper: Tensor, known: list[Tensor]) -> Tensor:
        """What a slice's means may use, from the decoded slices before it."""
        return torch.cat([hyper, self.contexts[len(known) - 1](torch.cat(known, dim=-1))], dim=-1) if known else hyper

    def means(self, context: Tensor, y_slice: Tensor, step: int) -> Tensor:
        """Means of a step. ``y_slice``: decoded values of the slice so far, zero elsewhere."""
        if step % HALVES and len(self.anchors):
            context = torch.cat([context, self.anchors[step // HALVES](y_slice)], dim=-1)
        return self.mean[step](context)

    def residuals(self, hyper: Tensor, known: list[Tensor], y_slice: Tensor, step: int) -> Tensor:
        """What rounding took, in steps of the quantiser, -LRP_MAX to LRP_MAX."""
        return LRP_MAX * torch.tanh(self.residual[step](torch.cat([hyper, *known, y_slice], dim=-1)))


class S2licNetwork(ImageTransforms):
    """All networks of the codec and the coding pass; the interface is that of `dcvc_rt.ImageNetwork`."""

    correction: None = None
    """No tile's last layer is changed."""

    def __init__(
        self, config: S2licConfig, linear: LayerFactory = IntegerLinear, depthwise: LayerFactory = IntegerDepthwise
    ) -> None:
        super().__init__()
        c = config
        self.config = config
        transforms = c.channels, c.latent_channels, c.depths, c.heads, c.enhancement_channels, c.knots
        self.analysis, self.synthesis = SwinAnalysis(*transforms), SwinSynthesis(*transforms)
        self.gain = QualityGain(c.latent_channels, c.knots, span=GAIN_SPAN, start=GAIN_START)
        self.inverse_gain = QualityGain(c.latent_channels, c.knots, span=1 / GAIN_SPAN, start=1 / GAIN_START)
        self.hyper_analysis = HyperAnalysis(c.latent_channels, c.hyper_width, c.hyper_channels, c.knots)
        self.hyper_prior = HyperPrior(c.hyper_channels, c.knots, linear)
        self.mean_synthesis = MeanSynthesis(c.hyper_channels, c.hyper_width, c.context_channels, c.knots)
        self.level_synthesis = LevelSynthesis(c.hyper_channels, c.level_channels, c.knots, linear, depthwise)
        self.mean_slices = MeanSlices(c)
        own = c.latent_channels // c.slices
        self.level_context = LevelContext(own, c.level_channels, c.knots, linear, depthwise, steps=HALVES * c.slices)

    def from_features(self, features: Tensor, quality: Tensor, correction: Tensor | None = None) -> Tensor:
        """The rest of `to_image`."""
        return self.synthesis.image(features)

    def coding_pass(self, coder: Coder, y: Tensor, quality: Tensor, beyond: Margins = NOTHING) -> Tensor:
        """Code a latent and return what the decoder knows. The only description of the bitstream.

        ``y``: float (B, H, W, latent), as `to_latent` gives it; a reader passes zeros of that shape.
        ``beyond``: how far contexts see a mirror image around ``y``, multiples of `HYPER_STRIDE`, where the image goes on.
        """
        batch, rows, columns, _ = y.shape
        top, left, bottom, right = beyond
        all_rows, all_columns = top + rows + bottom, left + columns + right
        own = ..., slice(top, top + rows), slice(left, left + columns), slice(None)
        integer_weights, knot_weights = integer_knot_weights(quality, self.config.knots), self.knot_weights(quality, y.dtype)
        z = bounded(self.hyper_analysis(y, knot_weights), HYPER_MAX).to(y.dtype)
        z_hat = coder.code(z, full_precision(self.hyper_prior, integer_weights), side=True)
        z_hat = repeated(z_hat, (top // HYPER_STRIDE, left // HYPER_STRIDE, bottom // HYPER_STRIDE, right // HYPER_STRIDE))
        hyper = self.mean_synthesis(z_hat.to(y.dtype), knot_weights)[:, :all_rows, :all_columns]
        hyper = bounded(hyper, CONTEXT_MAX).to(y.dtype)
        level_context = full_precision(self.level_synthesis, z_hat, integer_weights)[:, :all_rows, :all_columns]
        halves = checkerboard(all_rows, all_columns, y.device)
        known: list[Tensor] = []  # decoded slices
        seen: Tensor | None = None  # symbols that levels see, beside those that their context has seen
        by_channel = y, self.gain(knot_weights), self.inverse_gain(knot_weights)
        parts = (tensor.chunk(self.config.slices, -1) for tensor in by_channel)
        for index, (values, gain, inverse_gain) in enumerate(zip(*parts, strict=True)):
            context = self.mean_slices.context(hyper, known)
            y_slice = y.new_zeros(batch, all_rows, all_columns, values.shape[-1])  # not like y: a reader's lies otherwise
            symbols: Tensor | None = None
            for half, active in enumerate(halves):
                step = HALVES * index + half
                mean = bounded(self.mean_slices.means(context, y_slice, step).to(y.dtype), MEAN_MAX) * active
                level_context = full_precision(self.level_context.refine, level_context, seen, integer_weights, step)
                level = full_precision(self.level_context.levels, level_context, step)
                coded = coder.code((values - mean[own]) * gain * active[own], level[own], active[own])
                new = mirrored(coded, beyond) * active
                y_half = mean + new.to(y.dtype) * inverse_gain
                residual = self.mean_slices.residuals(hyper, known, y_slice + y_half, step).to(y.dtype)
                y_slice = y_slice + y_half + residual * inverse_gain * active
                symbols = new if symbols is None else symbols + new
                seen = symbols if half or self.config.anchor_context else torch.zeros_like(symbols)
            known.append(y_slice)
        return torch.cat(known, dim=-1)[own]


def checkerboard(rows: int, columns: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Anchors, where row and column are not both even nor both odd, and the other half; each bool (rows, columns, 1)."""
    phase = phases(rows, columns, device)[..., None]
    anchor = (phase == 1) | (phase == 2)
    return anchor, ~anchor
