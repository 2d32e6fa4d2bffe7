"""Measures of video against what they are by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from rdcodec.codecs.video.metrics import flicker, ms_ssim, psnr_rgb_db, psnr_yuv_db


def changed(moving, add: np.ndarray):
    """Footage with levels added, nothing clipped."""
    pixels = moving.rgb.astype(int) + add
    assert pixels.min() >= 0 and pixels.max() <= 255
    return replace(moving, rgb=pixels.astype(np.uint8))


def test_the_same_is_best(moving):
    assert psnr_rgb_db(moving, moving) == psnr_yuv_db(moving, moving) == 100
    assert ms_ssim(moving, moving) == pytest.approx(1) and flicker(moving, moving) == 0


def test_psnr_is_a_mean_over_frames(moving):
    add = np.zeros((40, 1, 1, 1), int)
    add[20:] = 10
    half = 20 * math.log10(255 / 10)
    assert psnr_rgb_db(moving, changed(moving, add)) == pytest.approx((100 + half) / 2)


def test_yuv_is_weighted_6_1_1(moving):
    planes = moving.planes()
    original = replace(moving, own_planes=planes)
    height = moving.rgb.shape[1]
    for part, weight in ((slice(0, height), 6), (slice(height, height * 5 // 4), 1), (slice(height * 5 // 4, None), 1)):
        other = planes.copy()
        other[:, part] += 5
        value = psnr_yuv_db(original, replace(original, own_planes=other))
        assert value == pytest.approx((100 * (8 - weight) + weight * 20 * math.log10(255 / 5)) / 8)


def test_yuv_of_a_codec_without_planes_is_of_its_pixels(moving):
    original = replace(moving, own_planes=moving.planes())
    value = psnr_yuv_db(original, changed(moving, np.full((1, 1, 1, 1), 6)))
    luma = 20 * math.log10(255 / (6 * 219 / 255))
    assert value == pytest.approx((6 * luma + 100 + 100) / 8, abs=1)


def test_noise_worsens_ms_ssim_and_small_frames_have_none(moving):
    rng = np.random.default_rng(0)
    less, more = (changed(moving, rng.integers(-n, n + 1, moving.rgb.shape)) for n in (3, 30))
    assert 1 > ms_ssim(moving, less) > ms_ssim(moving, more) > 0.5
    small = replace(moving, rgb=moving.rgb[:, :160])
    assert math.isnan(ms_ssim(small, small))


def test_flicker_is_the_change_that_the_original_has_not(moving):
    add = np.zeros((40, 1, 1, 1), int)
    add[::2] = 7
    assert flicker(moving, changed(moving, add)) == pytest.approx(7, abs=1e-4)
    assert flicker(moving, changed(moving, np.full((1, 1, 1, 1), 7))) < 1e-5, "a lasting error does not flicker"
    lower = np.zeros(moving.rgb.shape, int)
    lower[::2, 96:] = 7
    assert flicker(moving, changed(moving, lower)) < 0.5, "the lower half moves"
    upper = np.zeros(moving.rgb.shape, int)
    upper[::2, :80] = 7
    assert flicker(moving, changed(moving, upper)) > 6


def test_flicker_needs_still_areas_and_two_frames(moving):
    add = np.zeros((40, 1, 1, 1), int)
    add[::2] = 20
    upper = replace(moving, rgb=moving.rgb[:, :88])
    assert flicker(upper, upper) == 0 and math.isnan(flicker(changed(upper, add), upper))
    assert math.isnan(flicker(replace(moving, rgb=moving.rgb[:1]), replace(moving, rgb=moving.rgb[:1])))
