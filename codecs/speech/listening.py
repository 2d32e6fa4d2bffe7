"""A page to listen: each sound as it was, as we code it, and as Opus does at equal rate, in one file without links.

Sounds are embedded as FLAC, spectrograms as PNG. It takes some 60 kB for each second of sound that was coded at four rates.
"""

from __future__ import annotations

import html
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from string import Template

import numpy as np
import soundfile
from PIL import Image

from ..container import write_file
from ..evaluation.page import data_uri, scores_list
from ..evaluation.points import OURS
from ..evaluation.task import Metric, Reference
from .header import SAMPLE_RATE
from .listening_template import PAGE
from .references import check_opus, decode_opus, opus_of_rate, opus_payload

CLIPS_MAX = 6
"""Sounds on a page."""
SECONDS_MAX = 12
"""Of each sound, its beginning."""
KBPS = (1.5, 3.0, 6.0, 9.0)
"""Rates that are looked for."""
WINDOW, HOP = 512, 160
"""Samples of a spectrogram's windows, and between them: 32 and 10 ms."""
FLOOR_DB = -75.0
"""The darkest level of a spectrogram, below the original's loudest."""
ROWS, COLUMNS_MAX = 128, 640
"""Pixels of a spectrogram."""
Coded = Callable[[np.ndarray, float], tuple[int, bytes]]
"""A sound and a rate in kbit/s, to the quality and the file that come close."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Take:
    """A sound that can be played on the page."""

    name: str
    samples: np.ndarray
    """float32 (n,) at 16 kHz."""
    note: str
    """Its rate and size."""
    scores: Mapping[str, float]
    """Values by the metrics' titles."""


def listening_page(
    path: Path,
    title: str,
    clips: Mapping[str, np.ndarray],
    ours: Reference[np.ndarray],
    metrics: Sequence[Metric[np.ndarray]],
    kbps: Sequence[float] = KBPS,
    coded: Coded | None = None,
) -> None:
    """Write the page.

    Args:
        clips: float32 (n,) at 16 kHz, by name.
        ours: settings are whole qualities 0..100.
        kbps: rates at which the sounds are coded; ours by the closest quality, then Opus as close to our bytes as it gets.
        coded: ours close to a rate; None: by `quality_of_rate`.

    Raises:
        InputError: there is no Opus here.
    """
    check_opus()
    rows = "\n".join(
        _clip(name, samples[: SECONDS_MAX * SAMPLE_RATE], ours, metrics, kbps, coded or searched(ours))
        for name, samples in clips.items()
    )
    rates = "".join(
        f'<label><input type="radio" name="rate" value="{i}"{" checked" if i == len(kbps) // 2 else ""}> {rate:g}</label>'
        for i, rate in enumerate(kbps)
    )
    page = Template(PAGE).substitute(title=html.escape(title), rates=rates, rows=rows, ours=OURS)
    write_file(path, page.encode())


def _clip(
    name: str,
    samples: np.ndarray,
    ours: Reference[np.ndarray],
    metrics: Sequence[Metric[np.ndarray]],
    kbps: Sequence[float],
    coded: Coded,
) -> str:
    """A row of the page: one sound at every rate."""
    original = Take(name="original", samples=samples, note=f"{len(samples) / SAMPLE_RATE:.1f} s, 256 kbit/s", scores={})
    top = float(_power(samples).max())
    figures = [_figure(original, top, "1", None)]
    for rate_index, rate in enumerate(kbps):
        quality, data = coded(samples, rate)
        theirs = opus_of_rate(samples, rate_of(len(data), samples))
        takes = (
            (f"{OURS}, quality {quality}", ours.decode(data), len(data)),
            ("Opus, 60 ms", decode_opus(theirs), opus_payload(theirs)),
        )
        for key, (codec, decoded, size) in zip("23", takes, strict=True):
            scores = {metric.title: metric.of(samples, decoded) for metric in metrics}
            note = f"{rate_of(size, samples):.2f} kbit/s, {size:,} bytes"
            figures.append(_figure(Take(name=codec, samples=decoded, note=note, scores=scores), top, key, rate_index))
    head = f'<section class="clip" tabindex="0"><h2>{html.escape(name)}</h2>'
    return f'{head}<div class="takes">{"".join(figures)}</div></section>'


