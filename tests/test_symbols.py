"""Chunks that know their symbols: whatever does not fit is found out, and told as what it is."""

from __future__ import annotations

import pytest
import torch
from rdcodec.codecs.symbols import chunk_of, new_writer, reading
from rdcodec.entropy_models.errors import BitstreamError, Corrupt, InputError, Truncated
from rdcodec.entropy_models.tables import gaussian_tables

TABLES = gaussian_tables()
VALUES = torch.arange(-20, 20).view(1, 40) % 7.0
LEVEL = torch.full((1, 40), 25.0)
HEADER = b"signal header"


@pytest.fixture
def chunk() -> bytes:
    writer = new_writer(TABLES, HEADER)
    assert torch.equal(writer.code(VALUES, LEVEL), VALUES)
    return chunk_of(writer)


def test_symbols_come_back(chunk):
    with reading(TABLES, HEADER, chunk) as reader:
        assert torch.equal(reader.code(torch.zeros(1, 40), LEVEL), VALUES)


@pytest.mark.parametrize(
    ("header", "level", "change", "match"),
    [
        (b"another header", LEVEL, lambda chunk: chunk, "symbols have checksum"),
        (HEADER, LEVEL + 1, lambda chunk: chunk, None),
        (HEADER, LEVEL, lambda chunk: chunk + bytes(8), "left over"),
        (HEADER, LEVEL, lambda chunk: bytes(4) + chunk[4:], "symbols have checksum"),
        (HEADER, LEVEL, lambda chunk: chunk[:4] + b"1234" + chunk[8:], None),
        (HEADER, LEVEL, lambda chunk: chunk[:-1], "multiple of 4"),
        (HEADER, LEVEL, lambda chunk: chunk[:3], "a chunk of 3 bytes"),
    ],
)
def test_what_does_not_fit_is_refused(chunk, header, level, change, match):
    with pytest.raises(BitstreamError, match=match), reading(TABLES, header, change(chunk)) as reader:
        reader.code(torch.zeros(1, 40), level)


def test_symbols_that_are_not_read_are_left_over(chunk):
    with pytest.raises(Corrupt, match="left over"), reading(TABLES, HEADER, chunk):
        pass


def test_what_no_encoder_writes_is_corrupt_and_bugs_stay_what_they_are(chunk):
    for error, raised in ((InputError("far"), Corrupt), (Truncated("short"), Truncated), (KeyError("bug"), KeyError)):
        with pytest.raises(raised, match="far|short|bug"), reading(TABLES, HEADER, chunk):
            raise error
