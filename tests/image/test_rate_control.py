"""Sizes to hit: the highest quality that fits."""

from __future__ import annotations

import pytest
from rdcodec.codecs.image import extras
from rdcodec.codecs.image.pictures import Picture
from rdcodec.codecs.image.rate_control import encode_to_bytes, quality_for_bytes


def test_a_size_gives_the_highest_quality_that_fits(image_codec, photograph):
    picture = Picture(photograph[:96, :120])
    for quality in (0, 10, 20, 99, 100):
        size = len(image_codec.encode(picture, quality))
        data, found = encode_to_bytes(image_codec, picture, size)
        assert len(data) <= size and found >= quality
        assert found == 100 or len(image_codec.encode(picture, found + 1)) > size
    with pytest.raises(ValueError, match=r"quality 0 needs \d+ bytes"):
        encode_to_bytes(image_codec, picture, len(image_codec.encode(picture, 0)) - 1)


def test_search_for_a_size_compresses_alpha_once(image_codec, photograph, monkeypatch):
    picture = Picture(photograph[:90, :80], photograph[100:190, :80, 0].copy(), icc=b"profile" * 50, xmp=b"<x/>")
    wanted = image_codec.encode(picture, 40)
    assert abs(image_codec.measure_bytes(picture, 40) - len(wanted)) <= 40
    compressed, original = [], extras._png
    monkeypatch.setattr(extras, "_png", lambda alpha: compressed.append(1) or original(alpha))
    assert abs(quality_for_bytes(image_codec, picture, len(wanted) + 16) - 40) <= 1
    assert len(compressed) == 1
