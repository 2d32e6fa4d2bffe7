"""Catalogs: a store opens without reading its blocks, and one that is lost, old or damaged is made anew from them."""

from __future__ import annotations

import itertools
import os
import shutil
import sqlite3
import time

import numpy as np
import pytest
from rdcodec.codecs.kv_store.backends import open_backend
from rdcodec.codecs.kv_store.catalogs import manifest, objects
from rdcodec.codecs.kv_store.catalogs.lines import CatalogError, Line, unpacked
from rdcodec.codecs.kv_store.catalogs.memory import NoCatalog
from rdcodec.codecs.kv_store.store import PrefixStore
from rdcodec.codecs.kv_store.trie import TOKEN_BYTES, common_prefix, common_tokens, token_key
from store_cases import FINGERPRINT, PROMPT, SETTINGS, assert_is_cache, cache_of, files, put

NAMES = itertools.count()


@pytest.fixture
def small_pages(monkeypatch):
    """Manifests of many pages, of which the first read holds not even the directory."""
    monkeypatch.setattr(objects, "HEAD_BYTES", 60)
    monkeypatch.setattr(objects, "PAGES_MAX", 3)
    monkeypatch.setattr(manifest, "PAGE_LINES", 2)


@pytest.fixture(params=["directory", "memory", "memory in pages", "file", "redis"])
def again(request, tmp_path):
    """Opens one store on each kind of backend, again and again."""
    name = f"catalog{next(NAMES)}"
    if request.param == "memory in pages":
        request.getfixturevalue("small_pages")
    if request.param == "redis":
        where = f"{request.getfixturevalue('redis_url')}?prefix={name}"
    else:
        where = {"directory": f"{tmp_path}/{name}", "memory": f"memory://{name}", "file": f"file://{tmp_path}/{name}"}[
            request.param.split()[0]
        ]

    def open_again(**options):
        return PrefixStore(open_backend(where), fingerprint=FINGERPRINT, settings=SETTINGS, **options)

    return open_again


def forbid(monkeypatch, backend, *verbs, but=()):
    """Let some verbs fail for blocks."""
    for verb in verbs:
        call = getattr(backend, verb)

        def checked(what, *rest, call=call, verb=verb):
            keys = [what] if isinstance(what, str) else what
            assert not any(key.startswith("blocks/") and key not in but for key in keys), f"{verb} of {what}"
            return call(what, *rest)

        monkeypatch.setattr(backend, verb, checked)


def test_a_store_opens_and_finds_prefixes_without_reading_or_listing_blocks(again, monkeypatch):
    put(again(), PROMPT)
    put(again(), [*PROMPT[:16], *range(900, 910)])
    store = again()
    forbid(monkeypatch, store.index.backend, "get", "get_many", "list")
    for query, found in (
        (PROMPT, 30),
        (PROMPT[:11], 11),
        ([*PROMPT[:19], 7], 19),
        ([*PROMPT[:16], 900, 3], 17),
        ([3, 4], 0),
    ):
        assert store.longest_prefix(query) == found
    monkeypatch.undo()
    assert_is_cache(store.get(PROMPT), PROMPT)


def test_opening_in_redis_asks_for_no_more_than_it_needs(redis_url, monkeypatch):
    """However many blocks: no scan of the hash of lines. Lengths that the server dropped are made anew."""
    where = f"{redis_url}?prefix=catalog{next(NAMES)}"

    def again():
        return PrefixStore(open_backend(where), fingerprint=FINGERPRINT, settings=SETTINGS)

    put(again(), PROMPT)
    store = again()
    client = store.index.backend._redis
    for scan in ("hscan_iter", "hgetall", "scan_iter"):
        monkeypatch.setattr(client, scan, None)
    assert store.longest_prefix(PROMPT) == 30
    monkeypatch.undo()
    assert client.delete(*client.keys(f"{where.rpartition('=')[2]};lengths:*")) == 1
    assert again().longest_prefix(PROMPT[:29]) == 29 and again().longest_prefix(PROMPT) == 30


