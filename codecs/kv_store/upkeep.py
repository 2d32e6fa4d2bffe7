"""Looking after a store: evict, count, verify, transcode."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal, get_args

from ...entropy_models.errors import BitstreamError, Corrupt, InputError, Unsupported
from ..contract import Progress
from ..kv_cache.format.blocks import KvSettings, read_block_header
from ..kv_cache.format.recode import recode_block, same_numbers
from ..kv_cache.modes.table import MODES
from . import ledger
from .eviction import RecomputeCost, recency, victims, worth
from .index import BlockIndex
from .trie import Node

Policy = Literal["worth", "recency"]
"""Policy of eviction, by what it keeps: blocks of most worth (`eviction.worth`), or those used last (LRU)."""


@dataclass(frozen=True, slots=True)
class Evicted:
    """Blocks and bytes dropped, and bytes kept."""

    blocks: int
    size_bytes: int
    kept_bytes: int


@dataclass(frozen=True, slots=True)
class Checked:
    """Blocks looked at, those that are damaged with the reason, and those that cannot be reached.

    ``unread``: blocks that cannot be judged here, with the reason: their profile is missing, or a newer program wrote them.
    """

    blocks: int
    damaged: dict[str, str]
    unreachable: list[str]
    unread: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Transcoded:
    """Bytes of all blocks before and after, blocks that stay as they were, and damaged ones that were deleted, with reasons.

    ``left``: blocks that cannot be decoded here: their profile is missing, or a newer program wrote them.
    """

    blocks: int
    before_bytes: int
    after_bytes: int
    left: dict[str, str] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)


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


def evict(index: BlockIndex, budget_bytes: int, policy: Policy, cost: RecomputeCost) -> Evicted:
    """Drop blocks until the rest fits: orphans first, then the leaf of least value, again and again.

    Args:
        budget_bytes: bytes of blocks to keep at most; at least 0.
    """
    check_policy(policy)
    if budget_bytes < 0:
        raise InputError(f"a budget of {budget_bytes} bytes; need at least 0")
    index.refresh()
    trie, now = index.trie, index.clock()
    total = sum(node.size_bytes for node in trie.nodes.values())
    value = worth(trie, index.reuse, now, cost) if policy == "worth" else recency
    blocks = dropped = 0
    for node in victims(trie, total - budget_bytes, value):
        index.forget(node, delete=True)
        blocks, dropped = blocks + 1, dropped + node.size_bytes
    index.save()
    ledger.fold(index.backend, index.namespace, set(trie.nodes))
    return Evicted(blocks, dropped, total - dropped)


def stats(index: BlockIndex, asked_tokens: int = 0, found_tokens: int = 0) -> Stats:
    """Count what this process knows; `BlockIndex.refresh` first to know all."""
    trie = index.trie
    leaves = [node for node in trie.leaves() if not trie.contained(node) and trie.reachable(node)]
    tokens, prompt_tokens = sum(len(node.tokens) for node in trie.nodes.values()), sum(leaf.end for leaf in leaves)
    through = trie.prompts_through()
    shared = [node for node in trie.nodes.values() if through[node.id] > 1]
    bits = [node.edge_bits for node in shared if node.edge_bits is not None]
    return Stats(
        blocks=len(trie.nodes),
        tokens=tokens,
        size_bytes=sum(node.size_bytes for node in trie.nodes.values()),
        prompts=len(leaves),
        prompt_tokens=prompt_tokens,
        sharing=prompt_tokens / tokens if tokens else 1.0,
        shared_tokens=sum(len(node.tokens) for node in shared),
        shared_bits=sum(bits) if len(bits) == len(shared) else None,
        hits=sum(node.reads for node in trie.nodes.values()),
        unreachable=len(trie.orphans()),
        modes=dict(Counter(node.mode for node in trie.nodes.values())),
        asked_tokens=asked_tokens,
        found_tokens=found_tokens,
    )


def verify(index: BlockIndex, *, repair: bool = False, progress: Progress | None = None) -> Checked:
    """Decode every block on the backend; ``repair`` deletes those that are damaged, never those it cannot judge."""
    index.refresh()
    damaged: dict[str, str] = {}
    unread: dict[str, str] = {}
    stored = index.stored()
    for done, block in enumerate(stored, 1):
        node, data = index.trie.nodes.get(block), index.backend.get(index.key(block))
        if data is None:  # evicted meanwhile
            continue
        try:
            if block in index.refused:
                raise Unsupported(index.refused[block])
            if node is None:
                raise Corrupt("its header is damaged, or it is not the block its name says")
            index.checked(node, data)
        except Unsupported as error:
            unread[block.hex()] = str(error)
        except BitstreamError as error:
            damaged[block.hex()] = str(error)
            if repair:
                index.discard(block)
        if progress:
            progress(done, len(stored))
    return Checked(len(stored), damaged, [node.id.hex() for node in index.trie.orphans()], unread)


def transcode(index: BlockIndex, settings: KvSettings, progress: Progress | None = None) -> Transcoded:
    """Encode every block again, e.g. lossless to quantized, but those that are so already.

    What a lossy mode lost stays lost, and another one loses on top of it; but between modes of the same numbers
    (`recode.same_numbers`), at the same quality, nothing changes except the bytes.
    """
    index.refresh()
    nodes = list(index.trie.nodes.values())
    before = sum(node.size_bytes for node in nodes)
    left: dict[str, str] = {}
    damaged: dict[str, str] = {}
    for done, node in enumerate(nodes, 1):
        stored = index.backend.get(index.key(node.id))
        if stored is None:  # evicted meanwhile
            index.forget(node, delete=False)
            continue
        try:
            data = _transcoded(index, node, stored, settings)
            if data != stored:
                index.backend.put(index.key(node.id), data)
                node.size_bytes, node.mode = len(data), settings.mode
        except Unsupported as error:
            left[node.id.hex()] = str(error)
        except BitstreamError as error:
            damaged[node.id.hex()] = str(error)
            index.discard(node.id)
        if progress:
            progress(done, len(nodes))
    after = sum(node.size_bytes for node in index.trie.nodes.values())
    return Transcoded(len(nodes), before, after, left, damaged)


def _transcoded(index: BlockIndex, node: Node, stored: bytes, settings: KvSettings) -> bytes:
    """A block's bytes in these settings; BitstreamError if it is damaged."""
    block, head, rate = index.checked(node, stored), read_block_header(stored), MODES[settings.mode].option
    same_rate = not rate or getattr(head, rate) == getattr(settings, rate)
    same_rate &= settings.profile is None or head.profile == settings.profile.hash
    if same_rate and head.mode == settings.mode:
        return stored
    if same_rate and same_numbers(head.mode, settings.mode):
        return recode_block(stored, settings.mode)
    return index.encode(node, block.layers, settings, node.end if not len(node.children) else None)
