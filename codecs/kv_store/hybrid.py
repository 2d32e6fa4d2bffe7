"""`HybridStore`: caches with sliding windows and recurrent states, shared by prompts that begin alike.

    with HybridStore(open_backend("caches"), model) as store:
        store.put(tokens, cache)       # as the model left it
        hit = store.get(prompt)        # to go on from: model.generate(prompt, cache=hit.cache)

Full-attention layers are in blocks of tokens, as in `store`; of a model without any, these blocks hold tokens alone. What
other layers keep lies in blocks of marks (`trie.MARK_MIN`), each a child of the block of tokens that it belongs to:

- **Windows.** A put leaves the positions that the cache still holds, cut where the blocks of tokens are. A block of marks
  holds the last k positions of its block of tokens; one of more positions replaces it. A prefix of n tokens is a hit if
  all its blocks are there, and of windows of w tokens the positions n - w + 1 to n - 1, whichever puts left them.
- **Recurrent states** are of one place: a block of one mark after the last token that was put. A prefix is a hit if it
  ends there.

Blocks of marks are leaves, so they are evicted before the blocks that they need.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from ...entropy_models.errors import InputError, Mismatch, Unsupported
from ..contract import Progress
from ..kv_cache.format.blocks import KvSettings
from ..kv_cache.format.contents import CONTENT_ID_MIN, whole_contents
from ..kv_cache.format.identity import Fingerprint
from ..kv_cache.format.states import states_of
from ..kv_cache.format.whole import LayerState
from ..kv_cache.hf.fingerprint import fingerprint, unwrapped
from ..kv_cache.hf.going_on import goes_on_at_once, run_one_by_one
from ..kv_cache.hf.layer_kinds import filled, layers_of_model, seen_ids, taken_apart
from ..kv_cache.hf.model import rope_of
from ..kv_cache.hf.weights_digest import adapters_at_work
from ..kv_cache.layout import NO_LAYERS, layout_of
from ..kv_cache.splice import Layers, can_be_joined, cut, join
from .backends import Backend
from .block_store import NOTHING_STORED, BlockStore, OnError, Stored, check_mode
from .eviction import RecomputeCost
from .sharing import Sharing
from .trie import MARK_MIN, TOKEN_MAX, Node

STATES_MARK, WINDOW_MARK = MARK_MIN, MARK_MIN + 1
_SINKS_MAX = 1 << 16
ONE_BY_ONE = 16
"""Tokens that may be run one by one after a hit, and tokens of a hit for each one more: else a prompt run anew is faster."""


@dataclass(frozen=True, slots=True)
class HybridHit:
    """A stored prefix: a ``DynamicCache`` of the model's own layers that has seen ``tokens`` tokens.

    Where the model's code goes on from recurrent states with one token at a time only (`goes_on_at_once`), it has seen all
    of the prompt but its last token.

    One of recurrent states alone (Mamba) does not tell ``generate`` how many: give it the tokens after them,
    ``model.generate(prompt[:, hit.tokens:], cache=hit.cache)``.
    """

    tokens: int
    cache: Any


@dataclass(frozen=True, slots=True)
class _Piece:
    """Positions ``first`` to ``last`` of what a block of marks holds."""

    node: Node
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the cache of a prefix of ``tokens`` tokens lies."""

    tokens: int
    path: tuple[Node, ...]
    windows: dict[int, list[_Piece]]
    """For each length of a window, its pieces in order."""
    states: Node | None


