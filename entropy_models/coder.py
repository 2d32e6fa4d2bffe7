"""`Coder`, what runs a codec's coding pass, and three of the four that do: `Write`, `Read` and `Measure`.

Each has one method, ``code(residual, level, active)``: it returns the integers the decoder knows.
`Write` rounds the residual (towards zero a little, if the
tables have a dead zone) and appends it to a stream, `Read` ignores the residual and takes the
integers from a stream, `Measure` rounds and counts ideal bits. (`training.coder.Train` is the fourth.)

A pass may call ``code`` as often as it likes, with tensors of any shape and rank, one after the other: hyper-latents,
slices of channels, latents of several resolutions, the same entries again. All calls have the same batch.

Symbols are coded grouped by level, one constriction call per level: ten times faster than a model per
symbol. Within one call of ``code`` the order is: level by level, ascending; inside a level in
the tensor's order; then all symbols beyond the reach of their tables (`escapes`).
Symbols whose level is below ``tables.skip_level``, and inactive ones, are not coded and are zero.

`Write` and `Read` keep a CRC-32 of the symbols of each item in ``checks``; a codec stores it, so that a stream read
with other tables, levels or sizes than it was written with is found out.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Protocol

import constriction
import numpy as np
import torch
from torch import Tensor

from . import escapes
from .checksum import crc32
from .errors import Corrupt, InputError
from .tables import LEVELS, Tables

SYMBOL_MAX = escapes.EXCESS_MAX
"""Largest magnitude of a symbol."""
WORD_BYTES = 4


class Coder(Protocol):
    """What a coding pass needs of `Write`, `Read`, `Measure` and `Train`."""

    def code(self, residual: Tensor, level: Tensor, active: Tensor | None = None, *, side: bool = False) -> Tensor:
        """Code one tensor and return what the decoder knows of it: integers of its shape, zero where nothing is coded.

        Args:
            residual: float (batch, ...) of any rank from 2, one stream or sum of bits for each item of the batch.
            level: whole numbers 0..63 of any dtype, of the residual's shape or one that broadcasts to it.
            active: bool, which entries are coded, of the residual's shape or one that broadcasts to it; None: all.
            side: whether this is side information, such as a hyper-latent; a training may weigh its bits otherwise.
                No stream depends on it.
        """
        ...


class Plan:
    """The order in which one item's symbols are coded, from levels alone: both sides can make it."""

    def __init__(self, level: np.ndarray, skip_level: int) -> None:
        """``level``: uint8, flat; inactive entries hold 0."""
        where = None
        if level.min(initial=LEVELS) < skip_level:  # most of a latent is inactive or skipped: sort only the rest
            where = np.flatnonzero(level >= skip_level)
            level = level.take(where)
        order = np.argsort(level, kind="stable")
        bounds = np.searchsorted(level, np.arange(LEVELS + 1, dtype=np.uint8), sorter=order)
        self.order = torch.from_numpy(order if where is None else where.take(order))
        self.counts = np.diff(bounds)
        self.runs = [(i, slice(*ends)) for i, ends in enumerate(pairwise(bounds.tolist())) if ends[0] < ends[1]]

    def spread(self, of_level: np.ndarray) -> np.ndarray:
        """A property of levels, as one of symbols in coding order."""
        return np.repeat(of_level, self.counts)


def _levels(level: Tensor, active: Tensor | None, shape: torch.Size) -> np.ndarray:
    """Levels of a residual of ``shape`` as uint8 of shape (batch, symbols); inactive entries hold 0."""
    level = level.to(torch.int16).to(torch.uint8).expand(shape)  # straight from float takes torch twice as long
    if active is not None:
        level = level * active.expand(shape)
    return level.cpu().numpy().reshape(shape[0], -1)


def _rows(residual: Tensor) -> Tensor:
    """The residual in shape (batch, symbols), on the CPU.

    Raises:
        ValueError: a value that cannot be coded.
    """
    if residual.numel():
        magnitude = max(abs(float(end)) for end in residual.aminmax())
        if not math.isfinite(magnitude):
            raise InputError("the latent holds a value that is not finite; is the input finite?")
        if round(magnitude) > SYMBOL_MAX:
            raise InputError(f"a symbol of magnitude {magnitude:.0f}; at most {SYMBOL_MAX} can be coded")
    return residual.float().cpu().reshape(residual.shape[0], -1)


def _quantised(row: Tensor, level: np.ndarray, tables: Tables) -> Tensor:
    """Nearest integers (ties to even) after the tables' dead zone, zero where nothing is coded; in the tensor's order."""
    symbols = row.round()
    if tables.deadzone is not None or level.min(initial=LEVELS) < tables.skip_level:
        far = np.flatnonzero(symbols.numpy() != 0)  # the others are zero whatever the pull
        values = row.numpy()[far]
        values = np.copysign(np.maximum(np.abs(values) - tables.pull[level[far]], 0), values)
        symbols.numpy()[far] = np.rint(values)
    return symbols.add_(0.0)  # no negative zeros: a reader has none


