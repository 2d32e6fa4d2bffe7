"""Which stored blocks a put may share: those that are there, of the same layout."""

from __future__ import annotations

from collections import Counter

import numpy as np

from ...entropy_models.errors import InputError
from ..kv_cache.format.header import BlockHeader
from ..kv_cache.layout import Layout, stored_layout
from ..kv_cache.modes.table import MODES
from .content import StoredBlocks
from .trie import Match, Node


class Sharing:
    """Sharing by one put: looks at each block once."""

    def __init__(self, index: StoredBlocks, layout: Layout) -> None:
        """``layout``: of what is put."""
        self.index, self.layout = index, layout
        self._headers: dict[bytes, BlockHeader] = {}

    def match(self, tokens: np.ndarray) -> Match:
        """The longest stored prefix whose whole blocks can all be shared."""
        while True:  # every failure takes a block out of the trie, so this ends
            match = self.index.match(tokens)
            new = [node for node in match.path if node.id not in self._headers]
            if all(self._look_at(node, data) for node, data in self.index.fetched(new)):
                return match

    def usable(self, node: Node) -> bool:
        """Whether the block can be shared; one that cannot is taken out of the trie, to be written again.

        Raises:
            ValueError: its layout is another than that of what is put.
        """
        return node.id in self._headers or all(self._look_at(*it) for it in self.index.fetched([node]))

    def _look_at(self, node: Node, data: bytes | None) -> bool:
        header = self.index.header(node, data)
        if header is not None and not self._readable(header):
            self.index.forget(node, delete=False)
            header = None
        if header is None:
            return False
        self.check(node, stored_layout(header))
        self._headers[node.id] = header
        return True

    def _readable(self, header: BlockHeader) -> bool:
        """Whether a get would find a cache: not in blocks of an earlier version, nor where the profile is missing."""
        mode = MODES[header.mode]
        return not mode.needs_model and (not mode.needs_profile or header.profile in self.index.profiles)

    def modes(self, nodes: list[Node]) -> dict[str, int]:
        """Number of blocks by `mode_text`; each was found `usable`."""
        return dict(Counter(mode_text(self._headers[node.id]) for node in nodes))

    def check(self, node: Node, stored: Layout) -> None:
        """Refuse a block of another layout: a cache that goes on in another one cannot be joined to it."""
        if stored != self.layout:
            raise InputError(
                f"tokens {node.start} to {node.end} are stored as {stored}; the cache is {self.layout}. "
                "Put caches of one layout under a fingerprint"
            )


def mode_text(head: BlockHeader) -> str:
    """A block's mode, with its quality or bits where these say anything."""
    if head.mode.startswith("turboquant"):
        return f"{head.mode}, {head.bits} bits"
    return f"{head.mode}, quality {head.quality}" if MODES[head.mode].option else head.mode
