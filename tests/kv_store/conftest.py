"""A store in a temporary folder, opened as often as wanted, with a clock of its own."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time

import pytest
from rdcodec.codecs.kv_store.backends import open_backend
from rdcodec.codecs.kv_store.store import PrefixStore
from store_cases import FINGERPRINT, SETTINGS, Clock
from store_commands import BLOCKS, MODEL, cache_file, run


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def opened(folder, clock):
    """Opens the store, again and again: every call is what another process would see."""

    def open_again(**options):
        options = {"fingerprint": FINGERPRINT, "settings": SETTINGS, "clock": clock} | options
        return PrefixStore(open_backend(folder), **options)

    return open_again


@pytest.fixture
def filled(tmp_path):
    """A store with two prompts that share two blocks, and the first one's tensors."""
    first, second = list(range(30)), [*range(16), *range(100, 110)]
    tensors = cache_file(tmp_path / "a.safetensors", first)
    cache_file(tmp_path / "b.safetensors", second)
    files = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    done = run("put", tmp_path / "store", *files, *MODEL, *BLOCKS, "--mode", "lossless", "--json")
    assert done.exit_code == 0, done.output
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(line["shared_tokens"], line["new_blocks"]) for line in lines] == [(0, 4), (16, 2)]
    return tmp_path, tensors


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory):
    """A Redis server of our own on a free loopback port, without persistence."""
    pytest.importorskip("redis", reason="the redis client is not installed (pip install 'rdcodec[kv]')")
    server = shutil.which("redis-server") or shutil.which("valkey-server")
    if server is None:
        pytest.skip("no redis-server or valkey-server on this machine (apt-get install redis-server)")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = tmp_path_factory.mktemp("redis")
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(folder)]
    process = subprocess.Popen([server, *options], stdout=subprocess.DEVNULL)
    try:
        _wait_for(port)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.terminate()
        process.wait(10)


def _wait_for(port):
    for _ in range(100):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise TimeoutError("the Redis server did not come up in 5 s")
