"""A store in a temporary folder, opened as often as wanted, with a clock of its own."""

from __future__ import annotations

import json

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
