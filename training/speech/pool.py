"""Crops whose latents are refined while the networks train, so that these learn from latents as an encoder with effort
sends them (`codecs.speech.refining`), not from the analysis transform's alone.

A crop stays for `LIFE` steps. The gradient of its latent comes with those of the weights, so that refining costs no pass of
its own; most crops that are drawn for it are not needed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...codecs.refinement import Moments
from ...codecs.speech.ecc import SpeechNetwork
from ..losses import stratified_qualities
from .signals import latent

LIFE = 16
"""Steps that a crop stays."""
RATE = 0.1
"""Step size in quantiser steps, as Adam's."""
DECAYS = 0.9, 0.95
"""Of Adam's moments."""


@dataclass(slots=True)
class _Place:
    samples: Tensor
    quality: Tensor
    latent: Tensor
    unit: Tensor
    """A quantiser step of each channel, in the latent's own units."""
    end: int
    """Steps after which another crop takes the place."""
    moments: Moments
    age: int = 0


class LatentPool:
    """So many crops, each of a quality from its own part of 0..100. It is no part of a checkpoint: its crops are new after a
    resume."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._places: list[_Place] = []

    def drawn(self, network: SpeechNetwork, fresh: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Samples, qualities and latents (size, ...) of the crops, latents with gradients of their own.

        Args:
            fresh: crops (size, samples) to take where one's time is over.
        """
        if not self._places:  # of staggered ages, or all would leave at once
            self._places = [self._new(network, fresh, i, 1 + i * LIFE // self.size) for i in range(self.size)]
        for i, place in enumerate(self._places):
            if place.age == place.end:
                self._places[i] = self._new(network, fresh, i, LIFE)
        for place in self._places:
            place.latent = place.latent.detach().requires_grad_()
        samples, quality = (torch.stack([getattr(p, name) for p in self._places]) for name in ("samples", "quality"))
        return samples, quality, torch.stack([place.latent for place in self._places])

    @torch.no_grad()
    def step(self) -> None:
        """Move the latents by the gradients that a backward pass has left."""
        for place in self._places:
            gradient, place.age = place.latent.grad, place.age + 1
            if gradient is not None and gradient.isfinite().all():
                place.latent = place.latent - RATE * place.unit * place.moments.direction(gradient)

    @torch.no_grad()
    def _new(self, network: SpeechNetwork, fresh: Tensor, index: int, end: int) -> _Place:
        samples, quality = fresh[index].clone(), stratified_qualities(self.size).to(fresh.device)[index]
        weights = network.knot_weights(quality[None], torch.float32)
        y = latent(network, samples[None], quality[None])[0].float()
        return _Place(samples, quality, y, network.inverse_gain(weights)[0, 0], end, Moments(y, DECAYS))