def _ordered(symbols: Tensor, plan: Plan) -> np.ndarray:
    """Symbols in coding order, int32."""
    return symbols.index_select(0, plan.order).to(torch.int32).numpy()


def _entries(ordered: np.ndarray, plan: Plan, tables: Tables) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Symbols to table entries, int32; the last entry of a table is the escape.

    Also excess over the table's reach (positive) and sign (0 or 1) of the symbols that need an escape, int32.
    All in coding order.
    """
    entries = plan.spread(tables.reach)
    beyond = np.flatnonzero(np.abs(ordered) > entries)
    escaped, reach = ordered[beyond], entries[beyond]
    entries += ordered
    entries[beyond] = 2 * reach + 1
    return entries, np.abs(escaped) - reach, (escaped < 0).astype(np.int32)


class Write:
    """Codes to bytes: one independent stream per item of the batch."""

    def __init__(self, tables: Tables, batch: int = 1) -> None:
        self.tables = tables
        self.checks = [0] * batch
        self.counts = [0] * batch
        """Symbols of each item so far, but those that are not coded."""
        self._encoders = [constriction.stream.queue.RangeEncoder() for _ in range(batch)]

    def code(self, residual: Tensor, level: Tensor, active: Tensor | None = None, *, side: bool = False) -> Tensor:
        """Append a residual of any shape (batch, ...), as `Coder.code` says; in the order of the module's docstring."""
        coded = []
        for i, (row, levels) in enumerate(zip(_rows(residual), _levels(level, active, residual.shape), strict=True)):
            coded.append(_quantised(row, levels, self.tables))
            plan, encoder = Plan(levels, self.tables.skip_level), self._encoders[i]
            ordered = _ordered(coded[i], plan)
            self.checks[i] = _check(ordered, self.checks[i])
            self.counts[i] += len(ordered)
            entries, excess, sign = _entries(ordered, plan, self.tables)
            for index, run in plan.runs:
                encoder.encode(entries[run], self.tables.models[index])
            if len(excess):
                for symbols, model, _ in escapes.calls(excess, sign):
                    encoder.encode(symbols, model)
        return _like(coded, residual)

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

    def code(self, residual: Tensor, level: Tensor, active: Tensor | None = None, *, side: bool = False) -> Tensor:
        """Integers of the shape of ``residual``, any (batch, ...), whose values are ignored; else as `Coder.code` says.

        Raises:
            Corrupt: the stream is impossible under these tables.
        """
        coded = []
        for i, levels in enumerate(_levels(level, active, residual.shape)):
            plan, decoder = Plan(levels, self.tables.skip_level), self._decoders[i]
            ordered, reach = np.empty(len(plan.order), np.int32), plan.spread(self.tables.reach)
            try:
                for index, run in plan.runs:
                    ordered[run] = decoder.decode(self.tables.decoding_models[index], run.stop - run.start)
                ordered -= reach
                beyond = np.flatnonzero(ordered > reach)
                if len(beyond):
                    ordered[beyond] = escapes.read(decoder.decode, reach[beyond])
            except AssertionError as error:  # constriction: "tried to decode from invalid compressed data"
                raise Corrupt(f"entropy decoder: {error}") from None
            self.checks[i] = _check(ordered, self.checks[i])
            symbols = torch.from_numpy(ordered).to(torch.float32)
            coded.append(torch.zeros(levels.size, dtype=torch.float32, device="cpu").scatter_(0, plan.order, symbols))
        return _like(coded, residual)

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

    def code(self, residual: Tensor, level: Tensor, active: Tensor | None = None, *, side: bool = False) -> Tensor:
        """Count the bits of a residual of any shape (batch, ...); takes and returns what `Write.code` does."""
        coded = []
        for i, (row, levels) in enumerate(zip(_rows(residual), _levels(level, active, residual.shape), strict=True)):
            coded.append(_quantised(row, levels, self.tables))
            plan = Plan(levels, self.tables.skip_level)
            entries, excess, sign = _entries(_ordered(coded[i], plan), plan, self.tables)
            for index, run in plan.runs:
                self.bits[i] += self.tables.bits[index][entries[run]].sum()
                self.tally(index, entries[run])
            if len(excess):
                calls = escapes.calls(excess, sign)
                self.bits[i] += sum(escapes.ideal_bits(symbols, bits) for symbols, _, bits in calls)
        return _like(coded, residual)

    def tally(self, level: int, entries: np.ndarray) -> None:
        """A hook, called with the entries coded at a level; for those who look closer."""


def _like(coded: list[Tensor], residual: Tensor) -> Tensor:
    """Symbols in the shape and on the device of a residual, as float32 whatever its dtype: bfloat16 would round them."""
    rows = coded[0] if len(coded) == 1 else torch.stack(coded)
    return rows.view(residual.shape).to(residual.device)


def _check(symbols: np.ndarray, before: int) -> int:
    return crc32(symbols.astype("<i4", copy=False).data, before)
