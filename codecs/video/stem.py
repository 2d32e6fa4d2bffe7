"""The entropy model of frames that follow one another, after STEM (Sun et al., 2021): each frame goes through the image
codec's transforms, and what came before it moves only the probabilities of its latent.

    frame ─▶ image analysis ─▶ y ─▶ coding pass ─▶ y_hat ─▶ image synthesis ─▶ frame
    references, moved ─▶ image analysis ─▶ y_moved ─┘ means
    symbols and levels of the nearest reference ────┘ levels

The latent is coded to its own precision, y_hat = mean + round(y - mean), and no residual picture: a frame's quality does
not depend on the frames before it. Beyond STEM, the past is the latent of decoded references after block motion
(`prediction`), and the nearest of them supplies the scales. The past, here, is what was coded before, whenever it is shown.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

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
    HyperAnalysis,
    HyperPrior,
    LayerFactory,
    LevelSynthesis,
    MeanSynthesis,
    as_activation,
    float_knot_weights,
    integer_knot_weights,
)
from ...entropy_models.integer_net import ACTIVATION_MAX, IntegerDepthwise, IntegerLinear
from ...entropy_models.layers import GatedBlock, Linear, QualityGain, bounded, full_precision
from ...entropy_models.tables import LEVELS
from ..image.dcvc_rt import CONTEXT_MAX, GAIN_SPAN, GAIN_START, HYPER_MAX, MEAN_MAX
from .copies import worth_copying
from .fusion import Fusion, activity_of

LEVEL_UNIT = ACTIVATION_MAX // (LEVELS - 1)
"""Activation for a level of the past."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StemConfig:
    """Architecture of the entropy model."""

    image: str = ""
    """Hash of the image weights whose latents it codes, as streams name them, in hex."""
    latent_channels: int = 384
    """Channels of y, as the image network has them."""
    hyper_channels: int = 96
    context_channels: int = 192
    level_channels: int = 128
    """Width of the integer level branch; its largest layer must stay exact in float32."""
    temporal_blocks: int = 3
    """Blocks between the past's latents and the mean context."""
    knots: int = 9
    """Qualities, evenly spaced, that own a gain vector; the others interpolate."""
    fusion_width: int = 96
    fusion_blocks: int = 4

    def __post_init__(self) -> None:
        if self.latent_channels % GROUPS:
            raise InputError(f"latent_channels={self.latent_channels} is not a multiple of {GROUPS}")


class Past(NamedTuple):
    """What is known of the nearest reference."""

    y_hat: Tensor
    """Decoded latent, float (batch, rows, columns, latent)."""
    symbols: Tensor
    """Symbols of its coding pass, integers."""
    levels: Tensor
    """Their levels, integers."""


class Remembered:
    """A coder that keeps symbols and levels of a latent as a coding pass codes them in steps, for the next frame."""

    def __init__(self, coder: Coder) -> None:
        self._coder = coder
        self.symbols: Tensor | None = None
        self.levels: Tensor | None = None

    def code(self, residual: Tensor, level: Tensor, active: Tensor | None = None, *, side: bool = False) -> Tensor:
        """`Coder.code`."""
        coded = self._coder.code(residual, level, active, side=side)
        if not side:
            symbols, levels = coded.detach(), level.detach() * (1 if active is None else active)
            self.symbols = symbols if self.symbols is None else self.symbols + symbols
            self.levels = levels if self.levels is None else self.levels + levels
        return coded

    def past(self, y_hat: Tensor) -> Past:
        """What the next frame may know of this one, whose decoded latent is ``y_hat``."""
        assert self.symbols is not None and self.levels is not None
        return Past(y_hat.detach(), self.symbols, self.levels)


