"""The default mode: uniform steps, one Gaussian table per row, integers only where it is parsed.

    keys --undo RoPE--+
                      +--> rows (a channel along the block) --minus mean, / step, round--> integers
    values -----------+
    level of a row = its spread in steps;  integers --table of the level--> bits

A uniform quantiser with an entropy coder needs 10 % fewer bits than Lloyd-Max at a fixed rate and equal error, and it
gains from every difference between rows that a random rotation would wash out. Values go by channel or by token,
whichever is cheaper for the tensor (KIVI, 2402.02750, section 3, explains why keys go by channel).

A tensor's chunk: step exponent (int16), axis (1 byte: 0 channels, 1 tokens), step offsets of the channels (1 byte: 0
none, 1 a vector follows), means in quarter steps (vector), levels (vector), then the rows. A step is RATIO^exponent,
and RATIO is the ratio of neighbouring tables, so that a step finer by k exponents moves every level by exactly k.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ...entropy_models.errors import Corrupt
from ...entropy_models.tables import LEVELS, scale_ratio
from .place import KEY, Place, finite
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
_CHANNEL_SIDE_BITS, _TOKEN_SIDE_BITS = 10.0, 2.0
"""Measured cost of a channel's mean and level and of a token's level, for the choice of the axis."""


def code(coder, x: Tensor | None, place: Place) -> Tensor:
    """The coding pass of one tensor, shape (heads, tokens, dim)."""
    t = channel_rows(x, place) if x is not None else None
    exponent = step_exponent(t, place) if t is not None else 0
    offsets = channel_offsets(place) if t is not None else None
    return from_channel_rows(code_rows(coder, t, place, exponent, offsets), place)


def code_inputs(coder, x: Tensor | None, place: Place) -> Tensor:
    """As `code` for layer inputs, which carry no RoPE and have no profile."""
    plain = replace(place, rope=None, profile=None)
    return code(coder, x, plain)


def channel_rows(x: Tensor, place: Place) -> Tensor:
    """A cache tensor as rows of channels, RoPE undone: float32, shape (heads * dim, tokens).

    Raises:
        ValueError: a number is not finite.
    """
    t = finite(x.transpose(1, 2).contiguous(), place)
    if place.rope and place.kind == KEY:
        t = place.rope.turned(t, place.start, -1.0)
    return t.view(-1, place.tokens)


def from_channel_rows(t: Tensor, place: Place) -> Tensor:
    """Inverse of `channel_rows`, in the cache's type."""
    t = t.view(place.heads, place.dim, place.tokens)
    if place.rope and place.kind == KEY:
        t = place.rope.turned(t, place.start, 1.0)
    if place.dtype == torch.float16:
        t = t.clamp(-65504.0, 65504.0)
    return t.to(place.dtype).transpose(1, 2).contiguous()


def step_exponent(t: Tensor, place: Place) -> int:
    """The tensor's step: from the profile where there is one, else in proportion to its spread."""
    profile = place.profile
    if profile is None:
        return relative_exponent(t, place)
    return int(profile.exponents[place.layer][place.kind]) + quality_exponents(place)


