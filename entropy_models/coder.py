"""`Write`, `Read` and `Measure`: three of the four coders that run a codec's coding pass.

Each has one method, ``code(residual, level, active)``: it returns the integers the decoder knows.
`Write` rounds the residual and appends it to a stream, `Read` ignores the residual and takes the
integers from a stream, `Measure` rounds and counts ideal bits. (`training.coder.Train` is the fourth.)

Symbols are coded grouped by level, one constriction call per level: ten times faster than a model per
symbol. Within one call of ``code`` the order is: level by level, ascending; inside a level in
the tensor's order; then all escapes, as exponent, sign and mantissa of their excess over the table's reach.
Symbols whose level is below ``tables.skip_level``, and inactive ones, are not coded and are zero.

`Write` and `Read` keep a CRC-32 of the symbols of each item in ``checks``; a codec stores it, so that a stream read
with other tables, levels or sizes than it was written with is found out.
"""

from __future__ import annotations

import zlib

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
        counts = np.bincount(level, minlength=LEVELS)
        order = np.argsort(level, kind="stable")
        self.order = order[counts[:skip_level].sum() :]
        self.size = level.size
        ends = np.cumsum(counts[skip_level:])
        self.runs = [
            (skip_level + i, slice(int(end - n), int(end)))
            for i, (n, end) in enumerate(zip(counts[skip_level:], ends, strict=True))
            if n
        ]


def _plans(level: Tensor, active: Tensor | None, skip_level: int) -> list[Plan]:
    """One plan per item of the batch."""
    if active is not None:
        level = level * active
    flat = level.to(torch.uint8).cpu().numpy().reshape(level.shape[0], -1)
    return [Plan(row, skip_level) for row in flat]


def _rounded(residual: Tensor) -> np.ndarray:
    """Nearest integers (ties to even), int64, shape (batch, symbols)."""
    if not bool(torch.isfinite(residual).all()):
        raise ValueError("the latent holds a value that is not finite; is the input finite?")
    symbols = residual.round().cpu().to(torch.int64).numpy().reshape(residual.shape[0], -1)
    if symbols.size and np.abs(symbols).max() > SYMBOL_MAX:
        raise ValueError(f"a symbol of magnitude {np.abs(symbols).max()}; at most {SYMBOL_MAX} can be coded")
    return symbols


def _entries(symbols: np.ndarray, reach: int) -> np.ndarray:
    """Symbols to table entries, int32: the last entry is the escape."""
    return np.where(np.abs(symbols) <= reach, symbols + reach, 2 * reach + 1).astype(np.int32)


def _scatter(rows: list[np.ndarray], like: Tensor) -> Tensor:
    return torch.from_numpy(np.stack(rows)).to(like.device).to(like.dtype).reshape(like.shape)


def _excess(symbols: np.ndarray, plan: Plan, tables: Tables) -> tuple[np.ndarray, np.ndarray]:
    """Excess (positive) and sign (0 or 1) of the symbols in ``plan`` order that need an escape."""
    parts = [symbols[run][np.abs(symbols[run]) > tables.reach[level]] for level, run in plan.runs]
    reach = [np.full(len(part), tables.reach[level]) for part, (level, _) in zip(parts, plan.runs, strict=True)]
    escaped = np.concatenate(parts) if parts else np.zeros(0, np.int64)
    return np.abs(escaped) - np.concatenate([*reach, np.zeros(0, np.int64)]), (escaped < 0).astype(np.int32)


class Write:
    """Codes to bytes: one independent stream per item of the batch."""

    def __init__(self, tables: Tables, batch: int = 1) -> None:
        self.tables = tables
        self.checks = [0] * batch
        self._encoders = [constriction.stream.queue.RangeEncoder() for _ in range(batch)]

    def code(self, residual: Tensor, level: Tensor, active: Tensor | None = None) -> Tensor:
        """Append a residual of shape (batch, ...); see the module's docstring."""
        rows = []
        plans = _plans(level, active, self.tables.skip_level)
        for i, (symbols, plan, encoder) in enumerate(zip(_rounded(residual), plans, self._encoders, strict=True)):
            ordered = symbols[plan.order]
            self.checks[i] = _check(ordered, self.checks[i])
            for index, run in plan.runs:
                encoder.encode(_entries(ordered[run], int(self.tables.reach[index])), self.tables.models[index])
            self._escapes(encoder, *_excess(ordered, plan, self.tables))
            row = np.zeros(plan.size, np.int64)
            row[plan.order] = ordered
            rows.append(row)
        return _scatter(rows, residual)

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
        rows = []
        plans = _plans(level, active, self.tables.skip_level)
        for i, (plan, decoder) in enumerate(zip(plans, self._decoders, strict=True)):
            ordered = np.zeros(len(plan.order), np.int64)
            escaped = []
            try:
                for index, run in plan.runs:
                    reach = int(self.tables.reach[index])
                    entries = decoder.decode(self.tables.models[index], run.stop - run.start)
                    ordered[run] = entries.astype(np.int64) - reach
                    at = np.flatnonzero(entries == 2 * reach + 1)
                    escaped.append((run.start + at, np.full(len(at), reach)))
                self._escapes(decoder, ordered, escaped)
            except AssertionError as error:  # constriction: "tried to decode from invalid compressed data"
                raise Corrupt(f"entropy decoder: {error}") from None
            self.checks[i] = _check(ordered, self.checks[i])
            row = np.zeros(plan.size, np.int64)
            row[plan.order] = ordered
            rows.append(row)
        return _scatter(rows, residual)

    @staticmethod
    def _escapes(decoder, ordered: np.ndarray, escaped: list[tuple[np.ndarray, np.ndarray]]) -> None:
        at = np.concatenate([a for a, _ in escaped]) if escaped else np.zeros(0, np.int64)
        if not len(at):
            return
        reach = np.concatenate([r for _, r in escaped])
        exponent = decoder.decode(_EXPONENT, len(at))
        sign = decoder.decode(constriction.stream.model.Uniform(2), len(at))
        excess = np.int64(1) << exponent.astype(np.int64)
        for e in np.unique(exponent[exponent > 0]):
            where = exponent == e
            excess[where] += decoder.decode(constriction.stream.model.Uniform(1 << int(e)), int(where.sum()))
        ordered[at] = (reach + excess) * (1 - 2 * sign.astype(np.int64))

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
        rows = []
        plans = _plans(level, active, self.tables.skip_level)
        for i, (symbols, plan) in enumerate(zip(_rounded(residual), plans, strict=True)):
            ordered = symbols[plan.order]
            for index, run in plan.runs:
                entries = _entries(ordered[run], int(self.tables.reach[index]))
                self.bits[i] += self.tables.bits[index][entries].sum()
            exponent = _exponent(_excess(ordered, plan, self.tables)[0])
            self.bits[i] += (_EXPONENT_BITS[exponent] + 1 + exponent).sum()
            row = np.zeros(plan.size, np.int64)
            row[plan.order] = ordered
            rows.append(row)
        return _scatter(rows, residual)


def _check(symbols: np.ndarray, before: int) -> int:
    return zlib.crc32(symbols.astype("<i4").tobytes(), before)


def _exponent(excess: np.ndarray) -> np.ndarray:
    """floor(log2(excess)), int32, exact for 1..2^24."""
    return (np.frexp(excess.astype(np.float64))[1] - 1).astype(np.int32)
