"""Words beside those of a base: their difference or exclusive or, under tables for each exponent of the base.

A chunk's raw part, after the number of the coding: how (1 byte: 0 exclusive or, 1 difference), then, from the highest byte
of what is coded to the lowest, for each class of words a plane of `lossless.code_plane`.

Differences are those of numbers in their order: of floating-point types a word counts from the lowest number to the
highest, so that neighbours differ by one, the sign of a difference is its lowest bit, and small ones have small words.

A class is the words whose base has one exponent, in their order; those of rare exponents are one class with the next higher
(`_CLASS_WORDS`). A fine-tune moves all numbers of a tensor about equally far, which is the more units in the last place
the smaller a number is: a table for each exponent is short by some 5 % in fp32, and by a third in bf16.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...entropy_models.errors import Corrupt
from .header import WORDS
from .lossless import code_plane

XOR, DIFFERENCE = 0, 1
_MANTISSA_BITS = {"F8_E4M3": 3, "F8_E5M2": 2, "F8_E4M3FNUZ": 3, "F8_E5M2FNUZ": 2, "F16": 10, "BF16": 7, "F32": 23, "F64": 52}
_CLASS_WORDS = 1 << 12
"""Words that justify tables of their own."""


def code(coder: Any, words: np.ndarray | None, base: np.ndarray, dtype: str, how: int) -> np.ndarray:
    """The coding pass: unsigned words, flat; ``words`` is None for the reader.

    Args:
        coder: of the chunk.
        words: shape (count,); not changed.
        base: of the same shape and type; not changed.
        dtype: of `WORDS`.
        how: `XOR` or `DIFFERENCE`; of no account to a reader.

    Raises:
        Corrupt: a field of the chunk is out of range.
    """
    how = coder.number(how, "B")
    if how not in (XOR, DIFFERENCE):
        raise Corrupt(f"way {how} to differ from a base")
    order, sizes = _classes(base, dtype)
    changes = None if words is None else _changes(words, base, dtype, how)[order]
    planes = np.empty((base.itemsize, len(base)), np.uint8)
    given = None if changes is None else changes.view(np.uint8).reshape(len(base), base.itemsize)
    for plane in reversed(range(base.itemsize)):
        start = 0
        for size in sizes:
            part = slice(start, start + size)
            planes[plane, part] = code_plane(coder, None if given is None else given[part, plane], size)
            start += size
    if words is not None:
        return words
    changes = np.empty(len(base), base.dtype)
    changes[order] = np.ascontiguousarray(planes.T).view(base.dtype).reshape(-1)
    return _changed(changes, base, dtype, how)


def _classes(base: np.ndarray, dtype: str) -> tuple[np.ndarray, list[int]]:
    """Positions of words, class by class, and the sizes of the classes."""
    if dtype not in _MANTISSA_BITS:
        return np.arange(len(base)), [len(base)]
    exponents = (base >> base.dtype.type(_MANTISSA_BITS[dtype])).astype(np.uint8)
    sign = 8 * base.itemsize - 1 - _MANTISSA_BITS[dtype]
    if sign < 8:
        exponents &= np.uint8((1 << sign) - 1)
    sizes, held = list[int](), 0
    for count in np.bincount(exponents).tolist():
        held += count
        if held >= _CLASS_WORDS:
            sizes.append(held)
            held = 0
    if held and sizes:
        sizes[-1] += held
    return np.argsort(exponents, kind="stable"), sizes or [held]


def _ordered(words: np.ndarray, dtype: str) -> np.ndarray:
    """Words of a floating-point type that count as their numbers do, modulo the words; its own inverse."""
    if not WORDS[dtype].floating:
        return words
    kind, bits = words.dtype.type, 8 * words.itemsize
    return words ^ (words >> kind(bits - 1)) * kind((1 << bits - 1) - 1)


def _changes(words: np.ndarray, base: np.ndarray, dtype: str, how: int) -> np.ndarray:
    if how == XOR:
        return words ^ base
    kind = words.dtype.type
    difference = _ordered(words, dtype) - _ordered(base, dtype)
    return difference << kind(1) ^ (difference >> kind(8 * words.itemsize - 1)) * kind(~kind(0))


def _changed(changes: np.ndarray, base: np.ndarray, dtype: str, how: int) -> np.ndarray:
    """Inverse of `_changes`."""
    if how == XOR:
        return changes ^ base
    kind = base.dtype.type
    difference = changes >> kind(1) ^ (changes & kind(1)) * kind(~kind(0))
    return _ordered(_ordered(base, dtype) + difference, dtype)
