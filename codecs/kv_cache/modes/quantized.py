"""Modes quantized (the default) and quantized-small: uniform steps, one Gaussian level per row, integers where it is parsed.

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
import struct
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ....entropy_models.errors import Corrupt, InputError
from ....entropy_models.gaussian import coarse_levels
from ....entropy_models.tables import LEVELS, scale_ratio
from .place import KEY, KIND_NAMES, Place, finite

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
_HEAD = struct.Struct("<hBB")
"""Step exponent, axis, offsets."""
_MEAN_PARTS = 4
_CHANNEL_SIDE_BITS, _TOKEN_SIDE_BITS = 10.0, 2.0
"""Measured cost of a channel's mean and level and of a token's level, for the choice of the axis."""


def code(coder, x: Tensor | None, place: Place) -> Tensor:
    """The coding pass of one tensor, shape (heads, tokens, dim)."""
    t = channel_rows(x, place) if x is not None else None
    exponent = step_exponent(t, place) if t is not None else 0
    offsets = channel_offsets(place) if t is not None else None
    known = code_rows(coder, t, place, exponent, offsets)
    return from_channel_rows(known, place) if place.wanted else known


def alike(coder) -> tuple[int, ...]:
    """Of a chunk to read: axis and whether offsets follow. Chunks that agree can be read together (`rows.ReadGroup`)."""
    return coder.peek(_HEAD)[1:]


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
    energy = float(torch.dot(t.view(-1), t.view(-1)))
    if not 1e-30 < energy < math.inf:  # squares left float32
        energy = float(t.double().square().sum())
    rms = math.sqrt(energy / t.numel())
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
    if t is not None and abs(exponent) > EXPONENT_MAX:
        raise InputError(
            f"layer {place.layer} {KIND_NAMES[place.kind]} holds values up to {float(t.abs().max()):.3g}, too far from one "
            "for the steps of this mode; mode lossless takes them"
        )
    exponent, axis = coder.number(exponent, "h"), CHANNELS
    if t is not None and not channels_only and offsets is None and place.kind != KEY and _tokens_are_cheaper(t, place):
        axis = TOKENS
    axis = coder.number(axis, "B")
    has_offsets = coder.number(int(offsets is not None), "B")
    if np.abs(exponent).max() > EXPONENT_MAX or axis > TOKENS or has_offsets > 1:
        raise Corrupt(f"step exponent {exponent}, axis {axis}, offsets {has_offsets}: out of range")
    if axis == TOKENS:
        return _by_token(coder, t, place, exponent)
    shift = coder.vector(offsets, place.heads * place.dim) if has_offsets else np.zeros(1, np.int32)
    if has_offsets and np.abs(shift).max() > EXPONENT_MAX:
        raise Corrupt(f"step offset {np.abs(shift).max()}; at most {EXPONENT_MAX}")
    return _by_channel(coder, t, place, _per_row(exponent, place.heads * place.dim) + shift)


def _per_row(exponent: int | np.ndarray, rows: int) -> int | np.ndarray:
    """One step exponent, or that of each row where a group's tensors differ."""
    return np.repeat(exponent, rows // len(exponent)) if isinstance(exponent, np.ndarray) else exponent


def _tokens_are_cheaper(t: Tensor, place: Place) -> bool:
    """Whether one table per head and token codes the tensor in fewer bits than one per channel."""
    power = t.square()
    by_token = power.view(place.heads, place.dim, place.tokens).mean(1).cpu().numpy()
    by_channel = (power.mean(1) - t.mean(1).square_()).cpu().numpy()
    channel_bits = _mean_log2(by_channel) / 2 + _CHANNEL_SIDE_BITS / place.tokens
    return _mean_log2(by_token) / 2 + _TOKEN_SIDE_BITS / place.dim < channel_bits


def _mean_log2(power: np.ndarray) -> float:
    return float(np.log2(np.maximum(power, 1e-20)).sum()) / power.size  # numpy's mean takes twice as long


def _by_channel(coder, t: Tensor | None, place: Place, exponents: np.ndarray) -> Tensor:
    """Channels as rows: first tokens, middle and last tokens have steps of their own."""
    channels, sinks, recent = place.heads * place.dim, place.sinks, place.recent
    step = np.exp(exponents * scale_ratio()).astype(np.float32)  # one, or one per channel
    mean, level, scaled = np.zeros(channels, np.float32), np.zeros(channels, np.uint8), None
    if sinks < place.tokens:
        rest = t[:, sinks:] if t is not None else None
        mean = _code_means(coder, rest, step, channels)
        scaled = (rest - _column(mean, rest)).mul_(_column(1 / step, rest)) if rest is not None else None
        level = _code_levels(coder, scaled, channels)
    middle, last = slice(sinks, place.tokens - recent), slice(place.tokens - recent, place.tokens)
    coded: list[tuple[slice, Tensor, float]] = []  # part, integers, factor of the step
    if middle.stop > middle.start:
        q = scaled[:, : middle.stop - sinks] if scaled is not None else None
        coded.append((middle, _known_rows(coder, q, level, middle), 1.0))
    if recent:
        q = scaled[:, middle.stop - sinks :] * _factor(-FINER_RECENT) if scaled is not None else None
        finer = np.minimum(np.maximum(level, 1) + np.uint8(FINER_RECENT), np.uint8(LEVELS - 1))
        coded.append((last, _known_rows(coder, q, finer, last), _factor(FINER_RECENT)))
    if sinks:
        factor = _factor(FINER_SINKS)
        q = (t[:, :sinks] - _column(mean, t)) / _column(step * factor, t) if t is not None else None
        coded.append((slice(0, sinks), _code_sinks(coder, q, place), factor))
    if not place.wanted:
        return torch.empty(0)
    out = torch.empty(channels, place.tokens, device=t.device if t is not None else "cpu")
    shift = _column(mean, out)
    for part, known, factor in coded:
        out[:, part].copy_(known).mul_(_column(step * np.float32(factor), out)).add_(shift)
    return out


def _column(values: np.ndarray, like: Tensor) -> Tensor | float:
    """float32 per channel on the device of ``like``, or one number for all."""
    if len(values) == 1:
        return float(values[0])  # costs a third of a tensor of one
    column = torch.from_numpy(values)[:, None]
    return column if like.device.type == "cpu" else column.to(like.device)


def _factor(finer: int) -> float:
    """Of a step that is finer by so many exponents."""
    return math.exp(-finer * scale_ratio())


def _code_means(coder, t: Tensor | None, step: np.ndarray, channels: int) -> np.ndarray:
    """Means of the rows in quarter steps; float32, shape (channels,)."""
    part = step / np.float32(_MEAN_PARTS)
    wanted = np.rint(t.mean(1).cpu().numpy() / part).astype(np.int32) if t is not None else None
    return coder.vector(wanted, channels).astype(np.float32) * part


def _code_levels(coder, scaled: Tensor | None, channels: int) -> np.ndarray:
    """Level of each row, uint8; ``scaled`` is in steps and has no mean."""
    coarse = coarse_levels(scaled.square().mean(1).cpu().numpy()) if scaled is not None else None
    return checked_levels(coder.vector(coarse, channels))


def checked_levels(coarse: np.ndarray) -> np.ndarray:
    """Levels of a vector read from a chunk, uint8: 0, 1, 2, 3 ... stand for 0, 1, 3, 5 ..."""
    if coarse.view(np.uint32).max() > LEVELS // 2:  # as unsigned, what lies below zero lies far above
        raise Corrupt(f"row levels {coarse.min()}..{coarse.max()}; need 0..{LEVELS // 2}")
    return np.maximum(2 * coarse - 1, 0).astype(np.uint8)


def _known_rows(coder, q: Tensor | None, level: np.ndarray, part: slice) -> Tensor:
    """Round rows in steps to integers and code them; what the decoder knows."""
    wanted = np.empty((len(level), part.stop - part.start), np.int32) if q is None else integers(q)
    return torch.from_numpy(coder.rows(wanted, level))


def integers(q: Tensor) -> np.ndarray:
    """Nearest integers, int32; ``q`` is given up."""
    return q.round_().to(torch.int32).cpu().numpy()


def _code_sinks(coder, q: Tensor | None, place: Place) -> Tensor:
    """The first tokens, one row per token and head: too few for a table per channel, and often outliers.

    ``q`` and the result are in steps, shape (heads * dim, sinks).
    """
    per_head = None if q is None else q.view(place.heads, place.dim, place.sinks).transpose(1, 2)
    rows = _code_centred(coder, per_head, place.heads * place.sinks, place.dim)
    return rows.view(place.heads, place.sinks, place.dim).transpose(1, 2).reshape(-1, place.sinks)


def _code_centred(coder, q: Tensor | None, count: int, columns: int) -> Tensor:
    """Levels and rows of numbers in steps about zero; what the decoder knows, shape (count, columns)."""
    wanted = np.empty((count, columns), np.int32)
    coarse = None
    if q is not None:
        wanted = integers(q.reshape(count, columns))
        energy = np.einsum("ij,ij->i", wanted, wanted, dtype=np.float64)
        coarse = np.where(energy > 0, coarse_levels(energy / columns), 0)
    return torch.from_numpy(coder.rows(wanted, checked_levels(coder.vector(coarse, count))))


def _by_token(coder, t: Tensor | None, place: Place, exponent: int | np.ndarray) -> Tensor:
    """One row per head and token, about zero."""
    exponents = np.zeros((place.heads, place.tokens), np.int64)
    exponents += np.reshape(_per_row(exponent, place.heads), (-1, 1))
    exponents[:, place.tokens - place.recent :] -= FINER_RECENT
    exponents[:, : place.sinks] -= FINER_SINKS
    step = torch.from_numpy(np.exp(exponents.reshape(-1, 1) * scale_ratio()).astype(np.float32))
    step = step.to(t.device if t is not None else "cpu")
    q = None
    if t is not None:
        per_token = t.view(place.heads, place.dim, place.tokens).transpose(1, 2)
        q = per_token.reshape(-1, place.dim) / step
    known = _code_centred(coder, q, place.heads * place.tokens, place.dim).to(step.device)
    if not place.wanted:
        return torch.empty(0)
    return (known * step).view(place.shape).transpose(1, 2).reshape(-1, place.tokens)