def test_a_get_fetches_all_blocks_at_once(again, monkeypatch):
    put(again(), PROMPT)
    store, asked = again(), []
    store.longest_prefix(PROMPT)
    forbid(monkeypatch, store.index.backend, "list")
    many = store.index.backend.get_many
    monkeypatch.setattr(store.index.backend, "get_many", lambda keys, end=None: asked.append(len(keys)) or many(keys, end))
    assert_is_cache(store.get(PROMPT), PROMPT)
    assert asked == [4]


@pytest.mark.parametrize("seed", range(4))
def test_longest_prefixes_are_those_of_brute_force(again, seed):
    rng, prompts = np.random.default_rng(seed), []
    for _ in range(10):
        prompt = rng.integers(0, 2, rng.integers(1, 40))
        store, cut = again(), int(rng.integers(1, len(prompt) + 1))
        put(store, prompt[:cut])
        if cut < len(prompt):  # in short blocks, whose continuations cross those of whole ones
            store.append(prompt, [(k[:, cut:], v[:, cut:]) for k, v in cache_of(prompt)])
        prompts.append(prompt)
    reader = again()
    for query in [*prompts, *(rng.integers(0, 2, rng.integers(1, 44)) for _ in range(40))]:
        assert reader.longest_prefix(query) == max(common_prefix(query, prompt) for prompt in prompts)
        assert again().longest_prefix(query) == reader.longest_prefix(query)


