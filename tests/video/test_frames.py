"""A format's bytes: a round trip at both limits of each field, and everything else refused."""

from __future__ import annotations

import dataclasses
from fractions import Fraction

import pytest
from rdcodec.codecs.video.frames import FORMAT_BYTES, MATRICES, SUBSAMPLINGS, Format
from rdcodec.entropy_models.errors import Corrupt, InputError

TERM = (1 << 31) - 1
PLAIN = Format(width=640, height=480, time_base=Fraction(1, 90000))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"width": 1, "height": 1, "depth": 1},
        {"width": 65535, "height": 2048, "depth": 16},
        {"time_base": Fraction(TERM, TERM - 1), "rate": Fraction(1, TERM), "aspect": Fraction(65535, 65534)},
        {"primaries": 0, "transfer": 255, "full_range": True},
        *({"matrix": name} for name in MATRICES),
        *({"subsampling": name} for name in SUBSAMPLINGS),
    ],
)
def test_a_format_comes_back_from_its_bytes(changes):
    video = dataclasses.replace(PLAIN, **changes)
    assert len(video.pack()) == FORMAT_BYTES
    assert Format.unpack(video.pack()) == video


@pytest.mark.parametrize(
    "changes",
    [
        {"width": 0}, {"height": 65536}, {"width": 65535, "height": 2049}, {"time_base": Fraction(1, TERM + 1)},
        {"rate": Fraction(0)}, {"rate": Fraction(-1)}, {"aspect": Fraction(65536)}, {"depth": 0}, {"depth": 17},
        {"matrix": "ycgco"}, {"subsampling": "411"}, {"primaries": 256}, {"transfer": -1},
    ],
)  # fmt: skip
def test_what_a_format_cannot_hold_is_refused(changes):
    with pytest.raises(InputError):
        dataclasses.replace(PLAIN, **changes)


def test_every_changed_byte_is_another_format_or_refused():
    data = PLAIN.pack()
    refused = 0
    for at in range(len(data)):
        for value in range(256):
            changed = data[:at] + bytes([value]) + data[at + 1 :]
            try:
                assert Format.unpack(changed).pack() == changed
            except Corrupt:
                refused += 1
    assert refused > 1000
    for size in (*range(len(data)), len(data) + 1):
        with pytest.raises(Corrupt, match="30 bytes"):
            Format.unpack((data + b"\0")[:size])
