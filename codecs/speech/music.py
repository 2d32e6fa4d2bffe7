"""Music told from speech: tones that stay where they are.

A voice glides: its harmonics do not lie where they lay an eighth of a second ago. Notes do. The measure is how alike the
fine structures of two spectra so far apart are, a relative of the spectral flux of Scheirer and Slaney (ICASSP 1997).
Drums and noise are not found, which are no speech either: better a notice too few than one on speech.
"""

from __future__ import annotations

import numpy as np

RATE = 8000
"""Hz of what is looked at."""
_WINDOW, _HOP, _APART = 512, 256, 4
"""Samples of a spectrum, from one to the next; spectra from one to the one it is compared with, 128 ms."""
_SMOOTH = 15
"""Bins, 234 Hz, over which the envelope is taken."""
_BAND = slice(10, 224)
"""Bins that count: 160 to 3500 Hz, without hum."""
_LOUD = 10.0 ** (-30 / 20)
"""Spectra softer than this, next to the loudest so far, are pauses."""
_AUDIBLE = 1e-3
"""Spectra softer than this hold nothing: tones of -80 dB, and what the window leaves of a constant."""
_ALIKE = 0.75
"""Likeness from which a tone has stayed; 1: the same."""
SHARE = 0.4
"""Music: so many of the loud spectra are like those before. Speech reaches half of it."""
LOUD_MIN = 47
"""Loud spectra that are needed to say anything: 1.5 s."""


class MusicMeter:
    """Share of steady tones in a sound, which comes by blocks."""

    def __init__(self) -> None:
        self._rest = np.zeros(0, np.float32)
        self._before = np.zeros((0, _BAND.stop - _BAND.start))
        self._peak = self._loud = self._steady = 0.0

    def push(self, samples: np.ndarray) -> None:
        """Look at float32 (n,) more samples at `RATE`."""
        self._rest = np.concatenate([self._rest, samples])
        count = (len(self._rest) - _WINDOW) // _HOP + 1
        if count < 1:
            return
        frames = np.lib.stride_tricks.sliding_window_view(self._rest, _WINDOW)[::_HOP][:count]
        self._rest = self._rest[count * _HOP :]
        windowed = frames - frames.mean(axis=1, keepdims=True)
        windowed *= np.hanning(_WINDOW)
        spectra = np.abs(np.fft.rfft(windowed))
        level = np.sqrt(np.square(spectra[:, _BAND]).mean(axis=1))
        fine = _fine(np.sqrt(spectra))[:, _BAND]
        both = np.concatenate([self._before, fine])
        new, old = both[_APART:], both[: max(0, len(both) - _APART)]
        self._before = both[max(0, len(both) - _APART) :]
        level = level[len(level) - len(new) :]
        self._peak = max(self._peak * 0.5 ** (len(level) / 300), float(level.max(initial=0)))  # halved in ten seconds
        loud = level > max(_LOUD * self._peak, _AUDIBLE)
        norms = np.linalg.norm(new, axis=1) * np.linalg.norm(old, axis=1)
        alike = (new * old).sum(axis=1) / np.maximum(norms, 1e-12)
        self._loud += int(loud.sum())
        self._steady += int((loud & (alike > _ALIKE)).sum())

    @property
    def share(self) -> float:
        """Of the loud spectra, those with steady tones, 0 to 1; 0 where there are too few to say."""
        return self._steady / self._loud if self._loud >= LOUD_MIN else 0.0

    @property
    def music(self) -> bool:
        return self.share > SHARE


def _fine(spectra: np.ndarray) -> np.ndarray:
    """Spectra (n, bins) without their envelopes."""
    total = np.cumsum(np.pad(spectra, ((0, 0), (_SMOOTH // 2 + 1, _SMOOTH // 2)), mode="edge"), axis=1)
    return spectra - (total[:, _SMOOTH:] - total[:, :-_SMOOTH]) / _SMOOTH