def test_evicted_blocks_leave_the_catalog(again):
    put(again(), PROMPT)
    put(again(), list(range(600, 616)))
    store = again()
    store.evict(store.stats().size_bytes // 2)
    left = {node.id: node.size_bytes for node in again_loaded(again).trie.nodes.values()}
    assert left == store.index.stored() and len(left) < 6
    again().evict(0)
    assert not again_loaded(again).trie.nodes and again().get(PROMPT) is None
    put(again(), PROMPT)
    assert_is_cache(again().get(PROMPT), PROMPT)


def again_loaded(again):
    index = again().index
    index.load()
    return index


def test_transcoded_blocks_have_their_new_size_and_mode(again):
    put(again(), PROMPT)
    again().transcode("fp8")
    index = again_loaded(again)
    assert {node.id: node.size_bytes for node in index.trie.nodes.values()} == index.stored()
    assert again().stats().modes == {"fp8": 4}


def test_a_catalog_that_is_lost_is_made_anew(again):
    """As is that of a store that an older program wrote."""
    put(again(), PROMPT)
    put(again(), [*PROMPT[:16], *range(900, 910)])
    store = again()
    store.longest_prefix(PROMPT)
    store.index._catalog.reset()
    assert_is_cache(again().get(PROMPT), PROMPT)
    index = again_loaded(again)
    assert len(index.trie.nodes) == 6 and index._catalog.longest == 8
    assert again().longest_prefix([*PROMPT[:19], 7]) == 19


def test_one_that_cannot_be_made_is_done_without(again, monkeypatch):
    put(again(), PROMPT)
    store = again()

    class Broken(NoCatalog):
        def outdated(self):
            raise CatalogError("broken")

    monkeypatch.setattr(store.index.backend, "catalog", lambda _: Broken())
    assert_is_cache(store.get(PROMPT), PROMPT)
    put(store, [*PROMPT, 7])
    assert_is_cache(store.get([*PROMPT, 7]), [*PROMPT, 7])
    assert store.stats().blocks == 4


def test_blocks_without_a_line_are_found_by_their_id_or_by_looking_after_the_store(again):
    """Such as a killed writer leaves, or an older program writes."""
    put(again(), PROMPT[:24])
    store = again()
    assert store.longest_prefix(PROMPT) == 24
    store.index._catalog.write([], [node.id for node in store.index.match(np.array(PROMPT)).path[1:]])
    assert_is_cache(again().get(PROMPT), PROMPT[:24])
    store.index._catalog.write([], [node.id for node in store.index.match(np.array(PROMPT)).path[1:]])
    again().verify()
    assert len(again_loaded(again).trie.nodes) == 3


# ---- folders ----


def catalog_file(folder):
    (path,) = (folder / "index").glob("*.sqlite")
    return path


def settle(folder):
    """Let the folders of blocks have been changed a while ago."""
    for path in folder.glob("blocks/*/*"):
        os.utime(path, (time.time() - 100,) * 2)


def test_of_a_folder_only_what_changed_is_looked_at(opened, folder, monkeypatch):
    put(opened(), PROMPT)
    settle(folder)
    opened().longest_prefix(PROMPT)  # compares, and takes note
    other = PrefixStore(open_backend(folder.parent / "other"), fingerprint=FINGERPRINT, settings=SETTINGS)
    tail = [*PROMPT[:8], 500, 501]
    put(other, tail)
    (new,) = [path for path in files(folder.parent / "other") if path.name not in {p.name for p in files(folder)}]
    target = folder / new.relative_to(folder.parent / "other")
    target.parent.mkdir(exist_ok=True)
    shutil.copy(new, target)
    store = opened()
    forbid(monkeypatch, store.index.backend, "get", "get_many", but=[target.relative_to(folder).as_posix()])
    assert store.longest_prefix(tail) == 10, "a block that was copied into the folder"
    monkeypatch.undo()
    target.unlink()
    store = opened()
    forbid(monkeypatch, store.index.backend, "get", "get_many")
    assert store.longest_prefix(tail) == 8


def test_puts_leave_nothing_to_look_at(opened, folder, monkeypatch):
    store = opened()
    for first in range(0, 4000, 400):
        put(store, list(range(first, first + 16)))
    store = opened()
    forbid(monkeypatch, store.index.backend, "get", "get_many", "list")
    assert store.longest_prefix(list(range(400, 416))) == 16


@pytest.mark.parametrize("damage", ["junk", "empty", "cut", "version", "line"])
def test_a_damaged_file_is_made_anew(opened, folder, damage):
    for first in range(0, 4000, 400):
        put(opened(), list(range(first, first + 16)))
    path = catalog_file(folder)
    data = path.read_bytes()
    if damage == "line":
        with sqlite3.connect(path) as db:
            db.execute("UPDATE blocks SET start = start + 8 WHERE start > 0")
        db.close()
    elif damage == "version":
        with sqlite3.connect(path) as db:
            db.execute("PRAGMA user_version = 9")
        db.close()
    else:
        path.write_bytes({"junk": b"junk" * 5000, "empty": b"", "cut": data[: len(data) // 2]}[damage])
    for first in range(0, 4000, 400):
        assert_is_cache(opened().get(list(range(first, first + 16))), list(range(first, first + 16)))
    assert opened().stats().blocks == 20 and not opened().verify().damaged


def test_wrong_lines_give_misses_and_delete_nothing(again):
    """Lines whose checksums hold, but of another tenant: their ids do not."""
    put(again(salt=b"theirs"), PROMPT)
    theirs = again(salt=b"theirs")
    theirs.longest_prefix(PROMPT)
    ours = again(salt=b"ours")
    put(ours, list(range(600, 616)))
    ours.index._catalog.write(list(theirs.index._catalog.lines()), [])
    assert again(salt=b"ours").longest_prefix(PROMPT) == 0
    assert_is_cache(again(salt=b"theirs").get(PROMPT), PROMPT)


@pytest.mark.parametrize("seed", range(3))
def test_all_blocks_that_begin_a_prompt_are_found_and_the_nearest(again, seed):
    """Also where one begins another, as two writers at once may leave them."""
    rng, catalog = np.random.default_rng(seed), None
    store = again()
    store.longest_prefix([1])
    catalog = store.index._catalog
    keys = {token_key(rng.integers(0, 2, rng.integers(1, 9))) for _ in range(40)}
    lines = [Line(bytes([i]) * 16, b"p" * 16, key, 0, 9, "fp8") for i, key in enumerate(sorted(keys))]
    lines.append(Line(b"o" * 16, b"q" * 16, token_key(np.array([1, 1])), 0, 9, "fp8"))
    catalog.compared("")
    catalog.write(lines, [])
    queries = [token_key(rng.integers(0, 2, rng.integers(1, 12))) for _ in range(30)]
    for query, found in zip(queries, catalog.around([(b"p" * 16, query) for query in queries]), strict=True):
        found = {line.key for line in found}
        assert {key for key in keys if query.startswith(key)} <= found <= keys
        nearest = max(common_tokens(key, query) for key in keys)
        assert max((common_tokens(key, query) for key in found), default=0) == nearest


def test_a_folder_that_may_only_be_read_needs_no_catalog(opened, folder, monkeypatch):
    put(opened(), PROMPT)
    catalog_file(folder).unlink()

    monkeypatch.setattr("rdcodec.codecs.kv_store.catalogs.table.LineTable.change", lambda *_: False)
    for _ in range(2):
        assert_is_cache(opened().get(PROMPT), PROMPT)
    assert opened().stats().blocks == 4 and not (list((folder / "index").iterdir()))


def test_a_large_store_is_not_kept_in_memory(opened, monkeypatch):
    monkeypatch.setattr("rdcodec.codecs.kv_store.index.NODES_MAX", 5)
    store = opened()
    for first in range(0, 4000, 400):
        tokens = list(range(first, first + 20))
        put(store, tokens)
        assert_is_cache(store.get(tokens), tokens)
        assert len(store.index.trie.nodes) <= 8
    store.save()
    assert opened().stats().hits == 30


# ---- manifests ----


def test_manifests_are_folded(monkeypatch):
    monkeypatch.setattr(objects, "MANIFESTS_MAX", 4)
    where = f"memory://folded{next(NAMES)}"

    def opened():
        return PrefixStore(open_backend(where), fingerprint=FINGERPRINT, settings=SETTINGS)

    for first in range(0, 8000, 400):
        put(opened(), list(range(first, first + 16)))
        assert len([*opened().index.backend.list("index/")]) <= 5
    opened().evict(opened().stats().size_bytes // 2)
    index = opened().index
    index.load()
    assert {node.id for node in index.trie.nodes.values()} == set(index.stored()) != set()


@pytest.fixture
def objects_again():
    """Opens one store of objects, again and again."""
    where = f"memory://objects{next(NAMES)}"
    return lambda: PrefixStore(open_backend(where), fingerprint=FINGERPRINT, settings=SETTINGS)


def put_many(again, prompts=40):
    """One put of so many prompts of two blocks each, and the prompts."""
    store = again()
    store.longest_prefix([1])
    added, catalog = [], store.index._catalog
    write, catalog.write = catalog.write, lambda lines, removed: added.extend(lines)
    wanted = [list(range(first, first + 16)) for first in range(0, 400 * prompts, 400)]
    for tokens in wanted:
        put(store, tokens)
    catalog.compared("")
    write(added, [])
    return wanted


def test_a_large_catalog_is_read_in_parts(objects_again, small_pages, monkeypatch):
    prompts = put_many(objects_again)
    store, read = objects_again(), []
    (entry,) = store.index.backend.list("index/")
    for verb in ("get_many", "get_ranges"):
        call = getattr(store.index.backend, verb)

        def counted(parts, *rest, call=call):
            found = call(parts, *rest)
            read.append(sum(map(len, found)))
            return found

        monkeypatch.setattr(store.index.backend, verb, counted)
    assert store.longest_prefix(prompts[3]) == 16 and store.longest_prefix([*prompts[5][:9], 7]) == 9
    assert 0 < sum(read) < entry.size_bytes / 2
    held = store.index._catalog._manifests[0]
    for tokens in prompts:
        assert store.longest_prefix(tokens) == 16
        assert len(held.pages) < 3 + 2 * 3


def test_manifests_may_be_replaced_between_two_questions(objects_again, small_pages, monkeypatch):
    monkeypatch.setattr(objects, "MANIFESTS_MAX", 1)
    prompts = put_many(objects_again)
    reader = objects_again()
    assert reader.longest_prefix(prompts[0]) == 16
    (before,) = reader.index.backend.list("index/")
    put(objects_again(), PROMPT)
    assert reader.index.backend.get(before.key) is None, "another process folded"
    assert reader.longest_prefix(prompts[30]) == 16
    assert len([*reader.index.backend.list("blocks/")]) == 84


def test_small_manifests_are_folded_without_the_large(objects_again, monkeypatch):
    monkeypatch.setattr(objects, "MANIFESTS_MAX", 2)
    monkeypatch.setattr(objects, "FOLDED_MIN", 1)
    prompts = put_many(objects_again, 100)
    (large,) = objects_again().index.backend.list("index/")
    with objects_again() as store:
        store.index.forget(store.index.match(np.array(prompts[0])).path[-1], delete=True)
    for first in range(-1000, 0, 100):
        put(objects_again(), list(range(1000 - first, 1016 - first)))
    assert large.key in {entry.key for entry in objects_again().index.backend.list("index/")}
    assert objects_again().longest_prefix(prompts[0]) == 8, "what was removed stays so"
    index = objects_again().index
    index.load()
    assert {node.id for node in index.trie.nodes.values()} == set(index.stored())


def test_what_a_store_does_not_take_is_known_and_written_later(objects_again, monkeypatch):
    store = objects_again()
    put(store, PROMPT[:8])
    puts = store.index.backend.put

    def refuse(key, data):
        if key.startswith("index/"):
            raise PermissionError(key)
        puts(key, data)

    monkeypatch.setattr(store.index.backend, "put", refuse)
    put(store, PROMPT)
    put(store, list(range(600, 616)))
    assert store.longest_prefix([*PROMPT[:29], 7]) == 29 and objects_again().longest_prefix([600, 601]) == 0
    monkeypatch.undo()
    put(store, list(range(700, 716)))
    assert objects_again().longest_prefix([600, 601]) == 2 and objects_again().longest_prefix([*PROMPT[:29], 7]) == 29


def test_a_damaged_page_is_a_catalog_to_be_made_anew(objects_again, small_pages):
    prompts = put_many(objects_again)
    backend = objects_again().index.backend
    (entry,) = backend.list("index/")
    data = backend.get(entry.key)
    backend.put(entry.key, data[:-200] + bytes(200))
    for tokens in prompts:
        assert_is_cache(objects_again().get(tokens), tokens)
    assert not objects_again().verify().damaged


def test_manifests_refuse_nonsense():
    lines = [Line(bytes([i]) * 16, b"p" * 16, token_key(np.arange(i, 9)), 0, 9, "fp8") for i in range(9)]
    lines.sort(key=manifest.place_of)
    data = manifest.packed(lines, [b"r" * 16])
    read = manifest.Manifest("", data)
    assert list(read.lines(None)) == lines and read.removed == {b"r" * 16} and read.longest == 9
    for at in range(len(data)):
        bad = bytearray(data)
        bad[at] ^= 255
        with pytest.raises(CatalogError):
            list(manifest.Manifest("", bytes(bad)).lines(None))
    for end in range(len(data)):
        with pytest.raises(CatalogError):
            list(manifest.Manifest("", data[:end]).lines(None))
    unsorted = manifest.Manifest("", manifest.packed(lines[::-1]))
    with pytest.raises(CatalogError, match="not sorted"):
        unsorted.neighbour(b"p" * 16, after=True, void=(), missing=set())


@pytest.mark.parametrize("data", [b"", b"KVLN", b"junk" * 10])
def test_a_damaged_manifest_is_a_catalog_to_be_made_anew(data):
    where = f"memory://damaged{next(NAMES)}"
    store = PrefixStore(open_backend(where), fingerprint=FINGERPRINT, settings=SETTINGS)
    put(store, PROMPT)
    (entry,) = store.index.backend.list("index/")
    for bad in (data, store.index.backend.get(entry.key)[:-3]):
        store.index.backend.put(entry.key, bad)
        again = PrefixStore(open_backend(where), fingerprint=FINGERPRINT, settings=SETTINGS)
        assert_is_cache(again.get(PROMPT), PROMPT)
        assert again.index.stored().keys() == again.index.trie.nodes.keys()


def test_lines_round_trip_and_refuse_nonsense():
    line = Line(b"i" * 16, b"p" * 16, token_key(np.arange(5)), 8, 1000, "fp8")
    data = line.packed() * 2
    assert list(unpacked(data)) == [line, line]
    for bad in (data[:-1], data[:-60], line.packed()[:-1], line.packed()[:48] + b"\xfe" + line.packed()[49:]):
        with pytest.raises(CatalogError):
            list(unpacked(bad))
    assert len(line.key) == 5 * TOKEN_BYTES


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="no list of open files on this system")
def test_a_store_that_was_left_holds_no_file_open(opened, folder):
    with opened() as store:
        put(store, PROMPT)
    held = [
        os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")
    ]
    assert not [name for name in held if name.startswith(str(folder))]
    assert_is_cache(store.get(PROMPT), PROMPT)
