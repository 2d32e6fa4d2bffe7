"""The file format: every field at both limits, every way to be wrong."""

from __future__ import annotations

import io
import os
import struct
import zlib

import pytest
from rdcodec.codecs import container, name_of
from rdcodec.codecs.container import CHUNKS_MAX, SIGNAL_MAX, FileBytes, Writer, parse, write
from rdcodec.entropy_models.errors import BitstreamError, Corrupt, Truncated, Unsupported

PARTS = {
    "stream_id": 1,
    "weights": bytes(range(8)),
    "signal": b"signal",
    "chunks": [(0, b"first"), (1, b""), (0, b"x" * 300)],
}


def test_the_specification_holds():
    """Offsets and sizes exactly as the docstring's table gives them."""
    data = write(**PARTS)
    assert data[:4] == b"\x89RDC" and data[4] == 1 and data[5] == 0
    assert struct.unpack_from("<H8sHI", data, 6) == (1, bytes(range(8)), 6, 3)
    assert data[22:28] == b"signal"
    assert struct.unpack_from("<BII", data, 28) == (0, 5, zlib.crc32(b"first"))
    assert struct.unpack_from("<I", data, 55)[0] == zlib.crc32(data[:55])
    assert data[59:] == b"first" + b"x" * 300


@pytest.mark.parametrize(
    "change",
    [{}, {"stream_id": 0}, {"stream_id": 65535}, {"signal": b""}, {"signal": b"s" * SIGNAL_MAX}, {"chunks": []},
     {"chunks": [(255, b"")]}, {"chunks": [(i % 256, bytes([i % 256])) for i in range(5000)]}],
)  # fmt: skip
def test_round_trip(change):
    parts = PARTS | change
    stream = parse(write(**parts))
    assert (stream.stream_id, stream.weights, stream.signal) == (parts["stream_id"], parts["weights"], parts["signal"])
    assert [(e.kind, stream.chunk(i)) for i, e in enumerate(stream.entries)] == parts["chunks"]
    assert stream.expected_bytes == len(stream.data)


@pytest.mark.parametrize("change", [{"signal": b"s" * (SIGNAL_MAX + 1)}, {"weights": b"short"}])
def test_fields_that_do_not_fit_are_not_written(change):
    with pytest.raises(ValueError, match="out of range"):
        write(**PARTS | change)


def test_every_prefix_is_refused():
    data = write(**PARTS)
    for n in range(len(data)):
        with pytest.raises((Truncated, Unsupported)):
            parse(data[:n])


def test_an_open_file_is_parsed_as_bytes_are():
    """Every prefix, every flipped bit and the whole, alike to the last word of the message."""
    data = write(**PARTS)
    cases = [data[:n] for n in range(len(data) + 1)] + [data + b"x"]
    cases += [data[:i] + bytes([data[i] ^ 1]) + data[i + 1 :] for i in range(len(data))]
    for case in cases:
        told = []
        for source in (case, FileBytes(io.BytesIO(case))):
            try:
                stream = parse(source, salvage=len(case) % 2 == 0)
                told.append([stream.chunk(i) for i in range(len(stream.entries))])
            except BitstreamError as error:
                told.append(repr(error))
        assert told[0] == told[1]
    opened = parse(FileBytes(io.BytesIO(data)))
    assert bytes(opened.unchecked(2)) == b"x" * 300 and opened.signal == b"signal"


def test_an_open_file_that_is_cut_short_meanwhile_is_damaged(tmp_path):
    (tmp_path / "a.rdc").write_bytes(write(**PARTS))
    with (tmp_path / "a.rdc").open("r+b") as file:
        stream = parse(FileBytes(file))
        file.truncate(70)
        assert stream.chunk(0) == b"first"
        with pytest.raises(BitstreamError, match="chunk 2"):
            stream.chunk(2)


def test_a_file_is_written_chunk_by_chunk():
    file = io.BytesIO()
    writer = Writer(file, **{name: PARTS[name] for name in ("stream_id", "weights", "signal")}, count=4)
    for kind, body in PARTS["chunks"]:
        writer.add(kind, body)
    with pytest.raises(ValueError, match="3 chunks, 4 were announced"):
        writer.close()
    writer.add(0, b"fourth")
    writer.close()
    assert file.getvalue() == write(**PARTS | {"chunks": [*PARTS["chunks"], (0, b"fourth")]})


