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
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, get_args

import numpy as np

from ...entropy_models.errors import BitstreamError, InputError, Unsupported
from ..contract import Progress
from ..kv_cache.format.blocks import KvSettings
from ..kv_cache.format.contents import CONTENT_ID_MIN, check_told_apart, whole_contents
from ..kv_cache.format.identity import Fingerprint
from ..kv_cache.hf.inputs import as_layers, as_token_ids, held_ids
from ..kv_cache.layout import layout_of
from ..kv_cache.modes.profiles import Profile
from ..kv_cache.modes.table import MODES
from ..kv_cache.splice import Layers, can_be_joined, cut, join
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
class Hit:
    """A stored prefix: ``tokens`` positions of the layers asked for, (kv_heads, tokens, head_dim) each."""

    tokens: int
    layers: Layers


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


class PrefixStore:
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
        _check_mode(self.settings)
        self.index.known_salt()
        ids, layers = self._ids(tokens), as_layers(cache)
        held, bits = held_ids(ids, layers), _bits(log_probs, len(ids))
        return self._or_miss(lambda: self._put(held, layers, bits, progress), NOTHING_STORED)

    def _put(self, tokens: np.ndarray, layers: Layers, bits: np.ndarray | None, progress: Progress | None) -> Stored:
        sharing = Sharing(self.index, layers)
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
        _check_mode(self.settings)
        self.index.known_salt()
        ids = self._ids(tokens)
        new, bits = as_layers(cache), _bits(log_probs, len(ids))
        return self._or_miss(lambda: self._append(ids, new, bits, progress), NOTHING_STORED)

    def _append(self, tokens: np.ndarray, new: Layers, bits: np.ndarray | None, progress: Progress | None) -> Stored:
        sharing = Sharing(self.index, new)
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
        parent = path[-1] if path else self.index.trie.root
        shared, start, blocks, size = parent.end, parent.end, 0, 0
        taken, written = list(path), list[Node]()
        while start < len(tokens):
            last = min(self.index.boundary(start), len(tokens))
            there = self._there(parent, tokens, last - start, sharing)
            if there is not None:
                last = min(there.end, len(tokens))
                shared, parent = shared + last - start, there
                taken.append(there)
                self.index.used(there, read=False)
            else:
                parent = self._write(parent, tokens, last, cut(layers, start - first, last - first), bits)
                written.append(parent)
                blocks, size = blocks + 1, size + parent.size_bytes
            start = last
            if progress:
                progress(start, len(tokens))
        self.index.flush()
        self._keep_within_limit(size, {node.id for node in (*taken, *written)})
        return Stored(shared, len(tokens) - shared, blocks, size, sharing.modes(taken))

    def _there(self, parent: Node, prompt: np.ndarray, count: int, sharing: Sharing) -> Node | None:
        """A usable child that holds exactly the next ``count`` tokens of a prompt, or all the rest and perhaps more."""
        rest = prompt[parent.end :]
        self.index.find(parent, rest[: count + 1])  # all of it would take quadratic time
        reach = max(count, parent.children.longest_bytes // TOKEN_BYTES) + 1
        node, shared = parent.children.nearest(token_key(rest[:reach]))
        if node is None or not (shared == len(rest) or shared == count == node.count):
            return None
        return node if sharing.usable(node) else None

    def _write(self, parent: Node, prompt: np.ndarray, end: int, layers: Layers, bits: np.ndarray | None) -> Node:
        """Encode and put the block from ``parent`` to position ``end``, then drop tails that it replaces."""
        index, tokens = self.index, prompt[parent.end : end]
        block = index.id_of(parent.id, tokens)
        node = Node(id=block, parent_id=parent.id, key=token_key(tokens), start=parent.end, mode=self.settings.mode)
        data = index.encode(node, layers, self.settings, len(prompt))
        self._keep_record()
        index.write(node, data)
        node.size_bytes = len(data)
        node.edge_bits = None if bits is None else float(bits[node.start : node.end].sum())
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
        _check_mode(settings)
        if settings.profile:
            self.index.profiles[settings.profile.hash] = settings.profile
        done = rework.transcode(self.index, settings, progress)
        self.settings = replace(settings, block_tokens=self.settings.block_tokens)
        return done


def _hit(wanted: list[tuple[Node, int]], runs: dict[bytes, Layers]) -> Hit:
    """A hit of decoded ``runs``, by block: so many tokens of each block that is wanted."""
    parts = [cut(runs[node.id], 0, count) for node, count in wanted]
    return Hit(sum(count for _, count in wanted), parts[0] if len(parts) == 1 else join(parts))  # one needs no copy


def _check_mode(settings: KvSettings) -> None:
    """`InputError` for a mode that needs the running model."""
    if MODES[settings.mode].needs_model:
        others = ", ".join(name for name, mode in MODES.items() if not mode.needs_model)
        raise InputError(
            f"mode {settings.mode} needs the model to save and to restore a cache, and a store has none; "
            f"use save_cache, or here one of {others}"
        )


def _bits(log_probs: Any, count: int) -> np.ndarray | None:
    """-log2 of each token's probability, float64, shape (n,)."""
    if log_probs is None:
        return None
    values = np.asarray(log_probs, np.float64)
    if values.shape != (count,) or not np.isfinite(values).all() or (values > 0).any():
        raise InputError(f"log-probabilities of shape {values.shape}; need ({count},), each finite and at most 0")
    return -values / np.log(2)
