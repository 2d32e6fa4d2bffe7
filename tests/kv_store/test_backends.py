"""One contract for every backend, on a directory, fsspec's memory and file systems, and a real Redis server."""

import itertools
import os
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from unittest.mock import Mock

import pytest
from rdcodec.codecs.kv_store.backends import DirectoryBackend, FsspecBackend, RedisBackend, open_backend
from rdcodec.codecs.kv_store.commands.shared import check_there

NAMES = itertools.count()


@pytest.fixture(params=["directory", "memory", "file", "redis"])
def url(request, tmp_path):
    """The address of an empty store."""
    name = f"store{next(NAMES)}"
    if request.param == "redis":
        return f"{request.getfixturevalue('redis_url')}?prefix={name}"
    pytest.importorskip("fsspec")
    return {"directory": str(tmp_path / name), "memory": f"memory://{name}", "file": f"file://{tmp_path}/{name}"}[
        request.param
    ]


def keys(backend, prefix=""):
    return {entry.key: entry.size_bytes for entry in backend.list(prefix)}


def test_contract(url):
    backend = open_backend(url)
    assert backend.get("a/b.rdc") is None and keys(backend) == {}
    backend.delete("a/b.rdc")
    backend.put("a/b.rdc", bytes(range(256)))
    backend.put("a/c.rdc", b"c")
    backend.put("d/e/f.rdc", b"four")
    assert backend.get("a/b.rdc") == bytes(range(256))
    assert backend.get("a/b.rdc", 3) == b"\0\1\2" and backend.get("a/c.rdc", 99) == b"c"
    assert keys(backend) == {"a/b.rdc": 256, "a/c.rdc": 1, "d/e/f.rdc": 4}
    assert keys(backend, "a/") == {"a/b.rdc": 256, "a/c.rdc": 1} and keys(backend, "d/e/") == {"d/e/f.rdc": 4}
    assert keys(backend, "none/") == {}
    assert backend.get_many(["d/e/f.rdc", "no.rdc", "a/c.rdc"]) == [b"four", None, b"c"] and backend.get_many([]) == []
    assert backend.get_many(["d/e/f.rdc", "no.rdc"], 2) == [b"fo", None]
    assert backend.folders("d/") == ["e"] and backend.folders("none/") == []
    backend.put("a/b.rdc", b"replaced")
    assert backend.get("a/b.rdc") == b"replaced"
    assert keys(open_backend(url)) == keys(backend)
    backend.delete("a/b.rdc")
    assert backend.get("a/b.rdc") is None and backend.get("a/b.rdc", 5) is None


def test_a_tilde_is_the_users_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert open_backend("~/caches").root == open_backend(Path("~/caches")).root == tmp_path / "caches"
    open_backend("~/caches").put("a.rdc", b"x")
    check_there("~/caches")
    assert open_backend("caches/~").root == Path("caches/~") and open_backend("~no-such-user").root == Path("~no-such-user")


@pytest.mark.parametrize("key", ["", "/a", "a/", "../a", "a/../b", "a//b", "a b", "a*", ".part", "a\n"])
def test_keys_that_could_leave_the_store_are_refused(url, key):
    backend = open_backend(url)
    for call in (backend.get, backend.delete, lambda k: backend.put(k, b"x")):
        with pytest.raises(ValueError, match="not a key"):
            call(key)


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_what_a_killed_writer_left_is_removed_once_it_is_old(tmp_path, scheme, monkeypatch):
    backend = open_backend(f"{scheme}{tmp_path}")
    for name, age_s in (("old", 7200), ("new", 10)):
        path = tmp_path / f".{name}.part"
        path.write_bytes(b"half a block")
        os.utime(path, (time.time() - age_s,) * 2)
    with monkeypatch.context() as patch:  # who may only read can list all the same
        for name in ("os.unlink", "os.remove", "pathlib.Path.unlink"):
            patch.setattr(name, lambda *_, **__: (_ for _ in ()).throw(PermissionError("read-only")))
        assert not list(backend.list("")) and len(list(tmp_path.iterdir())) == 2
    assert not list(backend.list("")) and [p.name for p in tmp_path.iterdir()] == [".new.part"]


def test_a_temporary_file_of_unknown_age_stays(tmp_path, monkeypatch):
    """fsspec file systems may not tell it, or tell it without a time zone."""
    backend, path = open_backend(f"file://{tmp_path}"), tmp_path / ".old.part"
    path.write_bytes(b"half a block")
    os.utime(path, (0, 0))
    for tell in (Mock(return_value=datetime(1970, 1, 1)), Mock(side_effect=NotImplementedError)):  # as fsspec's base class
        monkeypatch.setattr(backend._fs, "modified", tell)
        assert not list(backend.list("")) and path.exists()


def test_a_folder_is_made_by_the_first_put_only(tmp_path):
    backend = open_backend(tmp_path / "new" / "store")
    assert backend.get("a.rdc") is None and not list(backend.list("")) and not list(tmp_path.iterdir())
    backend.delete("a.rdc")
    backend.put("a.rdc", b"1")
    assert keys(backend) == {"a.rdc": 1}
    with pytest.raises(NotADirectoryError, match=r"a\.rdc"):
        open_backend(tmp_path / "new" / "store" / "a.rdc")


