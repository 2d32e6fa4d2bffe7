"""Eviction, what to drop when the store is full: the leaf with the smallest probability of reuse x recompute cost / bytes.

**Probability of reuse.** Time since the last use is cut into log-spaced buckets, blocks into classes (hits so far 0, 1,
2, 3 or more; whole block or partial tail). Per class and bucket, hits and block-seconds without a hit are counted;
their ratio is the rate of reuse, and a block's probability of a hit within the horizon follows from the rates ahead of
it. Counting exposure makes this robust to blocks that were dropped before they could be hit (right censoring,
as in survival analysis; the idea of hit density is LHD's, Beckmann et al., NSDI 2018).

**The prior.** Where nothing has been counted yet, the rate comes from the trie's edge mass P_M: `prior_rate` times
2^-(bits per token of the block), so that text the model finds likely (templates, shared instructions) stays and a
user's own words go. It weighs `PRIOR_EXPOSURE_S` block-seconds, after which counts win: the "prior-guided caching" of
2604.06228, which promises an advantage for few queries and no more. The mass itself, 2^-500 for a block, is no
rate of reuse (its premise, queries drawn from P_M, does not hold); its mean per token keeps its order.

**The horizon** is the median age of what is stored: about half the time in which the budget is turned over once.

Leaf first, because a block is useless without those before it; a parent is at least as likely to be used again.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from statistics import median

import numpy as np

from .trie import Node, Trie

BUCKETS = 64
"""Two to an octave of 1 + age in seconds: up to 2^32 s."""
HITS_CLASSES = 4
CLASSES = 2 * HITS_CLASSES
PRIOR_EXPOSURE_S = 50.0
PRIOR_BITS_PER_TOKEN = 4.0
"""Bits per token of blocks stored without log-probabilities: about what a small model needs for English."""
PRIOR_RATE_HZ = 0.01
HORIZON_MIN_S = 1.0

Value = Callable[[Node], float]


@dataclass(frozen=True, slots=True)
class RecomputeCost:
    """Prefill work a stored block saves, in units of one token's matrix products.

    A token at position t costs 1 + t / crossover_tokens: the second part is attention over the tokens before it.
    """

    crossover_tokens: float = math.inf
    """Position where attention costs as much as the matrix products: parameters / (2 layers x hidden), e.g. 30,000 for
    an 8-billion-parameter Llama (8e9 / (2 x 32 x 4096)). Infinite, the default: every token costs the same. On the one
    trace at hand the attention term made eviction worse even by its own measure (`benchmarks/kv_store_sessions.py`)."""

    def of(self, start: int, count: int) -> float:
        """Work for ``count`` tokens from position ``start``, at least ``count``."""
        return count + count * (start + (count - 1) / 2) / self.crossover_tokens


@dataclass(slots=True)
class ReuseCounts:
    """Hits and block-seconds without a hit, by class and age bucket; float64, shape (CLASSES, BUCKETS) each."""

    hits: np.ndarray = field(default_factory=lambda: np.zeros((CLASSES, BUCKETS)))
    exposure_s: np.ndarray = field(default_factory=lambda: np.zeros((CLASSES, BUCKETS)))

    def add(self, other: ReuseCounts) -> None:
        """Add another process's counts."""
        self.hits += other.hits
        self.exposure_s += other.exposure_s


