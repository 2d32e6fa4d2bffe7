"""Whole signals through the transforms, as training and what follows it need them; a codec runs them in pieces."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from ...codecs.speech.ecc import AHEAD, Memory, SpeechNetwork
from ...codecs.speech.header import FRAME, SEGMENT
from ...codecs.speech.spectrum import EDGE, to_samples, to_spectrum
from ...entropy_models.coder import Coder


def latent(network: SpeechNetwork, samples: Tensor, quality: Tensor) -> Tensor:
    """Latents (B, T, latent) of whole signals (B, T * FRAME)."""
    spectrum = to_spectrum(F.pad(samples, (EDGE, EDGE)))
    spectrum, mask = F.pad(spectrum, (0, 0, 0, 2 * AHEAD)), ones(samples)
    return network.to_latent(spectrum, mask, quality, Memory())[:, AHEAD:]


def decoded(network: SpeechNetwork, y_hat: Tensor, quality: Tensor) -> Tensor:
    """Samples (B, T * FRAME) of whole latents."""
    mask = F.pad(y_hat.new_ones(*y_hat.shape[:2], 1), (0, 0, 0, AHEAD))
    spectrum, _ = network.to_spectrum(F.pad(y_hat, (0, 0, 0, AHEAD)), mask, quality, Memory())
    return to_samples(spectrum[:, 2 * AHEAD :])[:, EDGE:-EDGE]


def coded(network: SpeechNetwork, coder: Coder, y: Tensor, quality: Tensor) -> Tensor:
    """What a decoder knows of latents without digital silence."""
    y_hat, _ = network.coding_pass(coder, y, quality, y.new_zeros(len(y), y.shape[1] // SEGMENT))
    return y_hat


def ones(samples: Tensor) -> Tensor:
    """Mask of whole signals, with what a transform looks ahead."""
    return F.pad(samples.new_ones(len(samples), samples.shape[1] // FRAME, 1), (0, 0, 0, AHEAD))
