"""What ``codec eval speech`` measures: rate, PESQ, STOI, ESTOI, ViSQOL, levels and times of speech at 16 kHz; and a page to
listen.

Every codec gets the same samples: one channel (the mean of two), resampled to 16 kHz. Our rate is of all bytes of the file,
that of a reference of its payload alone. No numpy and no torch before something is measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..evaluation.task import Metric, Page, Rate, Reference, Speed, Task, files_below
from .formats import looks_like_sound
from .header import SAMPLE_RATE
from .metrics import estoi, level_error_db, pesq_wb, stoi, visqol_lattice, visqol_polynomial
from .references import REFERENCES

if TYPE_CHECKING:
    import numpy as np

    from .codec import SpeechCodec

QUALITIES = (0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100)
"""Qualities of our curve."""
COMPARED_KBPS = (5.4, 12.0)
"""Rates of a reference that BD-rates are over."""
EXTRA = "speech-eval"
VISQOL_MODULES = ("visqol", "ai_edge_litert")


def find_sounds(folder: Path) -> list[Path]:
    """The files below a folder, or the one file, that look like sounds, judged by their first bytes."""
    return [path for path in files_below(folder) if looks_like_sound(_head(path))]


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(64)


def read_speech(path: Path) -> np.ndarray:
    """Samples of a sound file, float32 (n,) at 16 kHz, channels mixed.

    Raises:
        InputError: not a sound, or a damaged one.
    """
    from .resampling import resampled
    from .sounds import read_sound

    sound = read_sound(path, mono=True)
    return resampled(sound.samples, sound.sample_rate, SAMPLE_RATE)[0]


def duration_of(samples: np.ndarray) -> dict[str, float]:
    """Duration in seconds."""
    return {"duration_s": len(samples) / SAMPLE_RATE}


def load_ours(model: str | None = None, device: str = "auto", effort: int = 0) -> Reference[np.ndarray]:
    """Our codec with these weights, as one more reference. Errors as `SpeechCodec.load`, and of `with_effort`."""
    from .codec import SpeechCodec

    return reference_of(SpeechCodec.load(model=model, device=device).with_effort(effort))


def reference_of(codec: SpeechCodec, qualities: tuple[int, ...] = QUALITIES) -> Reference[np.ndarray]:
    """A loaded codec, as one more reference."""

    def encode(samples: np.ndarray, quality: float) -> bytes:
        return codec.encode(samples, sample_rate=SAMPLE_RATE, quality=int(quality))

    return Reference(qualities, encode, lambda data: codec.decode(data).array(), weights=codec.stream_hash.hex())


def write_page(
    path: Path,
    title: str,
    sources: Sequence[Path],
    codecs: Mapping[str, Reference[np.ndarray]],
    metrics: Sequence[Metric[np.ndarray]],
) -> None:
    """The page to listen, of some of the sounds."""
    from ..evaluation.page import spread
    from ..evaluation.points import OURS
    from .listening import CLIPS_MAX, listening_page

    clips = {source.stem: read_speech(source) for source in spread(sources, CLIPS_MAX)}
    listening_page(path, title, clips, codecs[OURS], metrics)


TASK: Task[np.ndarray] = Task(
    signals="sounds",
    remark="Every codec gets the same samples: 16 kHz, channels mixed. Of references the payload counts, of ours all bytes.",
    find=find_sounds,
    read=read_speech,
    facts=duration_of,
    rate=Rate(
        "rate_kbps", "kbit/s", lambda size, facts: size / 125 / facts["duration_s"], (0.0, 16.0), COMPARED_KBPS
    ),
    speed=Speed("times real time", lambda facts: facts["duration_s"]),
    metrics=(
        Metric(
            "pesq_wb", "PESQ-WB", "PESQ, wide band (MOS-LQO)", pesq_wb, defined="on speech", modules=("pesq",), extra=EXTRA
        ),
        Metric("stoi", "STOI", "STOI", stoi, defined="from 0.4 s of speech on"),
        Metric("estoi", "ESTOI", "ESTOI", estoi, defined="from 0.4 s of speech on"),
        Metric(
            "visqol_lattice", "ViSQOL lattice", "ViSQOL, speech mode, lattice (MOS-LQO)", visqol_lattice,
            defined="on speech", modules=VISQOL_MODULES, extra=EXTRA,
        ),
        Metric(
            "visqol_polynomial", "ViSQOL polynomial", "ViSQOL, speech mode, polynomial (MOS-LQO)", visqol_polynomial,
            defined="on speech", modules=VISQOL_MODULES[:1], extra=EXTRA,
        ),
        Metric(
            "level_error_db", "level error", "error of levels in third octaves (dB)", level_error_db, higher_is_better=False
        ),
    ),
    references=REFERENCES,
    default_references=("opus",),
    ours=load_ours,
    ours_at=load_ours,
    packages=("pystoi", "soundfile"),
    page=Page(name="listen.html", write=write_page),
)  # fmt: skip
