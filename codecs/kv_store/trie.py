"""The prefix trie: which blocks continue which, and which of them prompts share.

A node is a stored block: a run of tokens that follows its parent's. A block ends at a multiple of the
store's block length or where its sequence ended, so an edge carries up to 256 tokens, not one. A prefix
that several prompts share is one chain of nodes, stored once. Look-ups compare tokens, never hashes.

    root -- [system prompt, 256] -- [system prompt, 256] -+- [question A, 256] -- [answer A, 40]
                                                          +- [question B, 187]

Nothing here touches tensors or storage: a trie is built from blocks' places in any order, and may hold a part of what is
stored; a block whose parent is not there (evicted, damaged, or not yet read) waits as an orphan until the parent is added.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

ROOT_ID = bytes(16)
TOKEN_BYTES = 4
TOKEN_MAX = (1 << 8 * TOKEN_BYTES) - 1
"""Largest id that a block holds."""
_TOKEN = f">u{TOKEN_BYTES}"
MARK_MIN = TOKEN_MAX - 7
"""Ids from here on are of no prompt: a block of them, one id again and again, holds what is kept beside the block before it
(`hybrid`): keys and values of windows up to its end, as many positions as ids, or recurrent states after it."""


@dataclass(slots=True, eq=False, kw_only=True)
class Node:
    """A stored block. ``key`` is its tokens as `token_key` gives them; ``start`` its first position in the prompt."""

    id: bytes
    parent_id: bytes
    key: bytes
    start: int
    size_bytes: int = 0
    mode: str = ""
    parent: Node | None = None
    children: Children = field(default_factory=lambda: Children())
    hits: int = 0
    """Times the block was used again, by every process together: read, or found by a put of its tokens."""
    reads: int = 0
    """Reads among the hits."""
    last_used: float = 0.0
    """Time of the last use in seconds, on the store's clock."""
    edge_bits: float | None = None
    """-log2 P_M(tokens | the prompt before them), where the caller gave log-probabilities."""
    accounted: float = 0.0
    """Until when the time without a hit has been counted by the reuse statistics, seconds."""

    @property
    def count(self) -> int:
        """Number of tokens."""
        return len(self.key) // TOKEN_BYTES

    @property
    def end(self) -> int:
        """Position after the last token."""
        return self.start + self.count

    @property
    def is_mark(self) -> bool:
        """Whether it is no part of a prompt, and holds something beside the block before it."""
        return int.from_bytes(self.key[:TOKEN_BYTES]) >= MARK_MIN

    @property
    def ends_prompt(self) -> bool:
        """Whether no block goes on with the prompt."""
        return not self.is_mark and all(child.is_mark for child in self.children)

    @property
    def tokens(self) -> np.ndarray:
        """The tokens, int64, shape (n,)."""
        return np.frombuffer(self.key, _TOKEN).astype(np.int64)


class Children:
    """The blocks that follow one block, found by exact tokens or by longest common beginning."""

    __slots__ = ("_by_key", "_lengths", "_sorted")

    def __init__(self) -> None:
        self._by_key: dict[bytes, Node] = {}
        self._sorted: list[bytes] = []
        self._lengths: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._by_key)

    def __iter__(self) -> Iterator[Node]:
        return iter(self._by_key.values())

    @property
    def longest_bytes(self) -> int:
        """Length of the longest child's key; 0: there are none."""
        return max(self._lengths, default=0)

    def add(self, node: Node) -> None:
        """Add a child; one with the same tokens is replaced."""
        key = node.key
        if key not in self._by_key:
            insort(self._sorted, key)
            self._lengths[len(key)] = self._lengths.get(len(key), 0) + 1
        self._by_key[key] = node

    def remove(self, node: Node) -> None:
        """Remove a child that is here."""
        key = node.key
        del self._by_key[key]
        del self._sorted[bisect_left(self._sorted, key)]
        self._lengths[len(key)] -= 1
        if not self._lengths[len(key)]:
            del self._lengths[len(key)]

    def followed(self, key: bytes) -> list[Node]:
        """Children all of whose tokens begin ``key``, longest first."""
        lengths = sorted((n for n in self._lengths if n <= len(key)), reverse=True)
        return [self._by_key[key[:n]] for n in lengths if key[:n] in self._by_key]

    def outgrown(self, key: bytes) -> bool:
        """Whether another child begins with all of ``key`` and goes on: it would be next in sorted order."""
        at = bisect_left(self._sorted, key)
        at += at < len(self._sorted) and self._sorted[at] == key
        return at < len(self._sorted) and self._sorted[at].startswith(key)

    def nearest(self, key: bytes) -> tuple[Node | None, int]:
        """The child sharing most leading tokens with ``key``, and how many: a neighbour in sorted order."""
        at = bisect_left(self._sorted, key)
        best, shared = None, 0
        for neighbour in self._sorted[max(at - 1, 0) : at + 1]:
            count = common_tokens(neighbour, key)
            if count > shared:
                best, shared = self._by_key[neighbour], count
        return best, shared


@dataclass(frozen=True, slots=True)
class Match:
    """Match of a prompt with a trie: whole blocks, then perhaps the beginning of one more."""

    path: tuple[Node, ...]
    tail: Node | None
    tail_tokens: int

    @property
    def tokens(self) -> int:
        """Length of the prefix found, in tokens."""
        return self.whole_tokens + self.tail_tokens

    @property
    def whole_tokens(self) -> int:
        """Length covered by whole blocks, in tokens."""
        return self.path[-1].end if self.path else 0


