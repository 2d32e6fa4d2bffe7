"""The accounts of uses: those of several processes add up, and damage does no harm."""

from __future__ import annotations

import numpy as np
import pytest
from rdcodec.codecs.kv_store import ledger
from store_cases import PROMPT, put


def test_hits_of_several_processes_add_up_and_damaged_accounts_do_no_harm(opened, folder, clock):
    with opened() as store:
        put(store, PROMPT)
    for _ in range(3):
        clock.now += 10
        with opened() as store:
            store.get(PROMPT[:8])
            store.get(PROMPT[:8])
    for number, junk in enumerate([b"", b"{", b"[]", b'{"version": 1}', b'{"version": 9, "blocks": {}, "reuse": []}']):
        (folder / "usage" / store.index.namespace / f"junk{number}.json").write_bytes(junk)
    store = opened()
    first = first_block(store)
    assert first.hits == 6 and first.last_used == 1030
    store.evict(10**9)
    assert len(list((folder / "usage" / store.index.namespace).iterdir())) == 1
    again = opened()
    first = first_block(again)
    assert first.hits == 6 and first.last_used == 1030
    assert again.index.reuse.counts.hits.sum() == 6


def first_block(store):
    store.index.load()
    return store.index.match(np.array(PROMPT)).path[0]


def uses(store) -> int:
    """What eviction counts: reads, and puts of tokens that are stored."""
    store.index.load()
    return sum(node.hits for node in store.index.trie.nodes.values())


def test_a_save_writes_what_was_counted_since_the_last_and_puts_are_uses_but_no_hits(opened):
    store = opened()
    put(store, PROMPT)
    assert put(store, PROMPT).new_blocks == 0 and (uses(store), store.stats().hits) == (4, 0)
    store.get(PROMPT[:8])
    store.save()
    store.save()
    other = opened()
    assert (uses(other), other.stats().hits) == (5, 1)
    other.evict(10**9)
    again = opened()
    assert (uses(again), again.stats().hits) == (5, 1), "lost when accounts are folded"


def test_accounts_without_reads_are_those_of_older_programs():
    account = ledger.parse(b'{"version":1,"blocks":{"01":[3,1,null]},"reuse":[]}')
    assert (account.blocks[b"\1"].hits, account.blocks[b"\1"].reads) == (3, 0)


def test_no_read_and_no_time_are_in_range():
    account = ledger.parse(b'{"version":1,"blocks":{"01":[3,1,null]},"reuse":[[0,0,0,0]],"reads":{"01":0}}')
    assert (account.blocks[b"\1"].hits, account.blocks[b"\1"].reads) == (3, 0)


def test_accounts_of_several_processes_are_added():
    first, second = ledger.Usage(3, 12.5, None, 2), ledger.Usage(4, 11.0, 7.25, 1)
    first.add(second)
    assert first == ledger.Usage(7, 12.5, 7.25, 3)
    first.add(ledger.Usage(0, 20.0, 9.0))
    assert first == ledger.Usage(7, 20.0, 7.25, 3), "what is known of an edge stays"


def test_accounts_round_trip_and_refuse_nonsense():
    account = ledger.Account({b"\1" * 16: ledger.Usage(3, 12.5, 7.25, 2), b"\2" * 16: ledger.Usage(0, 1.0, None)})
    account.reuse.hits[1, 2], account.reuse.exposure_s[3, 4] = 5, 6.5
    back = ledger.parse(account.to_json())
    assert back.blocks == account.blocks
    assert np.array_equal(back.reuse.hits, account.reuse.hits)
    assert np.array_equal(back.reuse.exposure_s, account.reuse.exposure_s)
    for bad in (
        b'{"version":1,"blocks":{"00":[-1,0,null]},"reuse":[]}',
        b'{"version":1,"blocks":{},"reuse":[[99,0,1,1]]}',
        b'{"version":1,"blocks":{},"reuse":[[0,0,-1,1]]}',
        b'{"version":1,"blocks":{},"reuse":[[0,0,1,-1]]}',
        b'{"version":1,"blocks":{},"reuse":[[0,0,1,Infinity]]}',
        b'{"version":1,"blocks":{"00":[1,Infinity,null]},"reuse":[]}',
        b'{"version":1,"blocks":{"00":[1,0,NaN]},"reuse":[]}',
        b'{"version":1,"blocks":{"00":[1,0,null]},"reuse":[],"reads":{"00":-1}}',
        b'{"version":1,"blocks":{"00":[1,0,null]},"reuse":[],"reads":{"00":2}}',
    ):
        with pytest.raises(ValueError, match="out of range"):
            ledger.parse(bad)
