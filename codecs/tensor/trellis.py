"""The best path of a trellis (Viterbi): numbers in steps to the integers that `entropy_models.trellis` codes.

Least squared error plus ``lagrangian`` times bits, over all paths of every lane at once. Some 60 ns a number.
"""

from __future__ import annotations

import math

import numpy as np

from ...entropy_models.trellis import NEXT, STATES, lanes_of, lengths, stored_weights

LAGRANGIAN = 2 * math.log(2)
"""Slope of the rate-distortion curve at high rate: squared error that a bit removes, over the mean squared error."""
_ERROR = 0.32
"""Mean squared error in squared steps, at high rate."""
_PATHS = sorted((int(NEXT[state, parity]), state, parity) for state in range(STATES) for parity in (0, 1))
_FROM = np.array([[state for _, state, _ in _PATHS[i::2]] for i in (0, 1)])
"""Both states that lead to each state."""
_COSET = np.array([[(state & 1) + 2 * parity for _, state, parity in _PATHS[i::2]] for i in (0, 1)])
"""Remainders modulo 4 of the integers on these ways."""
_SAMPLE = 1 << 15
_NORMALISED = 32
"""Steps after which costs are made small again, for float32's sake."""


def quantised(scaled: np.ndarray, passes: int = 1) -> np.ndarray:
    """Integers of numbers in steps, float32 (count,), int32.

    The lengths of code words that the search needs come from ``passes`` passes over a part of the numbers.
    """
    count = len(scaled)
    sample = scaled if count <= _SAMPLE else _sampled(scaled)
    bits = _first_lengths(sample)
    for _ in range(passes):
        bits = lengths(stored_weights(np.abs(_searched(sample, bits))))
    return _searched(scaled, bits)


def _sampled(scaled: np.ndarray) -> np.ndarray:
    """Parts of the numbers, evenly spread."""
    parts = _SAMPLE // 256
    starts = np.linspace(0, len(scaled) - 256, parts).astype(np.int64)
    return scaled[(starts[:, None] + np.arange(256)).reshape(-1)]


def _first_lengths(sample: np.ndarray) -> np.ndarray:
    """Bits of each magnitude if they were Gaussian."""
    variance = max(float(np.square(sample).mean()), 0.25)
    reach = min(int(6 * math.sqrt(variance)) + 2, 2000)
    return np.square(np.arange(reach + 1)) / (2 * math.log(2) * variance)


def _searched(scaled: np.ndarray, bits: np.ndarray) -> np.ndarray:
    """The best path for these lengths of code words, float64 by magnitude; beyond them the last one rises on."""
    count, lanes = len(scaled), lanes_of(len(scaled))
    steps = -(-count // lanes)
    padded = np.zeros(steps * lanes, np.float32)
    padded[:count] = scaled
    y = padded.reshape(steps, lanes)
    price = np.append(bits, bits[-1] + 16).astype(np.float32) * np.float32(LAGRANGIAN * _ERROR)
    cosets = np.arange(4, dtype=np.float32)[:, None]
    cost = np.full((STATES, lanes), np.float32(1e30))
    cost[0] = 0
    second = np.empty((steps, STATES, lanes), bool)
    ways = np.empty((2, STATES, lanes), np.float32)
    for n in range(steps):
        integer = np.rint((y[n] - cosets) * np.float32(0.25)) * np.float32(4) + cosets
        metric = np.square(integer - y[n])
        np.abs(integer, out=integer)
        np.minimum(integer, np.float32(len(price) - 1), out=integer)
        metric += price[integer.astype(np.int32)]
        for way in (0, 1):
            np.take(cost, _FROM[way], axis=0, out=ways[way], mode="clip")
            ways[way] += metric[_COSET[way]]
        np.less(ways[1], ways[0], out=second[n])
        np.minimum(ways[0], ways[1], out=cost)
        if n % _NORMALISED == 0:
            cost -= cost.min(0)
    return _traced(y, second, cost.argmin(0)).reshape(-1)[:count]


def _traced(y: np.ndarray, second: np.ndarray, state: np.ndarray) -> np.ndarray:
    """Integers along the ways that lead to the last states, int32."""
    coset, lane = np.empty(y.shape, np.uint8), np.arange(y.shape[1])
    before = np.array([_FROM[0], _FROM[1]]).T.reshape(-1)
    remainder = np.array([_COSET[0], _COSET[1]], np.uint8).T.reshape(-1)
    for n in range(len(y) - 1, -1, -1):
        way = 2 * state + second[n, state, lane]
        coset[n] = remainder[way]
        state = before[way]
    low = coset.astype(np.float32)
    return (np.rint((y - low) * np.float32(0.25)) * np.float32(4) + low).astype(np.int32)
