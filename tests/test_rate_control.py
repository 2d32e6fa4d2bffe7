"""Sizes to hit: the highest quality that fits, for any codec with a measurer."""

from __future__ import annotations

import math

import pytest
from rdcodec.codecs.rate_control import CLOSE, WIDEST, encode_to_size, highest_quality


class Ruler:
    """Quality q takes 10 q + 5 bytes, and is measured to take some fewer."""

    def __init__(self, fewer: int) -> None:
        self.fewer, self.encoded, self.measured = fewer, [], []

    def measurer(self, signal: str, *, progress=None):
        def measure(quality: int) -> int:
            self.measured.append(quality)
            if progress:
                progress(1, 1)
            return 10 * quality + 5 - self.fewer

        return measure

    def encode(self, signal: str, *, quality: int, progress=None) -> bytes:
        self.encoded.append(quality)
        return bytes(10 * quality + 5)


@pytest.mark.parametrize("size", [5, 14, 15, 16, 504, 505, 1004, 1005, 10**9])
@pytest.mark.parametrize("fewer", [0, 3, 35])
def test_no_quality_above_the_one_found_fits(size, fewer):
    codec, best = Ruler(fewer), min((size - 5) // 10, 100)
    data, quality = encode_to_size(codec, "signal", size)
    assert (len(data), quality) == (10 * best + 5, best)
    assert len(codec.encoded) <= 2 + fewer // 10 and len(codec.measured) <= 7


@pytest.mark.parametrize("off", [-40, -2, -1, 0, 1, 2, 40])
@pytest.mark.parametrize("size", [0, 5, 15, 504, 994, 1004, 1005, 10**9])
def test_a_search_that_begins_near_ends_where_any_other_does(size, off):
    codec, best = Ruler(0), max(0, min((size - 5) // 10, 100))
    near = min(max(best + off, 0), 100)
    assert highest_quality(codec.measurer("signal"), size, near) == best
    assert len(codec.measured) <= (4 if abs(off) <= 1 else 6 if abs(off) <= 2 else 14)


def test_a_draft_says_where_to_begin():
    codec, draft, seen = Ruler(0), Ruler(7), []
    assert encode_to_size(codec, "signal", 600, draft=draft, progress=lambda *at: seen.append(at))[1] == 59
    assert len(codec.measured) <= 3 and codec.encoded == [59]
    assert seen == [(1, 1)] * len(codec.measured)  # each measure of a codec with effort takes as long as encoding


def test_a_size_below_the_least_is_refused_and_named():
    with pytest.raises(ValueError, match="^<4> is too small: quality 0 needs <5>$"):
        encode_to_size(Ruler(3), "signal", 4, shown="<{}>".format)
    assert highest_quality(lambda quality: 9, 8) == 0


class Wide(Ruler):
    """A ruler of streams that a dead zone makes smaller, by a tenth where it is as wide as may be."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__(0)
        self.factor = factor

    def encode(self, signal: str, *, quality: int, progress=None) -> bytes:
        return bytes(int((10 * quality + 5) * (1 - 0.1 * math.log(self.factor, WIDEST))))


@pytest.mark.parametrize(
    ("size", "found"), [(204, 20), (200, 20), (199, 20), (196, 19), (12, 0), (90, 9), (93, 9), (10**6, 100)]
)
def test_between_two_qualities_a_wider_dead_zone_is_taken(size, found):
    data, quality = encode_to_size(Wide(), "signal", size, between=Wide)
    assert quality == found and len(data) <= size
    assert len(data) >= CLOSE * size or found in (0, 100)
