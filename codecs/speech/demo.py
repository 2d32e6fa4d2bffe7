"""``codec demo``: one sound at several rates beside Opus, on a page to listen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from rich.table import Column, Table

from ..container import write_file
from ..evaluation.report import with_installed_metrics
from ..evaluation.task import Reference
from .codec import SpeechCodec
from .evaluation import TASK, read_speech, reference_of
from .header import SAMPLE_RATE
from .listening import KBPS, SECONDS_MAX, Coded, listening_page, rate_of, searched
from .sound import as_sound
from .sound_writing import sound_bytes
from .voice import synthetic_voice

PAGE = "listen.html"
STREAMS = tuple(f"speech_{rate:g}_kbps.rdc" for rate in KBPS)
ORIGINAL = "original.wav"
DECODED = tuple(stream.removesuffix(".rdc") + ".wav" for stream in STREAMS)
SHOWN = (PAGE, ORIGINAL, *STREAMS, *DECODED)
"""Files that `run` writes."""
NO_RECORDING = "a synthetic voice, for want of a recording; the codec is made for people: codec demo speech FILE"
EFFORT = 5
"""Unless another is asked for: most of what effort 9 gives, in a third of its time."""


def run(
    codec: SpeechCodec,
    source: Path | None,
    folder: Path,
    note: Callable[[str], None] = lambda text: None,
    effort: int = 0,
) -> Table:
    """Write the sound, a file for each rate, what it decodes to and the page into ``folder``; returns a table of the files.

    Args:
        source: a sound file, of which the first seconds are taken; None: a synthetic voice.

    Raises:
        InputError: not a sound, or there is no Opus here.
    """
    samples, name = (read_speech(source), source.name) if source else (synthetic_voice(), NO_RECORDING)
    if len(samples) > SECONDS_MAX * SAMPLE_RATE:
        samples, name = samples[: SECONDS_MAX * SAMPLE_RATE], f"{name}, its first {SECONDS_MAX} s"
    folder.mkdir(parents=True, exist_ok=True)
    write_file(folder / ORIGINAL, _wav(samples))
    ours, made = reference_of(codec), dict[float, tuple[int, bytes]]()
    coded = refined(ours, reference_of(codec.with_effort(effort))) if effort else searched(ours)
    file = Column("file", no_wrap=True, overflow="fold")
    table = Table(file, "quality", "bytes", "kbit/s", title=f"effort {effort}; {name}")
    for stream, decoded, rate in zip(STREAMS, DECODED, KBPS, strict=True):
        note(f"{rate:g} kbit/s")
        quality, data = made[rate] = coded(samples, rate)
        write_file(folder / stream, data)
        write_file(folder / decoded, _wav(ours.decode(data)))
        table.add_row(str(folder / stream), str(quality), f"{len(data):,}", f"{rate_of(len(data), samples):.2f}")
    note("the page")
    metrics = with_installed_metrics(TASK)[0].metrics
    title = f"codec demo speech, effort {effort}"
    listening_page(folder / PAGE, title, {name: samples}, ours, metrics, coded=lambda _, rate: made[rate])
    return table


def refined(plain: Reference[np.ndarray], ours: Reference[np.ndarray]) -> Coded:
    """Ours with effort, close to a rate, by a search without: its file has so many times the bytes at equal quality, which
    the last one tells."""
    draft, times = searched(plain), 1.0

    def coded(samples: np.ndarray, kbps: float) -> tuple[int, bytes]:
        nonlocal times
        found: dict[int, bytes] = {}
        for _ in range(2):
            quality, drafted = draft(samples, kbps / times)
            if quality not in found:
                found[quality] = ours.encode(samples, quality)
                times = len(found[quality]) / len(drafted)
        return min(found.items(), key=lambda one: abs(rate_of(len(one[1]), samples) - kbps))

    return coded


def _wav(samples: np.ndarray) -> bytes:
    return sound_bytes(as_sound(samples, SAMPLE_RATE), ".wav")
