"""The default mode: uniform steps, one Gaussian table per row, integers only where it is parsed.

    keys --undo RoPE--+
                      +--> rows (a channel along the block) --minus mean, / step, round--> integers --table by level--> bits
    values -----------+                                                                      |
                                                                       level = spread of the row in steps

A uniform quantiser with an entropy coder needs 10 % fewer bits than Lloyd-Max at a fixed rate and equal error, and it
gains from every difference between rows that a random rotation would wash out. Values go by channel or by token,
whichever is cheaper for the tensor (KIVI, 2402.02750, section 3, explains why keys go by channel).

A tensor's chunk: step exponent (int16), axis (1 byte: 0 channels, 1 tokens), step offsets of the channels (1 byte: 0 none,
1 a vector follows), means in quarter steps (vector), levels (vector), then the rows. A step is RATIO^exponent, and RATIO is
the ratio of neighbouring tables, so that a step finer by k exponents moves every level by exactly k.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ...entropy_models.errors import Corrupt
from ...entropy_models.tables import LEVELS, scale_ratio
from .place import KEY, KIND_NAMES, Place
from .rows import level_of

EXPONENT_MAX = 600
FINER_SINKS = 14
"""Exponents by which the first tokens' step is finer (a factor of 4): every query attends to them."""
FINER_RECENT = 3
"""The same for the last tokens (a factor of 1.35)."""
FINER_EDGE = 2
"""The same for the first and last layers (a factor of 1.22)."""
RELATIVE_STEP = 0.25
"""Step over root mean square at quality 60."""
CHANNELS, TOKENS = 0, 1
_MEAN_PARTS = 4
_TOKEN_LEVEL_BITS = 2.0
"""Measured cost of one token's level, for the choice of the axis."""


def code(coder, x: Tensor | None, place: Place) -> Tensor:
    """The coding pass of one tensor, shape (heads, tokens, dim)."""
    y = unrotated(x, place) if x is not None else None
    exponent = step_exponent(y, place) if y is not None else 0
    offsets = channel_offsets(place) if y is not None else None
    return rotated(code_rows(coder, y, place, exponent, offsets), place)


def code_inputs(coder, x: Tensor | None, place: Place) -> Tensor:
    """As `code` for layer inputs, which carry no RoPE."""
    y = finite(x, place) if x is not None else None
    return code_rows(coder, y, place, relative_exponent(y, place) if y is not None else 0, None).to(place.dtype)


def unrotated(x: Tensor, place: Place) -> Tensor:
    """float32 with RoPE undone."""
    y = finite(x, place)
    return place.rope.turned(y, place.start, -1.0) if place.rope and place.kind == KEY else y


def finite(x: Tensor, place: Place) -> Tensor:
    """float32; ValueError if a number is not finite (a sum is finite only if all its terms are)."""
    y = x.to(torch.float32)
    if not math.isfinite(float(y.sum())) and not bool(torch.isfinite(y).all()):
        raise ValueError(f"{KIND_NAMES[place.kind]} of layer {place.layer} are not all finite; mode lossless takes them")
    return y


def rotated(y: Tensor, place: Place) -> Tensor:
    """Inverse of `unrotated`, in the cache's type."""
    if place.rope and place.kind == KEY:
        y = place.rope.turned(y, place.start, 1.0)
    if place.dtype == torch.float16:
        y = y.clamp(-65504.0, 65504.0)
    return y.to(place.dtype, memory_format=torch.contiguous_format)


def step_exponent(y: Tensor, place: Place) -> int:
    """The tensor's step: from the profile where there is one, else in proportion to its spread."""
    profile = place.profile
    if profile is None:
        return relative_exponent(y, place)
    return int(profile.exponents[place.layer][place.kind]) + quality_exponents(place)


def relative_exponent(y: Tensor, place: Place) -> int:
    """Exponent of a step that is a fixed part of the tensor's root mean square."""
    rms = float(y.square().mean().sqrt())
    exponent = round(math.log(max(rms, 1e-20) * RELATIVE_STEP) / scale_ratio()) + quality_exponents(place)
    edge = place.choices.edge
    if place.layer < edge or place.layer >= place.layers - edge:
        exponent -= FINER_EDGE
    return max(exponent, -EXPONENT_MAX)


