"""Neurogram similarity as a loss: the measure inside ViSQOL (Hines et al., 2012 and 2015).

Spectra of 80 ms in 21 gammatone bands, as decibels, are compared as SSIM compares pictures. Local correlation of
decibels counts the same in the background as in a vowel, which no loss on magnitudes does.

Unlike the measure, silent stretches count too, and nothing is aligned.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad

from ..header import SAMPLE_RATE

WINDOW, HOP = 1280, 320
BANDS, LOWEST_HZ = 21, 50.0
EAR_Q, MIN_BANDWIDTH_HZ = 9.26449, 24.7
"""Glasberg and Moore's bandwidths of hearing."""
FLOOR_DB = -45.0
"""Least level, in ViSQOL's decibels: ten for a factor of ten in amplitude."""
NEIGHBOURS = ((0.0113, 0.0838, 0.0113), (0.0838, 0.6195, 0.0838), (0.0113, 0.0838, 0.0113))
INTENSITY_FLOOR, STRUCTURE_FLOOR = 0.01, 0.05
"""Constants of SSIM. ViSQOL's are a hundredth of these, with gradients without bounds where nothing changes."""


class Dissimilarity(nn.Module):
    """One minus neurogram similarity, about 0 to 1 for each signal."""

    bands: Tensor
    window: Tensor
    neighbours: Tensor

    def __init__(self) -> None:
        super().__init__()
        hertz = torch.arange(WINDOW // 2 + 1) * SAMPLE_RATE / WINDOW
        offset = EAR_Q * MIN_BANDWIDTH_HZ
        highest = torch.tensor(SAMPLE_RATE / 2 + offset)
        steps = torch.arange(BANDS, 0, -1) / BANDS
        centres = highest * ((LOWEST_HZ + offset) / highest) ** steps - offset
        width = 1.019 * (centres / EAR_Q + MIN_BANDWIDTH_HZ)
        response = (1 + ((hertz[:, None] - centres) / width).square()).pow(-4)  # fourth order, as power
        window = torch.hann_window(WINDOW)
        self.register_buffer("bands", response * 2 / WINDOW**2, persistent=False)
        self.register_buffer("window", window, persistent=False)
        self.register_buffer("neighbours", torch.tensor(NEIGHBOURS)[None, None], persistent=False)

    def forward(self, original: Tensor, decoded: Tensor) -> Tensor:
        """Samples (batch, samples) at 16 kHz, of at least 80 ms; (batch,)."""
        levels = self._levels(torch.cat([original, decoded]))
        clean, degraded = levels.chunk(2)
        mean_of_clean, mean_of_degraded = self._near(clean), self._near(degraded)
        variances = [
            (self._near(x.square()) - mean.square()).clamp(min=0)
            for x, mean in ((clean, mean_of_clean), (degraded, mean_of_degraded))
        ]
        covariance = self._near(clean * degraded) - mean_of_clean * mean_of_degraded
        intensity = (2 * mean_of_clean * mean_of_degraded + INTENSITY_FLOOR) / (
            mean_of_clean.square() + mean_of_degraded.square() + INTENSITY_FLOOR
        )
        structure = (covariance + STRUCTURE_FLOOR) / ((variances[0] * variances[1] + 1e-6).sqrt() + STRUCTURE_FLOOR)
        return 1 - (intensity * structure).flatten(1).mean(1)

    def _levels(self, samples: Tensor) -> Tensor:
        """Levels (batch, bands, frames) above the lowest."""
        spectrum = torch.stft(samples, WINDOW, HOP, window=self.window, center=False, return_complex=True).transpose(1, 2)
        power = (spectrum.real.square() + spectrum.imag.square()) @ self.bands
        levels = 5 * (power.float() + 1e-9).log10().transpose(1, 2)
        return levels.clamp(min=FLOOR_DB) - FLOOR_DB

    def _near(self, levels: Tensor) -> Tensor:
        return conv2d(pad(levels[:, None], (1, 1, 1, 1), mode="replicate"), self.neighbours)[:, 0]
