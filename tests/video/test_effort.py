"""Effort: the same decoder, symbols that are worth more of their bits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from clips import drawn_clip
from rdcodec.codecs import load
from rdcodec.codecs.image.distortion import distortion_bits
from rdcodec.codecs.image.effort import SHARES, TUNE
from rdcodec.codecs.image.tile_coder import to_signal
from rdcodec.codecs.video.clip import Clip
from rdcodec.entropy_models.errors import InputError


@pytest.fixture(scope="module")
def codec():
    return load("video", device="cpu")


def bits_and_distortion(codec, frames: np.ndarray, quality: int, share: float) -> float:
    """What an encoder with effort minimises, in bits."""
    found = codec.estimate(frames, quality=quality)
    pairs = zip(found.signal.frames, frames, strict=True)
    signals = [[to_signal(torch.from_numpy(picture))[None] for picture in pair] for pair in pairs]
    return found.bits + sum(float(distortion_bits(*pair, quality, share)) for pair in signals)


@pytest.mark.parametrize("quality", [20, 60])
def test_more_effort_is_less_of_rate_and_distortion(codec, moving, quality):
    frames = moving.rgb[:5, 40:168, 30:158]
    costs = [bits_and_distortion(codec.with_effort(effort), frames, quality, SHARES[TUNE]) for effort in (0, 1, 4)]
    assert costs[2] < costs[1] < costs[0] and costs[2] < 0.99 * costs[0]


def test_squared_error_is_what_it_is_tuned_for(codec, moving):
    frames = moving.rgb[:4, 40:104, 30:94]
    costs = [bits_and_distortion(c, frames, 40, 0.0) for c in (codec, codec.with_effort(4, tune="psnr"))]
    assert costs[1] < costs[0]


def test_any_decoder_of_the_weights_reads_it(codec):
    """With a repeated frame and a cut, and sides that are no whole blocks."""
    frames = drawn_clip(9, 45, 77, speed=1)
    frames[3], frames[6:] = frames[2], 255 - frames[6:, ::-1, ::-1]
    refined = codec.with_effort(1)
    data = refined.encode(frames, quality=40, group=5)
    assert data == refined.encode(frames, quality=40, group=5) != codec.encode(frames, quality=40, group=5)
    decoded: Clip = codec.decode(data)
    np.testing.assert_array_equal(decoded.frames, refined.estimate(frames, quality=40, group=5).signal.frames)


def test_a_codec_with_effort_leaves_the_other_as_it_is(codec):
    frames = drawn_clip(2, 32, 48, speed=1)
    before, refined = codec.encode(frames), codec.with_effort(1)
    assert refined.stem is codec.stem and refined.encode(frames) != before == codec.encode(frames)
    assert refined.with_effort(0).encode(frames) == before == codec.with_effort(None).encode(frames)


def test_a_callers_state_of_gradients_does_not_matter(codec):
    frames, refined = drawn_clip(2, 32, 48, speed=1), codec.with_effort(1)
    expected = refined.encode(frames)
    for state in (torch.inference_mode(), torch.no_grad(), torch.enable_grad()):
        with state:
            assert refined.encode(frames) == expected


def test_frames_without_anything_to_code(codec):
    """Every block of the second is a copy, and no symbol of it can be refined."""
    frames = np.full((3, 32, 32, 3), 90, np.uint8)
    frames[2, 0, 0] += 1
    np.testing.assert_array_equal(codec.decode(codec.with_effort(1).encode(frames, quality=5)).frames.shape, frames.shape)


def test_efforts_and_tunes_that_there_are_not(codec):
    with pytest.raises(InputError, match="10"):
        codec.with_effort(10)
    with pytest.raises(InputError, match="ears"):
        codec.with_effort(3, tune="ears")