def quality_exponents(place: Place) -> int:
    """Zero at quality 60; ten points double or halve the step."""
    return round((60 - place.choices.quality) / 10 * math.log(2) / scale_ratio())


def channel_offsets(place: Place) -> np.ndarray | None:
    """Exponents by which each channel's step differs, from the profile; int32, shape (heads * dim,)."""
    return place.profile.offsets[place.layer][place.kind] if place.profile else None


def steps(exponents: np.ndarray, device: torch.device | str = "cpu") -> Tensor:
    """RATIO^exponents, float32."""
    return torch.from_numpy(np.exp(exponents * scale_ratio()).astype(np.float32)).to(device)


def code_rows(
    coder, y: Tensor | None, place: Place, exponent: int, offsets: np.ndarray | None, channels_only: bool = False
) -> Tensor:
    """Steps, axis, means, levels, rows.

    Args:
        coder: of the chunk.
        y: float32, shape (heads, tokens, dim); None for the reader.
        place: of the tensor.
        exponent, offsets: of the steps, for the writer; offsets are per channel, shape (heads * dim,).

    Returns:
        float32, the shape of y.
    """
    exponent = int(coder.raw(np.array([exponent]), (1,), "<i2")[0])
    axis, has_offsets = (int(v) for v in coder.raw(_head(y, offsets, place, channels_only), (2,), "u1"))
    if abs(exponent) > EXPONENT_MAX or axis > TOKENS or has_offsets > 1:
        raise Corrupt(f"step exponent {exponent}, axis {axis}, offsets {has_offsets}: out of range")
    if axis == TOKENS:
        return _by_token(coder, y, place, exponent)
    channels = place.heads * place.dim
    shift = coder.vector(offsets, channels) if has_offsets else np.zeros(channels, np.int32)
    if has_offsets and np.abs(shift).max() > EXPONENT_MAX:
        raise Corrupt(f"step offset {np.abs(shift).max()}; at most {EXPONENT_MAX}")
    return _by_channel(coder, y, place, exponent + shift)


def _head(y: Tensor | None, offsets: np.ndarray | None, place: Place, channels_only: bool) -> np.ndarray | None:
    if y is None:
        return None
    by_token = not channels_only and offsets is None and place.kind != KEY and _tokens_are_cheaper(y, place)
    return np.array([TOKENS if by_token else CHANNELS, offsets is not None])


def _tokens_are_cheaper(y: Tensor, place: Place) -> bool:
    """Whether one table per head and token codes the tensor in fewer bits than one per channel."""
    var = (y.var(1, correction=0) if place.tokens > 1 else y[:, 0].square()).clamp_min(1e-20)
    by_channel = 0.5 * float(var.log2().mean()) + 10 / place.tokens
    power = torch.linalg.vector_norm(y, dim=2).square_().div_(place.dim).clamp_min_(1e-20)
    return 0.5 * float(power.log2().mean()) + _TOKEN_LEVEL_BITS / place.dim < by_channel


def _by_channel(coder, y: Tensor | None, place: Place, exponents: np.ndarray) -> Tensor:
    channels, sinks, recent = place.heads * place.dim, place.sinks, place.recent
    device = y.device if y is not None else "cpu"
    t = y.transpose(1, 2).reshape(channels, place.tokens) if y is not None else None
    step = steps(exponents, device)[:, None]
    body = slice(sinks, place.tokens)
    mean = _code_means(coder, t[:, body] if t is not None else None, step, channels, sinks < place.tokens)
    level = _code_levels(coder, t[:, body] / step if t is not None else None, channels, sinks < place.tokens)
    out = torch.empty(channels, place.tokens, device=device)
    middle = slice(sinks, place.tokens - recent)
    if middle.stop > middle.start:
        _quantise_rows(coder, t, out, middle, step, mean, level)
    if recent:
        finer = np.clip(np.maximum(level, 1).astype(np.int64) + FINER_RECENT, 1, LEVELS - 1).astype(np.uint8)
        last = slice(middle.stop, place.tokens)
        _quantise_rows(coder, t, out, last, step * math.exp(-FINER_RECENT * scale_ratio()), mean, finer)
    if sinks:
        _quantise_sinks(coder, t, out, place, step * math.exp(-FINER_SINKS * scale_ratio()), mean)
    return out.view(place.heads, place.dim, place.tokens).transpose(1, 2)


