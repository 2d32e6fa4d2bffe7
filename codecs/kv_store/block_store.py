"""What every store of caches is made of: opened on a backend, its blocks read and written, its errors, and its upkeep."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, get_args

import numpy as np
from torch import Tensor

from ...entropy_models.errors import InputError, Unsupported
from ..contract import Progress
from ..kv_cache.format.blocks import KvSettings, settings_for
from ..kv_cache.format.contents import CONTENT_ID_MIN, check_told_apart
from ..kv_cache.format.identity import Fingerprint
from ..kv_cache.hf.inputs import as_token_ids
from ..kv_cache.modes.profiles import Profile
from ..kv_cache.modes.table import MODES
from ..kv_cache.splice import Layers, can_be_joined, cut
from . import rework, upkeep
from .backends import Backend
from .content import StoredBlocks
from .eviction import RecomputeCost
from .index import namespace_of, record_key
from .rework import Checked, Transcoded
from .sharing import Sharing
from .trie import TOKEN_BYTES, Node, token_key
from .upkeep import Evicted, Policy, Stats

LOG = logging.getLogger(__name__)
T = TypeVar("T")
OnError = Literal["raise", "miss"]
"""What becomes of a backend's OSError (a server that is gone or full, a disk that fails): it goes to the caller, or it is
logged, and nothing is found, or nothing more stored."""


@dataclass(frozen=True, slots=True)
class Stored:
    """Outcome of a put: tokens that were there already, in which modes, and what was written."""

    shared_tokens: int
    new_tokens: int
    new_blocks: int
    new_bytes: int
    shared_modes: dict[str, int] = field(default_factory=dict)
    """Number of shared blocks by mode, with its quality or bits where it has one, like "quantized, quality 60". They stay
    as they are, whatever the store's settings: `PrefixStore.transcode` changes them."""


COUNTED_AGAIN = 0.05
"""Part of the limit that a process puts before it counts again what is stored."""
KEPT = 0.9
"""Part of the limit that is kept where it is exceeded."""
NOTHING_STORED = Stored(0, 0, 0, 0)
"""Outcome of a put to a store that failed, and whose errors are misses."""


