"""Image networks after DCVC-RT's intra codec (Jia et al., CVPR 2025): transforms at 1/8 resolution and below.

    image ─ unshuffle 8 ─▶ trunk (1/8) ─▶ latent y (1/16) ─▶ coding pass ─▶ bytes
    image ◀─ shuffle 8 ─── trunk (1/8) ◀─ y_hat (1/16) ◀──── coding pass ◀─ bytes
                                                                 │
             residual gain, hyperprior z (1/64), context in steps: mean float, level integer

One set of weights covers quality 0..100 by per-channel gains, log-linear between knots.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from ...entropy_models.channel_context import (
    GROUPS,
    STEPS,
    MeanContext,
    TurnLevelContext,
    active_mask,
    add_to_turn,
    gathered,
    of_turns,
    scattered,
)
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
from ...entropy_models.layers import (
    GatedBlock,
    Linear,
    QualityGain,
    bounded,
    depth_to_space,
    full_precision,
    linear,
    space_to_depth,
)
from .beyond import NOTHING, Margins, mirrored, repeated
from .correction import Correction
from .network import ImageTransforms

PATCH = 8
"""Pixels per trunk position, each way."""
HYPER_MAX, CONTEXT_MAX, MEAN_MAX = 64.0, 8.0, 32.0
"""Bounds of the coding pass's floats, three to five times what photographs reach (15, 1.5 and 10). Means steer what is
coded, and that steers means: on dithers and text this loop ran away to infinity, and took the residual's precision along."""
GAIN_START, GAIN_SPAN = 1.6, 14.0
"""Latent gain before training: at quality 0, and at 100 over 0. High-rate theory has a step of 1 / gain best at
gain = 255 sqrt(lambda ln 2 / 18), where lambda, bits per pixel and unit of MSE, goes from 0.001 to 0.2 (`training`)."""
GATE_MAX = 4.0
"""Bound of the gates in the synthesis at 1/8, where photographs reach 3.4; on saturated stripes and dithers, 40."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageConfig:
    """Architecture of the image networks. The shipped weights use the defaults, and 224 corrections."""

    trunk_channels: int = 192
    """Width at 1/8 resolution; a patch holds 192 values."""
    latent_channels: int = 384
    """Channels of y at 1/16, a multiple of four. A 16x16 block holds 768 values; 256 cap PSNR near 40 dB, 384 at 48."""
    latent_width: int = 256
    """Channels that pass through blocks at 1/16; the others, fine detail, go straight to and from the trunk."""
    hyper_channels: int = 96
    """Channels of z at 1/64."""
    context_channels: int = 192
    """Width of the mean context."""
    level_channels: int = 128
    """Width of the integer level branch; its largest layer must stay exact in float32."""
    trunk_blocks: tuple[int, int] = (4, 6)
    """Blocks at 1/8 in analysis and synthesis."""
    latent_blocks: tuple[int, int] = (3, 3)
    """Blocks at 1/16 in analysis and synthesis."""
    knots: int = 9
    """Qualities, evenly spaced, that own a gain vector; the others interpolate."""
    corrections: int = 0
    """Coefficients of the last layer's correction for each tile; export learns their directions, see `correction`."""

    def __post_init__(self) -> None:
        if self.latent_channels % GROUPS:
            raise InputError(f"latent_channels={self.latent_channels} is not a multiple of {GROUPS}")
        if not 0 < self.latent_width <= self.latent_channels:
            raise InputError(f"latent_width={self.latent_width} is outside 1..{self.latent_channels}")

    @property
    def halo(self) -> int:
        """Latent positions around a tile that its pixels depend on, in either transform."""
        return max(-(-t // 2) + n for t, n in zip(self.trunk_blocks, self.latent_blocks, strict=True))

    @property
    def alignment(self) -> int:
        """Latent positions of which windows of the image begin at a multiple: any, filters look the same everywhere."""
        return 1


class Analysis(nn.Module):
    """Image to latent. Input (B, H, W, 3) in -0.5..0.5, sides multiples of 16; output (B, H/16, W/16, latent)."""

    def __init__(self, config: ImageConfig) -> None:
        super().__init__()
        trunk, latent = config.trunk_channels, config.latent_width
        self.patch = Linear(3 * PATCH**2, trunk)
        self.gain = QualityGain(trunk, config.knots)
        self.trunk = nn.Sequential(*(GatedBlock(trunk) for _ in range(config.trunk_blocks[0])))
        self.down = Linear(4 * trunk, config.latent_channels)
        self.latent = nn.Sequential(*(GatedBlock(latent) for _ in range(config.latent_blocks[0])))
        self.last = Linear(latent, latent)

    def forward(self, image: Tensor, knot_weights: Tensor) -> Tensor:
        x = self.trunk(full_precision(self.patch, space_to_depth(image, PATCH)) * self.gain(knot_weights))
        x = self.down(space_to_depth(x, 2)).to(image.dtype)
        deep, direct = x.split([self.last.in_features, x.shape[-1] - self.last.in_features], dim=-1)
        return torch.cat([full_precision(self.last, self.latent(deep)), direct], dim=-1)


class Synthesis(nn.Module):
    """Mirror of `Analysis`."""

    def __init__(self, config: ImageConfig) -> None:
        super().__init__()
        trunk, latent = config.trunk_channels, config.latent_width
        self.first = Linear(latent, latent)
        self.latent = nn.Sequential(*(GatedBlock(latent) for _ in range(config.latent_blocks[1])))
        self.up = Linear(config.latent_channels, 4 * trunk)
        self.gain = QualityGain(trunk, config.knots)
        self.trunk = nn.Sequential(*(GatedBlock(trunk, GATE_MAX) for _ in range(config.trunk_blocks[1])))
        self.patch = Linear(trunk, 3 * PATCH**2)

    def features(self, y_hat: Tensor, knot_weights: Tensor) -> Tensor:
        """What the last layer gets, (B, 2H, 2W, trunk)."""
        deep, direct = y_hat.split([self.first.in_features, y_hat.shape[-1] - self.first.in_features], dim=-1)
        x = torch.cat([self.latent(full_precision(self.first, deep)), direct], dim=-1)
        return self.trunk(depth_to_space(self.up(x), 2).to(y_hat.dtype) * self.gain(knot_weights))

    def image(self, features: Tensor, change: Tensor | None = None) -> Tensor:
        """The last layer, with a ``change`` as `Correction.change` gives it; (B, 16H, 16W, 3)."""
        patch: Callable[[Tensor], Tensor] = self.patch
        if change is not None:
            weight, bias = self.patch.weight + change[:-1].T, self.patch.bias + change[-1]
            patch = partial(linear, weight=weight, bias=bias)
        return depth_to_space(full_precision(patch, features), PATCH)


class ImageNetwork(ImageTransforms):
    """All networks of the codec and the coding pass. Tensors are (batch, rows, columns, channels).

    ``linear`` and ``depthwise`` build the layers of the parse path: exact integer layers, or their trainable shadows.
    """

    def __init__(
        self, config: ImageConfig, linear: LayerFactory = IntegerLinear, depthwise: LayerFactory = IntegerDepthwise
    ) -> None:
        super().__init__()
        c = config
        self.config = config
        self.analysis = Analysis(c)
        self.synthesis = Synthesis(c)
        self.gain = QualityGain(c.latent_channels, c.knots, span=GAIN_SPAN, start=GAIN_START)
        self.inverse_gain = QualityGain(c.latent_channels, c.knots, span=1 / GAIN_SPAN, start=1 / GAIN_START)
        self.hyper_analysis = HyperAnalysis(c.latent_channels, c.level_channels, c.hyper_channels, c.knots)
        self.hyper_prior = HyperPrior(c.hyper_channels, c.knots, linear)
        self.mean_synthesis = MeanSynthesis(c.hyper_channels, c.level_channels, c.context_channels, c.knots)
        self.level_synthesis = LevelSynthesis(c.hyper_channels, c.level_channels, c.knots, linear, depthwise)
        self.mean_context = MeanContext(c.latent_channels, c.context_channels)
        self.level_context = TurnLevelContext(c.latent_channels, c.level_channels, c.knots, linear, depthwise)
        self.correction = Correction(c.trunk_channels, 3 * PATCH**2, c.corrections, c.knots) if c.corrections else None

    def from_features(self, features: Tensor, quality: Tensor, correction: Tensor | None = None) -> Tensor:
        """The rest of `to_image`."""
        if correction is None or self.correction is None:
            return self.synthesis.image(features)
        return self.synthesis.image(features, self.correction.change(correction, self.knot_weights(quality, features.dtype)))

    def coding_pass(self, coder: Coder, y: Tensor, quality: Tensor, beyond: Margins = NOTHING) -> Tensor:
        """Code a latent and return what the decoder knows. The only description of the bitstream.

        ``y``: float (B, H, W, latent), as `to_latent` gives it; a reader passes zeros of that shape. Means live on
        the latent's own scale whatever the quality; only residuals are multiplied by the quality's gain.
        ``beyond``: how far contexts see a mirror image around ``y``, multiples of `HYPER_STRIDE`, where the image goes on.
        """
        batch, rows, columns, channels = y.shape
        top, left, bottom, right = beyond
        all_rows, all_columns = top + rows + bottom, left + columns + right
        own = ..., slice(top, top + rows), slice(left, left + columns), slice(None)
        integer_weights, knot_weights = integer_knot_weights(quality, self.config.knots), self.knot_weights(quality, y.dtype)
        gain, inverse_gain = self.gain(knot_weights), self.inverse_gain(knot_weights)
        z = bounded(self.hyper_analysis(y, knot_weights), HYPER_MAX).to(y.dtype)
        z_hat = coder.code(z, full_precision(self.hyper_prior, integer_weights), side=True)
        z_hat = repeated(z_hat, (top // HYPER_STRIDE, left // HYPER_STRIDE, bottom // HYPER_STRIDE, right // HYPER_STRIDE))
        mean_context = self.mean_synthesis(z_hat.to(y.dtype), knot_weights)[:, :all_rows, :all_columns]
        mean_context = bounded(mean_context, CONTEXT_MAX).to(y.dtype)
        level_context = full_precision(self.level_synthesis, z_hat, integer_weights)[:, :all_rows, :all_columns]
        active_of = partial(active_mask, rows, columns, channels, device=y.device)
        gain, inverse_gain = gain.expand(y.shape), inverse_gain.expand(batch, all_rows, all_columns, -1)
        symbols: list[Tensor] = []  # of each turn, what a step codes, as the next one's levels see it
        values: list[Tensor] = []  # the same, decoded
        for step in range(STEPS):
            mean_context = bounded(self.mean_context.refine(mean_context, step), CONTEXT_MAX)
            known = symbols[-1] if symbols else None
            level_context = full_precision(self.level_context.refine, level_context, known, integer_weights, step)
            mean = bounded(full_precision(self.mean_context.means, mean_context, step), MEAN_MAX)
            level = full_precision(self.level_context.levels, level_context, step)
            residual = (gathered(y, step) - mean[own]) * gathered(gain, step)
            coded = coder.code(scattered(residual, step), scattered(level[own], step), active_of(step))
            new = gathered(mirrored(coded, beyond), step)
            y_step = mean + new.to(y.dtype) * gathered(inverse_gain, step)
            if step + 1 < STEPS:
                mean_context = bounded(self.mean_context.update(mean_context, y_step, step), CONTEXT_MAX)
            add_to_turn(symbols, new, step)
            add_to_turn(values, y_step, step)
        return of_turns(values)[own]