class ReuseModel:
    """Estimates how likely a block is to be used again within a horizon."""

    def __init__(
        self,
        block_tokens: int,
        counts: ReuseCounts | None = None,
        gained: ReuseCounts | None = None,
        prior_rate_hz: float = PRIOR_RATE_HZ,
    ) -> None:
        """Start from what was counted before.

        Args:
            block_tokens: length of a whole block; shorter ones are partial tails, a class of their own.
            counts: all that is known.
            gained: where to count what this process adds, apart from ``counts``.
            prior_rate_hz: rate of reuse before anything is counted, of a block whose tokens the model was sure of.
        """
        self.block_tokens = block_tokens
        self.counts = counts or ReuseCounts()
        self.gained = gained or ReuseCounts()
        self.prior_rate_hz = prior_rate_hz
        self._memo: dict[tuple[int, int, int, float], float] = {}

    def _class_of(self, node: Node) -> int:
        partial = node.count < self.block_tokens
        return min(node.hits, HITS_CLASSES - 1) + HITS_CLASSES * partial

    def hit(self, node: Node, now: float) -> None:
        """Count a use of a block. Call before `Node.hits` and `Node.last_used` change."""
        self.survived(node, now)
        at = self._class_of(node), bucket_of(now - node.last_used)
        self.counts.hits[at] += 1
        self.gained.hits[at] += 1
        node.accounted = now

    def survived(self, node: Node, now: float) -> None:
        """Count the time without a hit since the last call for this block."""
        first, last = max(node.accounted, node.last_used) - node.last_used, now - node.last_used
        row = self._class_of(node)
        while first < last:
            bucket = bucket_of(first)
            until = min(last, bucket_end(bucket)) if bucket < BUCKETS - 1 else last
            self.counts.exposure_s[row, bucket] += until - first
            self.gained.exposure_s[row, bucket] += until - first
            first = until
        node.accounted = max(now, node.accounted)

    def prepare(self, nodes: list[Node], now: float) -> float:
        """Bring the counts up to date before values are asked for; returns the horizon in seconds."""
        for node in nodes:
            self.survived(node, now)
        self._memo.clear()
        return max(HORIZON_MIN_S, median(now - node.last_used for node in nodes)) if nodes else HORIZON_MIN_S

    def probability(self, node: Node, now: float, horizon_s: float) -> float:
        """Probability in 0..1 that the block is used within ``horizon_s`` seconds from ``now``."""
        bits = PRIOR_BITS_PER_TOKEN if node.edge_bits is None else node.edge_bits / max(1, node.count)
        row, age = self._class_of(node), max(0.0, now - node.last_used)
        key = row, round(4 * bits), round(64 * math.log2(1 + age)), horizon_s
        if key not in self._memo:
            self._memo[key] = self._probability(row, bits, age, horizon_s)
        return self._memo[key]

    def _probability(self, row: int, bits_per_token: float, age: float, horizon_s: float) -> float:
        prior = self.prior_rate_hz * 2.0**-bits_per_token
        expected, end = 0.0, age + horizon_s
        while age < end:
            bucket = bucket_of(age)
            until = min(end, bucket_end(bucket)) if bucket < BUCKETS - 1 else end
            hits, exposure = self.counts.hits[row, bucket], self.counts.exposure_s[row, bucket]
            expected += (hits + prior * PRIOR_EXPOSURE_S) / (exposure + PRIOR_EXPOSURE_S) * (until - age)
            age = until
        return -math.expm1(-expected)


def bucket_of(age_s: float) -> int:
    """Bucket of a time since last use."""
    return min(BUCKETS - 1, int(2 * math.log2(1 + max(0.0, age_s)) + 1e-9))


def bucket_end(bucket: int) -> float:
    """Age in seconds where the next bucket starts."""
    return 2.0 ** ((bucket + 1) / 2) - 1


def worth(trie: Trie, reuse: ReuseModel, now: float, cost: RecomputeCost | None = None) -> Value:
    """The default policy: probability of reuse x recompute cost / bytes, zero for a tail that a sibling contains."""
    cost = cost or RecomputeCost()
    horizon_s = reuse.prepare(list(trie.nodes.values()), now)

    def value(node: Node) -> float:
        if trie.contained(node):
            return 0.0
        work = cost.of(node.start, node.count)
        return reuse.probability(node, now, horizon_s) * work / max(1, node.size_bytes)

    return value


def recency(node: Node) -> float:
    """The LRU policy, to compare with."""
    return node.last_used


def victims(trie: Trie, excess_bytes: int, value: Value) -> Iterator[Node]:
    """Blocks to drop, in order: orphans, which nobody can reach, then the leaf of least value, again and again.

    Ties go to the block that was used longest ago, then to the one furthest from its root. The caller removes
    each block from the trie before asking for the next; a parent becomes a leaf by it.
    """
    stranded = [node for orphan in trie.orphans() for node in _subtree(orphan)]
    for node in stranded[::-1]:
        if excess_bytes <= 0:
            return
        excess_bytes -= node.size_bytes
        yield node
    heap = [_ranked(node, value) for node in trie.leaves()]
    heapq.heapify(heap)
    while heap and excess_bytes > 0:
        node = heapq.heappop(heap)[-1]
        parent = node.parent
        excess_bytes -= node.size_bytes
        yield node
        if parent is not None and parent is not trie.root and not len(parent.children):
            heapq.heappush(heap, _ranked(parent, value))


def _ranked(node: Node, value: Value) -> tuple[float, float, int, bytes, Node]:
    return value(node), node.last_used, -node.start, node.id, node


def _subtree(node: Node) -> list[Node]:
    found, stack = [], [node]
    while stack:
        found.append(stack.pop())
        stack += list(found[-1].children)
    return found
