"""Hyper-latents that say something from the first step on."""

from __future__ import annotations

import torch
from torch import Tensor, nn

DEAD = 0.3
"""Deviation, in steps, below which a hyper-latent is dead."""


@torch.no_grad()
def revive(last: nn.Linear, z: Tensor, deviation: float) -> None:
    """Scale hyper-latents to a deviation in steps where they are dead: they round to zero, tell the decoder nothing, and so
    are never worth their bits.

    Args:
        last: the layer that makes them.
        z: what it made of training signals, (..., channels).
    """
    found = z.flatten(0, -2).std(0)
    scale = torch.where(found < DEAD, deviation / found.clamp(min=1e-4), 1.0)
    last.weight.mul_(scale[:, None])
    last.bias.mul_(scale)


def revive_silent(last: nn.Linear, z: Tensor, deviation: float) -> None:
    """`revive` where no hyper-latent says anything: those of random layers stand at a twentieth of a step or less. Of
    trained ones those that are quiet shall stay so."""
    if z.flatten(0, -2).std(0).max() < DEAD:
        revive(last, z, deviation)