def test_every_flipped_bit_is_refused():
    data = bytearray(write(**PARTS))
    for i in range(len(data) * 8):
        data[i // 8] ^= 1 << i % 8
        with pytest.raises(BitstreamError):
            stream = parse(bytes(data))
            [stream.chunk(j) for j in range(len(stream.entries))]
        data[i // 8] ^= 1 << i % 8


@pytest.mark.parametrize(("count", "signal_bytes"), [(CHUNKS_MAX + 1, 0), (2**32 - 1, 0), (0, SIGNAL_MAX + 1)])
def test_counts_are_bounded_before_anything_is_allocated(count, signal_bytes):
    data = struct.pack("<4sBBH8sHI", b"\x89RDC", 1, 0, 1, bytes(8), signal_bytes, count) + bytes(64)
    with pytest.raises(Corrupt, match="out of range"):
        parse(data)


def test_limits_are_those_of_the_specification(monkeypatch):
    assert (SIGNAL_MAX, CHUNKS_MAX, container.CHUNK_BYTES_MAX) == (4096, 1 << 20, (1 << 31) - 1)
    assert (container.DATA, container.METADATA) == (0, 1)
    monkeypatch.setattr(container, "CHUNKS_MAX", 3)
    monkeypatch.setattr(container, "CHUNK_BYTES_MAX", 300)
    data = write(**PARTS)
    assert len(parse(data).entries) == 3
    for limit, less, message in (("CHUNKS_MAX", 2, "3 chunks"), ("CHUNK_BYTES_MAX", 299, "300 bytes")):
        with monkeypatch.context() as patched:
            patched.setattr(container, limit, less)
            for call in (lambda: write(**PARTS), lambda: parse(data)):
                with pytest.raises(ValueError, match=message):
                    call()


def test_a_file_that_is_cut_and_one_that_goes_on_are_told_apart():
    data = write(**PARTS)
    with pytest.raises(Truncated, match="358 bytes, the chunk table adds up to 364"):
        parse(data[:-6])
    with pytest.raises(Corrupt, match="365 bytes, the chunk table adds up to 364"):
        parse(data + b"x")


def test_chunks_are_found_by_kind():
    assert parse(write(**PARTS)).indices(0) == [0, 2] and parse(write(**PARTS)).indices(1) == [1]


def test_the_stream_id_is_told_by_the_first_bytes(tmp_path):
    data = write(**PARTS | {"stream_id": 300})
    for content, found in ((data, 300), (data[:22], 300), (data[:21], None), (bytes(40), None), (b"", None)):
        (tmp_path / "x").write_bytes(content)
        assert container.stream_id_at(tmp_path / "x") == found
    assert container.stream_id_at(tmp_path) is None and container.stream_id_at(tmp_path / "missing") is None


def test_salvage_reads_the_chunks_that_are_there():
    data = write(**PARTS)
    stream = parse(data[:-1], salvage=True)
    assert stream.chunk(0) == b"first"
    with pytest.raises(Truncated, match="chunk 2"):
        stream.chunk(2)
    damaged = bytearray(data)
    damaged[60] ^= 1
    with pytest.raises(Corrupt, match="chunk 0"):
        parse(bytes(damaged)).chunk(0)


def test_unknown_codec_is_named():
    with pytest.raises(Unsupported, match="stream id 9"):
        name_of(9)


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    target = tmp_path / "file.rdc"
    target.write_bytes(b"old")
    monkeypatch.setattr(container.os, "replace", lambda *a: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        container.write_file(target, b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["file.rdc"] and target.read_bytes() == b"old"


def test_a_folder_that_is_not_there_is_named_without_the_temporary_file(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        container.write_file(tmp_path / "nowhere" / "x.rdc", b"new")
    assert caught.value.filename == str(tmp_path / "nowhere" / "x.rdc") and ".part" not in str(caught.value)


def test_a_written_file_has_the_permissions_of_the_umask_which_is_not_touched(tmp_path, monkeypatch):
    before = os.umask(0o027)
    try:
        with monkeypatch.context() as patched:
            patched.setattr(os, "umask", lambda mask: pytest.fail("other threads would write with it"))
            container.write_file(tmp_path / "x", b"1")
    finally:
        os.umask(before)
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o640
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
