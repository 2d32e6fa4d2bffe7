"""What every architecture of the image codec does alike: from pixels to a latent and back, at any quality."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from ...entropy_models.hyperprior import float_knot_weights


class ImageTransforms(nn.Module):
    """Transforms of one set of weights for all qualities. Tensors are (batch, rows, columns, channels)."""

    config: Any
    """With ``knots``."""
    analysis: Any
    synthesis: Any
    """With ``features``."""

    def to_latent(self, image: Tensor, quality: Tensor) -> Tensor:
        """``image`` (B, H, W, 3) in -0.5..0.5 with sides multiples of 16; ``quality`` (B,) integers 0..100."""
        latent: Tensor = self.analysis(image, self.knot_weights(quality, image.dtype))
        return latent

    def to_image(self, y_hat: Tensor, quality: Tensor, correction: Tensor | None = None) -> Tensor:
        """Inverse of `to_latent`; not clamped. ``correction``: of one tile, as `Correction.code` returns it."""
        return self.from_features(self.features(y_hat, quality), quality, correction)

    def features(self, y_hat: Tensor, quality: Tensor) -> Tensor:
        """What the last part of the synthesis gets."""
        features: Tensor = self.synthesis.features(y_hat, self.knot_weights(quality, y_hat.dtype))
        return features

    @abstractmethod
    def from_features(self, features: Tensor, quality: Tensor, correction: Tensor | None = None) -> Tensor:
        """The rest of `to_image`."""

    def knot_weights(self, quality: Tensor, dtype: torch.dtype) -> Tensor:
        """Weights of the knots in the pixel path, summing to about one: (batch,) to (batch, knots)."""
        return float_knot_weights(quality, self.config.knots, dtype)
