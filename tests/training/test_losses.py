"""Loss over the range of qualities, of any codec."""

from __future__ import annotations

import torch
from rdcodec.training.losses import rate_distortion, rate_distortion_weight, stratified_qualities


def test_qualities_cover_the_range():
    drawn = torch.stack([stratified_qualities(8) for _ in range(400)])
    assert drawn.min() == 0 and drawn.max() == 100
    assert (drawn[:, 1:] >= drawn[:, :-1]).all()


def test_the_weight_is_log_linear_in_the_quality():
    weight = rate_distortion_weight(torch.tensor([0, 50, 100]), 0.001, 0.2)
    torch.testing.assert_close(weight, torch.tensor([0.001, (0.001 * 0.2) ** 0.5, 0.2]))


def test_the_loss_adds_what_is_in_units_of_rate():
    loss = rate_distortion(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 7.0]), torch.tensor([4.0, 9.0]))
    torch.testing.assert_close(loss, torch.tensor((4 / 2 + 9 / 3) / 2))
