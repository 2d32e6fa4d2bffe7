"""Numbers in steps: trellis-coded, each class of rows or columns under tables of its own. The lossy coding.

A chunk's raw part, after the number of the coding:

- the step (float32, above 0); flags (1 byte): 1 rows, 2 columns have exponents: a number's step is the step times
  2^(exponent / 8) of its row and of its column;
- the exponents that there are (int8), first of rows, then of columns, each as a plane (`exact.code_plane`);
- the axis of classes (1 byte): 0 none, 1 rows, 2 columns; where there is one, a plane of the class of each row or column;
- of each class, from 0 on: its rows (or columns, one after the other) as a block of `entropy_models.trellis`.

A piece that is not whole rows is one row.

One step for a whole tensor gives the least squared error for its bits, whatever the spread of its rows; exponents are for
those who weigh errors (`scaling`): of rows and columns by their spread, of columns by the energy of the activations that
they meet, ``step ~ energy^(-1/2)``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...entropy_models.errors import Corrupt, InputError
from . import trellis
from .exact import code_plane

ROWS, COLUMNS = 1, 2
EXPONENT_PARTS = 8
"""Exponents double a step."""
_POWERS = np.array([1.0, 1.0905077, 1.1892071, 1.2968396, 1.4142135, 1.5422108, 1.6817929, 1.8340081], np.float32)
"""2^(k/8), the same on every machine."""
_CLASSES_MAX = 16
_CLASS_WORTH = 1 << 13
"""Numbers that justify tables of their own, of some 30 bytes."""
_CLASS_BITS = 2.0
"""Cost of the class of a row."""
_INTEGER_MAX = float(1 << 22)
INTEGERS = _INTEGER_MAX / 2
"""Steps that the largest number of a piece may have, with room for rounding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """What the encoder chooses, and a decoder finds in the chunk."""

    step: float
    rows: np.ndarray | None = None
    """Exponents of rows, int8."""
    columns: np.ndarray | None = None
    """Exponents of columns, int8."""

    def factors(self) -> np.ndarray:
        """Steps over the step of the whole, float32, that broadcast to the shape of a piece."""
        scale = np.ones((1, 1), np.float32)
        if self.rows is not None:
            scale = scale * _powers(self.rows)[:, None]
        return scale if self.columns is None else scale * _powers(self.columns)


def code(coder: Any, values: np.ndarray | None, steps: Steps | None, shape: tuple[int, int]) -> np.ndarray:
    """The coding pass of a piece; what the decoder knows, float32 of that shape.

    Args:
        coder: of `trellis.TRELLIS_CODERS`.
        values: float32, finite; None for the reader.
        steps: None for the reader.
        shape: rows and columns, neither 0.

    Raises:
        InputError: numbers too large for the step.
        Corrupt: a field of the chunk is out of range.
    """
    step = coder.raw(np.array([steps.step if steps else 0]), (1,), "<f4")[0]
    has = (ROWS * (steps.rows is not None) + COLUMNS * (steps.columns is not None)) if steps else 0
    has = coder.number(has, "B")
    if not 0 < step < math.inf or has > ROWS + COLUMNS:
        raise Corrupt(f"step {step}, flags {has}")
    scale = np.full((1, 1), step, np.float32)
    if has & ROWS:
        scale = scale * _powers(_code_bytes(coder, steps.rows if steps else None, shape[0]))[:, None]
    if has & COLUMNS:
        scale = scale * _powers(_code_bytes(coder, steps.columns if steps else None, shape[1]))
    scaled = None
    if values is not None:
        scaled = values / scale
        if not np.abs(scaled).max() < _INTEGER_MAX:
            raise InputError(f"numbers up to {np.abs(values).max():.3g} for steps of {step:.3g}; mode lossless takes them")
    axis, classes = _code_classes(coder, scaled, shape)
    integers = np.empty(shape, np.float32)
    classes = np.zeros(shape[0], np.uint8) if classes is None else classes
    for number in range(int(classes.max()) + 1):
        members = np.flatnonzero(classes == number)
        part = (members, slice(None)) if axis != COLUMNS else (slice(None), members)
        size = len(members) * shape[0 if axis == COLUMNS else 1]
        wanted = None
        if scaled is not None:
            chosen = scaled[part] if axis != COLUMNS else scaled[part].T
            wanted = trellis.quantised(np.ascontiguousarray(chosen).reshape(-1))
        known = coder.trellis(wanted, size)
        integers[part] = known.reshape(-1, shape[1]) if axis != COLUMNS else known.reshape(-1, shape[0]).T
    return np.multiply(integers, scale, out=integers)