class BlockStore:
    """Blocks of one model and one tenant on a backend."""

    def __init__(
        self,
        backend: Backend,
        *,
        fingerprint: bytes,
        salt: bytes = b"",
        settings: KvSettings | None = None,
        profiles: Iterable[Profile] = (),
        cost: RecomputeCost | None = None,
        clock: Callable[[], float] = time.time,
        on_error: OnError = "raise",
        limit_bytes: int | None = None,
        threads: int | None = None,
    ) -> None:
        """Open; nothing is read or written before it is asked for.

        Args:
            fingerprint: 16 bytes that name model, revision and cache type. One of `hf.fingerprint.fingerprint` also knows
                what its model's ids do not tell.
            salt: a tenant's; blocks of another salt are not found.
            settings: mode and quality of new blocks, tokens per block, and the model's RoPE: blocks of other frequencies
                are not taken.
            profiles: calibrated ones that stored blocks were made with, beside the settings' own.
            cost: what recomputing a token costs, for eviction.
            clock: seconds; replaced in tests.
            on_error: "miss" where a store that fails must not fail a generation.
            limit_bytes: of this model's and tenant's blocks, at least 1; a put that goes beyond evicts those of least worth.
                What other processes put meanwhile is counted after every twentieth of it.
            threads: that code the layers of a block at once; None: one.

        Raises:
            Unsupported: the cache of a prefix is not a prefix of the cache, for this model.
        """
        if reason := getattr(fingerprint, "no_prefix", ""):
            raise Unsupported(
                f"a store hands beginnings of prompts to other prompts, and {reason}; save_cache keeps whole caches"
            )
        self.fingerprint, self._recorded = fingerprint, False
        if on_error not in get_args(OnError):
            raise InputError(f"on_error {on_error!r}; there are {' and '.join(get_args(OnError))}")
        if limit_bytes is not None and limit_bytes < 1:
            raise InputError(f"a limit of {limit_bytes} bytes; need at least 1")
        self.on_error: OnError = on_error
        self.limit_bytes = limit_bytes
        self._size_bytes, self._uncounted_bytes = 0, limit_bytes or 0  # nothing is counted before the first put
        self.settings, self.cost = settings or KvSettings(), cost or RecomputeCost()
        space = namespace_of(fingerprint, salt)
        own = [self.settings.profile] if self.settings.profile else []
        self.index = StoredBlocks(
            backend, space, salt, self.settings.block_tokens, clock, self.settings.rope, [*profiles, *own], threads
        )
        self.asked_tokens = self.found_tokens = 0

    @classmethod
    def of_namespace(
        cls, backend: Backend, namespace: str, *, profiles: Iterable[Profile] = (), cost: RecomputeCost | None = None
    ) -> Self:
        """Open by a namespace's name, without its salt: to look, verify and evict; `put` refuses."""
        store = cls.__new__(cls)
        store.on_error, store.limit_bytes = "raise", None
        store.settings, store.cost = KvSettings(), cost or RecomputeCost()
        store.fingerprint, store._recorded = bytes(16), True
        store.index = StoredBlocks(backend, namespace, None, store.settings.block_tokens, time.time, profiles=profiles)
        store.asked_tokens = store.found_tokens = 0
        return store

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.save()
        self.index.close()

    def save(self) -> None:
        """Write this process's hits and masses. Blocks need no save: they are there when `put` returns.

        No error: what cannot be written, e.g. in a store that may only be read, waits for the next save.
        """
        self.index.save()

    def _or_miss(self, ask: Callable[[], T], miss: T) -> T:
        """An answer of the backend; where it fails, ``miss`` or its OSError, as `OnError` says."""
        try:
            return ask()
        except OSError as error:
            if self.on_error == "raise":
                raise
            LOG.warning("the store fails, and counts as empty: %s", error)
            return miss

    # ---- reading ----

    def _ids(self, tokens: Any) -> np.ndarray:
        """Token ids that name a prompt; Unsupported where some stand for a picture and do not tell which."""
        ids = as_token_ids(tokens)
        check_told_apart(ids, getattr(self.fingerprint, "placeholders", ()))
        if len(ids) and ids.max() >= CONTENT_ID_MIN and (reason := getattr(self.fingerprint, "no_contents", "")):
            raise Unsupported(f"the prompt holds pictures, sounds or videos: {reason}")
        return ids

    def _decoded(self, wanted: list[tuple[Node, int]], layers: range | None, runs: dict[bytes, Layers]) -> bool:
        """Decode blocks into ``runs``; False at one that is damaged, gone or unlike the first, and then forgotten."""
        for node, data in self.index.fetched([node for node, _ in wanted if node.id not in runs]):
            block = self.index.taken(node, data, layers)
            if block is None:
                return False
            runs[node.id] = block.layers
        for node, _ in wanted:
            if not can_be_joined(runs[node.id], runs[wanted[0][0].id]):
                self.index.forget(node, delete=False)
                return False
        return True

    def _count(self, tokens: np.ndarray, wanted: list[tuple[Node, int]]) -> None:
        self.asked_tokens += len(tokens)
        self.found_tokens += sum(count for _, count in wanted)
        for node, _ in wanted:
            self.index.used(node, read=True)

    # ---- writing ----

    def _path_for_put(self, tokens: np.ndarray, sharing: Sharing) -> list[Node]:
        """Blocks to share, each of them usable; a short last one that this prompt outgrows is stored again, longer."""
        path = list(sharing.match(tokens).path)
        last = path[-1] if path else None
        if last and last.end < len(tokens) and last.end % self.settings.block_tokens and not self.index.leads_on(last):
            path.pop()
        return path

    def _store(
        self,
        tokens: np.ndarray,
        first: int,
        layers: Layers,
        path: list[Node],
        sharing: Sharing,
        bits: np.ndarray | None,
        progress: Progress | None,
    ) -> Stored:
        """Write what follows ``path``; ``layers`` hold the positions from ``first`` on."""
        chain, stored = self._written(tokens, first, layers, path, sharing, bits, progress)
        self.index.flush()
        self._keep_within_limit(stored.new_bytes, {node.id for node in chain})
        return stored

    def _written(
        self,
        tokens: np.ndarray,
        first: int,
        layers: Layers,
        path: list[Node],
        sharing: Sharing,
        bits: np.ndarray | None,
        progress: Progress | None,
        *,
        exact: bool = False,
    ) -> tuple[list[Node], Stored]:
        """All blocks of a prompt, after those were written that were not there; arguments as for `_store`.

        ``exact``: the last one ends with the prompt, where else one would do that goes on.
        """
        parent = path[-1] if path else self.index.trie.root
        shared, start, blocks, size = parent.end, parent.end, 0, 0
        chain, taken = list(path), list(path)
        while start < len(tokens):
            last = min(self.index.boundary(start), len(tokens))
            there = self._there(parent, tokens, last - start, sharing, exact=exact)
            if there is not None:
                last = min(there.end, len(tokens))
                shared, parent = shared + last - start, there
                taken.append(there)
                self.index.used(there, read=False)
            else:
                own = None if bits is None else float(bits[start:last].sum())
                run = cut(layers, start - first, last - first)
                parent = self._write(parent, tokens[start:last], run, len(tokens), own)
                blocks, size = blocks + 1, size + parent.size_bytes
            chain.append(parent)
            start = last
            if progress:
                progress(start, len(tokens))
        return chain, Stored(shared, len(tokens) - shared, blocks, size, sharing.modes(taken))

    def _there(self, parent: Node, prompt: np.ndarray, count: int, sharing: Sharing, *, exact: bool) -> Node | None:
        """A usable child that holds just the next ``count`` tokens of a prompt, or (not ``exact``) all the rest and more."""
        rest = prompt[parent.end :]
        self.index.find(parent, rest[: count + 1])  # all of it would take quadratic time
        reach = max(count, parent.children.longest_bytes // TOKEN_BYTES) + 1
        node, shared = parent.children.nearest(token_key(rest[:reach]))
        if node is None or not ((shared == len(rest) and not exact) or shared == count == node.count):
            return None
        return node if sharing.usable(node) else None

    def _write(
        self,
        parent: Node,
        tokens: np.ndarray,
        layers: Layers,
        total: int,
        bits: float | None = None,
        *,
        states: dict[str, Tensor] | None = None,
        settings: KvSettings | None = None,
    ) -> Node:
        """Encode and put the block of these tokens after ``parent``, then drop tails that it replaces.

        ``total``: tokens of the prompt; ``bits``: -log2 P_M of this block's; ``settings``: if not the store's.
        """
        index, settings = self.index, settings_for(layers, settings or self.settings)
        block = index.id_of(parent.id, tokens)
        node = Node(id=block, parent_id=parent.id, key=token_key(tokens), start=parent.end, mode=settings.mode)
        data = index.encode(node, layers, settings, total, states)
        self._keep_record()
        index.write(node, data)
        node.size_bytes = len(data)
        node.edge_bits = bits
        node = index.add(node)
        for tail in [child for child in parent.children if child is not node and node.key.startswith(child.key)]:
            if not index.leads_on(tail):
                index.forget(tail, delete=True)
        return node

    def _keep_record(self) -> None:
        """Put the fields of the model's identity into the store, once."""
        key = record_key(self.fingerprint)
        if isinstance(self.fingerprint, Fingerprint) and not self._recorded and self.index.backend.get(key) is None:
            self.index.backend.put(key, self.fingerprint.record())
        self._recorded = True

    # ---- upkeep ----

    def _keep_within_limit(self, new_bytes: int, prompt: set[bytes]) -> None:
        """Evict where ``new_bytes`` more go beyond the limit, and a tenth more than that, so that puts need it seldom.

        ``prompt``: ids of the blocks that were put, which go last.
        """
        if self.limit_bytes is None or not new_bytes:
            return
        self._size_bytes, self._uncounted_bytes = self._size_bytes + new_bytes, self._uncounted_bytes + new_bytes
        if self._uncounted_bytes >= COUNTED_AGAIN * self.limit_bytes:
            self._size_bytes, self._uncounted_bytes = self.index.size_bytes(), 0
        if self._size_bytes > self.limit_bytes:
            try:
                kept = upkeep.evict(self.index, int(KEPT * self.limit_bytes), "worth", self.cost, prompt)
                self._size_bytes = kept.kept_bytes
            except OSError as error:
                LOG.warning("the store is beyond its limit, and blocks cannot be deleted: %s", error)

    def evict(self, budget_bytes: int, policy: Policy = "worth") -> Evicted:
        """Drop blocks until the rest fits ``budget_bytes``; see `upkeep.evict`."""
        return upkeep.evict(self.index, budget_bytes, policy, self.cost)

    def stats(self) -> Stats:
        """Size, sharing and use; see `upkeep.stats`."""
        return upkeep.stats(self.index, self.asked_tokens, self.found_tokens)

    def verify(self, *, repair: bool = False, progress: Progress | None = None) -> Checked:
        """Decode every block; see `rework.verify`."""
        return rework.verify(self.index, repair=repair, progress=progress)

    def transcode(self, settings: KvSettings | str, progress: Progress | None = None) -> Transcoded:
        """Encode every block again; see `rework.transcode`. New blocks use ``settings`` as well.

        Args:
            settings: mode and quality; the name of a mode: the store's settings in that mode.
        """
        if isinstance(settings, str):
            settings = replace(self.settings, mode=settings)
        check_mode(settings)
        if settings.profile:
            self.index.profiles[settings.profile.hash] = settings.profile
        done = rework.transcode(self.index, settings, progress)
        self.settings = replace(settings, block_tokens=self.settings.block_tokens)
        return done


def check_mode(settings: KvSettings) -> None:
    """`InputError` for a mode that needs the running model."""
    if MODES[settings.mode].needs_model:
        others = ", ".join(name for name, mode in MODES.items() if not mode.needs_model)
        raise InputError(
            f"mode {settings.mode} needs the model to save and to restore a cache, and a store has none; "
            f"use save_cache, or here one of {others}"
        )
