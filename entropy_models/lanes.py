"""Bytes under fixed tables by rANS in lanes: many states side by side, which a processor's vectors and a GPU decode at once.

The state of lane j codes bytes j, j + K, j + 2 K, ... of a body; K lanes make a step together. States are 32-bit numbers
from 2^16 on, tables have 2^12 slots, and a state below 2^16 takes one 16-bit word (Duda, 1311.2540; in lanes: Giesen,
1402.3392).
All lanes share one run of words: in a step those that need a word take the next ones in the order of lanes, so that a step
is one gather from the table, one sum of prefixes and one gather from the words (DietGPU and Recoil read alike).

A table is one of `tables` of Gaussians, for a byte that is a symbol or a pair of them (`fast_rows` packs these), so that no
table is in the stream. Symbols that a table lacks must be told otherwise.

Each lane costs some two bytes, which `lanes_for` keeps at a hundredth. Words out of order mostly show at the end, where each
lane must be in the state that it began with; what is sure to show them is the checksum of the chunk.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from .errors import Corrupt
from .fast_rows import PAIRED_MAX
from .gaussian import tables
from .tables import LEVELS, TOTAL

SLOT_BITS = 12
SLOTS = 1 << SLOT_BITS
LOW = 1 << 16
"""The least state, and the one that a writer begins with and a reader ends in."""
LANES_MIN, LANES_MAX = 32, 1024
_BYTES_OF_LANE = 200
_FAR_SHARE = 1 << 13
"""A symbol rarer than this is not in the tables: it costs 64 bits where it occurs; in the table it would cost always."""
PAIR_REACH, SINGLE_REACH = 7, 127


@dataclass(frozen=True, slots=True)
class Lanes:
    """A body in lanes: ``states`` uint32, shape (lanes,); ``words`` uint16."""

    states: np.ndarray
    words: np.ndarray


def lanes_for(coded_bytes: float) -> int:
    """Number of lanes for a body that takes so many bytes: a power of two. A reader finds it in the states."""
    return int(min(max(1 << int(coded_bytes / _BYTES_OF_LANE).bit_length() >> 1, LANES_MIN), LANES_MAX))


def reach_of(level: int, paired: bool) -> int:
    """Largest magnitude of a symbol that the table of a level has."""
    counts, limit = tables().counts[level], PAIR_REACH if paired else SINGLE_REACH
    middle = len(counts) // 2 - 1
    for reach in range(1, min(middle, limit)):
        if (TOTAL - counts[middle - reach : middle + reach + 1].sum()) * _FAR_SHARE < TOTAL:
            return reach
    return min(middle, limit)


def byte_counts(level: int, paired: bool) -> np.ndarray:
    """Counts of the 256 bytes under a level, int64, in 0..`SLOTS`, which they sum to: of symbols in two's complement, or of
    pairs of them in nibbles, the first one high."""
    counts, reach = tables().counts[level], reach_of(level, paired)
    middle = len(counts) // 2 - 1
    symbols = np.arange(-reach, reach + 1)
    one = np.zeros(16 if paired else 256, np.int64)
    one[symbols % len(one)] = counts[middle - reach : middle + reach + 1]
    return _normalised(np.outer(one, one).reshape(-1) if paired else one)


def _normalised(weights: np.ndarray) -> np.ndarray:
    """Counts in proportion to weights, at least 1 where there is any, summing to `SLOTS`; integers alone decide."""
    weights = weights >> max(0, int(weights.max()).bit_length() - 48)
    present = weights > 0
    counts = np.where(present, np.maximum(weights * SLOTS // weights.sum(), 1), 0)
    order = np.argsort(-weights, kind="stable")[: int(present.sum())]
    while excess := int(counts.sum()) - SLOTS:
        some = order[counts[order] > 1] if excess > 0 else order
        counts[some[: abs(excess)]] -= 1 if excess > 0 else -1
    return counts


@cache
def decoding_table() -> np.ndarray:
    """For each level and slot (level << 12 | slot), uint32: byte, (count - 1) << 8, (slot - first slot) << 20.

    Levels up to `fast_rows.PAIRED_MAX` are of pairs. Level 0 is that of zeros.
    """
    counts = _counts()
    out = np.zeros((LEVELS, SLOTS), np.uint32)
    for level in range(1, LEVELS):
        symbols = np.repeat(np.arange(256), counts[level])
        first = np.cumsum(counts[level]) - counts[level]
        out[level] = symbols | (counts[level][symbols] - 1) << 8 | (np.arange(SLOTS) - first[symbols]) << 20
    return out.reshape(-1)


@cache
def _counts() -> np.ndarray:
    """Counts of bytes, uint64, shape (levels, 256); those of level 0 are none."""
    out = np.zeros((LEVELS, 256), np.int64)
    for level in range(1, LEVELS):
        out[level] = byte_counts(level, level <= PAIRED_MAX)
    return out


def encode(body: np.ndarray, level: np.ndarray) -> Lanes:
    """Code a body.

    Args:
        body: uint8, shape (n,), of bytes that their tables have.
        level: uint8, shape (n,): the table of each byte, 1..63.
    """
    counts = _counts()
    first = np.cumsum(counts, 1) - counts
    at = level.astype(np.int64) << 8 | body
    count, start = counts.reshape(-1)[at].astype(np.uint64), first.reshape(-1)[at].astype(np.uint64)
    lanes = lanes_for(float(SLOT_BITS * len(body) - np.log2(count).sum()) / 8)
    states, words = np.full(lanes, LOW, np.uint64), list[np.ndarray]()
    for begin in reversed(range(0, len(body), lanes)):
        f = count[begin : begin + lanes]
        x = states[: len(f)]
        full = x >= f << np.uint64(32 - SLOT_BITS)
        words.append((x[full] & np.uint64(0xFFFF)).astype(np.uint16))
        x = np.where(full, x >> np.uint64(16), x)
        states[: len(f)] = (x // f << np.uint64(SLOT_BITS)) + x % f + start[begin : begin + lanes]
    return Lanes(states.astype(np.uint32), np.concatenate([np.zeros(0, np.uint16), *words[::-1]]))


def decode(coded: Lanes, level: np.ndarray) -> np.ndarray:
    """Inverse of `encode`, uint8, shape (n,).

    Raises:
        Corrupt: words are missing or left over, or a state does not end where it began.
    """
    states, words, lanes = coded.states.astype(np.uint32), coded.words, len(coded.states)
    check_states(coded.states)
    table, base = decoding_table(), level.astype(np.uint32) << np.uint32(SLOT_BITS)
    out, at = np.empty(len(level), np.uint8), 0
    for begin in range(0, len(level), lanes):
        tables_of = base[begin : begin + lanes]
        x = states[: len(tables_of)]
        entry = table.take(x & np.uint32(SLOTS - 1) | tables_of)
        out[begin : begin + lanes] = entry  # its lowest byte
        x >>= np.uint32(SLOT_BITS)
        x *= (entry >> np.uint32(8) & np.uint32(SLOTS - 1)) + np.uint32(1)
        x += entry >> np.uint32(20)
        hungry = np.flatnonzero(x < LOW)
        taken = words[at : at + len(hungry)]
        if len(taken) < len(hungry):
            raise Corrupt(f"{len(words)} words of lanes; more are needed")
        at += len(hungry)
        x[hungry] = x[hungry] << np.uint32(16) | taken
    check_end(states, len(words) - at)
    return out


def check_states(states: np.ndarray) -> None:
    """Corrupt for states that no writer leaves."""
    if states.min(initial=LOW) < LOW:
        raise Corrupt(f"a lane's state of {states.min()}; at least {LOW}")


def check_end(states: np.ndarray, left: int) -> None:
    """Corrupt unless all lanes are back where their writer began, and no words are left."""
    if left or (states != LOW).any():
        raise Corrupt(f"{left} words of lanes are left over, or {int((states != LOW).sum())} lanes do not end as they began")
