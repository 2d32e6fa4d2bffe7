"""STOI as a loss (Taal et al., IEEE TASLP 2011; as one, Fu et al., 2018): one minus the correlation of envelopes in
third-octave bands.

Unlike the measure, at 16 kHz instead of 10, and with quiet frames kept: speech is cropped tightly enough here.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..header import SAMPLE_RATE

WINDOW, HOP = 410, 205
"""Samples of a frame, 25.6 ms, and from one to the next."""
BANDS, LOWEST_HZ = 15, 150.0
"""Third-octave bands, and the centre of the lowest."""
SPAN = 30
"""Frames over which envelopes are compared, 384 ms."""
CLIP_DB = -15.0
"""Signal to distortion above which a decoded envelope is cut off."""
SILENCE_POWER = 1e-3
"""Spans whose energy in a band is below this share of the loudest one's do not count."""


class Unintelligibility(nn.Module):
    """One minus STOI, about 0 to 1 for each signal."""

    bands: Tensor
    window: Tensor

    def __init__(self) -> None:
        super().__init__()
        hertz = torch.arange(WINDOW // 2 + 1) * SAMPLE_RATE / WINDOW
        centres = LOWEST_HZ * 2 ** (torch.arange(BANDS) / 3)
        inside = (hertz[:, None] >= centres * 2 ** (-1 / 6)) & (hertz[:, None] < centres * 2 ** (1 / 6))
        self.register_buffer("bands", inside.float(), persistent=False)
        self.register_buffer("window", torch.hann_window(WINDOW), persistent=False)

    def forward(self, original: Tensor, decoded: Tensor) -> Tensor:
        """Samples (batch, samples) at 16 kHz, of at least 0.4 s; (batch,)."""
        clean, degraded = self._spans(original), self._spans(decoded)
        energy = clean.square().sum(-1)  # (batch, spans, bands)
        scale = (energy / (degraded.square().sum(-1) + 1e-9) + 1e-9).sqrt()
        degraded = torch.minimum(degraded * scale[..., None], clean * (1 + 10 ** (-CLIP_DB / 20)))
        clean, degraded = (x - x.mean(-1, keepdim=True) for x in (clean, degraded))
        norms = ((clean.square().sum(-1) + 1e-9) * (degraded.square().sum(-1) + 1e-9)).sqrt()
        correlation = (clean * degraded).sum(-1) / norms
        counted = (energy.sum(-1, keepdim=True) > SILENCE_POWER * energy.sum(-1, keepdim=True).amax(1, keepdim=True)).float()
        counted = counted.expand_as(correlation)
        return 1 - (correlation * counted).sum((1, 2)) / (counted.sum((1, 2)) + 1e-9)

    def _spans(self, samples: Tensor) -> Tensor:
        """Envelopes (batch, spans, bands, SPAN)."""
        spectrum = torch.stft(samples, WINDOW, HOP, window=self.window, center=False, return_complex=True).transpose(1, 2)
        power = (spectrum.real.square() + spectrum.imag.square()) @ self.bands
        return (power + 1e-7).sqrt().unfold(1, SPAN, SPAN // 3)
