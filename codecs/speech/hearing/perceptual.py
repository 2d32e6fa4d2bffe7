"""A differentiable disturbance after PESQ's perceptual model (ITU-T P.862.2; as a loss: PMSQE, Martín-Doñas et al., IEEE SPL
2018).

Spectra go to loudness in Bark bands, as the standard does it; differences that the louder of two sounds hides do not count,
and what was added counts more than what was left out. Unlike PESQ, nothing is aligned in time, filters are applied to
spectra, and levels are set once for a signal. On noisy speech its value, mapped as P.862.2 maps it, is within 0.1 of PESQ's.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..header import SAMPLE_RATE
from .bark import BANDWIDTHS_BARK, BINS_PER_BAND, CENTRES_BARK, DENSITY_CORRECTIONS, THRESHOLDS

WINDOW, HOP = 512, 256
POWER_SCALE, LOUDNESS_SCALE = 6.910853e-6, 1.866055e-1
"""Calibration of powers and of loudness at 16 kHz (P.862)."""
LEVEL_POWER = 1e7
"""Mean power of speech from 325 to 3,250 Hz that both signals are set to."""
EMPHASIS = ((2.740826, -5.4816519, 2.740826), (1.0, -1.9444777, 0.94597794))
"""The wideband input filter's coefficients (P.862.2)."""
DISTURBANCE_MAX = 45.0
SYMMETRIC, ASYMMETRIC = 0.1, 0.0309
"""Weights of the two disturbances in the raw score."""
SPAN, STEP = 20, 10
"""Frames of a syllable, over which a sixth-power mean is taken, and from one to the next."""


class Disturbance(nn.Module):
    """What PESQ takes off its best score, before its mapping: about 0 to 6 for each signal."""

    bands: Tensor
    widths: Tensor
    thresholds: Tensor
    exponents: Tensor
    emphasis: Tensor
    speech_band: Tensor
    window: Tensor

    def __init__(self) -> None:
        super().__init__()
        bands = torch.zeros(WINDOW // 2, len(BINS_PER_BAND))
        start = 0
        for band, bins in enumerate(BINS_PER_BAND):
            bands[start : start + bins, band] = 1.0
            start += bins
        self.register_buffer("bands", bands * torch.tensor(DENSITY_CORRECTIONS) * POWER_SCALE, persistent=False)
        self.register_buffer("widths", torch.tensor(BANDWIDTHS_BARK), persistent=False)
        self.register_buffer("thresholds", torch.tensor(THRESHOLDS), persistent=False)
        exponents = (6 / (torch.tensor(CENTRES_BARK) + 2)).clamp(1, 2) ** 0.15 * 0.23
        self.register_buffer("exponents", exponents, persistent=False)
        delay = torch.exp(-2j * torch.pi * torch.arange(WINDOW // 2 + 1) / WINDOW)
        upper, lower = (c[0] + c[1] * delay + c[2] * delay**2 for c in EMPHASIS)
        self.register_buffer("emphasis", (upper / lower).abs().square().float(), persistent=False)
        hertz = torch.arange(WINDOW // 2 + 1) * SAMPLE_RATE / WINDOW
        self.register_buffer("speech_band", ((hertz > 325) & (hertz < 3250)).float(), persistent=False)
        self.register_buffer("window", torch.hann_window(WINDOW), persistent=False)

    def forward(self, original: Tensor, decoded: Tensor) -> Tensor:
        """Samples (batch, samples) at 16 kHz, full scale at 1, of at least 0.4 s; the disturbance, (batch,)."""
        reference, degraded = self._bark(original), self._bark(decoded)
        loud = (self._audible(reference, 1e2) >= 1e7)[..., None]
        means = [(x * (x > self.thresholds * 100) * loud).mean(1, keepdim=True) for x in (reference, degraded)]
        reference = reference * ((means[1] + 1000) / (means[0] + 1000)).clamp(0.01, 100)
        ratio = (self._audible(reference, 1) + 5e3) / (self._audible(degraded, 1) + 5e3)
        ratio = torch.cat([ratio[:, :1], 0.8 * ratio[:, 1:] + 0.2 * ratio[:, :-1]], dim=1).clamp(3e-4, 5)
        degraded = degraded * ratio[..., None]
        loudness = [self._loudness(x) for x in (reference, degraded)]
        difference = loudness[1] - loudness[0]
        hidden = 0.25 * torch.minimum(*loudness)
        difference = difference.sign() * (difference.abs() - hidden).clamp(min=0)
        added = ((degraded + 50) / (reference + 50)).pow(1.2)
        added = torch.where(added < 3, 0.0, added).clamp(max=12)
        quiet = ((self._audible(reference, 1) + 1e5) / 1e7) ** 0.04
        symmetric = (self._norm(difference, 2) / quiet).clamp(max=DISTURBANCE_MAX)
        asymmetric = (self._norm(difference * added, 1) / quiet).clamp(max=DISTURBANCE_MAX)
        return SYMMETRIC * _pooled(symmetric) + ASYMMETRIC * _pooled(asymmetric)

    def _bark(self, samples: Tensor) -> Tensor:
        """Powers in Bark bands (batch, frames, bands), levels set."""
        spectrum = torch.stft(samples, WINDOW, HOP, window=self.window, center=False, return_complex=True).transpose(1, 2)
        power = spectrum.real.square() + spectrum.imag.square()
        mean_square = 2 * (power * self.speech_band).sum(-1).mean(1) / (WINDOW * self.window.square().sum())
        power = power * self.emphasis * (LEVEL_POWER / (mean_square + 1e-9))[:, None, None]
        power = torch.cat([torch.zeros_like(power[..., :1]), power[..., 1:-1]], dim=-1)
        return power @ self.bands

    def _audible(self, power: Tensor, factor: float) -> Tensor:
        return (power * (power > self.thresholds * factor)).sum(-1)

    def _loudness(self, power: Tensor) -> Tensor:
        """Zwicker's loudness of each band."""
        start = (2 * self.thresholds) ** self.exponents * ((0.5 + 0.5 * power / self.thresholds).pow(self.exponents) - 1)
        return torch.where(power <= self.thresholds, 0.0, start) * LOUDNESS_SCALE

    def _norm(self, difference: Tensor, p: int) -> Tensor:
        """Norm over bands by their widths, but for the lowest."""
        total = self.widths[1:].sum()
        weighted = (self.widths * difference / total ** (1 / p))[..., 1:]
        return total * (weighted.abs().sum(-1) if p == 1 else (weighted.square().sum(-1) + 1e-8).sqrt())


def _pooled(disturbance: Tensor) -> Tensor:
    """Sixth-power means of syllables, then their root mean square: (batch, frames) to (batch,)."""
    syllables = (disturbance.clamp(min=1e-4) ** 6).unfold(1, SPAN, STEP).mean(-1) ** (1 / 6)
    return (syllables.square().mean(1) + 1e-8).sqrt()
