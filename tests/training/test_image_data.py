"""Photographs for training: decoded once, cropped at random, made soft, drawn upon."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image
from rdcodec.training.image.data import ImageData, ImageFiles, PixelCache, RandomCrops, iterate_images


def test_data(photos, tmp_path):
    assert [name for name, _ in iterate_images(photos)] == ["0.png", "1.png", "2.png", "inside/a.png"]
    crops = iter(RandomCrops(PixelCache(photos, tmp_path), 64))
    assert next(crops).shape == (64, 64, 3) and next(crops).dtype == torch.uint8
    with pytest.raises(FileNotFoundError, match="no such folder"):
        list(iterate_images(tmp_path / "nowhere"))
    for wrong in ({"crop": 0}, {"crop": -64}, {"batch_size": 0}, {"validation_images": -1}):
        with pytest.raises(ValueError, match="need"):
            ImageData(photos, **wrong)
    with pytest.raises(ValueError, match="multiple of 64"):
        ImageData(photos, crop=100)
    with pytest.raises(ValueError, match="as large as the crop"):
        RandomCrops(PixelCache(photos, tmp_path), 1024)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no images"):
        PixelCache(tmp_path / "empty", tmp_path / "cache")


def test_training_sees_pictures_as_the_codec_does(tmp_path):
    """16-bit grey by its range, which Pillow's own conversion makes white."""
    ramp = np.linspace(0, 65535, 128 * 128).astype(np.uint16).reshape(128, 128)
    (tmp_path / "in").mkdir()
    Image.fromarray(ramp).save(tmp_path / "in" / "ramp.png")
    expected = np.repeat(np.round(ramp / 257).astype(np.uint8)[:, :, None], 3, axis=2)
    np.testing.assert_array_equal(PixelCache(tmp_path / "in", tmp_path).image(0), expected)
    np.testing.assert_array_equal(ImageFiles(tmp_path / "in")[0].numpy(), expected)


def test_a_build_that_breaks_off_leaves_nothing(photograph, tmp_path):
    (tmp_path / "in").mkdir()
    Image.fromarray(photograph[:64, :64]).save(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "b.png").write_bytes((tmp_path / "in" / "a.png").read_bytes()[:500])
    with pytest.raises(ValueError, match="b.png"):
        PixelCache(tmp_path / "in", tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_a_folder_that_changes_is_decoded_anew(photograph, tmp_path):
    for count in (1, 2):
        Image.fromarray(photograph[:64, :64]).save(tmp_path / f"{count}.png")
        assert len(PixelCache(tmp_path, tmp_path / "cache").index) == count


def test_graphics_are_drawn_on_their_share_of_the_crops(photos, tmp_path):
    """Text and shapes: more flat pixels than any photograph has, in so many of the crops."""
    cache = PixelCache(photos, tmp_path)

    def flat(graphics: float) -> np.ndarray:
        torch.manual_seed(0)
        crops = (crop.numpy() for crop in islice(RandomCrops(cache, 64, graphics), 200))
        return np.array([(np.diff(crop.astype(int), axis=1) == 0).all(-1).mean() for crop in crops])

    assert flat(0.0).max() < 0.5 and 0.5 < (flat(1.0) > 0.5).mean() < 0.8  # the others are drawn on photographs
    assert 0.05 < (flat(0.25) > 0.5).mean() < 0.3
    with pytest.raises(ValueError, match="graphics"):
        ImageData(photos, graphics=1.5)


def test_camera_crops_are_soft_and_their_colour_softer(photos, tmp_path):
    """Less detail along rows in as many crops as asked for; chroma loses more than luma."""
    cache = PixelCache(photos, tmp_path)

    def detail(camera: float) -> np.ndarray:
        torch.manual_seed(0)
        crops = torch.stack(list(islice(RandomCrops(cache, 64, camera=camera), 200))).numpy()
        assert crops.shape == (200, 64, 64, 3) and crops.dtype == np.uint8
        luma = crops.mean(-1)
        planes = luma, crops[..., 2] - luma
        return np.array([[np.abs(np.diff(crop, axis=1)).mean() for crop in plane] for plane in planes]).mean(1)

    sharp, some, soft = detail(0.0), detail(0.5), detail(1.0)
    assert (soft < some).all() and (some < sharp).all()
    assert soft[1] / sharp[1] < soft[0] / sharp[0] < 0.9
    with pytest.raises(ValueError, match="camera"):
        ImageData(photos, camera=-0.1)
