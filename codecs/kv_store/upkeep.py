"""Looking after a store without looking into its blocks: evict, and count. No torch here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from math import inf
from typing import Literal, get_args

from ...entropy_models.errors import InputError
from . import ledger
from .eviction import RecomputeCost, recency, victims, worth
from .index import BlockIndex

Policy = Literal["worth", "recency"]
"""Policy of eviction, by what it keeps: blocks of most worth (`eviction.worth`), or those used last (LRU)."""


@dataclass(frozen=True, slots=True)
class Evicted:
    """Blocks and bytes dropped, and bytes kept."""

    blocks: int
    size_bytes: int
    kept_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """Size and use of a namespace."""

    blocks: int
    tokens: int
    size_bytes: int
    prompts: int
    """Leaves: prompts of which no longer one is stored."""
    prompt_tokens: int
    """Tokens that the prompts would hold, each stored by itself."""
    sharing: float
    """``prompt_tokens / tokens``."""
    shared_tokens: int
    """Tokens of blocks that several prompts go through, each block counted once."""
    shared_bits: float | None
    """What these tokens tell the model: -log2 P_M of them, in bits, the "information shared" of "Probabilistic Language
    Tries" (2604.06228). None unless log-probabilities were stored with each such block."""
    hits: int
    """Reads of a block, summed over the blocks; a put that finds its tokens stored is none."""
    unreachable: int
    """Blocks whose parent is missing; they and what follows them wait for the parent to be put again."""
    modes: dict[str, int]
    asked_tokens: int
    found_tokens: int


def check_policy(policy: str) -> None:
    """ValueError for a name that is no `Policy`."""
    if policy not in get_args(Policy):
        raise InputError(f"no policy {policy!r}; there are {' and '.join(get_args(Policy))}")


def evict(
    index: BlockIndex, budget_bytes: int, policy: Policy, cost: RecomputeCost, last: Collection[bytes] = ()
) -> Evicted:
    """Drop blocks until the rest fits: orphans first, then the leaf of least value, again and again.

    Args:
        budget_bytes: bytes of blocks to keep at most; at least 0.
        last: ids of blocks to drop after all others.
    """
    check_policy(policy)
    if budget_bytes < 0:
        raise InputError(f"a budget of {budget_bytes} bytes; need at least 0")
    index.refresh()
    trie, now = index.trie, index.clock()
    total = sum(node.size_bytes for node in trie.nodes.values())
    value = worth(trie, index.reuse, now, cost) if policy == "worth" else recency
    blocks = dropped = 0
    for node in victims(trie, total - budget_bytes, lambda node: inf if node.id in last else value(node)):
        index.discard(node.id)
        blocks, dropped = blocks + 1, dropped + node.size_bytes
    index.save()
    with suppress(OSError):  # a hint
        ledger.fold(index.backend, index.namespace, set(trie.nodes))
    return Evicted(blocks, dropped, total - dropped)


def stats(index: BlockIndex, asked_tokens: int = 0, found_tokens: int = 0) -> Stats:
    """Count what is stored."""
    index.load()
    trie = index.trie
    leaves = [node for node in trie.prompt_ends() if trie.reachable(node)]
    tokens = sum(node.count for node in trie.nodes.values() if not node.is_mark)
    prompt_tokens = sum(leaf.end for leaf in leaves)
    through = trie.prompts_through()
    shared = [node for node in trie.nodes.values() if not node.is_mark and through[node.id] > 1]
    bits = [node.edge_bits for node in shared if node.edge_bits is not None]
    return Stats(
        blocks=len(trie.nodes),
        tokens=tokens,
        size_bytes=sum(node.size_bytes for node in trie.nodes.values()),
        prompts=len(leaves),
        prompt_tokens=prompt_tokens,
        sharing=prompt_tokens / tokens if tokens else 1.0,
        shared_tokens=sum(node.count for node in shared),
        shared_bits=sum(bits) if len(bits) == len(shared) else None,
        hits=sum(node.reads for node in trie.nodes.values()),
        unreachable=len(trie.orphans()),
        modes=dict(Counter(node.mode for node in trie.nodes.values())),
        asked_tokens=asked_tokens,
        found_tokens=found_tokens,
    )
