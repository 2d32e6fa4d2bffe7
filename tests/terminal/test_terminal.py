"""Sizes as people write and read them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from rdcodec.codecs.image import demo
from rdcodec.codecs.terminal import files
from rdcodec.codecs.terminal.console import RateColumn, bar, message


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0), ("10", 10), ("10B", 10), ("1.001kB", 1001), ("2 MB", 2 * 10**6), ("3gb", 3 * 10**9), ("1T", 10**12),
        ("1TB", 10**12), ("1.5KiB", 1536), (" 2MiB ", 2**21), ("3GiB", 3 * 2**30), ("1TiB", 2**40), ("4Ki", 4096),
    ],
)  # fmt: skip
def test_sizes(text, size):
    assert files.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "kB", "-5", "1e3", "inf", "nan", "1,5MB", "5 kBB", "5iB", "1PB", "٣kB"])
def test_what_is_no_size(text):
    with pytest.raises(ValueError, match=r"size .*; need a number and a unit: 4096, 50kB"):
        files.parse_size(text)


def test_sizes_for_people():
    sizes = 0, 999, 1500, 999_949, 999_950, 2 * 10**9, 5.25e12
    assert [files.show_size(n) for n in sizes] == ["0 B", "999 B", "1.5 kB", "999.9 kB", "1.0 MB", "2.0 GB", "5.2 TB"]


def test_the_halves_of_a_detail_do_not_touch():
    ours, jpeg = np.full((20, 30, 3), 10, np.uint8), np.full((20, 30, 3), 20, np.uint8)
    assert np.asarray(demo._halves(ours, jpeg, 16, 4))[..., 0].tolist() == [[10] * 6 + [255] * 4 + [20] * 6] * 4


def test_errors_of_stores_are_no_bugs_of_ours():
    from botocore.exceptions import NoCredentialsError

    assert message(NoCredentialsError()) == "botocore: Unable to locate credentials"
    assert message(ValueError("x")).startswith("internal error, please report: ValueError: x")


def test_the_bar_tells_parts_a_second():
    told = [
        SimpleNamespace(speed=speed, fields=fields) for speed, fields in ((None, {}), (3.44, {}), (25, {"unit": "frames"}))
    ]
    assert [RateColumn().render(task).plain for task in told] == ["", "3.4/s", "25.0 frames/s"]
    assert any(isinstance(column, RateColumn) for column in bar().columns)
