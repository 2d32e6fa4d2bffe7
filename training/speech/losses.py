"""Distortions of decoded speech: spectra with compressed magnitudes, log-mel spectra, and levels.

Squared error of samples would buy STOI and nothing that is heard: what counts are magnitudes, and phases where they are
loud.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
import torchaudio.functional
from torch import Tensor

from ...codecs.speech.header import SAMPLE_RATE
from ...codecs.speech.spectrum import LEVEL, POWER, WINDOW

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
def mel_bands(window: int, device: torch.device) -> Tensor:
    """Filters (window // 2 + 1, bands) whose sums stay of one size over resolutions."""
    filters = torchaudio.functional.melscale_fbanks(
        window // 2 + 1, 0.0, SAMPLE_RATE / 2, RESOLUTIONS[window], SAMPLE_RATE, norm="slaney", mel_scale="slaney"
    )
    return filters.to(device) * (window / 64)


def _mean_difference(both: Tensor) -> Tensor:
    """Mean absolute difference of the halves of a batch, (batch / 2,)."""
    first, second = both.chunk(2)
    return (first - second).abs().flatten(1).mean(1)
