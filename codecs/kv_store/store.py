"""`PrefixStore`: caches of prompts, cut into blocks that prompts with a common beginning share.

    store = PrefixStore(open_backend("caches"), fingerprint=fingerprint)
    store.put(tokens, cache)            # only blocks that are not there yet are encoded and written
    hit = store.get(other_tokens)       # the longest stored prefix: hit.tokens positions of hit.layers

Promises. A hit is compared token by token. A block that is damaged, missing or not what its name says is a miss, and
is removed, so that the next put heals it. Blocks are never changed, except by `transcode`, which replaces them whole.
A put writes parents before children, and a tail that a longer block replaces goes after that block is there. A block
whose parent is lost cannot be reached, until someone puts the parent again.
One store object belongs to one thread; any number of processes may open the same backend.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...entropy_models.errors import BitstreamError, InputError
from ..contract import Progress
from ..kv_cache.format.contents import whole_contents
from ..kv_cache.hf.inputs import as_layers, held_ids
from ..kv_cache.layout import layout_of
from ..kv_cache.splice import Layers, cut, join
from .block_store import NOTHING_STORED, BlockStore, Stored, check_mode
from .sharing import Sharing
from .trie import Node

LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Hit:
    """A stored prefix: ``tokens`` positions of the layers asked for, (kv_heads, tokens, head_dim) each."""

    tokens: int
    layers: Layers


class PrefixStore(BlockStore):
    """Blocks of one model and one tenant on a backend."""

    # ---- reading ----

    def longest_prefix(self, tokens: Any) -> int:
        """Number of leading tokens that are stored. No block is decoded, so damage shows only at `get`."""
        ids = self._ids(tokens)
        return self._or_miss(lambda: whole_contents(ids, self.index.match(ids).tokens), 0)

    def unread(self, tokens: Any) -> range | None:
        """Tokens after the longest stored prefix whose block is there, but cannot be read; None: there are none."""
        ids = self._ids(tokens)
        return self._or_miss(lambda: self.index.unread(ids), None)

    def get(self, tokens: Any, layers: range | None = None) -> Hit | None:
        """The cache of the longest stored prefix that is intact.

        Args:
            tokens: the prompt, ids of at least 0, shape (n,); with pictures, as `with_contents` gives them.
            layers: decode only these.

        Returns:
            None if nothing is stored; else at most n tokens.
            Use n - 1 of them where the model must be run for logits.
        """
        ids = self._ids(tokens)
        return self._or_miss(lambda: self._get(ids, layers), None)

    def _get(self, tokens: np.ndarray, layers: range | None) -> Hit | None:
        self.index.trim()
        runs: dict[bytes, Layers] = {}
        while True:  # every failure takes a block out of the trie, so this ends
            wanted = self._wanted(tokens)
            if self._decoded(wanted, layers, runs):
                break
        self._count(tokens, wanted)
        if not wanted:
            return None
        return _hit(wanted, runs)

    def stream(self, tokens: Any, layers: range) -> Iterator[Hit]:
        """The cache that `get` finds, layer by layer, so that one can be used while the next is decoded.

        Yields:
            one hit of one layer for each of ``layers``; nothing if no prefix is stored.

        Raises:
            BitstreamError: a block turned out damaged, or the store failed (`OnError`), after a layer was handed out; `get`
                then finds what is left.
        """
        ids = self._ids(tokens)
        given = 0
        try:
            for hit in self._stream(ids, layers):
                yield hit
                given += 1
        except OSError as error:
            if self.on_error == "raise":
                raise
            if given:
                raise BitstreamError(f"the store failed after {given} layers: {error}") from error
            LOG.warning("the store fails, and counts as empty: %s", error)

    def _stream(self, tokens: np.ndarray, layers: range) -> Iterator[Hit]:
        wanted: list[tuple[Node, int]] = []
        for layer in layers:
            runs: dict[bytes, Layers] = {}
            one = range(layer, layer + 1)
            while not wanted or not self._decoded(wanted, one, runs):
                if layer != layers[0]:
                    raise BitstreamError(f"layer {layer} of the cache is damaged; layers before it were intact")
                wanted = self._wanted(tokens)
                if not wanted:
                    return
            yield _hit(wanted, runs)
        self._count(tokens, wanted)

    def _wanted(self, tokens: np.ndarray) -> list[tuple[Node, int]]:
        """Blocks of the longest stored prefix, and how many tokens of each."""
        match = self.index.match(tokens)
        found = [(node, node.count) for node in match.path]
        found += [(match.tail, match.tail_tokens)] if match.tail is not None else []
        whole = whole_contents(tokens, match.tokens)
        return [(node, min(count, whole - node.start)) for node, count in found if node.start < whole]

    # ---- writing ----

    def put(self, tokens: Any, cache: Any, log_probs: Any = None, progress: Progress | None = None) -> Stored:
        """Store a prompt's cache; blocks that are there are shared, not written again, unless they are damaged.

        To know, each block that is shared is read once, and its checksums compared; no tensor is decoded.

        Args:
            tokens: ids of at least 0, shape (n,).
            cache: as `hf.inputs.as_layers` takes it, n positions, or n - 1 after generation (`hf.inputs.held_ids`).
            log_probs: natural logarithm of P_M(token | tokens before), at most 0, shape (n,); for eviction.

        Raises:
            ValueError: shapes do not fit, blocks to share have another layout (layers, heads, widths, element type),
                the mode needs the model, or the store was opened without its salt.
        """
        check_mode(self.settings)
        self.index.known_salt()
        ids, layers = self._ids(tokens), as_layers(cache)
        held, bits = held_ids(ids, layers), _bits(log_probs, len(ids))
        return self._or_miss(lambda: self._put(held, layers, bits, progress), NOTHING_STORED)

    def _put(self, tokens: np.ndarray, layers: Layers, bits: np.ndarray | None, progress: Progress | None) -> Stored:
        sharing = Sharing(self.index, layout_of(layers))
        path = self._path_for_put(tokens, sharing)
        for node in path:
            self.index.used(node, read=False)
        return self._store(tokens, 0, layers, path, sharing, bits, progress)

    def append(self, tokens: Any, cache: Any, log_probs: Any = None, progress: Progress | None = None) -> Stored:
        """Store more of a prompt whose beginning is stored; stored blocks are not written again.

        Args:
            tokens: the whole prompt, shape (n,).
            cache: its last m positions.
            log_probs: as for `put`, of all n tokens.

        Raises:
            ValueError: less than n - m tokens are stored intact (then put the whole cache), in another layout,
                or shapes do not fit.
        """
        check_mode(self.settings)
        self.index.known_salt()
        ids = self._ids(tokens)
        new, bits = as_layers(cache), _bits(log_probs, len(ids))
        return self._or_miss(lambda: self._append(ids, new, bits, progress), NOTHING_STORED)

    def _append(self, tokens: np.ndarray, new: Layers, bits: np.ndarray | None, progress: Progress | None) -> Stored:
        sharing = Sharing(self.index, layout_of(new))
        start = len(tokens) - new[0][0].shape[1]
        match = sharing.match(tokens[: max(start, 0)])
        if start < 0 or match.tokens < start:
            raise InputError(f"{match.tokens} of the {start} tokens before the new ones are stored; put the whole cache")
        if match.tail is not None:  # a block holds the rest with another continuation: cut ours out of it
            block = self.index.read(match.tail)
            if block is None or not block.layers:
                raise InputError(f"the block before token {start} is damaged or without tensors; put the whole cache")
            sharing.check(match.tail, layout_of(block.layers))
            new = join([cut(block.layers, 0, match.tail_tokens), new])
        return self._store(tokens, match.whole_tokens, new, list(match.path), sharing, bits, progress)


def _hit(wanted: list[tuple[Node, int]], runs: dict[bytes, Layers]) -> Hit:
    """A hit of decoded ``runs``, by block: so many tokens of each block that is wanted."""
    parts = [cut(runs[node.id], 0, count) for node, count in wanted]
    return Hit(sum(count for _, count in wanted), parts[0] if len(parts) == 1 else join(parts))  # one needs no copy


def _bits(log_probs: Any, count: int) -> np.ndarray | None:
    """-log2 of each token's probability, float64, shape (n,)."""
    if log_probs is None:
        return None
    values = np.asarray(log_probs, np.float64)
    if values.shape != (count,) or not np.isfinite(values).all() or (values > 0).any():
        raise InputError(f"log-probabilities of shape {values.shape}; need ({count},), each finite and at most 0")
    return -values / np.log(2)


__all__ = ["NOTHING_STORED", "Hit", "PrefixStore", "Stored"]