def test_two_stores_on_one_server_do_not_meet(redis_url):
    one, other = (open_backend(f"{redis_url}?prefix={name}") for name in ("te*t", "te1t"))
    one.put("a.rdc", b"1")
    assert keys(other) == {} and keys(one) == {"a.rdc": 1}
    other.put("a.rdc", b"22")
    assert keys(one) == {"a.rdc": 1}


def test_redis_lists_more_than_one_round_trip_and_not_what_vanished(redis_url, monkeypatch):
    backend = open_backend(f"{redis_url}?prefix=many")
    for i in range(1002):
        backend.put(f"{i}.rdc", b"x")
    scan = backend._redis.scan_iter
    monkeypatch.setattr(backend._redis, "scan_iter", lambda **options: [*scan(**options), b"many:gone.rdc"])
    assert keys(backend) == {f"{i}.rdc": 1 for i in range(1002)}


def test_a_redis_server_that_is_full_or_gone_is_an_os_error(redis_url):
    backend = open_backend(f"{redis_url}?prefix=full")
    backend._redis.config_set("maxmemory", "1")
    try:
        with pytest.raises(ConnectionError, match="maxmemory"):
            backend.put("a.rdc", bytes(1000))
    finally:
        backend._redis.config_set("maxmemory", "0")
    backend = open_backend("redis://127.0.0.1:1/0")
    for verb in (lambda: backend.get("a.rdc"), lambda: backend.delete("a.rdc"), lambda: list(backend.list(""))):
        with pytest.raises(ConnectionError, match="does not answer"):
            verb()


def test_other_options_of_a_redis_url_reach_the_client(redis_url):
    backend = open_backend(f"{redis_url}?socket_timeout=7&prefix=p&client_name=me")
    options = backend._redis.connection_pool.connection_kwargs
    assert (options["socket_timeout"], options["client_name"]) == (7, "me")
    backend.put("a.rdc", b"1")
    assert keys(open_backend(f"{redis_url}?prefix=p")) == {"a.rdc": 1}


def test_listings_are_not_cached():
    """s3fs keeps them otherwise, and blocks of other processes stay unseen."""
    pytest.importorskip("fsspec")
    assert not open_backend("memory://x")._fs.dircache.use_listings_cache


def test_open_backend_chooses_by_scheme(tmp_path, redis_url):
    assert isinstance(open_backend(tmp_path / "x"), DirectoryBackend)
    assert isinstance(open_backend("memory://x"), FsspecBackend)
    assert isinstance(open_backend(redis_url.replace("redis", "valkey")), RedisBackend)
    assert keys(open_backend(redis_url.replace("redis", "valkey") + "?prefix=none")) == {}
    with pytest.raises(ValueError, match="nosuch"):
        open_backend("nosuch://x")


def test_redis_refuses_a_value_it_cannot_hold(redis_url, monkeypatch):
    monkeypatch.setattr("rdcodec.codecs.kv_store.backends.REDIS_VALUE_MAX", 10)
    with pytest.raises(ValueError, match="at most 10"):
        open_backend(redis_url).put("a.rdc", bytes(11))


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_writer_killed_before_its_rename_leaves_nothing_to_be_seen(tmp_path, scheme):
    script = (
        "import os, shutil, signal, sys\n"
        "from rdcodec.codecs.kv_store.backends import open_backend\n"
        "backend = open_backend(sys.argv[1])\n"
        "backend.put('a/b.rdc', b'old')\n"
        "os.replace = os.rename = shutil.move = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)\n"
        "backend.put('a/b.rdc', b'new' * 1000)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, f"{scheme}{tmp_path}"], timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    backend = open_backend(f"{scheme}{tmp_path}")
    assert keys(backend) == {"a/b.rdc": 3} and backend.get("a/b.rdc") == b"old"
    assert sum(len(files) for _, _, files in os.walk(tmp_path)) == 2, "the temporary file should be there, unseen"


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_failed_put_removes_its_temporary_file(tmp_path, scheme, monkeypatch):
    def fail(*_, **__):
        raise OSError("no")

    backend = open_backend(f"{scheme}{tmp_path}")
    for name in ("os.replace", "os.rename", "shutil.move"):
        monkeypatch.setattr(name, fail)
    with pytest.raises(OSError, match="no"):
        backend.put("a/b.rdc", b"x")
    assert [name for _, _, files in os.walk(tmp_path) for name in files] == []


def test_a_put_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    """Else a power cut may leave the name of a block with nothing in it."""
    done, sync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: done.append("flushed") or sync(handle))
    monkeypatch.setattr(os, "replace", lambda *names: done.append("renamed") or replace(*names))
    open_backend(tmp_path).put("a/b.rdc", b"x")
    assert done == ["flushed", "renamed"]


WRITER = Path(__file__).with_name("writers.py")


def test_eight_writers_and_a_killed_one_lose_and_tear_nothing(url):
    """Each writes its own and shared prompts at once; one more is killed in the middle of its puts."""
    if url.startswith("memory"):
        pytest.skip("fsspec's memory file system belongs to one process")
    done = subprocess.run([sys.executable, str(WRITER), url], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split()[-1] == "ok"
