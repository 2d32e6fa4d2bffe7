"""Distortions of decoded speech: spectra with compressed magnitudes, log-mel spectra, and levels.

Squared error of samples would buy STOI and nothing that is heard: what counts are magnitudes, and phases where they are
loud.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from ..header import SAMPLE_RATE
from ..spectrum import LEVEL, POWER, WINDOW

RESOLUTIONS = {256: 32, 640: 64, 1536: 128}
"""Windows in samples, with the mel bands of each; frames overlap to three quarters."""
MEL_FLOOR = 1e-2
LEVEL_WINDOW = 640
LEVEL_FLOOR = 1e-5
"""Share of a sound's power below which a band's level does not count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spectral:
    """Errors of spectra at one resolution, each (batch,)."""

    magnitude: Tensor
    """Mean absolute error of compressed magnitudes."""
    complex_: Tensor
    """Mean distance of compressed spectra in the complex plane."""
    mel: Tensor
    """Mean absolute error of log-mel magnitudes."""


def spectral_errors(original: Tensor, decoded: Tensor, window: int) -> Spectral:
    """Errors of samples (batch, samples) at 16 kHz in spectra of ``window`` samples, one of `RESOLUTIONS`."""
    both = torch.cat([original, decoded]) * LEVEL * (WINDOW / window) ** 0.5
    hann = torch.hann_window(window, device=both.device)
    spectrum = torch.stft(both, window, window // 4, window=hann, return_complex=True)
    power = spectrum.real.square() + spectrum.imag.square() + 1e-6
    magnitude = power.pow(POWER / 2)
    growth = power.pow((POWER - 1) / 2)
    distances = [
        (part[: len(original)] - part[len(original) :]).square() for part in (spectrum.real * growth, spectrum.imag * growth)
    ]
    mel = (power.sqrt().transpose(1, 2) @ mel_bands(window, both.device)).clamp(min=MEL_FLOOR).log()
    return Spectral(
        magnitude=_mean_difference(magnitude),
        complex_=(distances[0] + distances[1] + 1e-6).sqrt().flatten(1).mean(1),
        mel=_mean_difference(mel),
    )


def level_error(original: Tensor, decoded: Tensor) -> Tensor:
    """Mean absolute difference in decibels of levels in mel bands over the whole of samples (batch, samples): (batch,).

    PESQ, STOI and ViSQOL make levels and colour of two sounds equal before they compare. A codec that learns from them alone
    returns sounds that are several times too loud.
    """
    window = torch.hann_window(LEVEL_WINDOW, device=original.device)
    spectra = torch.stft(torch.cat([original, decoded]), LEVEL_WINDOW, LEVEL_WINDOW // 2, window=window, return_complex=True)
    power = (spectra.real.square() + spectra.imag.square()).mean(-1) @ mel_bands(LEVEL_WINDOW, original.device)
    first, second = power.chunk(2)
    floor = LEVEL_FLOOR * first.sum(-1, keepdim=True) + 1e-6
    return (10 * ((second + floor) / (first + floor)).log10()).abs().mean(-1)


@cache
@torch.inference_mode(False)
def mel_bands(window: int, device: torch.device) -> Tensor:
    """Slaney's triangles of unit area on his mel scale up to 8 kHz, float32 (window // 2 + 1, bands), times what keeps sums
    of one size over resolutions. They are torchaudio's, which an encoder need not have."""
    hertz = np.linspace(0, SAMPLE_RATE / 2, window // 2 + 1)[:, None]
    mel = np.linspace(0, 15 + 27 * np.log(SAMPLE_RATE / 2000) / np.log(6.4), RESOLUTIONS[window] + 2)
    edges = np.where(mel < 15, mel * 200 / 3, 1000 * 6.4 ** ((mel - 15) / 27))
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    triangles = np.minimum((hertz - low) / (centre - low), (high - hertz) / (high - centre)).clip(0) * 2 / (high - low)
    return torch.from_numpy(triangles.astype(np.float32)).to(device) * (window / 64)


def _mean_difference(both: Tensor) -> Tensor:
    """Mean absolute difference of the halves of a batch, (batch / 2,)."""
    first, second = both.chunk(2)
    return (first - second).abs().flatten(1).mean(1)
