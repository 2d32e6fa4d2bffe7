"""Salts: one tenant finds nothing of another."""

from __future__ import annotations

import numpy as np
import pytest
from kv_cases import forged
from rdcodec.codecs.kv_store.backends import open_backend
from rdcodec.codecs.kv_store.index import namespaces
from rdcodec.codecs.kv_store.store import PrefixStore
from store_cases import PROMPT, assert_is_cache, put


def test_another_tenant_or_model_finds_nothing(opened, folder):
    put(opened(), PROMPT)
    for options in ({"salt": b"tenant"}, {"fingerprint": bytes(16)}):
        store = opened(**options)
        assert store.get(PROMPT) is None and store.longest_prefix(PROMPT) == 0
    theirs = opened(salt=b"tenant")
    put(theirs, PROMPT)
    assert_is_cache(opened(salt=b"tenant").get(PROMPT), PROMPT)
    assert len(namespaces(open_backend(folder))) == 2


def test_moving_another_tenants_blocks_into_ones_folder_gives_misses(opened, folder):
    theirs, ours = opened(salt=b"theirs"), opened(salt=b"ours")
    put(theirs, PROMPT)
    (folder / "blocks" / theirs.index.namespace).rename(folder / "blocks" / ours.index.namespace)
    assert opened(salt=b"ours").longest_prefix(PROMPT) == 0 and opened(salt=b"ours").get(PROMPT) is None


def test_without_the_salt_a_store_can_be_looked_at_but_not_written(opened, folder):
    put(opened(salt=b"tenant"), PROMPT)
    store = PrefixStore.of_namespace(open_backend(folder), namespaces(open_backend(folder))[0])
    assert store.stats().tokens == 30 and not store.verify().damaged
    with pytest.raises(ValueError, match="without its salt"):
        put(store, [1, 2, 3])


def test_without_the_salt_a_block_whose_tokens_were_changed_is_seen(opened, folder):
    """Under checksums that hold, after the store was opened: nothing but its tokens tells."""
    put(opened(salt=b"tenant"), PROMPT)
    store = PrefixStore.of_namespace(open_backend(folder), namespaces(open_backend(folder))[0])
    path = folder / store.index.key(store.index.match(np.array(PROMPT)).path[1].id)

    def change(signal, chunks):
        chunks[0][0] ^= 1

    path.write_bytes(forged(path.read_bytes(), change))
    assert list(store.verify().damaged.values()) == ["the block holds other tokens than its place in the trie"]