class HybridStore(BlockStore):
    """Caches of one model and one tenant on a backend, with layers of every kind that `layer_kinds` knows."""

    def __init__(
        self,
        backend: Backend,
        model: Any,
        *,
        extra_key: bytes = b"",
        salt: bytes = b"",
        settings: KvSettings | None = None,
        cost: RecomputeCost | None = None,
        clock: Callable[[], float] = time.time,
        on_error: OnError = "raise",
        limit_bytes: int | None = None,
        threads: int | None = None,
    ) -> None:
        """Open; the weights are read, for the model's fingerprint, and nothing of the store.

        Args:
            model: a transformers model, which tells its layers' kinds and windows.
            extra_key: as for `fingerprint`.
            settings: mode and quality of keys and values; states are kept without loss. The model's RoPE is undone.
            salt, cost, clock, on_error, limit_bytes, threads: as for `PrefixStore`.

        Raises:
            Unsupported: the cache of a prefix is not a prefix of the cache, a profile, or a kind of layer that is not known.
        """
        settings = settings or KvSettings()
        if settings.profile:
            raise Unsupported("a profile is of full-attention layers alone: give settings without one")
        self.model = unwrapped(model)
        self._adapters = adapters_at_work(self.model)
        self.layers = layers_of_model(self.model)
        self._full = [i for i, layer in enumerate(self.layers) if layer.kind.startswith("full")]
        self._windows = {
            window: [i for i, layer in enumerate(self.layers) if layer.window == window]
            for window in sorted({layer.window for layer in self.layers if layer.window})
        }
        if WINDOW_MARK + len(self._windows) > TOKEN_MAX + 1:
            raise Unsupported(f"windows of {len(self._windows)} lengths; at most {TOKEN_MAX + 1 - WINDOW_MARK}")
        self._marks = dict(zip(self._windows, range(WINDOW_MARK, TOKEN_MAX + 1), strict=False))
        self._has_states = any("states" in layer.kind for layer in self.layers)
        super().__init__(
            backend, fingerprint=_of_layers(fingerprint(model, extra_key=extra_key), self.layers), salt=salt, cost=cost,
            settings=replace(settings, rope=settings.rope or rope_of(self.model)), clock=clock, on_error=on_error,
            limit_bytes=limit_bytes, threads=threads,
        )  # fmt: skip

    # ---- reading ----

    def longest_prefix(self, prompt: Any) -> int:
        """Tokens that `get` would find. No block is decoded, so damage shows only there. Arguments as for `get`."""
        ids = self._prompt(prompt)
        place = self._or_miss(lambda: self._longest(ids), None)
        return place.tokens if place else 0

    def get(self, prompt: Any, device: Any = None) -> HybridHit | None:
        """The cache of the longest stored prefix that is intact, shorter than the prompt: ``generate`` needs a token to run.

        Args:
            prompt: ids to generate from, shape (n,) or (1, n); with pictures, as `with_contents` gives them.
            device: of the tensors; the model's by default.

        Returns:
            None if nothing is stored, or if what follows would have to be run one by one and is too long for that.

        Raises:
            Mismatch: other adapters act in the model than when the store was opened.
        """
        ids = self._prompt(prompt)
        found = self._or_miss(lambda: self._get(ids), None)
        if found is None:
            return None
        tokens, cache = found[0], filled(found[1], self.model, device)
        between = ids[tokens:-1]
        if self._has_states and len(between) and not goes_on_at_once(self.model):
            if len(between) > max(ONE_BY_ONE, tokens // ONE_BY_ONE) or between.max() >= CONTENT_ID_MIN:
                return None
            run_one_by_one(self.model, cache, between)
            tokens += len(between)
        return HybridHit(tokens, cache)

    def _prompt(self, tokens: Any) -> np.ndarray:
        if adapters_at_work(self.model) != self._adapters:  # the fingerprint, of all weights, is taken but once
            raise Mismatch("the model's adapters are others than when the store was opened; open one for each of them")
        ids = self._ids(tokens)
        if len(ids) and MARK_MIN <= ids.max() <= TOKEN_MAX:
            raise InputError(f"token id {ids.max()}; those from {MARK_MIN} on stand for what layers keep")
        return ids

    def _get(self, ids: np.ndarray) -> tuple[int, list[LayerState]] | None:
        self.index.trim()
        runs: dict[bytes, Layers] = {}
        states: dict[bytes, dict[str, Tensor]] = {}
        while True:  # every failure takes a block out of the trie, so this ends
            place = self._longest(ids)
            if place is None:
                self.asked_tokens += len(ids)
                return None
            wanted = [(node, min(node.count, place.tokens - node.start)) for node in place.path]
            if self._decoded(wanted if self._full else [], None, runs) and self._decoded_marks(place, runs, states):
                break
        self._count(ids, wanted)
        for node in _marks_of(place):
            self.index.used(node, read=True)
        full = iter(join([cut(runs[node.id], 0, count) for node, count in wanted]) if self._full else ())
        windows = {
            window: iter(join([cut(runs[piece.node.id], piece.first, piece.last) for piece in pieces]))
            for window, pieces in place.windows.items()
        }
        out = []
        for i, layer in enumerate(self.layers):
            pair = next(full) if i in self._full else next(windows[layer.window]) if layer.window else None
            own = states_of(states[place.states.id], i) if place.states else {}
            out.append(replace(layer, seen=place.tokens if pair else 0, pair=pair, states=own))
        return place.tokens, out

    def _decoded_marks(self, place: _Place, runs: dict[bytes, Layers], states: dict[bytes, dict[str, Tensor]]) -> bool:
        """Decode blocks of marks; False at one that is damaged, gone or unlike the others, and then forgotten."""
        for node, data in self.index.fetched([node for node in _marks_of(place) if node.id not in runs]):
            block = self.index.taken(node, data)
            if block is None:
                return False
            runs[node.id], states[node.id] = block.layers, dict(block.states)
        expected = [(self._full, list(place.path))] if self._full else []
        expected += [(self._windows[window], [piece.node for piece in pieces]) for window, pieces in place.windows.items()]
        for layers, nodes in expected:
            for node in nodes:
                run = runs[node.id]
                if len(run) != len(layers) or not can_be_joined(run, runs[nodes[0].id]):
                    self.index.forget(node, delete=False)
                    return False
        return True

    def _longest(self, ids: np.ndarray) -> _Place | None:
        """The longest prefix of a prompt, shorter than it, of which every kind of layer has what it needs."""
        known = ids[:-1]
        self.index.match(known)
        ends = []
        for node, depth, tail, shared in self.index.trie.reached(known):
            ends += [(node.end, node)] if depth else []
            ends += [(tail.start + shared, tail)] if tail is not None else []
        asked: set[bytes] = set()
        for end, node in sorted(ends, key=lambda it: -it[0]):
            count = whole_contents(ids, end)
            if count > node.start and (place := self._place(node, count, asked)):
                return place
        return None

    def _place(self, node: Node, count: int, asked: set[bytes]) -> _Place | None:
        """The place of a prefix of ``count`` tokens that ends in ``node``; None if something is missing.

        ``asked``: blocks whose blocks of marks were looked for already.
        """
        path = self.index.trie.path_to(node)
        reach = max((window - 1 for window in self._windows), default=0)
        last = [each for each in path if each.end > count - reach or (self._has_states and each is node)]
        if new := [each for each in last if each.id not in asked]:
            self.index.find_marks(new, [*self._marks.values(), *([STATES_MARK] if self._has_states else [])])
            asked |= {each.id for each in new}
        states = _beside(node, STATES_MARK) if self._has_states else None
        if self._has_states and (states is None or count != node.end):
            return None
        windows = {window: _pieces(path, count, window, mark) for window, mark in self._marks.items()}
        if any(pieces is None for pieces in windows.values()):
            return None
        return _Place(count, tuple(path), {window: pieces for window, pieces in windows.items() if pieces}, states)

    # ---- writing ----

    def put(self, tokens: Any, cache: Any, progress: Progress | None = None) -> Stored:
        """Store a prompt's cache as the model left it. Blocks that are there are shared, unless they are damaged.

        Args:
            tokens: ids of at least 0, shape (n,) or (1, n).
            cache: a transformers cache of one sequence, which has seen n tokens, or n - 1 after generation; one of recurrent
                states alone does not tell: give just those. A plain ``DynamicCache()`` keeps every position of windows, and
                then every beginning of the prompt is a hit.
            progress: called with (tokens done, tokens in all).

        Raises:
            ValueError: shapes do not fit, blocks to share have another layout, or the mode needs the model.
            Mismatch: the cache has layers of other kinds than the model, or other adapters act than at opening.
        """
        check_mode(self.settings)
        layers = taken_apart(cache)
        self._check_kinds(layers)
        ids = seen_ids(layers, self._prompt(tokens))
        if not len(ids):
            raise InputError("a cache of no tokens")
        return self._or_miss(lambda: self._put(ids, layers, progress), NOTHING_STORED)

    def _check_kinds(self, layers: Sequence[LayerState]) -> None:
        """Mismatch for a cache of other layers than the model's; windows may hold every position."""
        kinds = [(layer.kind, layer.window) for layer in layers]
        own = [(layer.kind, layer.window) for layer in self.layers]
        same = len(kinds) == len(own) and all(
            kind in (mine, (mine[0].replace("window", "full"), 0)) for kind, mine in zip(kinds, own, strict=True)
        )
        if not same:
            raise Mismatch(f"the cache has layers of kinds {_text(layers)}, the model {_text(self.layers)}")
        for i, layer in enumerate(layers):
            if layer.pair is None and ("full" in layer.kind or "window" in layer.kind):
                raise InputError(f"layer {i} holds no keys; is the cache empty?")

    def _put(self, ids: np.ndarray, layers: Sequence[LayerState], progress: Progress | None) -> Stored:
        full = _pairs(layers, self._full)
        sharing = Sharing(self.index, layout_of(full) if full else NO_LAYERS)
        path = self._path_for_put(ids, sharing)
        for node in path:
            self.index.used(node, read=False)
        chain, stored = self._written(ids, 0, full, path, sharing, None, progress, exact=True)
        written, kept = list[Node](), list[Node]()
        for window, own in self._windows.items():
            for node, new in self._put_windows(chain, _pairs(layers, own), self._marks[window]):
                (written if new else kept).append(node)
        if self._has_states:
            node, new = self._put_states(chain[-1], layers)
            (written if new else kept).append(node)
        for node in kept:
            self.index.used(node, read=False)
        self.index.flush()
        size = stored.new_bytes + sum(node.size_bytes for node in written)
        self._keep_within_limit(size, {node.id for node in (*chain, *written, *kept)})
        return replace(stored, new_blocks=stored.new_blocks + len(written), new_bytes=size)

    def _put_windows(self, chain: Sequence[Node], pairs: Layers, mark: int) -> Iterator[tuple[Node, bool]]:
        """Blocks of marks for all that windows hold, and whether each was written."""
        total, held = chain[-1].end, pairs[0][0].shape[1]
        if any(x.shape[1] != held for pair in pairs for x in pair) or held > total:
            raise InputError(f"windows of one length hold {sorted({x.shape[1] for pair in pairs for x in pair})} positions")
        first, sharing = total - held, Sharing(self.index, layout_of(pairs))
        needed = [node for node in chain if node.end > first]
        self.index.find_marks(needed, [mark])
        for node in needed:
            start = max(node.start, first)
            count, there = node.end - start, _beside(node, mark)
            if there is not None and there.count >= count and sharing.usable(there):
                yield there, False
                continue
            # the block lies after its tokens, so positions in it are ``count`` higher than they are
            finer = max(self.settings.sinks - start, 0)
            settings = replace(self.settings, sinks=min(finer + node.end, _SINKS_MAX) if finer else 0)
            run = cut(pairs, start - first, node.end - first)
            yield self._write(node, np.full(count, mark), run, total + count, settings=settings), True

    def _put_states(self, node: Node, layers: Sequence[LayerState]) -> tuple[Node, bool]:
        """The block of recurrent states after ``node``, and whether it was written."""
        self.index.find_marks([node], [STATES_MARK])
        there = _beside(node, STATES_MARK)
        if there is not None and Sharing(self.index, NO_LAYERS).usable(there):
            return there, False
        states = {f"{i}.{name}": x for i, layer in enumerate(layers) for name, x in layer.states.items()}
        return self._write(node, np.array([STATES_MARK]), (), node.end, states=states), True


def _of_layers(name: Fingerprint, layers: Sequence[LayerState]) -> Fingerprint:
    """The fingerprint of a model's caches with layers as they are: not those of a plain ``DynamicCache()``."""
    return Fingerprint.of(
        {**name.fields, "cache layers": _text(layers)}, placeholders=name.placeholders, no_prefix=name.no_prefix,
        no_contents=name.no_contents,
    )  # fmt: skip


def _text(layers: Sequence[LayerState]) -> str:
    return ", ".join(f"{layer.kind} {layer.window}" if layer.window else layer.kind for layer in layers)


def _pairs(layers: Sequence[LayerState], which: Sequence[int]) -> Layers:
    return tuple(pair for i in which if (pair := layers[i].pair) is not None)


def _beside(node: Node, mark: int) -> Node | None:
    """The longest block of a mark that belongs to a block of tokens, of those that were looked for."""
    found = [child for child in node.children if child.is_mark and child.tokens[0] == mark and child.count <= node.count]
    return max(found, key=lambda child: child.count, default=None)


def _pieces(path: Sequence[Node], count: int, window: int, mark: int) -> list[_Piece] | None:
    """Where the ``window`` - 1 positions before ``count`` lie, or all before it; None if some are missing."""
    first, out = max(count - window + 1, 0), list[_Piece]()
    for node in reversed(path):
        if node.end <= first:
            break
        held, start = _beside(node, mark), max(first, node.start)
        if held is None or node.end - held.count > start:
            return None
        at = node.end - held.count
        out.append(_Piece(held, start - at, min(count, node.end) - at))
    return out[::-1]


def _marks_of(place: _Place) -> list[Node]:
    nodes = [piece.node for pieces in place.windows.values() for piece in pieces]
    return [*nodes, place.states] if place.states else nodes
