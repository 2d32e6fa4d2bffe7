"""`Write`, `Read` and `Measure`: three of the four coders that run a codec's coding pass.

Each has one method, ``code(residual, level, active)``: it returns the integers the decoder knows.
`Write` rounds the residual (towards zero a little, if the
tables have a dead zone) and appends it to a stream, `Read` ignores the residual and takes the
integers from a stream, `Measure` rounds and counts ideal bits. (`training.coder.Train` is the fourth.)

Symbols are coded grouped by level, one constriction call per level: ten times faster than a model per
symbol. Within one call of ``code`` the order is: level by level, ascending; inside a level in
the tensor's order; then all escapes, as exponent, sign and mantissa of their excess over the table's reach.
Symbols whose level is below ``tables.skip_level``, and inactive ones, are not coded and are zero.

`Write` and `Read` keep a CRC-32 of the symbols of each item in ``checks``; a codec stores it, so that a stream read
with other tables, levels or sizes than it was written with is found out.
"""

from __future__ import annotations

import math
import zlib
from itertools import pairwise

import constriction
import numpy as np
import torch
from torch import Tensor

from .errors import Corrupt
from .tables import ESCAPE_EXPONENTS, LEVELS, Tables, categorical, escape_counts

_EXPONENT = categorical(escape_counts())
_EXPONENT_BITS = np.append(np.arange(1, ESCAPE_EXPONENTS), ESCAPE_EXPONENTS - 1)
SYMBOL_MAX = 2**ESCAPE_EXPONENTS - 1
"""Largest magnitude of a symbol."""
WORD_BYTES = 4


class Plan:
    """The order in which one item's symbols are coded, from levels alone: both sides can make it."""

    def __init__(self, level: np.ndarray, skip_level: int) -> None:
        """``level``: uint8, flat; inactive entries hold 0."""
        self.coded = level >= skip_level
        where = np.flatnonzero(self.coded)  # most of a latent is inactive or skipped: sort only the rest
        levels = level[where]
        order = np.argsort(levels, kind="stable")
        self.order = where[order]
        self.size = level.size
        bounds = np.searchsorted(levels, np.arange(skip_level, LEVELS + 1), sorter=order).tolist()
        self.runs = [(skip_level + i, slice(*ends)) for i, ends in enumerate(pairwise(bounds)) if ends[0] < ends[1]]


def _plans(level: Tensor, active: Tensor | None, skip_level: int) -> list[Plan]:
    """One plan per item of the batch."""
    level = level.to(torch.uint8)
    if active is not None:
        level = level * active
    flat = level.cpu().numpy().reshape(level.shape[0], -1)
    return [Plan(row, skip_level) for row in flat]


def _quantised(residual: Tensor, level: Tensor, tables: Tables) -> np.ndarray:
    """Nearest integers (ties to even) after the tables' dead zone, int32, shape (batch, symbols)."""
    if tables.deadzone is not None:
        pull = torch.from_numpy(tables.deadzone).to(residual.device)[level.to(torch.int32)]
        residual = torch.copysign((residual.abs() - pull).clamp_min(0), residual)
    symbols = residual.round().cpu()
    if symbols.numel():
        magnitude = max(abs(float(end)) for end in symbols.aminmax())
        if not math.isfinite(magnitude):
            raise ValueError("the latent holds a value that is not finite; is the input finite?")
        if magnitude > SYMBOL_MAX:
            raise ValueError(f"a symbol of magnitude {magnitude:.0f}; at most {SYMBOL_MAX} can be coded")
    return symbols.to(torch.int32).numpy().reshape(residual.shape[0], -1)


def _entries(ordered: np.ndarray, plan: Plan, tables: Tables) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Symbols in ``plan`` order to table entries, int32, one array per run; the last entry of a table is the escape.

    Also excess over the table's reach (positive) and sign (0 or 1) of the symbols that need an escape, int32.
    """
    entries, excess, sign = [], [np.zeros(0, np.int32)], [np.zeros(0, np.int32)]
    for level, run in plan.runs:
        reach, symbols = int(tables.reach[level]), ordered[run]
        entry = symbols + reach
        beyond = entry.view(np.uint32) > 2 * reach  # as unsigned, what lies below zero lies far above
        if beyond.any():
            entry[beyond] = 2 * reach + 1
            escaped = symbols[beyond]
            excess.append(np.abs(escaped) - reach)
            sign.append((escaped < 0).astype(np.int32))
        entries.append(entry)
    return entries, np.concatenate(excess), np.concatenate(sign)


def _as_tensor(rows: np.ndarray, like: Tensor) -> Tensor:
    """Integers as float32, whatever the pixel path's dtype: bfloat16 would round them."""
    return torch.from_numpy(rows).to(torch.float32).to(like.device).reshape(like.shape)