def searched(ours: Reference[np.ndarray]) -> Coded:
    """Ours at the closest quality to a rate, of one sound: what is made on the way serves other rates."""
    made: dict[int, bytes] = {}

    def coded(samples: np.ndarray, kbps: float) -> tuple[int, bytes]:
        quality = quality_of_rate(ours, samples, kbps, made)
        return quality, made[quality]

    return coded


def rate_of(size: int, samples: np.ndarray) -> float:
    """Kilobits a second of so many bytes."""
    return size / 125 * SAMPLE_RATE / len(samples)


def quality_of_rate(ours: Reference[np.ndarray], samples: np.ndarray, kbps: float, made: dict[int, bytes]) -> int:
    """The quality 0..100 whose file is closest to a rate, by bisection.

    Args:
        made: files by quality, which are not made again; those that were needed are added.
    """

    def off(quality: int) -> float:
        if quality not in made:
            made[quality] = ours.encode(samples, quality)
        return rate_of(len(made[quality]), samples) - kbps

    low, high = 0, 100
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if off(middle) < 0 else (low, middle)
    return min((low, high), key=lambda quality: abs(off(quality)))


def _figure(take: Take, top: float, key: str, rate_index: int | None) -> str:
    """One player with its spectrogram; ``rate_index`` None: shown at every rate."""
    rate = "" if rate_index is None else f' data-rate="{rate_index}"'
    label = html.escape(take.name)
    return (
        f'<figure data-key="{key}"{rate}>'
        f"<figcaption><kbd>{key}</kbd> {label} <small>{html.escape(take.note)}</small></figcaption>"
        f'<img alt="Spectrogram, 0 to 8 kHz, {label}" src="{data_uri("image/png", spectrogram_png(take.samples, top))}">'
        f'<audio controls preload="metadata" aria-label="{label}" data-seconds="{len(take.samples) / SAMPLE_RATE:.4f}"'
        f' src="{data_uri("audio/flac", _flac(take.samples))}"></audio>'
        f"{scores_list(take.scores)}</figure>"
    )


def _flac(samples: np.ndarray) -> bytes:
    """A FLAC file of 16 bits."""
    buffer = io.BytesIO()
    soundfile.write(buffer, np.clip(samples, -1, 1), SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def _power(samples: np.ndarray) -> np.ndarray:
    """Power of short-time spectra, (256 frequencies, times)."""
    padded = np.pad(samples, (WINDOW // 2, WINDOW // 2 + HOP))
    windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP] * np.hanning(WINDOW)
    return np.abs(np.fft.rfft(windows, axis=1).T[:-1]) ** 2


def spectrogram(samples: np.ndarray, top: float) -> np.ndarray:
    """Levels 0..255, uint8 (128, at most 640), 8 kHz at the top.

    Args:
        top: power of the brightest level.
    """
    power = _power(samples).reshape(ROWS, 2, -1).mean(1)
    columns = min(power.shape[1], COLUMNS_MAX)
    starts = np.arange(columns) * power.shape[1] // columns
    power = np.maximum.reduceat(power, starts, axis=1)
    level = 10 * np.log10(np.maximum(power, 1e-12) / max(top, 1e-3))
    return (np.clip(1 - level / FLOOR_DB, 0, 1)[::-1] * 255).astype(np.uint8)


def spectrogram_png(samples: np.ndarray, top: float) -> bytes:
    """`spectrogram` as a picture."""
    buffer = io.BytesIO()
    image = Image.fromarray(spectrogram(samples, top), "L")
    image.putpalette(_palette())
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


@cache
def _palette() -> bytes:
    """256 colours, dark to bright."""
    from matplotlib import colormaps

    return (colormaps["magma"](np.arange(256))[:, :3] * 255).astype(np.uint8).tobytes()