def _code_means(coder, t: Tensor | None, step: Tensor, channels: int, present: bool) -> Tensor:
    """Means of the rows in quarter steps, shape (channels, 1)."""
    if not present:
        return torch.zeros_like(step)
    part = step / _MEAN_PARTS
    wanted = (t.mean(1, keepdim=True) / part).round_().cpu().numpy().astype(np.int32)[:, 0] if t is not None else None
    known = coder.vector(wanted, channels)
    return torch.from_numpy(known.astype(np.float32)).to(step.device)[:, None] * part


def _code_levels(coder, scaled: Tensor | None, channels: int, present: bool) -> np.ndarray:
    """Level of each row, uint8; ``scaled`` is in steps."""
    if not present:
        return np.zeros(channels, np.uint8)
    wanted = None
    if scaled is not None:
        deviation = scaled.std(1, correction=0).cpu().numpy()
        wanted = level_of(deviation).astype(np.int32)
    level = coder.vector(wanted, channels)
    if level.min() < 0 or level.max() >= LEVELS:
        raise Corrupt(f"levels {level.min()}..{level.max()}; need 0..{LEVELS - 1}")
    return level.astype(np.uint8)


def _quantise_rows(
    coder, t: Tensor | None, out: Tensor, part: slice, step: Tensor, mean: Tensor, level: np.ndarray
) -> None:
    """Code columns ``part`` of the rows and put their reconstruction into ``out``."""
    if t is not None:
        wanted = torch.sub(t[:, part], mean).mul_(1 / step).round_().to(torch.int32).cpu().numpy()
    else:
        wanted = np.empty((len(level), part.stop - part.start), np.int32)
    known = torch.from_numpy(coder.rows(wanted, level)).to(out.device)
    torch.mul(known, step, out=out[:, part]).add_(mean)


def _quantise_sinks(coder, t: Tensor | None, out: Tensor, place: Place, step: Tensor, mean: Tensor) -> None:
    """The first tokens, one row per token and head: too few for a table per channel, and often outliers."""
    sinks, shape = place.sinks, (place.sinks * place.heads, place.dim)
    wanted = levels = None
    if t is not None:
        q = ((t[:, :sinks] - mean) / step).round_().view(place.heads, place.dim, sinks)
        q = q.permute(2, 0, 1).reshape(shape).to(torch.int32).cpu().numpy()
        wanted, levels = q, row_levels(q)
    level = coder.vector(levels, shape[0])
    if level.min() < 0 or level.max() >= LEVELS:
        raise Corrupt(f"levels {level.min()}..{level.max()}; need 0..{LEVELS - 1}")
    known = coder.rows(wanted if wanted is not None else np.empty(shape, np.int32), level.astype(np.uint8))
    known_rows = torch.from_numpy(known.astype(np.float32)).to(out.device)
    known_rows = known_rows.view(sinks, place.heads, place.dim).permute(1, 2, 0).reshape(-1, sinks)
    out[:, :sinks] = known_rows * step + mean


def row_levels(q: np.ndarray) -> np.ndarray:
    """Level of each row of integers about zero, int32; 0 where all are zero."""
    level = level_of(np.sqrt(np.mean(q.astype(np.float64) ** 2, axis=1))).astype(np.int32)
    return np.where(q.any(axis=1), level, 0)


def _by_token(coder, y: Tensor | None, place: Place, exponent: int) -> Tensor:
    """One row per head and token, about zero."""
    exponents = np.full((place.heads, place.tokens), exponent)
    exponents[:, place.tokens - place.recent :] -= FINER_RECENT
    exponents[:, : place.sinks] -= FINER_SINKS
    step = steps(exponents.reshape(-1, 1), y.device if y is not None else "cpu")
    shape = (place.heads * place.tokens, place.dim)
    wanted = levels = None
    if y is not None:
        wanted = (y.reshape(shape) / step).round_().to(torch.int32).cpu().numpy()
        levels = row_levels(wanted)
    level = coder.vector(levels, shape[0])
    if level.min() < 0 or level.max() >= LEVELS:
        raise Corrupt(f"levels {level.min()}..{level.max()}; need 0..{LEVELS - 1}")
    known = coder.rows(wanted if wanted is not None else np.empty(shape, np.int32), level.astype(np.uint8))
    return (torch.from_numpy(known).to(step.device) * step).view(place.shape)
