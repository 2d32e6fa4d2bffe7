"""Speech networks after ECC, the entropy-constrained codec (Xu et al., 2026), on compressed spectra of 16 kHz speech.

    samples ─ STFT ─▶ trunk (50 Hz) ─▶ trunk (25 Hz) ─▶ latent y ─▶ coding pass ─▶ bytes
    samples ◀─ STFT ── trunk (50 Hz) ◀─ trunk (25 Hz) ◀─ y_hat ◀── coding pass ◀─ bytes
                                                                     │
            hyperprior z (12.5 Hz), slices of channels: mean float, level integer, latent residual prediction

Beside each trunk a linear map goes straight from a frame to its latent and back. The coding pass knows nothing beyond a
segment of `SEGMENT` frames, so that segments are read alone; the transforms run through, see `temporal`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...entropy_models.channel_slices import GatedTimeBlock, LevelSlices, MeanSlices, with_neighbours
from ...entropy_models.coder import Coder
from ...entropy_models.errors import InputError
from ...entropy_models.hyperprior import (
    HyperPrior,
    LayerFactory,
    as_activation,
    float_knot_weights,
    integer_knot_weights,
)
from ...entropy_models.integer_net import IntegerDepthwise, IntegerLinear
from ...entropy_models.layers import Linear, QualityGain, bounded, full_precision
from .header import SEGMENT, SKIP_MAX
from .spectrum import VALUES
from .temporal import ConvBlock, Mixer, Past, Trunk, delayed

HYPER_STRIDE = 2
"""Frames of a hyper-latent."""
HYPER_MAX, CONTEXT_MAX, MEAN_MAX = 64.0, 16.0, 16.0
"""Bounds of the coding pass's floats."""
GAIN_START, GAIN_SPAN = 0.25, 14.0
"""Latent gain before training: at quality 0, and at 100 over 0."""
GROUP = 5
"""Segments that the float half of the coding pass runs on at once."""
SILENCE_LEVEL = SKIP_MAX
"""Level of the flags of silent segments: one that is not costs 0.06 bits."""
HYPER_GAIN_START = 4.0
"""Gain of the hyper-latent before training: one that rounds to zero tells nothing, and stays so."""
FAST_AHEAD, SLOW_AHEAD = (1, 1), (1, 0, 0)
"""Frames that the blocks at 50 Hz and at 25 Hz look ahead, in either transform."""
AHEAD = sum(FAST_AHEAD) // 2 + sum(SLOW_AHEAD)
"""Latent frames that a transform looks ahead, by which its output is late."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechConfig:
    """Architecture of the speech networks."""

    channels: int = 256
    """Width of the trunks."""
    latent_channels: int = 320
    """Channels of y, 25 times a second: half as many numbers as samples."""
    slices: tuple[int, ...] = (16, 24, 40, 60, 80, 100)
    """Channels of each slice, those with the most energy first."""
    hyper_channels: int = 48
    """Channels of z, 12.5 times a second."""
    context_channels: int = 192
    """Width of the mean context."""
    level_channels: int = 128
    """Width of the integer level branch; its largest layer must stay exact in float32."""
    knots: int = 9
    """Qualities, evenly spaced, that own a gain vector; the others interpolate."""

    def __post_init__(self) -> None:
        if sum(self.slices) != self.latent_channels:
            raise InputError(f"slices of {sum(self.slices)} channels, latent_channels={self.latent_channels}")


@dataclass(slots=True)
class Memory:
    """What a transform remembers between pieces of a signal; empty at its start."""

    fast: list[Past] = field(default_factory=list)
    slow: list[Past] = field(default_factory=list)
    direct: Past = None


class Analysis(nn.Module):
    """Compressed spectra (B, 2 T, VALUES) to latent (B, T, latent), `AHEAD` frames late."""

    def __init__(self, config: SpeechConfig) -> None:
        super().__init__()
        width = config.channels
        self.first = Linear(VALUES, width)
        self.gain = QualityGain(width, config.knots)
        self.fast = Trunk(*(ConvBlock(width, config.knots, ahead) for ahead in FAST_AHEAD))
        self.down = Linear(2 * width, width)
        self.slow = slow_trunk(config)
        self.norm = nn.LayerNorm(width)
        self.last = Linear(width, config.latent_channels)
        self.direct = Linear(2 * VALUES, config.latent_channels)

    def forward(self, spectrum: Tensor, mask: Tensor, knot_weights: Tensor, memory: Memory) -> Tensor:
        batch, frames, _ = mask.shape
        straight, memory.direct = delayed(
            full_precision(self.direct, spectrum.reshape(batch, frames, -1)), AHEAD, memory.direct
        )
        x = self.first(spectrum) * self.gain(knot_weights)[:, 0]
        x, fast_mask, memory.fast = self.fast(x, mask.repeat_interleave(2, dim=1), knot_weights, memory.fast)
        x = self.down(x.reshape(batch, frames, -1))
        x, _, memory.slow = self.slow(x, fast_mask[:, ::2], knot_weights, memory.slow)
        return straight + full_precision(self.last, self.norm(x).to(straight.dtype))


class Synthesis(nn.Module):
    """Mirror of `Analysis`."""

    def __init__(self, config: SpeechConfig) -> None:
        super().__init__()
        width = config.channels
        self.first = Linear(config.latent_channels, width)
        self.slow = slow_trunk(config)
        self.up = Linear(width, 2 * width)
        self.gain = QualityGain(width, config.knots)
        self.fast = Trunk(*(ConvBlock(width, config.knots, ahead) for ahead in FAST_AHEAD))
        self.norm = nn.LayerNorm(width)
        self.last = Linear(width, VALUES)
        self.direct = Linear(config.latent_channels, 2 * VALUES)

    def forward(self, y_hat: Tensor, mask: Tensor, knot_weights: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        """The spectra, and their mask (B, 2 T, 1)."""
        batch, frames, _ = mask.shape
        late, memory.direct = delayed(y_hat, AHEAD, memory.direct)
        straight = full_precision(self.direct, late).reshape(batch, 2 * frames, -1)
        x, slow_mask, memory.slow = self.slow(full_precision(self.first, y_hat), mask, knot_weights, memory.slow)
        x = self.up(x).reshape(batch, 2 * frames, -1) * self.gain(knot_weights)[:, 0]
        x, fast_mask, memory.fast = self.fast(x, slow_mask.repeat_interleave(2, dim=1), knot_weights, memory.fast)
        return straight + full_precision(self.last, self.norm(x).to(straight.dtype)), fast_mask


def slow_trunk(config: SpeechConfig) -> Trunk:
    """Blocks at 25 Hz with a mixer after the first."""
    first, *others = (ConvBlock(config.channels, config.knots, ahead) for ahead in SLOW_AHEAD)
    return Trunk(first, Mixer(config.channels, config.knots), *others)


class HyperAnalysis(nn.Module):
    """Latent (B, T, latent) to float z (B, T / 2, hyper). Encoder only."""

    def __init__(self, config: SpeechConfig) -> None:
        super().__init__()
        width = config.level_channels
        self.first = Linear(2 * config.latent_channels, width)
        self.down = Linear(HYPER_STRIDE * width, width)
        self.block = GatedTimeBlock(width)
        self.last = Linear(width, config.hyper_channels)
        self.gain = QualityGain(config.hyper_channels, config.knots, start=HYPER_GAIN_START)

    def forward(self, y: Tensor, knot_weights: Tensor) -> Tensor:
        batch, frames, _ = y.shape
        magnitude = torch.log1p(y.abs())  # scales need magnitudes, means need signs
        x = F.silu(self.first(torch.cat([magnitude, torch.copysign(magnitude, y)], dim=-1)))
        x = self.block(self.down(x.reshape(batch, frames // HYPER_STRIDE, -1)))
        return self.last(x) * self.gain(knot_weights)[:, 0]


class MeanSynthesis(nn.Module):
    """z_hat to the first mean context (B, T, context). Float."""

    def __init__(self, config: SpeechConfig) -> None:
        super().__init__()
        width = config.context_channels
        self.first = Linear(config.hyper_channels, width)
        self.block = GatedTimeBlock(width)
        self.up = Linear(width, HYPER_STRIDE * width)
        self.gain = QualityGain(width, config.knots)

    def forward(self, z_hat: Tensor, knot_weights: Tensor) -> Tensor:
        batch, pairs, _ = z_hat.shape
        x = self.up(self.block(self.first(z_hat))).reshape(batch, HYPER_STRIDE * pairs, -1)
        return x * self.gain(knot_weights)[:, 0]


class LevelSynthesis(nn.Module):
    """z_hat to the first level context (B, T, width), integers 0..255. Exact."""

    def __init__(self, config: SpeechConfig, linear: LayerFactory) -> None:
        super().__init__()
        width = config.level_channels
        self.first = linear(config.hyper_channels + config.knots, width)
        self.up = linear(3 * width, HYPER_STRIDE * width)

    def forward(self, z_hat: Tensor, knot_weights: Tensor) -> Tensor:
        batch, pairs, _ = z_hat.shape
        quality = knot_weights[:, None].to(z_hat.dtype).expand(-1, pairs, -1)
        x = self.first(torch.cat([as_activation(z_hat), quality], dim=-1))
        return self.up(with_neighbours(x)).reshape(batch, HYPER_STRIDE * pairs, -1)


class SpeechNetwork(nn.Module):
    """All networks of the codec and the coding pass. Tensors are (batch, frames, channels), 25 frames a second.

    ``linear`` builds the layers of the parse path: exact integer layers, or their trainable shadows; ``depthwise`` would
    build filters, of which there are none.
    """

    def __init__(
        self, config: SpeechConfig, linear: LayerFactory = IntegerLinear, depthwise: LayerFactory = IntegerDepthwise
    ) -> None:
        super().__init__()
        c = config
        self.config = config
        self.analysis = Analysis(c)
        self.synthesis = Synthesis(c)
        self.gain = QualityGain(c.latent_channels, c.knots, span=GAIN_SPAN, start=GAIN_START)
        self.inverse_gain = QualityGain(c.latent_channels, c.knots, span=1 / GAIN_SPAN, start=1 / GAIN_START)
        self.hyper_analysis = HyperAnalysis(c)
        self.hyper_prior = HyperPrior(c.hyper_channels, c.knots, linear)
        self.mean_synthesis = MeanSynthesis(c)
        self.level_synthesis = LevelSynthesis(c, linear)
        self.mean_slices = MeanSlices(c.slices, c.context_channels)
        self.level_slices = LevelSlices(c.slices, c.level_channels, c.knots, linear)

    @property
    def behind(self) -> int:
        """Latent frames that a transform looks back: so many are run before one can start in the middle."""
        return self.synthesis.slow.behind + -(-self.synthesis.fast.behind // 2)

    def to_latent(self, spectrum: Tensor, mask: Tensor, quality: Tensor, memory: Memory) -> Tensor:
        """Latent of compressed spectra (B, 2 T, VALUES), `AHEAD` frames late.

        Args:
            mask: (B, T, 1), 1 on frames of the signal.
            quality: integers 0..100, (B,).
            memory: of the pieces before; is updated.
        """
        return self.analysis(spectrum, mask, self.knot_weights(quality, spectrum.dtype), memory)

    def to_spectrum(self, y_hat: Tensor, mask: Tensor, quality: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        """Inverse of `to_latent`, as late; with the mask of the spectra, (B, 2 T, 1)."""
        return self.synthesis(y_hat, mask, self.knot_weights(quality, y_hat.dtype), memory)

    def knot_weights(self, quality: Tensor, dtype: torch.dtype) -> Tensor:
        """Weights of the knots in the pixel path, summing to about one: (batch,) to (batch, knots)."""
        return float_knot_weights(quality, self.config.knots, dtype)

    def coding_pass(self, coder: Coder, y: Tensor, quality: Tensor, silent: Tensor) -> tuple[Tensor, Tensor]:
        """Code latents and return what the decoder knows: they, and which segments are silent. The only description of the
        bitstream.

        Args:
            y: float (B, T, latent), T a multiple of `SEGMENT`; a reader passes zeros of that shape. Means live on the
                latent's own scale whatever the quality; only residuals are multiplied by the quality's gain.
            quality: integers 0..100, (B,).
            silent: (B, T / SEGMENT), segments that hold digital silence: nothing else of them is coded, and their latents
                are zero. A reader passes zeros.
        """
        batch, frames, _ = y.shape
        segments = frames // SEGMENT
        integer_weights = integer_knot_weights(quality, self.config.knots)
        knot_weights = self.knot_weights(quality, y.dtype)
        gain, inverse_gain = self.gain(knot_weights)[:, 0], self.inverse_gain(knot_weights)[:, 0]
        of_items = (integer_weights, knot_weights, gain, inverse_gain)
        integer_weights, knot_weights, gain, inverse_gain = (x.repeat_interleave(segments, dim=0) for x in of_items)
        y = y.reshape(batch * segments, SEGMENT, -1)
        silent = coder.code(silent.to(y.dtype), y.new_full((), SILENCE_LEVEL), side=True) != 0
        active = ~silent.reshape(-1, 1, 1)

        def code(residual: Tensor, level: Tensor, *, side: bool = False) -> Tensor:
            """All segments of an item in one call: the coder knows nothing of segments."""
            whole, rows = residual.shape, (batch, -1)
            level, mask = level.expand(whole).reshape(rows), active.expand(whole).reshape(rows)
            return coder.code(residual.reshape(rows), level, mask, side=side).reshape(whole)

        z = in_groups(lambda y, w: bounded(self.hyper_analysis(y, w), HYPER_MAX).to(y.dtype), y, knot_weights)
        z_hat = code(z, full_precision(self.hyper_prior, integer_weights)[:, 0], side=True)
        level_context = full_precision(self.level_synthesis, z_hat, integer_weights)
        mean_context = in_groups(
            lambda z, w: bounded(self.mean_synthesis(z, w), CONTEXT_MAX), z_hat.to(y.dtype), knot_weights
        )
        decoded: list[Tensor] = []
        symbols: Tensor | None = None
        parts = (whole.split(self.config.slices, dim=-1) for whole in (y, gain, inverse_gain))
        for index, (part, part_gain, part_inverse) in enumerate(zip(*parts, strict=True)):
            mean_context, mean = in_groups(partial(self._mean, index), mean_context)
            level_context = full_precision(self.level_slices.refine, level_context, symbols, integer_weights, index)
            level = full_precision(self.level_slices.levels, level_context, index)
            symbols = code((part - mean) * part_gain, level)
            known = mean + symbols.to(y.dtype) * part_inverse
            mean_context, lost = in_groups(partial(self._after, index), mean_context, known)
            decoded.append(known + lost * part_inverse)
        return (torch.cat(decoded, dim=-1) * active).reshape(batch, frames, -1), silent

    def _mean(self, index: int, context: Tensor) -> tuple[Tensor, Tensor]:
        """The refined context, and the means of a slice."""
        context = bounded(self.mean_slices.block[index](context), CONTEXT_MAX)
        return context, bounded(full_precision(self.mean_slices.mean[index], context.float()), MEAN_MAX)

    def _after(self, index: int, context: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """The context that has seen a slice, and what rounding took from it, in steps."""
        context = bounded(context + self.mean_slices.add[index](known), CONTEXT_MAX)
        return context, full_precision(self.mean_slices.residual, context.float(), index)


def in_groups(run: Callable[..., Any], *inputs: Tensor) -> Any:
    """``run(*inputs)``; outside training on `GROUP` items of the batch at a time, filled up with zeros. Floats may differ in
    their last bits with the size of a batch, so it is always the same, and a live stream gets what a file gets."""
    count = len(inputs[0])
    if torch.is_grad_enabled():
        return run(*inputs)
    filled = [F.pad(x, (0, 0) * (x.ndim - 1) + (0, -count % GROUP)) for x in inputs]
    each = [run(*(x[i : i + GROUP] for x in filled)) for i in range(0, count, GROUP)]
    if isinstance(each[0], Tensor):
        return torch.cat(each)[:count]
    return tuple(torch.cat(parts)[:count] for parts in zip(*each, strict=True))
