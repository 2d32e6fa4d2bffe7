"""Shards: tars of files of about one size, the same after any kill."""

from __future__ import annotations

import subprocess
import tarfile
import time
from pathlib import Path

import fsspec
import pytest
from command import CODEC
from PIL import Image
from rdcodec.codecs.terminal.shards import ShardWriter
from rdcodec.codecs.torch_data import RdcDataset, RdcIterableDataset


@pytest.fixture
def pictures(tmp_path, photograph) -> Path:
    """A folder of ten small pictures in two folders."""
    for i in range(10):
        folder = tmp_path / "in" / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photograph[20 * i : 20 * i + 60, :60]).save(folder / f"{i}.png")
    return tmp_path / "in"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def members(folder: Path) -> dict[str, bytes]:
    found = {}
    for path in sorted(folder.glob("shard-*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                assert member.name not in found
                found[member.name] = tar.extractfile(member).read()
    return found


def test_files_go_into_tars_of_a_size(run, pictures, tmp_path):
    assert run("encode", "in", "-o", "packed")[0] == 0
    code, out, err = run("encode", "in", "-o", "shards", "--shards", "10KiB", "-j", "2")
    assert (code, err) == (0, "") and out.startswith("shards/shard-000000.tar/a/0.rdc  ")
    assert members(tmp_path / "shards") == contents(tmp_path / "packed")
    sizes = [path.stat().st_size for path in (tmp_path / "shards").iterdir()]
    assert 1 < len(sizes) < 10 and max(sizes) <= 10240
    assert RdcDataset(tmp_path / "shards").names == list(members(tmp_path / "shards"))
    assert len(list(RdcIterableDataset(tmp_path / "shards"))) == 10
    code, _, err = run("encode", "in", "-o", "shards", "--shards", "10KiB")
    assert code == 1 and "shards holds shards; --skip-existing goes on after them" in err
    code, out, _ = run("encode", "in", "-o", "shards", "--shards", "10KiB", "--skip-existing")
    assert code == 0 and out.startswith("0 files") and "10 skipped" in out
    assert run("decode", "tar://a/*.rdc::shards/shard-000000.tar", "-o", "back")[0] == 0
    assert (tmp_path / "back" / "0.png").is_file()


def test_what_reads_rdc_files_reads_shards(run, pictures, tmp_path):
    run("encode", "in", "-o", "packed")
    run("encode", "in", "-o", "shards", "--shards", "10KiB")
    assert run("verify", "shards")[1].count("  ok\n") == 10
    assert run("info", "shards/shard-000000.tar", "--json")[0] == 0
    assert run("decode", "packed", "-o", "plain")[0] == 0
    assert run("decode", "shards", "-o", "back", "-j", "2")[0] == 0
    assert contents(tmp_path / "back") == contents(tmp_path / "plain")
    tar = tmp_path / "shards" / "shard-000000.tar"
    damaged = bytearray(tar.read_bytes())
    damaged[damaged.index(b"RDC", 512) + 200] ^= 1
    tar.write_bytes(damaged)
    code, out, err = run("verify", "shards")
    assert code == 1 and out.count("  ok\n") == 9 and "shard-000000.tar" in err


@pytest.mark.parametrize("data", [b"", b"no tar" * 200])
def test_tars_that_are_none_are_named(run, tmp_path, data):
    (tmp_path / "x.tar").write_bytes(data)
    code, out, err = run("verify", "x.tar")
    assert (code, out, err.count("\n")) == (1, "", 1) and err.startswith("codec: x.tar: ")


def test_failed_files_are_in_none_and_tried_again(run, pictures, tmp_path):
    whole = (pictures / "a" / "2.png").read_bytes()
    (pictures / "a" / "2.png").write_text("no picture")
    assert run("encode", "in", "-o", "shards", "--shards", "1MB")[0] == 1
    assert len(members(tmp_path / "shards")) == 9
    (pictures / "a" / "2.png").write_bytes(whole)
    assert run("encode", "in", "-o", "shards", "--shards", "1MB", "--skip-existing")[0] == 0
    assert len(members(tmp_path / "shards")) == 10 and len(list((tmp_path / "shards").iterdir())) == 2


def test_killed_and_resumed_the_shards_are_the_same(run, pictures, tmp_path):
    assert run("encode", "in", "-o", "whole", "--shards", "10KiB")[0] == 0
    command = ["encode", "in", "-o", "shards", "--shards", "10KiB", "--skip-existing"]
    for wanted in (0, 1):
        process = subprocess.Popen([CODEC, *command], stdout=subprocess.DEVNULL)
        while not list((tmp_path / "shards").glob(f"shard-00000{wanted}.tar*")):
            time.sleep(0.01)
            assert process.poll() is None
        process.kill()
        process.wait()
    assert list((tmp_path / "shards").glob("*.part"))
    assert run(*command)[0] == 0
    assert contents(tmp_path / "shards") == contents(tmp_path / "whole")


@pytest.mark.parametrize("cut", [0, 100, 512, 600, 1023, 1024, 1500, 1536, 2048])
def test_a_torn_tar_keeps_what_is_whole(tmp_path, cut):
    with ShardWriter(tmp_path / "whole", 10**6) as shards:
        for name in "abc":
            shards.add(name, bytes(name * 300, "ascii"))
    data = (tmp_path / "whole" / "shard-000000.tar").read_bytes()
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "shard-000000.tar.part").write_bytes(data[:cut])
    with ShardWriter(tmp_path / "torn", 10**6) as shards:
        assert shards.names == set("abc"[: cut // 1024])
        for name in "abc":
            if name not in shards.names:
                shards.add(name, bytes(name * 300, "ascii"))
    assert contents(tmp_path / "torn") == contents(tmp_path / "whole")


def test_two_runs_do_not_write_one_shard(tmp_path):
    with ShardWriter(tmp_path, 10**6) as shards:
        shards.add("a", b"a")
        with pytest.raises(ValueError, match="is being written by another run"):
            ShardWriter(tmp_path, 10**6)
    assert members(tmp_path) == {"a": b"a"}


def test_shards_are_stored_elsewhere(run, pictures):
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    try:
        assert run("encode", "in", "-o", "memory://shards", "--shards", "10KiB")[0] == 0
        stored = memory.find("/shards")
        assert len(stored) > 1 and all(name.endswith(".tar") for name in stored)
        out = run("encode", "in", "-o", "memory://shards", "--shards", "10KiB", "--skip-existing")[1]
        assert "10 skipped" in out and memory.find("/shards") == stored
        assert len(RdcDataset("memory://shards")) == 10
    finally:
        memory.store.clear()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--shards", "1MB"], "--shards needs a folder to write them in: -o FOLDER"),
        (["--shards", "1MB", "-o", "-"], "--shards needs a folder"),
        (["--shards", "much", "-o", "x"], "size 'much'"),
        (["--shards", "1MB", "-o", "x", "--force"], "--force overwrites no shards"),
    ],
)
def test_what_shards_need(run, pictures, tmp_path, options, message):
    code, out, err = run("encode", "in", *options)
    assert (code, out) == (1, "") and message in err and not (tmp_path / "x").exists()
