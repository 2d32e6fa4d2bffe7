"""``codec demo``: one sound at several rates beside Opus, on a page to listen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from rich.table import Column, Table

from ..container import write_file
from ..evaluation.report import with_installed_metrics
from .codec import SpeechCodec
from .evaluation import TASK, read_speech, reference_of
from .header import SAMPLE_RATE
from .listening import KBPS, listening_page, quality_of_rate, rate_of
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


def run(codec: SpeechCodec, source: Path | None, folder: Path, note: Callable[[str], None] = lambda text: None) -> Table:
    """Write the sound, a file for each rate, what it decodes to and the page into ``folder``; returns a table of the files.

    Args:
        source: a sound file; None: a synthetic voice.

    Raises:
        InputError: not a sound, or there is no Opus here.
    """
    samples, name = (read_speech(source), source.name) if source else (synthetic_voice(), NO_RECORDING)
    folder.mkdir(parents=True, exist_ok=True)
    write_file(folder / ORIGINAL, _wav(samples))
    ours, made = reference_of(codec), dict[int, bytes]()
    file = Column("file", no_wrap=True, overflow="fold")
    table = Table(file, "quality", "bytes", "kbit/s", title=name)
    for stream, decoded, rate in zip(STREAMS, DECODED, KBPS, strict=True):
        note(f"{rate:g} kbit/s")
        quality = quality_of_rate(ours, samples, rate, made)
        data = made[quality]
        write_file(folder / stream, data)
        write_file(folder / decoded, _wav(ours.decode(data)))
        table.add_row(str(folder / stream), str(quality), f"{len(data):,}", f"{rate_of(len(data), samples):.2f}")
    note("the page")
    metrics = with_installed_metrics(TASK)[0].metrics
    listening_page(folder / PAGE, "codec demo speech", {name: samples}, ours, metrics)
    return table


def _wav(samples: np.ndarray) -> bytes:
    return sound_bytes(as_sound(samples, SAMPLE_RATE), ".wav")
