"""Damaged, misplaced and vanished blocks: a miss, healed by the next put."""

from __future__ import annotations

import numpy as np
import pytest
from rdcodec.entropy_models.errors import Unsupported
from store_cases import PROMPT, assert_is_cache, cache_of, damage, put, store_with_damage


@pytest.mark.parametrize("reopen", [False, True])
@pytest.mark.parametrize("kind", ["flip", "cut", "zeros", "empty"])
def test_a_put_over_a_damaged_block_heals_it_before_anyone_looks(opened, folder, kind, reopen):
    rng = np.random.default_rng(2)
    for _ in range(12):
        store, node = store_with_damage(opened, folder, rng, kind)
        stored = put(opened() if reopen else store, PROMPT)
        assert (stored.new_blocks, stored.new_tokens) == (1, len(node.tokens))
        assert_is_cache(opened().get(PROMPT), PROMPT)


def test_an_append_after_a_damaged_block_asks_for_the_whole_cache(opened, folder):
    store = opened()
    put(store, PROMPT[:16])
    damage(folder / store.index.key(store.index.match(np.array(PROMPT)).path[1].id), np.random.default_rng(0), "zeros")
    with pytest.raises(ValueError, match="8 of the 16 tokens before the new ones are stored; put the whole cache"):
        store.append(PROMPT, [(k[:, 16:], v[:, 16:]) for k, v in cache_of(PROMPT)])


def test_a_block_in_anothers_place_is_a_miss(opened, folder):
    store = opened()
    put(store, PROMPT)
    other = [5, 5, 5, 5, 5, 5, 5, 5]
    put(store, other)
    first = folder / store.index.key(store.index.match(np.array(PROMPT)).path[0].id)
    foreign = folder / store.index.key(store.index.match(np.array(other)).path[0].id)
    first.write_bytes(foreign.read_bytes())
    assert opened().get(PROMPT) is None
    assert store.get(PROMPT) is None
    assert_is_cache(store.get(other), other)


def test_a_hash_collision_is_caught_by_comparing_tokens(opened, monkeypatch):
    store = opened()
    put(store, PROMPT[:8])
    monkeypatch.setattr(store.index, "id_of", lambda parent, tokens: next(iter(store.index.trie.nodes)))
    assert store.longest_prefix(list(range(300, 308))) == 0
    assert store.get(list(range(300, 308))) is None


def test_a_block_that_vanishes_is_a_miss_and_is_written_again(opened, folder):
    store = opened()
    put(store, PROMPT)
    (folder / store.index.key(store.index.match(np.array(PROMPT)).path[1].id)).unlink()
    assert put(store, PROMPT).new_blocks == 1
    assert_is_cache(opened().get(PROMPT), PROMPT)


def test_verify_names_what_is_damaged_and_repairs(opened, folder):
    store = opened()
    put(store, PROMPT)
    bad = store.index.match(np.array(PROMPT)).path[1]
    damage(folder / store.index.key(bad.id), np.random.default_rng(0), "zeros")
    (folder / f"blocks/{store.index.namespace}/ab").mkdir(exist_ok=True)
    (folder / f"blocks/{store.index.namespace}/ab" / f"{'ab' * 16}.rdc").write_bytes(b"no block")
    steps = []
    checked = opened().verify(progress=lambda done, total: steps.append((done, total)))
    assert checked.blocks == 5 and set(checked.damaged) == {bad.id.hex(), "ab" * 16}
    assert steps == [(i, 5) for i in range(1, 6)]
    assert len(opened().verify(repair=True).damaged) == 2
    checked = opened().verify()
    assert checked.blocks == 3 and not checked.damaged and len(checked.unreachable) == 1
    assert opened().stats().prompt_tokens == 8, "what cannot be reached is no prompt"


def test_verify_never_deletes_what_it_cannot_judge(opened, folder, monkeypatch):
    """A block whose profile is missing here is whole for those who have it."""
    put(opened(), PROMPT)
    before = sorted(p.name for p in folder.rglob("*.rdc"))

    def missing(*_, **__):
        raise Unsupported("its profile is not here")

    monkeypatch.setattr("rdcodec.codecs.kv_store.content.decode_parsed", missing)
    checked = opened().verify(repair=True)
    assert not checked.damaged and len(checked.unread) == checked.blocks == len(before) > 0
    assert sorted(p.name for p in folder.rglob("*.rdc")) == before
