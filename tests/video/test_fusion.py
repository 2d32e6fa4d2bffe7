"""Fusion of decoded and moved frames, with the weights that are shipped."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from clips import drawn_clip
from rdcodec.codecs import load
from rdcodec.codecs.image.tile_coder import to_signal
from rdcodec.codecs.video import fusion
from rdcodec.codecs.video.fusion import Fusion, activity_of
from rdcodec.codecs.video.stem import Past


@pytest.fixture(scope="module")
def stem():
    return load("video", device="cpu").stem


def test_two_noisy_pictures_are_better_than_either(stem):
    """Errors of their own are averaged."""
    clean = to_signal(torch.from_numpy(drawn_clip(1, 64, 96)))
    random = torch.Generator().manual_seed(1)
    coded, moved = (clean + 0.03 * torch.randn(clean.shape, generator=random) for _ in range(2))
    said = torch.zeros(1, 4, 6, 384)
    said[..., :8] = 1
    with torch.inference_mode():
        fused = stem.fused(coded, moved, Past(said, said, 12 * said), torch.tensor([40]))
    errors = [float((x - clean).square().mean()) for x in (fused, coded, moved)]
    assert errors[0] < 0.9 * min(errors[1:])


def test_strips_of_a_large_picture_are_those_of_the_whole(stem, monkeypatch):
    random = torch.Generator().manual_seed(2)
    coded, moved = (torch.rand(1, 112, 48, 3, generator=random) - 0.5 for _ in range(2))
    said = torch.rand(1, 7, 3, 384, generator=random).mul(3).round()
    with torch.inference_mode():
        whole = stem.fused(coded, moved, Past(said, said, said), torch.tensor([40]))
        monkeypatch.setattr(fusion, "STRIP_PIXELS", 48 * 40)  # rows are whole blocks: 32
        strips = stem.fused(coded, moved, Past(said, said, said), torch.tensor([40]))
    np.testing.assert_allclose(strips, whole, atol=1e-6)


def test_it_starts_between_both():
    network = Fusion(16, 1, 9)
    coded, moved = torch.zeros(1, 32, 32, 3), torch.full((1, 32, 32, 3), 0.1)
    activity = activity_of(torch.zeros(1, 2, 2, 384), torch.zeros(1, 2, 2, 384))
    with torch.no_grad():
        fused = network(coded, moved, activity, torch.full((1, 9), 1 / 9))
    assert fused.shape == coded.shape and -0.05 < float(fused.min()) and float(fused.max()) < 0.15


def test_activity_counts_what_was_said():
    symbols, levels = torch.zeros(1, 1, 2, 384), torch.zeros(1, 1, 2, 384)
    symbols[0, 0, 0, :3] = torch.tensor([1.0, -2.0, 5.0])
    levels[0, 0, 1] = 2
    found = activity_of(symbols, levels).numpy()
    np.testing.assert_allclose(found[0, 0], [[np.log1p(3) / 4, 0], [0, np.log1p(768) / 8]], rtol=1e-6)