def relative_exponent(t: Tensor, place: Place) -> int:
    """Exponent of a step that is a fixed part of the tensor's root mean square."""
    rms = float(torch.linalg.vector_norm(t, dtype=torch.float64)) / math.sqrt(t.numel())  # squares leave float32
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
    coder, t: Tensor | None, place: Place, exponent: int, offsets: np.ndarray | None, channels_only: bool = False
) -> Tensor:
    """Steps, axis, means, levels, rows.

    Args:
        coder: of the chunk.
        t: float32, shape (heads * dim, tokens); None for the reader.
        place: of the tensor.
        exponent, offsets: of the steps, for the writer; offsets are int32 per channel, shape (heads * dim,).
        channels_only: never one row per token.

    Returns:
        float32, the shape of t.
    """
    exponent = int(coder.raw(np.array([exponent]), (1,), "<i2")[0])
    head = None
    if t is not None:
        by_token = not channels_only and offsets is None and place.kind != KEY and _tokens_are_cheaper(t, place)
        head = np.array([TOKENS if by_token else CHANNELS, offsets is not None])
    axis, has_offsets = (int(v) for v in coder.raw(head, (2,), "u1"))
    if abs(exponent) > EXPONENT_MAX or axis > TOKENS or has_offsets > 1:
        raise Corrupt(f"step exponent {exponent}, axis {axis}, offsets {has_offsets}: out of range")
    if axis == TOKENS:
        return _by_token(coder, t, place, exponent)
    shift = coder.vector(offsets, place.heads * place.dim) if has_offsets else np.zeros(1, np.int32)
    if has_offsets and np.abs(shift).max() > EXPONENT_MAX:
        raise Corrupt(f"step offset {np.abs(shift).max()}; at most {EXPONENT_MAX}")
    return _by_channel(coder, t, place, exponent + shift)


def _tokens_are_cheaper(t: Tensor, place: Place) -> bool:
    """Whether one table per head and token codes the tensor in fewer bits than one per channel."""
    tiny = 1e-20
    centred = t - t.mean(1, keepdim=True)
    by_channel = torch.linalg.vector_norm(centred, dim=1).div_(math.sqrt(place.tokens)).clamp_min_(tiny)
    per_head = t.view(place.heads, place.dim, place.tokens)
    by_token = torch.linalg.vector_norm(per_head, dim=1).div_(math.sqrt(place.dim)).clamp_min_(tiny)
    channel_bits = float(by_channel.log2_().mean()) + _CHANNEL_SIDE_BITS / place.tokens
    return float(by_token.log2_().mean()) + _TOKEN_SIDE_BITS / place.dim < channel_bits


def _by_channel(coder, t: Tensor | None, place: Place, exponents: np.ndarray) -> Tensor:
    """Channels as rows: first tokens, middle and last tokens have steps of their own."""
    channels, sinks, recent = place.heads * place.dim, place.sinks, place.recent
    device = t.device if t is not None else "cpu"
    step = steps(exponents, device)[:, None]
    out = torch.empty(channels, place.tokens, device=device)
    middle, last = slice(sinks, place.tokens - recent), slice(place.tokens - recent, place.tokens)
    mean, scaled = torch.zeros_like(step), None
    if sinks < place.tokens:
        mean = _code_means(coder, t[:, sinks:] if t is not None else None, step, channels)
        scaled = (t[:, sinks:] - mean).mul_(1 / step) if t is not None else None
        level = _code_levels(coder, scaled, channels)
    if middle.stop > middle.start:
        q = scaled[:, : middle.stop - sinks] if scaled is not None else None
        torch.mul(_known_rows(coder, q, level, middle), step, out=out[:, middle]).add_(mean)
    if recent:
        q = scaled[:, middle.stop - sinks :] * _factor(-FINER_RECENT) if scaled is not None else None
        finer = np.minimum(np.maximum(level, 1) + np.uint8(FINER_RECENT), np.uint8(LEVELS - 1))
        torch.mul(_known_rows(coder, q, finer, last), step * _factor(FINER_RECENT), out=out[:, last]).add_(mean)
    if sinks:
        step = step * _factor(FINER_SINKS)
        q = (t[:, :sinks] - mean) / step if t is not None else None
        out[:, :sinks] = _code_sinks(coder, q, place, device) * step + mean
    return out


def _factor(finer: int) -> float:
    """Of a step that is finer by so many exponents."""
    return math.exp(-finer * scale_ratio())


def _code_means(coder, t: Tensor | None, step: Tensor, channels: int) -> Tensor:
    """Means of the rows in quarter steps; float32, shape (channels, 1)."""
    part = step / _MEAN_PARTS
    wanted = (t.mean(1, keepdim=True) / part).round_().cpu().numpy().astype(np.int32)[:, 0] if t is not None else None
    known = coder.vector(wanted, channels).astype(np.float32)
    return torch.from_numpy(known).to(step.device)[:, None] * part


