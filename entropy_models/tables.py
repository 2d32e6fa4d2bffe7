"""Integer probability tables, one per level.

A level is the index of a table; its nominal scale (standard deviation in latent units) is log-spaced
from `SCALE_MIN` to `SCALE_MAX`. A table covers the symbols ``-reach..reach`` and one escape entry for
everything beyond. Its counts are integers that sum to 2^24, stored with the weights and never rebuilt
from ``erf`` on the machine that decodes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import constriction
import numpy as np

from .errors import InputError

Model = constriction.stream.model.Model
"""A model of one symbol, as constriction takes it."""
LEVELS = 64
SCALE_MIN = 0.11
SCALE_MAX = 64.0
TOTAL = 1 << 24
"""Counts of a table add up to this: constriction's fixed-point precision."""
REACH_MAX = 1 << 12
SCAN_MAX = 10
"""Tables of up to so many entries are decoded faster by a scan than by bisection (measured)."""
DEADZONE_MAX = 0.35
PULL_MAX = 0.49
"""Bounds of a dead zone; the wider is just below where whole numbers would no longer stay what they are."""


def scale_ratio() -> float:
    """Natural logarithm of the ratio of neighbouring scales."""
    return math.log(SCALE_MAX / SCALE_MIN) / (LEVELS - 1)


def scale(level: int) -> float:
    """Nominal standard deviation of a level, in latent units."""
    return SCALE_MIN * math.exp(level * scale_ratio())


class Tables:
    """The tables of all levels.

    Args:
        counts: for each level an integer array of shape (2 * reach + 2,): symbols -reach..reach, then the escape.
            Every count is positive; each table sums to `TOTAL`.
        skip_level: symbols of lower levels are not coded and are zero (entropy skip); at least 1.
        deadzone: for each level, how far an encoder pulls a residual towards zero before it rounds, 0 to 0.5;
            a decoder never looks at it. None: plain rounding.

    Raises:
        ValueError: a table breaks these rules.
    """

    def __init__(self, counts: Sequence[np.ndarray], skip_level: int, deadzone: np.ndarray | None = None) -> None:
        if len(counts) != LEVELS or not 1 <= skip_level < LEVELS:
            raise InputError(f"{len(counts)} tables and skip level {skip_level}; need {LEVELS} and 1..{LEVELS - 1}")
        for level, table in enumerate(counts):
            sane = table.ndim == 1 and len(table) % 2 == 0 and 4 <= len(table) <= 2 * REACH_MAX + 2
            if not sane or table.min() < 1 or int(table.sum()) != TOTAL:
                raise InputError(f"table {level}: {table.shape} counts from {table.min()}, sum {table.sum()}")
        self.counts = [np.asarray(table, np.int64) for table in counts]
        self.reach = np.array([len(table) // 2 - 1 for table in counts], np.int32)
        self.skip_level = skip_level
        self.deadzone = None if deadzone is None else np.asarray(deadzone, np.float32)

    def with_deadzone(self, lagrangian: float) -> Tables:
        """These tables for an encoder that weighs bits against error (rate-distortion optimised quantisation).

        A residual rounds up from k to k + 1 only if that removes more squared error than ``lagrangian`` times the bits
        it costs, k = 0 standing for all: at high rate that is 2 ln 2 / 12 = 0.116 squared steps per bit.
        """
        cost = np.array([bits[len(bits) // 2] - bits[len(bits) // 2 - 1] for bits in self.bits])
        return Tables(self.counts, self.skip_level, np.clip(lagrangian / 2 * cost, 0, DEADZONE_MAX))

    def with_wider_deadzone(self, factor: float) -> Tables:
        """These tables for an encoder that pulls residuals ``factor`` times as far to zero, up to nearly half a step."""
        return Tables(self.counts, self.skip_level, np.clip(factor * self.pull, 0, PULL_MAX))

    def __getstate__(self) -> dict[str, Any]:
        """What `pickle` and `copy` take: without the coder's models, which are made anew when they are asked for."""
        return {name: value for name, value in self.__dict__.items() if name not in ("models", "decoding_models")}

    def with_skip_level(self, skip_level: int) -> Tables:
        """These tables, with entropy skip up to another level; errors as the constructor."""
        return Tables(self.counts, skip_level, self.deadzone)

    @cached_property
    def models(self) -> list[constriction.stream.model.Categorical]:
        """The coder's model of each level. Weights of count - 1 make its quantiser the identity (a test checks)."""
        return [categorical(table) for table in self.counts]

    @cached_property
    def decoding_models(self) -> list[constriction.stream.model.Categorical]:
        """A model of each level for a decoder, which finds an entry of a short table sooner by a scan than by bisection."""
        pairs = zip(self.counts, self.models, strict=True)
        return [categorical(table, scan=True) if len(table) <= SCAN_MAX else model for table, model in pairs]

    @cached_property
    def bits(self) -> list[np.ndarray]:
        """Ideal length of each entry, float64, in bits."""
        return [-np.log2(table / TOTAL) for table in self.counts]

    @cached_property
    def pull(self) -> np.ndarray:
        """Dead zone of each level, float32; without end below the skip level."""
        pull = np.zeros(LEVELS, np.float32) if self.deadzone is None else self.deadzone.copy()
        pull[: self.skip_level] = np.inf
        return pull

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Arrays for a weights file: int32 ``counts`` end to end, ``reach``, ``skip_level``; float32 ``deadzone`` if any."""
        optional = {} if self.deadzone is None else {"deadzone": self.deadzone}
        return optional | {
            "counts": np.concatenate(self.counts).astype(np.int32),
            "reach": self.reach.astype(np.int32),
            "skip_level": np.array([self.skip_level], np.int32),
        }

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> Tables:
        """Inverse of `to_arrays`."""
        ends = np.cumsum(2 * arrays["reach"].astype(np.int64) + 2)
        return cls(
            np.split(arrays["counts"].astype(np.int64), ends[:-1]), int(arrays["skip_level"][0]), arrays.get("deadzone")
        )


def categorical(counts: np.ndarray, *, scan: bool = False) -> constriction.stream.model.Categorical:
    """A model with exactly these counts (positive, summing to `TOTAL`).

    constriction gives every symbol one unit and shares the rest in proportion, so weights of count - 1
    come out unchanged, without rounding. With ``scan`` it adds them up anew for each symbol (constriction's ``lazy``).
    """
    return constriction.stream.model.Categorical((counts - 1).astype(np.float64), perfect=False, lazy=scan)


def gaussian_tables(skip_level: int = 1) -> Tables:
    """Tables of zero-mean Gaussians of each level's scale, integrated over unit bins."""
    counts = []
    for level in range(LEVELS):
        reach = math.ceil(6 * scale(level)) + 1
        edges = np.array([math.erf((k - 0.5) / scale(level) / math.sqrt(2)) for k in range(-reach, reach + 2)])
        inside = np.diff(edges) / 2
        counts.append(integer_counts(np.append(inside, max(1 - inside.sum(), 1e-7))))
    return Tables(counts, skip_level)


def integer_counts(probabilities: np.ndarray) -> np.ndarray:
    """Nearest positive integer counts that sum to `TOTAL`; the largest entry takes the remainder."""
    share = probabilities / probabilities.sum()
    counts = np.maximum(np.rint(share * TOTAL).astype(np.int64), 1)
    counts[np.argmax(counts)] += TOTAL - counts.sum()
    return counts
