"""The LMCache serde registered: against a stand-in of LMCache's interface, with the real one, and its server."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import types

import pytest
import torch
from lmcache_cases import DIM, MemoryObj, chunk_of
from rdcodec.codecs.kv_cache.lmcache.serde import (
    KvDeserializer,
    KvSerializer,
    create,
    register,
)


def test_register_and_create_against_a_stand_in_of_lmcache(monkeypatch):
    registered = []

    class Abstract:
        @staticmethod
        def register(kind):
            registered.append(kind)

    class AsyncSerdeProcessor:
        def __init__(self, serializer, deserializer, max_workers=1):
            self.serializer, self.deserializer, self.max_workers = serializer, deserializer, max_workers

    table = {}

    def register_serde_factory(name, factory):
        if name in table:
            raise ValueError(f"Serde type already registered: {name!r}")
        table[name] = factory

    serde = types.ModuleType("lmcache.v1.distributed.serde")
    for name, value in {
        "Serializer": Abstract,
        "Deserializer": Abstract,
        "AsyncSerdeProcessor": AsyncSerdeProcessor,
        "get_registered_serde_types": lambda: list(table),
        "register_serde_factory": register_serde_factory,
    }.items():
        setattr(serde, name, value)
    for name in ("lmcache", "lmcache.v1", "lmcache.v1.distributed"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, serde.__name__, serde)
    register()
    register()
    assert table == {"rdcodec": create} and registered[:2] == [KvSerializer, KvDeserializer]
    processor = table["rdcodec"]({"mode": "lossless", "head_dim": DIM, "max_workers": 3})
    assert processor.max_workers == 3 and processor.serializer.settings.mode == "lossless"
    assert processor.deserializer.head_dim == processor.serializer.head_dim == DIM


def test_the_real_lmcache_runs_it():
    """LMCache's own processor: factory, thread pool, event notifiers, the narrowing of the buffer, and a miss."""
    serde = pytest.importorskip(
        "lmcache.v1.distributed.serde", reason="lmcache is not installed (it needs numpy 2)", exc_type=ImportError
    )
    api = pytest.importorskip("lmcache.v1.distributed.api")
    register()
    config = serde.SerdeConfig(type="rdcodec", kwargs={"mode": "lossless", "head_dim": DIM})
    processor = serde.create_serde_processor(config)
    try:
        chunk, key = chunk_of(), api.ObjectKey(b"\1\2", "org/model", 1)
        size = processor.estimate_serialized_size(api.MemoryLayoutDesc([chunk.shape], [chunk.dtype]))
        buffer, out = MemoryObj(torch.zeros(size, dtype=torch.uint8)), MemoryObj(torch.zeros_like(chunk))
        assert _result(processor.query_serialize_result, processor.submit_serialize([MemoryObj(chunk)], [buffer], [key]))
        assert buffer.tensor.numel() < size
        assert _result(processor.query_deserialize_result, processor.submit_deserialize([buffer], [out], [key]))
        assert torch.equal(out.tensor, chunk)
        buffer.tensor[100] ^= 1
        bad = _result(processor.query_deserialize_result, processor.submit_deserialize([buffer], [out], [key]))
        assert bad is False
    finally:
        processor.close()


def _result(query, task):
    for _ in range(1000):
        done = query(task)
        if done is not None:
            return done
        time.sleep(0.01)
    raise TimeoutError("the serde did not answer in 10 s")


@pytest.fixture
def module_run(tmp_path):
    """``python -m rdcodec.codecs.kv_cache.lmcache server --port 1`` with a package ``lmcache`` of these files."""

    def run(files: dict[str, str]) -> subprocess.CompletedProcess[str]:
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        command = [sys.executable, "-m", "rdcodec.codecs.kv_cache.lmcache", "server", "--port", "1"]
        path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
        return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}, check=False)

    return run


def test_without_lmcache_its_server_says_what_to_install(module_run):
    done = module_run({"lmcache/__init__.py": "raise ImportError('none')"})
    assert done.returncode == 1 and "LMCache is not installed here (none); pip install lmcache" in done.stderr


def test_the_server_starts_with_the_serde_registered(module_run):
    serde = """
class Serializer:
    register = classmethod(lambda cls, kind: None)
Deserializer, table = Serializer, {}
get_registered_serde_types, register_serde_factory = table.keys, table.__setitem__
"""
    server = """
import sys
from lmcache.v1.distributed.serde import table
def main():
    print(sys.argv, *table)
    return 3
"""
    folders = ("lmcache", "lmcache/cli", "lmcache/v1", "lmcache/v1/distributed")
    files = {f"{folder}/__init__.py": "" for folder in folders} | {"lmcache/v1/distributed/serde.py": serde}
    done = module_run(files | {"lmcache/cli/main.py": server})
    assert (done.returncode, done.stdout) == (3, "['lmcache', 'server', '--port', '1'] rdcodec\n"), done.stderr
