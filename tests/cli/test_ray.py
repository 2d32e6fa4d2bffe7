"""The engine of a Ray cluster: two nodes, one of which is killed in the middle."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from command import CODEC
from dying import Dying
from PIL import Image
from rdcodec.codecs.cli import ray_engine
from rdcodec.codecs.terminal.files import Job

COUNT = 40


@pytest.fixture
def cluster(monkeypatch) -> Iterator:
    """A head with one CPU, at RAY_ADDRESS."""
    ray = pytest.importorskip("ray", reason="ray is missing: pip install '.[ray]'")
    from ray.cluster_utils import Cluster

    # what its workers unpickle lies beside this test's folder
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]))
    node = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
    found = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    monkeypatch.setenv("RAY_ADDRESS", found.address)
    found.node = node
    yield found
    ray.shutdown()
    found.shutdown()


@pytest.fixture
def pictures(tmp_path, photograph) -> Path:
    for i in range(COUNT):
        (tmp_path / "in" / str(i % 2)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(photograph[8 * i : 8 * i + 256, :256]).save(tmp_path / "in" / str(i % 2) / f"{i}.png")
    return tmp_path / "in"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_file_is_there_once_and_whole_though_a_node_is_killed(run, cluster, pictures, tmp_path):
    lost = cluster.add_node(**cluster.node)
    command = [CODEC, "encode", "in", "-o", f"file://{tmp_path}/packed", "--engine", "ray"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    while len(list((tmp_path / "packed").rglob("*.rdc"))) < COUNT // 4:
        time.sleep(0.05)
        assert process.poll() is None
    cluster.remove_node(lost, allow_graceful=False)
    assert process.poll() is None, "the node is lost in the middle of the run"
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0 and f"{COUNT} files  " in out and "failed" not in out
    assert sum(".rdc  " in line for line in out.splitlines()) == COUNT
    assert run("encode", "in", "-o", "whole")[0] == 0
    assert contents(tmp_path / "packed") == contents(tmp_path / "whole")


def test_shards_and_files_that_fail(run, cluster, pictures, tmp_path):
    for path in sorted(pictures.rglob("*.png"))[4:]:
        path.unlink()
    (pictures / "0" / "bad.png").write_text("no picture")
    code, out, err = run("encode", "in", "-o", "shards", "--shards", "1MB", "--engine", "ray", "-j", "1")
    assert code == 1 and "4 files" in out and "1 failed" in out and "codec: in/0/bad.png: " in err
    with tarfile.open(tmp_path / "shards" / "shard-000000.tar") as tar:
        assert tar.getnames() == sorted(tar.getnames()) and len(tar.getnames()) == 4


def test_a_file_that_kills_its_process_fails_alone(cluster):
    jobs = [Job(Path(name), None) for name in ("1", "2", "bad3", "4")]
    done = dict(ray_engine.cluster(jobs, Dying(given={}, device="cpu"), 1, None))
    assert {job.name: bool(report.error) for job, report in done.items()} == {"1": 0, "2": 0, "bad3": 1, "4": 0}
    assert {report.line for report in done.values() if not report.error} == {"1"}


def test_ray_is_asked_for_by_name_where_it_is_missing(run, pictures, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    code, out, err = run("encode", "in", "-o", "packed", "--engine", "ray")
    assert (code, out) == (1, "") and "pip install 'rdcodec[ray]'" in err
    assert "--gpus is for --engine ray" in run("encode", "in", "-o", "packed", "--gpus", "0.5")[2]
