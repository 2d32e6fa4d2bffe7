"""URLs of fsspec file systems in and out: folders, patterns, archives, what exists there."""

from __future__ import annotations

import functools
import threading
import zipfile
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pytest
from PIL import Image


@pytest.fixture
def pictures(tmp_path, photograph) -> Path:
    """A folder of three small pictures in two folders, beside a text."""
    for name in ("a/0.png", "a/1.png", "b/2.png"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photograph[:20, : 20 + int(path.stem)]).save(path)
    (tmp_path / "in" / "notes.md").write_text("no image")
    return tmp_path / "in"


@pytest.fixture
def memory():
    """fsspec's file system in memory, empty."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    yield system
    system.store.clear()


def test_a_folder_elsewhere_is_read_and_written_like_one_here(run, pictures, memory, tmp_path):
    memory.put(str(pictures), "/bucket/in", recursive=True)
    code, out, err = run("encode", "memory://bucket/in", "-o", "memory://bucket/packed")
    assert (code, err) == (0, "codec: note: memory://bucket/in: 1 of 4 files left out (.md)\n")
    assert out.startswith("memory://bucket/packed/a/0.rdc  ")
    assert memory.find("/bucket/packed") == [f"/bucket/packed/{name}.rdc" for name in ("a/0", "a/1", "b/2")]
    assert run("encode", "in", "-o", "packed")[0] == 0
    assert memory.cat("/bucket/packed/a/0.rdc") == (tmp_path / "packed" / "a" / "0.rdc").read_bytes()
    code, _, err = run("encode", "memory://bucket/in", "-o", "memory://bucket/packed")
    assert code == 1 and "memory://bucket/packed/a/0.rdc exists; --force overwrites it" in err
    memory.rm("/bucket/packed/a/1.rdc")
    memory.pipe("/bucket/packed/b/2.rdc", b"precious")
    code, out, _ = run("encode", "memory://bucket/in", "-o", "memory://bucket/packed", "--skip-existing")
    assert code == 0 and out.startswith("memory://bucket/packed/a/1.rdc  ") and "2 skipped" in out
    assert memory.cat("/bucket/packed/b/2.rdc") == b"precious"
    assert run("decode", "memory://bucket/packed/**/[01].rdc", "-o", "back")[0] == 0
    assert sorted(path.name for path in (tmp_path / "back" / "a").iterdir()) == ["0.png", "1.png"]
    assert run("verify", "memory://bucket/packed/a/0.rdc")[:2] == (0, "memory://bucket/packed/a/0.rdc  ok\n")
    assert run("info", "memory://bucket/packed/a/0.rdc")[0] == 0
    memory.pipe("/names.txt", b"memory://bucket/in/a/0.png\nmemory://bucket/in/b/2.png\nmemory://bucket/in/gone.png\n")
    code, _, err = run("encode", "memory://names.txt", "-o", "listed")
    assert code == 1 and err.startswith("codec: memory://bucket/in/gone.png: ") and err.count("\n") == 1
    assert sorted(str(path.relative_to(tmp_path / "listed")) for path in (tmp_path / "listed").rglob("*.rdc")) == [
        "a/0.rdc",
        "b/2.rdc",
    ]


def test_outputs_lie_beside_inputs_elsewhere_too(run, pictures, memory):
    memory.put(str(pictures), "/in", recursive=True)
    assert run("encode", "memory://in/a/0.png")[0] == 0 and memory.exists("/in/a/0.rdc")
    assert run("encode", "memory://in/a/0.png")[0] == 1
    assert run("encode", "memory://in/a/0.png", "--skip-existing")[0] == 0
    assert run("decode", "memory://in/a/0.rdc", "-o", "memory://out/one.webp")[0] == 0
    assert memory.cat("/out/one.webp")[8:12] == b"WEBP"


def test_other_processes_read_and_write_urls(run, pictures, tmp_path):
    assert run("encode", f"file://{pictures}", "-o", f"file://{tmp_path}/packed", "-j", "2")[0] == 0
    assert sorted(path.name for path in (tmp_path / "packed").rglob("*") if path.is_file()) == ["0.rdc", "1.rdc", "2.rdc"]


def test_archives_are_folders(run, pictures, tmp_path):
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        for path in pictures.rglob("*.png"):
            archive.write(path, path.relative_to(pictures))
    assert run("encode", f"zip://::{tmp_path}/in.zip", "-o", "all")[0] == 0
    assert run("encode", f"zip://a/*.png::file://{tmp_path}/in.zip", "-o", "some")[0] == 0
    assert run("encode", f"zip://b/2.png::{tmp_path}/in.zip", "-o", "one.rdc")[0] == 0
    assert sorted(str(p.relative_to(tmp_path / "all")) for p in (tmp_path / "all").rglob("*.rdc")) == [
        "a/0.rdc",
        "a/1.rdc",
        "b/2.rdc",
    ]
    assert sorted(p.name for p in (tmp_path / "some").iterdir()) == ["0.rdc", "1.rdc"]


def test_files_are_read_over_http(run, pictures, tmp_path):
    pytest.importorskip("aiohttp")

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(pictures)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        assert run("encode", f"http://127.0.0.1:{server.server_port}/a/0.png", "-o", "x.rdc")[0] == 0
        code, _, err = run("encode", f"http://127.0.0.1:{server.server_port}/a/gone.png", "-o", "y.rdc")
        assert code == 1 and "gone.png" in err and err.count("\n") == 1
    finally:
        server.shutdown()
    assert (tmp_path / "x.rdc").exists() and not (tmp_path / "y.rdc").exists()


@pytest.mark.parametrize(
    ("url", "message"),
    [("nowhere://a/b", "nowhere://a/b: "), ("memory://none/at.png", "memory://none/at.png: no such file")],
)
def test_what_cannot_be_reached_is_named(run, memory, url, message):
    code, out, err = run("encode", url, "-o", "out/")
    assert (code, out, err.count("\n")) == (1, "", 1) and err.startswith(f"codec: {message}") and "internal" not in err


def test_buckets(run, pictures, monkeypatch):
    s3fs = pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in (("ENDPOINT_URL", f"http://{host}:{port}"), ("ACCESS_KEY_ID", "x"), ("SECRET_ACCESS_KEY", "x")):
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    try:
        s3fs.S3FileSystem.clear_instance_cache()
        bucket = s3fs.S3FileSystem()
        bucket.mkdir("bucket")
        bucket.put(str(pictures), "bucket/in", recursive=True)
        assert run("encode", "s3://bucket/in", "-o", "s3://bucket/packed", "-j", "2")[0] == 0
        bucket.rm("bucket/packed/a/1.rdc")
        out = run("encode", "s3://bucket/in", "-o", "s3://bucket/packed", "--skip-existing")[1]
        assert out.startswith("s3://bucket/packed/a/1.rdc  ") and "2 skipped" in out
        assert run("verify", "s3://bucket/packed/**/*.rdc")[1].count("  ok\n") == 3
        code, _, err = run("encode", "s3://bucket/in", "-o", "s3://nowhere/packed")
        assert code == 1 and "codec: s3://nowhere/packed: The specified bucket does not exist" in err
    finally:
        server.stop()
        s3fs.S3FileSystem.clear_instance_cache()