def _code_levels(coder, scaled: Tensor | None, channels: int) -> np.ndarray:
    """Level of each row, uint8; ``scaled`` is in steps and has no mean."""
    wanted = None
    if scaled is not None:
        deviation = torch.linalg.vector_norm(scaled, dim=1).cpu().numpy() / math.sqrt(scaled.shape[1])
        wanted = level_of(deviation).astype(np.int32)
    return checked_levels(coder.vector(_coarse(wanted), channels))


def _coarse(level: np.ndarray | None) -> np.ndarray | None:
    """Levels are 0 or odd; in the stream 0, 1, 2 ... stand for them."""
    return None if level is None else (level + 1) // 2


def checked_levels(coarse: np.ndarray) -> np.ndarray:
    """Levels of a vector read from a chunk, uint8."""
    if coarse.min() < 0 or coarse.max() > LEVELS // 2:
        raise Corrupt(f"row levels {coarse.min()}..{coarse.max()}; need 0..{LEVELS // 2}")
    return np.maximum(2 * coarse - 1, 0).astype(np.uint8)


def _known_rows(coder, q: Tensor | None, level: np.ndarray, part: slice) -> Tensor:
    """Round rows in steps to integers and code them; what the decoder knows."""
    if q is None:
        return torch.from_numpy(coder.rows(np.empty((len(level), part.stop - part.start), np.int32), level))
    return torch.from_numpy(coder.rows(q.round().to(torch.int32).cpu().numpy(), level)).to(q.device)


def _code_sinks(coder, q: Tensor | None, place: Place, device) -> Tensor:
    """The first tokens, one row per token and head: too few for a table per channel, and often outliers.

    ``q`` and the result are in steps, shape (heads * dim, sinks).
    """
    shape = (place.heads * place.sinks, place.dim)
    wanted = levels = None
    if q is not None:
        per_head = q.round().view(place.heads, place.dim, place.sinks).transpose(1, 2)
        wanted = per_head.reshape(shape).to(torch.int32).cpu().numpy()
        levels = row_levels(wanted)
    level = checked_levels(coder.vector(_coarse(levels), shape[0]))
    known = coder.rows(wanted if wanted is not None else np.empty(shape, np.int32), level)
    rows = torch.from_numpy(known.astype(np.float32)).view(place.heads, place.sinks, place.dim)
    return rows.transpose(1, 2).reshape(-1, place.sinks).to(device)


def row_levels(q: np.ndarray) -> np.ndarray:
    """Level of each row of integers about zero, int32; 0 where all are zero."""
    level = level_of(np.sqrt(np.mean(q.astype(np.float64) ** 2, axis=1))).astype(np.int32)
    return np.where(q.any(axis=1), level, 0)


def _by_token(coder, t: Tensor | None, place: Place, exponent: int) -> Tensor:
    """One row per head and token, about zero."""
    exponents = np.full((place.heads, place.tokens), exponent)
    exponents[:, place.tokens - place.recent :] -= FINER_RECENT
    exponents[:, : place.sinks] -= FINER_SINKS
    step = steps(exponents.reshape(-1, 1), t.device if t is not None else "cpu")
    shape = (place.heads * place.tokens, place.dim)
    wanted = levels = None
    if t is not None:
        per_token = t.view(place.heads, place.dim, place.tokens).transpose(1, 2).reshape(shape)
        wanted = (per_token / step).round_().to(torch.int32).cpu().numpy()
        levels = row_levels(wanted)
    level = checked_levels(coder.vector(_coarse(levels), shape[0]))
    known = coder.rows(wanted if wanted is not None else np.empty(shape, np.int32), level)
    rows = (torch.from_numpy(known).to(step.device) * step).view(place.shape)
    return rows.transpose(1, 2).reshape(-1, place.tokens)
