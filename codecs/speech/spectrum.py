"""Short-time Fourier spectra with compressed magnitudes, and back: |X|^0.3 at the phase of X, as a loudness has it.

Frames of 40 ms, every 20 ms, under the square root of a Hann window on both ways, whose squares add up to one. Frame f
covers the samples 320 f - 160 to 320 f + 480, so that hop f, the samples from 320 f on, is in its middle.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from .header import FRAME

HOP = FRAME // 2
WINDOW = 2 * HOP
"""Samples from one spectrum to the next, and of one."""
EDGE = (WINDOW - HOP) // 2
"""Samples that a frame reaches beyond its hop, on either side."""
BINS = WINDOW // 2 + 1
VALUES = 2 * BINS
"""Numbers of a frame: real parts, then imaginary parts."""
POWER = 0.3
"""Exponent of magnitudes."""
LEVEL = 8.0
"""Factor on samples before the transform: speech at -22 dB of full scale comes to magnitudes about one."""
FLOOR = 1e-7
"""Power that is added before roots: their slope at zero is infinite."""


@lru_cache(maxsize=2)
@torch.inference_mode(False)
def window(device: torch.device) -> Tensor:
    """Square root of the periodic Hann window, float32 (WINDOW,); kept, so not to be written to."""
    return torch.hann_window(WINDOW, device=device).sqrt()


def to_spectrum(samples: Tensor) -> Tensor:
    """Compressed spectra of float samples.

    Args:
        samples: (batch, EDGE + HOP * frames + EDGE), full scale at 1: the hops with what the frames need around them.

    Returns:
        (batch, frames, VALUES).
    """
    frames = samples.unfold(-1, WINDOW, HOP) * LEVEL
    spectrum = torch.view_as_real(torch.fft.rfft(frames * window(samples.device)))
    power = spectrum.square().sum(-1, keepdim=True)
    spectrum = spectrum * (power + FLOOR).pow((POWER - 1) / 2)
    return torch.cat([spectrum[..., 0], spectrum[..., 1]], dim=-1)


def to_samples(spectrum: Tensor) -> Tensor:
    """Samples of compressed spectra, overlapped and added; inverse of `to_spectrum` but for the edges.

    Returns:
        (batch, EDGE + HOP * frames + EDGE); the first and last ``HOP`` samples lack what other frames add to them.
    """
    real, imaginary = spectrum.float().chunk(2, dim=-1)
    growth = (real.square() + imaginary.square() + FLOOR).pow((1 / POWER - 1) / 2)
    frames = torch.fft.irfft(torch.complex(real * growth, imaginary * growth), n=WINDOW) * (window(spectrum.device) / LEVEL)
    first, second = frames.split([HOP, HOP], dim=-1)
    return F.pad(first.flatten(1), (0, HOP)) + F.pad(second.flatten(1), (HOP, 0))
