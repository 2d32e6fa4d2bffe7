"""Stores that cannot be written, or fail: a read needs no store that takes writes, and errors may be misses."""

from __future__ import annotations

import errno
import logging
import time

import numpy as np
import pytest
from rdcodec.codecs.kv_store.backends import open_backend
from rdcodec.codecs.kv_store.store import NOTHING_STORED, PrefixStore
from rdcodec.entropy_models.errors import BitstreamError
from store_cases import FINGERPRINT, PROMPT, SETTINGS, assert_is_cache, damage, put

WRITES = ("put", "delete")
READS = ("get", "get_many", "list")


READ_ONLY = OSError(errno.EROFS, "Read-only file system")


def fail(backend, monkeypatch, verbs, error=READ_ONLY):
    """Let some of a backend's verbs fail."""

    def failing(*_, **__):
        raise error

    for verb in verbs:
        if hasattr(backend, verb):
            monkeypatch.setattr(backend, verb, failing)


def test_a_read_needs_no_store_that_takes_writes(opened, monkeypatch):
    put(opened(), PROMPT)
    with opened() as store:
        fail(store.index.backend, monkeypatch, WRITES)
        assert_is_cache(store.get(PROMPT), PROMPT)
    store.save()
    monkeypatch.undo()
    store.save()
    assert opened().stats().hits == 4, "what could not be written waits for the next save"


def test_damage_in_a_store_that_may_only_be_read_is_a_miss(opened, folder, monkeypatch):
    store = opened()
    put(store, PROMPT)
    damage(folder / store.index.key(store.index.match(np.array(PROMPT)).path[2].id), np.random.default_rng(0), "zeros")
    store = opened()
    fail(store.index.backend, monkeypatch, WRITES)
    for _ in range(2):
        assert_is_cache(store.get(PROMPT), PROMPT[:16])
    assert "cannot be deleted: [Errno 30] Read-only file system" in "".join(store.index.refused.values())


def test_a_put_or_an_eviction_that_cannot_write_says_so(opened, monkeypatch):
    put(opened(), PROMPT)
    store = opened()
    fail(store.index.backend, monkeypatch, WRITES)
    with pytest.raises(OSError, match="Read-only"):
        put(store, [*PROMPT, 7, 7, 7])
    assert_is_cache(store.get(PROMPT), PROMPT)


def test_a_store_that_fails_is_a_miss_where_asked_for(opened, monkeypatch, caplog):
    put(opened(), PROMPT)
    asks = (
        (lambda store: store.get(PROMPT), None),
        (lambda store: store.longest_prefix([9] * 8), 0),
        (lambda store: store.unread([9] * 8), None),
        (lambda store: list(store.stream(PROMPT, range(3))), []),
        (lambda store: put(store, PROMPT), NOTHING_STORED),
    )
    for ask, miss in asks:
        for on_error in ("raise", "miss"):
            store = opened(on_error=on_error)
            fail(store.index.backend, monkeypatch, (*READS, *WRITES), ConnectionError("gone"))
            if on_error == "raise":
                with pytest.raises(ConnectionError, match="gone"):
                    ask(store)
            else:
                with caplog.at_level(logging.WARNING):
                    assert ask(store) == miss
                assert "the store fails, and counts as empty: gone" in caplog.text
            store.save()
            caplog.clear()
    with pytest.raises(ValueError, match="on_error 'ignore'; there are raise and miss"):
        opened(on_error="ignore")


def test_a_stream_that_fails_midway_says_so_as_for_damage(opened, monkeypatch):
    put(opened(), PROMPT)
    store = opened(on_error="miss")
    layers = store.stream(PROMPT, range(3))
    next(layers)
    fail(store.index.backend, monkeypatch, READS, ConnectionError("gone"))
    with pytest.raises(BitstreamError, match="the store failed after 1 layers: gone"):
        next(layers)


@pytest.fixture
def redis_store(redis_url):
    """Opens stores on one prefix of the server, and its client."""

    def open_again(more="", **options):
        where = f"{redis_url}?prefix=unwritable{more}"
        return PrefixStore(open_backend(where), fingerprint=FINGERPRINT, settings=SETTINGS, **options)

    put(open_again(), PROMPT)
    return open_again


@pytest.mark.parametrize("how", ["maxmemory", "replica"])
def test_redis_that_takes_no_writes_still_hits(redis_store, how):
    client = redis_store().index.backend._redis
    asked, undo = {
        "maxmemory": (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0")),
        "replica": (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE")),
    }[how]
    client.execute_command(*asked)
    try:
        with redis_store() as store:
            assert_is_cache(store.get(PROMPT), PROMPT)
            with pytest.raises(ConnectionError, match="maxmemory|read only"):
                put(store, [9, *PROMPT])
        assert put(redis_store(on_error="miss"), [9, *PROMPT]) == NOTHING_STORED
    finally:
        client.execute_command(*undo)


def test_redis_that_hangs_or_drops_connections(redis_store):
    store = redis_store()
    control = redis_store().index.backend._redis
    store.get(PROMPT)
    control.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    assert_is_cache(store.get(PROMPT), PROMPT)
    options = store.index.backend._redis.connection_pool.connection_kwargs
    assert options["socket_timeout"] == options["socket_connect_timeout"] == 2
    store = redis_store("&socket_timeout=0.2")
    control.execute_command("CLIENT", "PAUSE", "1500", "ALL")
    started = time.monotonic()
    with pytest.raises(ConnectionError, match="Timeout"):
        store.get(PROMPT)
    assert time.monotonic() - started < 1, "what timed out is not tried again"
    control.execute_command("CLIENT", "UNPAUSE")


def test_a_server_that_is_not_there_shows_when_it_is_asked():
    store = PrefixStore(open_backend("redis://127.0.0.1:1/0"), fingerprint=FINGERPRINT, settings=SETTINGS)
    with pytest.raises(ConnectionError, match="does not answer"):
        store.get(PROMPT)
    assert PrefixStore(store.index.backend, fingerprint=FINGERPRINT, on_error="miss").get(PROMPT) is None
