"""A store that stays small: a limit that puts keep, usage files that fold by themselves, listings that grow no faster."""

from __future__ import annotations

import os

import numpy as np
import pytest
from rdcodec.codecs.kv_store import ledger
from rdcodec.codecs.kv_store.backends import open_backend
from rdcodec.codecs.kv_store.trie import Children, Node, Trie, token_key
from store_cases import PROMPT, assert_is_cache, files, put


def size(folder):
    return sum(path.stat().st_size for path in files(folder))


def test_puts_keep_the_limit_and_what_was_put_last(opened, folder):
    put(opened(), PROMPT)
    limit = 5 * size(folder)
    store = opened(limit_bytes=limit)
    for first in range(0, 40_000, 1000):
        tokens = list(range(first, first + 30))
        put(store, tokens)
        assert size(folder) <= limit
        store.index.clock.now += 1
    assert_is_cache(opened().get(tokens), tokens)
    assert size(folder) > 0.6 * limit and len(files(folder)) < 25
    for wrong in (0, -5):
        with pytest.raises(ValueError, match="a limit of"):
            opened(limit_bytes=wrong)


def test_what_others_put_counts_towards_the_limit(opened, folder):
    put(opened(), PROMPT)
    limit = 4 * size(folder)
    ours, theirs = opened(limit_bytes=limit), opened()
    put(ours, [1, *PROMPT])
    for first in range(0, 10_000, 1000):
        put(theirs, list(range(first, first + 30)))
    assert size(folder) > 2 * limit
    put(ours, [2, *PROMPT])
    assert size(folder) <= limit


def test_usage_files_are_folded_by_those_who_save(opened, folder, clock):
    put(opened(), PROMPT)
    for _ in range(3 * ledger.FILES_MAX):
        clock.now += 1
        with opened() as store:
            store.get(PROMPT)
        assert len(list((folder / "usage" / store.index.namespace).iterdir())) <= ledger.FILES_MAX
    store = opened()
    assert store.stats().hits == 4 * 3 * ledger.FILES_MAX
    assert store.index.reuse.counts.hits.sum() == 4 * 3 * ledger.FILES_MAX


def test_two_who_fold_the_same_files_make_one(tmp_path):
    backend, space = open_backend(tmp_path), "space"
    for _ in range(3):
        ledger.save(backend, space, ledger.Account({b"\1" * 16: ledger.Usage(1, 5.0)}))
    keys = [entry.key for entry in backend.list(ledger.folder(space))]
    kept = {key: backend.get(key) for key in keys}
    ledger.fold(backend, space, {b"\1" * 16})
    for key, data in kept.items():  # the other one listed them before they were deleted
        backend.put(key, data)
    (backend.root / next(e.key for e in backend.list(ledger.folder(space)) if e.key not in kept)).rename(tmp_path / "sum")
    ledger.fold(backend, space, {b"\1" * 16})
    assert ledger.load(backend, space).blocks[b"\1" * 16].hits == 3


def test_each_tenant_is_listed_alone(opened, folder, monkeypatch):
    for tenant in range(6):
        put(opened(salt=b"%d" % tenant), PROMPT)
    seen, walk = [], os.walk

    def watched(top):
        for folder, names, found in walk(top):
            seen.extend(found)
            yield folder, names, found

    monkeypatch.setattr("rdcodec.codecs.kv_store.backends.os.walk", watched)
    for tenant in range(6):
        opened(salt=b"%d" % tenant).index.refresh()
    blocks = [name for name in seen if name.endswith(".rdc")]
    assert len(blocks) == 6 * 4, "each block is walked over once, however many tenants there are"


class Counted(bytes):
    """A key that counts the bytes cut out of it."""

    cut = 0

    def __getitem__(self, at):
        found = super().__getitem__(at)
        if isinstance(at, slice):
            Counted.cut += len(found)
        return found


def test_a_long_prompt_takes_linear_time(monkeypatch):
    work = []
    for blocks in (200, 400):
        prompt = np.arange(blocks * 4)
        trie, parent = Trie(), None
        for start in range(0, len(prompt), 4):
            block = bytes([1]) + start.to_bytes(15, "big")
            trie.add(Node(id=block, parent_id=parent or bytes(16), key=token_key(prompt[start : start + 4]), start=start))
            parent = block
        monkeypatch.setattr("rdcodec.codecs.kv_store.trie.token_key", lambda tokens: Counted(token_key(tokens)))
        Counted.cut = 0
        assert trie.match(prompt).tokens == len(prompt)
        work.append(Counted.cut)
        monkeypatch.undo()
    assert work[1] < 2.1 * work[0]


def test_a_put_of_a_long_prompt_takes_linear_time(opened, monkeypatch):
    made, work = token_key, []
    for tokens in (400, 800):
        total = [0]

        def counting(ids, total=total):
            total[0] += len(ids)
            return made(ids)

        for module in ("block_store", "index", "trie"):
            monkeypatch.setattr(f"rdcodec.codecs.kv_store.{module}.token_key", counting)
        store = opened(salt=b"%d" % tokens)
        put(store, list(range(tokens)))
        work.append(total[0])
        monkeypatch.undo()
    assert work[1] < 2.1 * work[0]


def test_children_tell_how_far_they_reach():
    children = Children()
    assert children.longest_bytes == 0
    for tokens in (3, 7, 5):
        children.add(Node(id=bytes([tokens]) * 16, parent_id=bytes(16), key=token_key(np.arange(tokens)), start=0))
    assert children.longest_bytes == 28