class TemporalMeans(nn.Module):
    """Float half of the past: latents of the moved references and of the nearest one, as context, and as a first mean."""

    def __init__(self, latent_channels: int, width: int, blocks: int) -> None:
        super().__init__()
        self.first = Linear(2 * latent_channels, width)
        self.blocks = nn.Sequential(*(GatedBlock(width) for _ in range(blocks)))
        self.share = Linear(width, latent_channels)
        with torch.no_grad():
            self.share.weight *= 0.1

    def forward(self, moved: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        """Context (B, H, W, width), and the share of ``moved`` that is expected to be there."""
        context = self.blocks(self.first(torch.cat([moved, before], dim=-1)))
        return context, bounded(0.8 + self.share(context), 1.5)


class TemporalLevels(nn.Module):
    """Integer half of the past: the symbols and levels of the nearest reference join the level context. Exact."""

    def __init__(self, latent_channels: int, width: int, linear: LayerFactory, depthwise: LayerFactory) -> None:
        super().__init__()
        self.of_symbols = linear(latent_channels, width)
        self.of_levels = linear(latent_channels, width)
        self.spread = depthwise(width)
        self.join = linear(4 * width, width)

    def forward(self, context: Tensor, symbols: Tensor, levels: Tensor) -> Tensor:
        """``symbols``, ``levels``: of the nearest reference."""
        seen = self.of_symbols(as_activation(symbols.abs()).to(context.dtype))
        around = self.spread(seen)
        scales = self.of_levels(levels.to(context.dtype) * LEVEL_UNIT)
        return self.join(torch.cat([context, seen, around, scales], dim=-1))


class StemNetwork(nn.Module):
    """All networks of the entropy model and its coding pass. Tensors are (batch, rows, columns, channels).

    ``linear`` and ``depthwise`` build the layers of the parse path: exact integer layers, or their trainable shadows.
    """

    def __init__(
        self, config: StemConfig, linear: LayerFactory = IntegerLinear, depthwise: LayerFactory = IntegerDepthwise
    ) -> None:
        super().__init__()
        c = config
        self.config = config
        self.gain = QualityGain(c.latent_channels, c.knots, span=GAIN_SPAN, start=GAIN_START)
        self.inverse_gain = QualityGain(c.latent_channels, c.knots, span=1 / GAIN_SPAN, start=1 / GAIN_START)
        self.hyper_analysis = HyperAnalysis(c.latent_channels, c.level_channels, c.hyper_channels, c.knots)
        self.hyper_prior = HyperPrior(c.hyper_channels, c.knots, linear)
        self.mean_synthesis = MeanSynthesis(c.hyper_channels, c.level_channels, c.context_channels, c.knots)
        self.level_synthesis = LevelSynthesis(c.hyper_channels, c.level_channels, c.knots, linear, depthwise)
        self.temporal_means = TemporalMeans(c.latent_channels, c.context_channels, c.temporal_blocks)
        self.temporal_levels = TemporalLevels(c.latent_channels, c.level_channels, linear, depthwise)
        self.mean_context = MeanContext(c.latent_channels, c.context_channels)
        self.level_context = TurnLevelContext(c.latent_channels, c.level_channels, c.knots, linear, depthwise)
        self.fusion = Fusion(c.fusion_width, c.fusion_blocks, c.knots)

    def to_synthesis(self, latent: Tensor, quality: Tensor) -> Tensor:
        """A latent as the image network's `to_latent` gives it, in the units that its synthesis takes: gain and inverse gain
        were trained apart, and up to a factor of two is between them."""
        knot_weights = float_knot_weights(quality, self.config.knots, latent.dtype)
        return latent * (self.gain(knot_weights) * self.inverse_gain(knot_weights))

    def worth_copying(self, y: Tensor, moved: Tensor, quality: Tensor) -> Tensor:
        """`worth_copying` of a frame's latent, and of the moved frame's."""
        knot_weights = float_knot_weights(quality, self.config.knots, y.dtype)
        return worth_copying((y - moved) / self.inverse_gain(knot_weights))

    def fused(self, coded: Tensor, moved: Tensor, past: Past, quality: Tensor) -> Tensor:
        """`Fusion` of what the synthesis makes of a frame's latent and its moved references. Not clamped.

        Args:
            past: of the frame itself, as the next one will know it.
        """
        knot_weights = float_knot_weights(quality, self.config.knots, coded.dtype)
        return self.fusion(coded, moved, activity_of(past.symbols, past.levels), knot_weights)

    def coding_pass(
        self, coder: Coder, y: Tensor, quality: Tensor, moved: Tensor | None, past: Past, copies: Tensor
    ) -> Tensor:
        """Code the latent of a frame and return what the decoder knows. The only description of the bitstream.

        Args:
            y: float (B, H, W, latent), as `to_synthesis` gives it; a reader passes zeros of that shape.
            quality: integers 0..100, (B,).
            moved: the same of the decoded references after motion; only means depend on it. None: for a reader of symbols
                alone, which has no means, and returns zeros.
            past: of the nearest reference; only means depend on its ``y_hat``.
            copies: blocks of which nothing is coded, bool (B, H, W).
        """
        batch, rows, columns, channels = y.shape
        coded = ~copies[..., None]
        if moved is not None:
            y = torch.where(coded, y, moved)  # for the hyper-latents, which see their surroundings
        integer_weights = integer_knot_weights(quality, self.config.knots)
        knot_weights = float_knot_weights(quality, self.config.knots, y.dtype)
        step_size = self.inverse_gain(knot_weights).expand(y.shape)
        z = bounded(self.hyper_analysis(y if moved is None else y - moved, knot_weights), HYPER_MAX).to(y.dtype)
        z_hat = coder.code(z, full_precision(self.hyper_prior, integer_weights), side=True)
        if moved is not None:
            mean_context = self.mean_synthesis(z_hat.to(y.dtype), knot_weights)[:, :rows, :columns]
            temporal, share = self.temporal_means(moved, past.y_hat)
            mean_context = bounded(mean_context + temporal, CONTEXT_MAX).to(y.dtype)
            likely = (share * moved).to(y.dtype)
        level_context = full_precision(self.level_synthesis, z_hat, integer_weights)[:, :rows, :columns]
        level_context = full_precision(self.temporal_levels, level_context, past.symbols, past.levels)
        symbols: list[Tensor] = []  # of each turn, what a step codes, as the next one's levels see it
        values: list[Tensor] = []  # the same, decoded
        for step in range(STEPS):
            known = symbols[-1] if symbols else None
            level_context = full_precision(self.level_context.refine, level_context, known, integer_weights, step)
            level = full_precision(self.level_context.levels, level_context, step)
            residual = gathered(y, step)
            if moved is not None:
                mean_context = bounded(self.mean_context.refine(mean_context, step), CONTEXT_MAX)
                mean = full_precision(self.mean_context.means, mean_context, step)
                expected = gathered(likely, step)
                mean = bounded(mean + expected, MEAN_MAX) * coded
                unit = gathered(step_size, step, whole_turn=True)
                residual = (residual - mean) / unit * coded
            active = active_mask(rows, columns, channels, step, y.device) & coded
            new = gathered(coder.code(scattered(residual, step), scattered(level, step), active), step)
            if moved is not None:
                y_step = mean + new.to(y.dtype) * unit * coded
                if step + 1 < STEPS:
                    mean_context = self.mean_context.update(mean_context, y_step - expected * coded, step)
                    mean_context = bounded(mean_context, CONTEXT_MAX)
                add_to_turn(values, y_step, step)
            add_to_turn(symbols, new, step)
        return torch.zeros_like(y) if moved is None else torch.where(coded, of_turns(values), moved)
