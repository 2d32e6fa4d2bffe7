"""Uniform steps, one Gaussian level per row, integers where it is parsed.

    rows (a channel along the vectors) --minus mean, / step, round--> integers
    level of a row = its spread in steps;  integers --table of the level--> bits

A uniform quantiser with an entropy coder needs 10 % fewer bits than Lloyd-Max at a fixed rate and equal error, and it
gains from every difference between rows that a random rotation would wash out. Rows are channels (group and column of the
vectors), or vectors, whichever is cheaper for the tensor.

A chunk: step exponent (int16), axis (1 byte: 0 channels, 1 vectors), step offsets of the channels (1 byte: 0
none, 1 a vector follows), means in quarter steps (vector), levels (vector), then the rows. A step is RATIO^exponent,
and RATIO is the ratio of neighbouring tables, so that a step finer by k exponents moves every level by exactly k.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...entropy_models.errors import Corrupt, InputError
from ...entropy_models.gaussian import coarse_levels
from ...entropy_models.row_coders import ChunkReader, RowCoder
from ...entropy_models.tables import LEVELS, scale_ratio
from .spec import TensorSpec

EXPONENT_MAX = 600
FINER_FIRST = 14
"""Exponents by which the step of `TensorSpec.finer_first` vectors is finer (a factor of 4)."""
FINER_LAST = 3
"""Exponents by which the step of ``finer_last`` is finer (a factor of 1.35)."""
RELATIVE_STEP = 0.25
"""Step over root mean square at quality 60."""
CHANNELS, VECTORS = 0, 1
_HEAD = struct.Struct("<hBB")
"""Step exponent, axis, offsets."""
_MEAN_PARTS = 4
_CHANNEL_SIDE_BITS, _VECTOR_SIDE_BITS = 10.0, 2.0
"""Measured cost of a channel's mean and level and of a vector's level, for the choice of the axis."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """What the encoder chooses, and a decoder finds in the chunk."""

    exponent: int
    """Exponent of the tensor's step."""
    offsets: np.ndarray | None = None
    """Exponents by which each channel's step differs, int32, shape (groups * width,)."""
    channels_only: bool = False
    """Never one row per vector."""


def relative_exponent(t: Tensor, quality: int) -> int:
    """Exponent of a step that is a fixed part of the tensor's root mean square; ``t`` is float32 of any shape."""
    energy = float(torch.dot(t.view(-1), t.view(-1)))
    if not 1e-30 < energy < math.inf:  # squares left float32
        energy = float(t.double().square().sum())
    rms = math.sqrt(energy / t.numel())
    exponent = round(math.log(max(rms, 1e-20) * RELATIVE_STEP) / scale_ratio()) + quality_exponents(quality)
    return max(exponent, -EXPONENT_MAX)


def quality_exponents(quality: int) -> int:
    """Zero at quality 60; ten points double or halve the step."""
    return round((60 - quality) / 10 * math.log(2) / scale_ratio())


def read_together(coder: ChunkReader) -> tuple[int, ...]:
    """Axis of a chunk to read, and whether offsets follow. Chunks that agree can be read as one (`rows.ReadGroup`)."""
    return coder.peek(_HEAD)[1:]


def code(coder: RowCoder, t: Tensor | None, spec: TensorSpec, steps: Steps | None) -> Tensor:
    """The coding pass: steps, axis, means, levels, rows.

    Args:
        coder: of the chunk.
        t: rows of channels, float32, shape (groups * width, vectors); None for the reader.
        steps: None for the reader.

    Returns:
        float32, the shape of t; empty where nobody wants it.

    Raises:
        InputError: numbers too large or small for the steps.
        Corrupt: a field of the chunk is out of range.
    """
    if t is not None and steps is not None and abs(steps.exponent) > EXPONENT_MAX:
        raise InputError(
            f"{spec.name} hold values up to {float(t.abs().max()):.3g}, too far from one for the steps of this mode; "
            "mode lossless takes them"
        )
    channels, offsets = spec.groups * spec.width, steps.offsets if steps else None
    exponent, axis = coder.number(steps.exponent if steps else 0, "h"), CHANNELS
    if t is not None and steps and not steps.channels_only and offsets is None and _vectors_are_cheaper(t, spec):
        axis = VECTORS
    axis = coder.number(axis, "B")
    has_offsets = coder.number(int(offsets is not None), "B")
    if np.abs(exponent).max() > EXPONENT_MAX or axis > VECTORS or has_offsets > 1:
        raise Corrupt(f"step exponent {exponent}, axis {axis}, offsets {has_offsets}: out of range")
    if axis == VECTORS:
        return _by_vector(coder, t, spec, exponent)
    shift = coder.vector(offsets, channels) if has_offsets else np.zeros(1, np.int32)
    if has_offsets and np.abs(shift).max() > EXPONENT_MAX:
        raise Corrupt(f"step offset {np.abs(shift).max()}; at most {EXPONENT_MAX}")
    return _by_channel(coder, t, spec, _per_row(exponent, channels) + shift)