def _code_bytes(coder: Any, exponents: np.ndarray | None, count: int) -> np.ndarray:
    return code_plane(coder, None if exponents is None else exponents.view(np.uint8), count, repetitive=True).view(np.int8)


def _powers(exponents: np.ndarray) -> np.ndarray:
    """2^(exponent / 8), float32."""
    whole, part = np.divmod(exponents.astype(np.int32), EXPONENT_PARTS)
    return np.ldexp(_POWERS[part], whole)


def exponents_of(factors: np.ndarray) -> np.ndarray:
    """Exponents that come nearest to factors of a step, above 0; int8."""
    exponents = np.rint(np.log2(np.maximum(factors.astype(np.float64), 1e-30)) * EXPONENT_PARTS)
    return np.clip(exponents, -128, 127).astype(np.int8)


def _code_classes(coder: Any, scaled: np.ndarray | None, shape: tuple[int, int]) -> tuple[int, np.ndarray | None]:
    """Axis, and the class of each row or column; None where there is one class."""
    axis, classes = _classes_of(scaled) if scaled is not None else (0, None)
    axis = coder.number(axis, "B")
    if not axis:
        return 0, None
    if axis > COLUMNS:
        raise Corrupt(f"axis {axis} of classes")
    classes = code_plane(coder, classes, shape[axis - 1], repetitive=True)
    if classes.max() >= _CLASSES_MAX or len(np.unique(classes)) != classes.max() + 1:
        raise Corrupt(f"classes up to {classes.max()}, or not all of these")
    return axis, classes


def _classes_of(scaled: np.ndarray) -> tuple[int, np.ndarray | None]:
    """The axis along which classes save most, and the classes, uint8; by the entropy of Gaussians."""
    power = np.square(scaled)
    whole = _log_scale(float(power.mean()))
    best: tuple[float, int, np.ndarray | None] = (0.0, 0, None)
    for axis in (ROWS, COLUMNS):
        by_line = power.mean(2 - axis)
        classes = _merged(by_line, scaled.shape[2 - axis])
        if classes is None:
            continue
        sizes = np.bincount(classes)
        means = np.bincount(classes, by_line) / sizes
        spread = sum(size * _log_scale(float(mean)) for size, mean in zip(sizes, means, strict=True)) / len(classes)
        saved = (whole - spread) * scaled.size - _CLASS_BITS * len(classes) - 240 * len(sizes)
        best = max(best, (saved, axis, classes), key=lambda one: one[0])
    return best[1:]


def _log_scale(power: float) -> float:
    """Entropy of a Gaussian in steps, in bits, but for a constant; flat where all numbers round to zero."""
    return math.log2(power + 0.3) / 2


def _merged(power: np.ndarray, width: int) -> np.ndarray | None:
    """Classes of lines by their mean power, half an octave of scale each, of enough numbers; None: there is one."""
    octave = np.rint(np.log2(power + 0.3)).astype(np.int64)
    octave -= octave.min()
    sizes = np.bincount(octave) * width
    names, current, held = np.zeros(len(sizes), np.int64), 0, 0
    for i, size in enumerate(sizes):
        if held >= _CLASS_WORTH and sizes[i:].sum() >= _CLASS_WORTH and current < _CLASSES_MAX - 1:
            current, held = current + 1, 0
        names[i], held = current, held + size
    return names[octave].astype(np.uint8) if current else None
