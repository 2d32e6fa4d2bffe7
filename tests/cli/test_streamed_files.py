"""Faces that read and write open files: what the command gives them, and what becomes of it."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
import toy_codec
from rdcodec.codecs import REGISTRY, Registered, container
from rdcodec.codecs.cli import main as cli
from rdcodec.codecs.cli import signature
from rdcodec.codecs.contract import HEAD_BYTES, Result, Streamed
from rdcodec.codecs.terminal.paths import path_of, whole_file
from rdcodec.entropy_models.errors import InputError
from typer.testing import CliRunner

PIECE = 1000


class StreamedToy(Streamed, toy_codec.ToyFace):
    """Texts in pieces, a chunk each."""

    seen = 0

    def takes(self, data, suffix):
        StreamedToy.seen = len(data)
        return super().takes(data, suffix)

    def encode_file(self, source, target, options, desk):
        size = source.seek(0, io.SEEK_END)
        source.seek(0)
        writer = container.Writer(target, stream_id=60001, weights=bytes(8), signal=b"", count=-(-size // PIECE))
        while piece := source.read(PIECE):
            if b"!" in piece:
                raise InputError("no shouting")
            writer.add(container.DATA, piece)
        writer.close()
        return Result(facts={"raw_bytes": size}, line="pieces")

    def decode_file(self, stream, target, file, options, desk):
        assert isinstance(stream.data, container.FileBytes)
        for index in range(len(stream.entries)):
            file.write(stream.chunk(index))
        return Result(line="pieces")

    def verify(self, stream, options, desk):
        stream.check()
        return []

    def describe(self, stream):
        return {"pieces": len(stream.entries)}


FACE = StreamedToy()


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(toy_codec, "FACE", FACE)
    line = Registered(stream_id=60001, codec="toy_codec:ToyCodec", face="toy_codec:FACE", summary="texts")
    monkeypatch.setitem(REGISTRY, "toy", line)
    signature.faces.cache_clear()
    app = cli.program()

    def run(*arguments: str, stdin: bytes = b"") -> tuple[int, bytes, str]:
        done = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"}).invoke(app, list(arguments), input=stdin)
        return done.exit_code, done.stdout_bytes, done.stderr

    yield run
    signature.faces.cache_clear()


@pytest.fixture
def text(tmp_path):
    (tmp_path / "long.txt").write_bytes(b"to be or not to be " * 20_000)
    return tmp_path / "long.txt"


def test_files_go_in_and_out_and_only_the_beginning_is_shown_to_the_face(run, text, tmp_path):
    code, out, _ = run("encode", "long.txt", "--json")
    facts = json.loads(out)
    assert (code, StreamedToy.seen) == (0, HEAD_BYTES)
    assert facts["bytes"] == (tmp_path / "long.rdc").stat().st_size and facts["raw_bytes"] == text.stat().st_size
    assert run("verify", "long.rdc")[:2] == (0, b"long.rdc  ok\n")
    assert json.loads(run("info", "long.rdc", "--json")[1])["pieces"] == 380
    assert run("decode", "long.rdc", "-o", "back.txt")[0] == 0
    assert (tmp_path / "back.txt").read_bytes() == text.read_bytes()


def test_wherever_it_goes_it_is_the_same(run, text, tmp_path):
    run("encode", "long.txt")
    data = (tmp_path / "long.rdc").read_bytes()
    assert FACE.encode(text.read_bytes(), None, None).data == data
    assert run("encode", "long.txt", "-o", "-")[1] == data
    assert run("encode", "long.txt", "-o", "shards/", "--shards", "1MB")[0] == 0
    with tarfile.open(tmp_path / "shards" / "shard-000000.tar") as tar:
        assert tar.extractfile("long.rdc").read() == data
    assert run("encode", "long.txt", "-o", "memory://streamed/long.rdc")[0] == 0
    assert path_of("memory://streamed/long.rdc").read_bytes() == data
    assert run("decode", "-", "-o", "piped.txt", stdin=data)[0] == 0
    assert run("decode", "memory://streamed/long.rdc", "-o", "far.txt")[0] == 0
    assert {(tmp_path / name).read_bytes() for name in ("piped.txt", "far.txt")} == {text.read_bytes()}


def test_what_fails_midway_leaves_nothing(run, text, tmp_path):
    text.write_bytes(b"a" * 5000 + b"!" + b"b" * 5000)
    code, out, err = run("encode", "long.txt")
    assert (code, out, err) == (1, b"", "codec: long.txt: no shouting\n")
    assert run("encode", "long.txt", "-o", "-")[:2] == (1, b"")
    assert run("encode", "long.txt", "-o", "memory://streamed/bad.rdc")[0] == 1
    assert not path_of("memory://streamed/bad.rdc").exists()
    text.write_bytes(b"a" * 5000)
    run("encode", "long.txt")
    damaged = bytearray((tmp_path / "long.rdc").read_bytes())
    damaged[-1] ^= 1
    (tmp_path / "long.rdc").write_bytes(damaged)
    code, _, err = run("decode", "long.rdc", "-o", "back.txt")
    assert code == 1 and "corrupt: chunk 4" in err
    assert {path.name for path in tmp_path.iterdir()} == {"long.txt", "long.rdc"}


def test_an_interrupt_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), whole_file(tmp_path / "a.txt") as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_a_device_gets_the_bytes_and_stays(tmp_path):
    with whole_file(Path("/dev/null")) as file:
        file.write(b"abc")
        file.seek(0)
        file.write(b"x")
    assert Path("/dev/null").is_char_device()