def _per_row(exponent: int | np.ndarray, rows: int) -> int | np.ndarray:
    """One step exponent, or that of each row where the tensors of chunks that are read together differ."""
    return np.repeat(exponent, rows // len(exponent)) if isinstance(exponent, np.ndarray) else exponent


def _vectors_are_cheaper(t: Tensor, spec: TensorSpec) -> bool:
    """Whether one table per vector codes the tensor in fewer bits than one per channel."""
    power = t.square()
    by_vector = power.view(spec.groups, spec.width, spec.vectors).mean(1).cpu().numpy()
    by_channel = (power.mean(1) - t.mean(1).square_()).cpu().numpy()
    channel_bits = _mean_log2(by_channel) / 2 + _CHANNEL_SIDE_BITS / spec.vectors
    return _mean_log2(by_vector) / 2 + _VECTOR_SIDE_BITS / spec.width < channel_bits


def _mean_log2(power: np.ndarray) -> float:
    return float(np.log2(np.maximum(power, 1e-20)).sum()) / power.size  # numpy's mean takes twice as long


def _by_channel(coder: RowCoder, t: Tensor | None, spec: TensorSpec, exponents: int | np.ndarray) -> Tensor:
    """Channels as rows: first, middle and last vectors have steps of their own."""
    channels, count, first, last = spec.groups * spec.width, spec.vectors, spec.finer_first, spec.finer_last
    step = np.exp(exponents * scale_ratio()).astype(np.float32)  # one, or one per channel
    mean, level, scaled = np.zeros(channels, np.float32), np.zeros(channels, np.uint8), None
    if first < count:
        rest = t[:, first:] if t is not None else None
        mean = _code_means(coder, rest, step, channels)
        scaled = (rest - _column(mean, rest)).mul_(_column(1 / step, rest)) if rest is not None else None
        level = _code_levels(coder, scaled, channels)
    middle, end = slice(first, count - last), slice(count - last, count)
    coded: list[tuple[slice, Tensor, float]] = []  # part, integers, factor of the step
    if middle.stop > middle.start:
        q = scaled[:, : middle.stop - first] if scaled is not None else None
        coded.append((middle, _known_rows(coder, q, level, middle), 1.0))
    if last:
        q = scaled[:, middle.stop - first :] * _factor(-FINER_LAST) if scaled is not None else None
        finer = np.minimum(np.maximum(level, 1) + np.uint8(FINER_LAST), np.uint8(LEVELS - 1))
        coded.append((end, _known_rows(coder, q, finer, end), _factor(FINER_LAST)))
    if first:
        factor = _factor(FINER_FIRST)
        q = (t[:, :first] - _column(mean, t)) / _column(step * factor, t) if t is not None else None
        coded.append((slice(0, first), _code_first(coder, q, spec), factor))
    return _assembled(coded, mean, step, spec, t.device if t is not None else torch.device("cpu"))


def _assembled(
    coded: list[tuple[slice, Tensor, float]], mean: np.ndarray, step: np.ndarray, spec: TensorSpec, device: torch.device
) -> Tensor:
    """Channels out of parts: which vectors, integers, factor of the step."""
    if not spec.wanted:
        return torch.empty(0)
    out = torch.empty(spec.groups * spec.width, spec.vectors, device=device)
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
    """Factor of a step that is finer by so many exponents."""
    return math.exp(-finer * scale_ratio())


def _code_means(coder: RowCoder, t: Tensor | None, step: np.ndarray, channels: int) -> np.ndarray:
    """Means of the rows in quarter steps; float32, shape (channels,)."""
    part = step / np.float32(_MEAN_PARTS)
    wanted = np.rint(t.mean(1).cpu().numpy() / part).astype(np.int32) if t is not None else None
    return coder.vector(wanted, channels).astype(np.float32) * part


def _code_levels(coder: RowCoder, scaled: Tensor | None, channels: int) -> np.ndarray:
    """Level of each row, uint8; ``scaled`` is in steps and has no mean."""
    coarse = coarse_levels(scaled.square().mean(1).cpu().numpy()) if scaled is not None else None
    return checked_levels(coder.vector(coarse, channels))


def checked_levels(coarse: np.ndarray) -> np.ndarray:
    """Levels of a vector read from a chunk, uint8: 0, 1, 2, 3 ... stand for 0, 1, 3, 5 ..."""
    if coarse.view(np.uint32).max() > LEVELS // 2:  # as unsigned, what lies below zero lies far above
        raise Corrupt(f"row levels {coarse.min()}..{coarse.max()}; need 0..{LEVELS // 2}")
    return np.maximum(2 * coarse - 1, 0).astype(np.uint8)


def _known_rows(coder: RowCoder, q: Tensor | None, level: np.ndarray, part: slice) -> Tensor:
    """Round rows in steps to integers and code them; what the decoder knows."""
    wanted = np.empty((len(level), part.stop - part.start), np.int32) if q is None else integers(q)
    return torch.from_numpy(coder.rows(wanted, level))


def integers(q: Tensor) -> np.ndarray:
    """Nearest integers, int32; ``q`` is given up."""
    return q.round_().to(torch.int32).cpu().numpy()


def _code_first(coder: RowCoder, q: Tensor | None, spec: TensorSpec) -> Tensor:
    """The first vectors, one row each: too few for a table per channel, and often outliers.

    ``q`` and the result are in steps, shape (groups * width, finer_first).
    """
    groups, count, width = spec.groups, spec.finer_first, spec.width
    per_group = None if q is None else q.view(groups, width, count).transpose(1, 2)
    rows = _code_centred(coder, per_group, groups * count, width)
    return rows.view(groups, count, width).transpose(1, 2).reshape(-1, count)


def _code_centred(coder: RowCoder, q: Tensor | None, count: int, columns: int) -> Tensor:
    """Levels and rows of numbers in steps about zero; what the decoder knows, shape (count, columns)."""
    wanted = np.empty((count, columns), np.int32)
    coarse = None
    if q is not None:
        wanted = integers(q.reshape(count, columns))
        energy = np.einsum("ij,ij->i", wanted, wanted, dtype=np.float64)
        coarse = np.where(energy > 0, coarse_levels(energy / columns), 0)
    return torch.from_numpy(coder.rows(wanted, checked_levels(coder.vector(coarse, count))))


def _by_vector(coder: RowCoder, t: Tensor | None, spec: TensorSpec, exponent: int | np.ndarray) -> Tensor:
    """One row per vector, about zero."""
    exponents = np.zeros((spec.groups, spec.vectors), np.int64)
    exponents += np.reshape(_per_row(exponent, spec.groups), (-1, 1))
    exponents[:, spec.vectors - spec.finer_last :] -= FINER_LAST
    exponents[:, : spec.finer_first] -= FINER_FIRST
    step = torch.from_numpy(np.exp(exponents.reshape(-1, 1) * scale_ratio()).astype(np.float32))
    step = step.to(t.device if t is not None else "cpu")
    q = None
    if t is not None:
        by_vector = t.view(spec.groups, spec.width, spec.vectors).transpose(1, 2)
        q = by_vector.reshape(-1, spec.width) / step
    known = _code_centred(coder, q, spec.groups * spec.vectors, spec.width).to(step.device)
    if not spec.wanted:
        return torch.empty(0)
    return (known * step).view(spec.shape).transpose(1, 2).reshape(-1, spec.vectors)