class Trie:
    """Blocks by id and by the tokens that lead to them."""

    def __init__(self) -> None:
        self.root = Node(id=ROOT_ID, parent_id=ROOT_ID, key=b"", start=0)
        self.nodes: dict[bytes, Node] = {}
        self._orphans: dict[bytes, list[Node]] = {}

    def add(self, node: Node) -> Node:
        """Add a block, or return the one of that id; parents may come later than children."""
        if node.id in self.nodes:
            return self.nodes[node.id]
        self.nodes[node.id] = node
        parent = self.root if node.parent_id == ROOT_ID else self.nodes.get(node.parent_id)
        if parent is not None and parent.end == node.start:
            self._attach(node, parent)
        else:
            self._orphans.setdefault(node.parent_id, []).append(node)
        waiting = self._orphans.pop(node.id, [])
        for child in waiting:
            if child.start == node.end:
                self._attach(child, node)
            else:  # its header and its parent's disagree: one of them is not what it says
                self._orphans.setdefault(node.id, []).append(child)
        return node

    @staticmethod
    def _attach(node: Node, parent: Node) -> None:
        node.parent = parent
        parent.children.add(node)

    def remove(self, node: Node) -> None:
        """Take a block out; its children become orphans."""
        del self.nodes[node.id]
        if node.parent is not None:
            node.parent.children.remove(node)
            node.parent = None
        else:
            self._orphans[node.parent_id].remove(node)
        for child in list(node.children):
            node.children.remove(child)
            child.parent = None
            self._orphans.setdefault(node.id, []).append(child)

    def orphans(self) -> list[Node]:
        """Blocks that cannot be reached because a block before them is missing; not their descendants."""
        return [node for nodes in self._orphans.values() for node in nodes]

    def reachable(self, node: Node) -> bool:
        """Whether every block before it is there."""
        return self.path_to(node)[0].parent is self.root

    def leaves(self) -> list[Node]:
        """Blocks without a following block, orphans included."""
        return [node for node in self.nodes.values() if not len(node.children)]

    def prompt_ends(self) -> list[Node]:
        """Blocks with which a prompt ends, orphans included, but for those that a sibling contains."""
        return [node for node in self.nodes.values() if node.ends_prompt and not self.contained(node)]

    def match(self, tokens: np.ndarray) -> Match:
        """The longest stored prefix of a prompt.

        Args:
            tokens: int64, shape (n,), each at least 0.

        Returns:
            the chain of whole blocks, and the block whose beginning reaches furthest after them.
        """
        best: tuple[int, int, Node, Node | None, int] = 0, 0, self.root, None, 0  # tokens, blocks, last whole one, tail
        for node, depth, tail, shared in self.reached(tokens):
            if (node.end + shared, depth) > best[:2]:
                best = node.end + shared, depth, node, tail, shared
        _, depth, last, tail, shared = best
        return Match(tuple(self.path_to(last)) if depth else (), tail, shared)

    def reached(self, tokens: np.ndarray) -> Iterator[tuple[Node, int, Node | None, int]]:
        """Blocks that a prompt goes through: (the root or a whole one, blocks up to it, the block that shares most of what
        follows but not all of itself, tokens of that one)."""
        key, stack = token_key(tokens), [(self.root, 0)]
        while stack:  # blocks of several lengths may fit at once: a short tail, and the block that outgrew it
            node, depth = stack.pop()
            first = node.end * TOKEN_BYTES
            rest = key[first : first + node.children.longest_bytes]  # no more, or long prompts take quadratic time
            stack += [(child, depth + 1) for child in reversed(node.children.followed(rest))]
            tail, shared = node.children.nearest(rest)
            if tail is not None and shared == tail.count:
                tail, shared = None, 0
            yield node, depth, tail, shared

    def contained(self, node: Node) -> bool:
        """Whether a sibling holds all of this leaf's tokens and more: the leaf is then of no use."""
        return not len(node.children) and node.parent is not None and node.parent.children.outgrown(node.key)

    def prompts_through(self) -> dict[bytes, int]:
        """Number of prompts through each block, by id: those that end with it or with a block that follows it."""
        through = dict.fromkeys(self.nodes, 0)
        for node in sorted(self.nodes.values(), key=lambda node: -node.start):  # what follows a block is before it here
            if node.ends_prompt and not self.contained(node):
                through[node.id] = 1
            if node.parent is not None and node.parent is not self.root:
                through[node.parent.id] += through[node.id]
        return through

    def path_to(self, node: Node) -> list[Node]:
        """Blocks from the first to ``node``; the first one's parent is the root unless it is an orphan."""
        path = [node]
        while path[-1].parent is not None and path[-1].parent is not self.root:
            path.append(path[-1].parent)
        return path[::-1]


def token_key(tokens: np.ndarray) -> bytes:
    """Four big-endian bytes a token, so that comparing bytes compares tokens, up to the first that no block can hold."""
    large = np.flatnonzero(tokens > TOKEN_MAX)
    return (tokens[: large[0]] if len(large) else tokens).astype(_TOKEN).tobytes()


def common_tokens(a: bytes, b: bytes) -> int:
    """Number of leading tokens that two keys share."""
    count = min(len(a), len(b)) // TOKEN_BYTES
    return common_prefix(np.frombuffer(a, _TOKEN, count), np.frombuffer(b, _TOKEN, count))


def common_prefix(a: np.ndarray, b: np.ndarray) -> int:
    """Length of the longest common prefix of two token arrays, in tokens."""
    count = min(len(a), len(b))
    differ = np.flatnonzero(a[:count] != b[:count])
    return int(differ[0]) if len(differ) else count