class Write:
    """Codes to bytes: one independent stream per item of the batch."""

    def __init__(self, tables: Tables, batch: int = 1) -> None:
        self.tables = tables
        self.checks = [0] * batch
        self._encoders = [constriction.stream.queue.RangeEncoder() for _ in range(batch)]

    def code(self, residual: Tensor, level: Tensor, active: Tensor | None = None) -> Tensor:
        """Append a residual of shape (batch, ...); see the module's docstring."""
        rounded = _quantised(residual, level, self.tables)
        rows = np.empty_like(rounded)
        plans = _plans(level, active, self.tables.skip_level)
        for i, (symbols, plan, encoder) in enumerate(zip(rounded, plans, self._encoders, strict=True)):
            ordered = symbols[plan.order]
            self.checks[i] = _check(ordered, self.checks[i])
            entries, excess, sign = _entries(ordered, plan, self.tables)
            for (index, _), entry in zip(plan.runs, entries, strict=True):
                encoder.encode(entry, self.tables.models[index])
            self._escapes(encoder, excess, sign)
            rows[i] = symbols * plan.coded
        return _as_tensor(rows, residual)

    @staticmethod
    def _escapes(encoder: constriction.stream.queue.RangeEncoder, excess: np.ndarray, sign: np.ndarray) -> None:
        if not len(excess):
            return
        exponent = _exponent(excess)
        encoder.encode(exponent, _EXPONENT)
        encoder.encode(sign, constriction.stream.model.Uniform(2))
        for e in np.unique(exponent[exponent > 0]):
            mantissa = (excess[exponent == e] - (1 << int(e))).astype(np.int32)
            encoder.encode(mantissa, constriction.stream.model.Uniform(1 << int(e)))

    def close(self) -> list[bytes]:
        """The stream of each item; a multiple of four bytes."""
        return [encoder.get_compressed().astype("<u4").tobytes() for encoder in self._encoders]


class Read:
    """Decodes streams written by `Write` with the same tables and levels."""

    def __init__(self, tables: Tables, streams: list[bytes]) -> None:
        self.tables = tables
        for stream in streams:
            if len(stream) % WORD_BYTES:
                raise Corrupt(f"a stream of {len(stream)} bytes; need a multiple of {WORD_BYTES}")
        self.checks = [0] * len(streams)
        words = [np.frombuffer(stream, "<u4").astype(np.uint32) for stream in streams]
        self._decoders = [constriction.stream.queue.RangeDecoder(w) for w in words]

    def code(self, residual: Tensor, level: Tensor, active: Tensor | None = None) -> Tensor:
        """Integers of the shape of ``residual``, whose values are ignored.

        Raises:
            Corrupt: the stream is impossible under these tables.
        """
        plans = _plans(level, active, self.tables.skip_level)
        rows = np.zeros((len(plans), plans[0].size if plans else 0), np.int32)
        for i, (plan, decoder) in enumerate(zip(plans, self._decoders, strict=True)):
            ordered = np.empty(len(plan.order), np.int32)
            escaped = []
            try:
                for index, run in plan.runs:
                    reach = int(self.tables.reach[index])
                    entries = decoder.decode(self.tables.models[index], run.stop - run.start)
                    np.subtract(entries, reach, out=ordered[run])
                    if entries.max() > 2 * reach:
                        at = np.flatnonzero(entries > 2 * reach)
                        escaped.append((run.start + at, np.full(len(at), reach, np.int32)))
                self._escapes(decoder, ordered, escaped)
            except AssertionError as error:  # constriction: "tried to decode from invalid compressed data"
                raise Corrupt(f"entropy decoder: {error}") from None
            self.checks[i] = _check(ordered, self.checks[i])
            rows[i, plan.order] = ordered
        return _as_tensor(rows, residual)

    @staticmethod
    def _escapes(decoder, ordered: np.ndarray, escaped: list[tuple[np.ndarray, np.ndarray]]) -> None:
        if not escaped:
            return
        at, reach = (np.concatenate(parts) for parts in zip(*escaped, strict=True))
        exponent = decoder.decode(_EXPONENT, len(at))
        sign = decoder.decode(constriction.stream.model.Uniform(2), len(at))
        excess = np.int32(1) << exponent
        for e in np.unique(exponent[exponent > 0]):
            where = exponent == e
            excess[where] += decoder.decode(constriction.stream.model.Uniform(1 << int(e)), int(where.sum()))
        ordered[at] = (reach + excess) * (1 - 2 * sign)

    def close(self) -> None:
        """Raise Corrupt if a stream holds more than was read: the sign of wrong weights or tables."""
        for decoder in self._decoders:
            if not decoder.maybe_exhausted():
                raise Corrupt("bytes are left over after the last symbol")


class Measure:
    """Counts ideal bits. ``bits`` is float64 of shape (batch,)."""

    def __init__(self, tables: Tables, batch: int = 1) -> None:
        self.tables = tables
        self.bits = np.zeros(batch)

    def code(self, residual: Tensor, level: Tensor, active: Tensor | None = None) -> Tensor:
        """As `Write.code`, without a stream."""
        rounded = _quantised(residual, level, self.tables)
        rows = np.empty_like(rounded)
        plans = _plans(level, active, self.tables.skip_level)
        for i, (symbols, plan) in enumerate(zip(rounded, plans, strict=True)):
            entries, excess, _ = _entries(symbols[plan.order], plan, self.tables)
            for (index, _), entry in zip(plan.runs, entries, strict=True):
                self.bits[i] += self.tables.bits[index][entry].sum()
                self.tally(index, entry)
            exponent = _exponent(excess)
            self.bits[i] += (_EXPONENT_BITS[exponent] + 1 + exponent).sum()
            rows[i] = symbols * plan.coded
        return _as_tensor(rows, residual)

    def tally(self, level: int, entries: np.ndarray) -> None:
        """Called with the entries coded at a level; for those who look closer."""


def _check(symbols: np.ndarray, before: int) -> int:
    return zlib.crc32(symbols.astype("<i4", copy=False).data, before)


def _exponent(excess: np.ndarray) -> np.ndarray:
    """floor(log2(excess)), int32, exact for 1..2^24."""
    return (np.frexp(excess.astype(np.float64))[1] - 1).astype(np.int32)
