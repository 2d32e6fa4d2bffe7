"""Measures of coded speech: PESQ, STOI, ESTOI, ViSQOL, and what they do not hear: level and colour. Of float32 samples (n,)
at 16 kHz, without a delay.

Each is nan where it is not defined for the original: silence, or too short. No numpy before something is measured.
"""

from __future__ import annotations

import math
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

from .header import SAMPLE_RATE

if TYPE_CHECKING:
    import numpy as np

STDERR = 2
"""Number of the standard error file."""
PESQ_MIN = 1.0
"""What PESQ gives where it finds nothing of the original's speech in the decoded."""
STOI_SPEECH_S_MIN = 0.4
"""Seconds of speech that STOI needs, silence left out: 30 frames of 12.8 ms."""

LEVEL_WINDOW = 1024
LEVEL_BANDS_HZ = (100.0, 7000.0)
LEVEL_FLOOR = 1e-6
"""Share of a sound's power below which a band's level does not count."""


def pesq_wb(original: np.ndarray, decoded: np.ndarray) -> float:
    """PESQ of wide band, ITU-T P.862.2 (package pesq): 1.0 to 4.64; nan for an original without speech or under 1/4 s."""
    import numpy as np
    from pesq import PesqError, pesq

    def score(degraded: np.ndarray) -> float:
        try:
            return float(pesq(SAMPLE_RATE, original, degraded, "wb"))
        except (PesqError, ValueError):  # the latter from levels of 0
            return math.nan

    if not np.any(original):
        return math.nan
    value = score(decoded) if np.any(decoded) else math.nan
    if math.isnan(value) and not math.isnan(score(original)):
        return PESQ_MIN
    return value


def stoi(original: np.ndarray, decoded: np.ndarray) -> float:
    """Short-time objective intelligibility, Taal et al. 2011 (package pystoi): 0 to 1; nan for under 0.4 s of speech."""
    return _stoi(original, decoded, extended=False)


def estoi(original: np.ndarray, decoded: np.ndarray) -> float:
    """Extended STOI, Jensen and Taal 2016 (package pystoi); nan as `stoi`."""
    return _stoi(original, decoded, extended=True)


def _stoi(original: np.ndarray, decoded: np.ndarray, *, extended: bool) -> float:
    import numpy as np
    from pystoi import stoi as compute

    if not np.any(original):
        return math.nan
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Not enough STFT frames", RuntimeWarning)  # else it would return 1e-5
        try:
            return float(compute(original, decoded, SAMPLE_RATE, extended=extended))
        except RuntimeWarning:
            return math.nan


def level_error_db(original: np.ndarray, decoded: np.ndarray) -> float:
    """Mean absolute difference in decibels of the levels of a sound's third octaves, each over the whole of it; nan for
    silence.

    PESQ, STOI and ViSQOL make level and colour of two sounds equal before they compare.
    """
    import numpy as np
    from scipy.signal import welch

    if not np.any(original):
        return math.nan
    window = min(LEVEL_WINDOW, len(original))
    frequencies, _ = welch(original, SAMPLE_RATE, nperseg=window)
    low, high = LEVEL_BANDS_HZ
    edges = low * 2 ** (np.arange(int(3 * math.log2(high / low)) + 2) / 3)
    inside = (frequencies >= edges[:-1, None]) & (frequencies < edges[1:, None])
    first, second = (inside @ welch(x, SAMPLE_RATE, nperseg=window)[1] for x in (original, decoded))
    floor = LEVEL_FLOOR * first.sum()
    return float(np.abs(10 * np.log10((second + floor) / (first + floor))).mean())


def visqol_lattice(original: np.ndarray, decoded: np.ndarray) -> float:
    """ViSQOL 3 in speech mode with the lattice, the C++ program's default mapper: 1 to 5; nan on silence or if short."""
    return _visqol(original, decoded, lattice=True)


def visqol_polynomial(original: np.ndarray, decoded: np.ndarray) -> float:
    """ViSQOL 3 in speech mode with the polynomial of older papers, up to 1.5 higher at low rates; nan as the lattice."""
    return _visqol(original, decoded, lattice=False)


def _visqol(original: np.ndarray, decoded: np.ndarray, *, lattice: bool) -> float:
    import numpy as np

    if not np.any(original):
        return math.nan
    pair = original.astype(np.float64), decoded.astype(np.float64)
    try:
        return float(_visqol_with(lattice).measure_from_arrays(*pair, SAMPLE_RATE).moslqo)
    except (ValueError, IndexError):  # it finds no patch to compare
        return math.nan


@cache
def _visqol_with(lattice: bool) -> Any:
    """ViSQOL (package visqol-python) with one of its mappers."""
    from visqol import VisqolApi

    api = VisqolApi()
    with without_information():
        api.create(mode="speech", use_lattice_model=lattice)
    return api


@contextmanager
def without_information() -> Iterator[None]:
    """Keeps lines that begin with ``INFO:`` from standard error, where TFLite writes of itself, past Python and without a
    switch; others appear at the end."""
    try:
        own = os.dup(STDERR)
    except OSError:  # it is closed
        yield
        return
    with tempfile.TemporaryFile() as written:
        os.dup2(written.fileno(), STDERR)
        try:
            yield
        finally:
            os.dup2(own, STDERR)
            os.close(own)
            written.seek(0)
            for line in written:
                if not line.startswith(b"INFO:"):
                    os.write(STDERR, line)
