"""Sizes to hit with pictures."""

from __future__ import annotations

import pytest
from rdcodec.codecs.image import extras
from rdcodec.codecs.image.pictures import Picture
from rdcodec.codecs.rate_control import encode_to_size, highest_quality


def test_a_size_gives_the_highest_quality_that_fits(image_codec, photograph):
    picture = Picture(photograph[:96, :120])
    for quality in (0, 10, 20, 99, 100):
        size = len(image_codec.encode(picture, quality=quality))
        data, found = encode_to_size(image_codec, picture, size)
        assert len(data) <= size and found >= quality
        assert found == 100 or len(image_codec.encode(picture, quality=found + 1)) > size
    with pytest.raises(ValueError, match=r"quality 0 needs \d+ bytes"):
        encode_to_size(image_codec, picture, len(image_codec.encode(picture, quality=0)) - 1)


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (16, 17), (40, 33), (96, 120)])
def test_a_picture_is_measured_to_take_no_more_bytes_than_it_takes(image_codec, scene, photograph, size):
    for image in (scene(*size), photograph[: size[0], : size[1]], photograph[: size[0], : size[1], 0]):
        measure = image_codec.measurer(image)
        for quality in (0, 30, 70, 100):
            assert 0 <= len(image_codec.encode(image, quality=quality)) - measure(quality) <= 200


def test_search_for_a_size_compresses_alpha_once(image_codec, photograph, monkeypatch):
    picture = Picture(photograph[:90, :80], photograph[100:190, :80, 0].copy(), icc=b"profile" * 50, xmp=b"<x/>")
    size = len(image_codec.encode(picture, quality=40))
    compressed, original = [], extras._alpha_file
    monkeypatch.setattr(extras, "_alpha_file", lambda alpha: compressed.append(1) or original(alpha))
    assert abs(highest_quality(image_codec.measurer(picture), size) - 40) <= 1
    assert len(compressed) == 1
