"""What is measured of a codec, and how: all that ``codec eval NAME FOLDER`` needs to know. No numpy, no torch here.

A codec's `Task` lies in its own folder (``image/evaluation.py: TASK``) and is named in the registry. It says how signals
are found and read, what rate and quality mean for them, and which other codecs can code them; ours is one more of these.

    TASK = Task(
        signals="images",
        find=find_images,                                     # a folder to paths, by a look at each
        read=read_rgb,                                        # a path to a signal
        facts=lambda rgb: {"width": rgb.shape[1], "height": rgb.shape[0]},
        rate=Rate("rate_bpp", "bits per pixel", lambda size, facts: 8 * size / (facts["width"] * facts["height"])),
        speed=Speed("Mpixel/s", lambda facts: facts["width"] * facts["height"] / 1e6),
        metrics=(Metric("psnr_db", "PSNR", "PSNR, RGB (dB)", psnr_db),),
        references={"jpeg": Reference((5, 25, 50, 75, 92), encode_jpeg, decode_jpeg)},
        ours=load_ours,                                       # weights' name and device to a Reference
    )
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

S = TypeVar("S")
"""A signal as it is coded and compared: pixels, samples, frames."""
Facts = Mapping[str, float]
"""Numbers of a signal that rate and speed depend on, by column of the CSV: ``width``, ``frames``, ``duration_s``."""


def by_suffix(*suffixes: str) -> Callable[[Path], list[Path]]:
    """A task's ``find`` for files of these suffixes (``.wav``), in any case, anywhere below a folder.

    >>> by_suffix(".txt")(Path("letter.TXT"))
    [PosixPath('letter.TXT')]
    """

    def find(folder: Path) -> list[Path]:
        return [path for path in files_below(folder) if path.suffix.lower() in suffixes]

    return find


def files_below(folder: Path) -> list[Path]:
    """All files anywhere below a folder, sorted; or the one file."""
    return sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else [folder]


def identity(value: float) -> float:
    """The value itself."""
    return value


def nothing_to_check() -> None:
    """The check of a codec that runs wherever this package does."""


@dataclass(frozen=True, slots=True)
class Rate:
    """What bytes mean for these signals."""

    column: str
    """Name in CSVs, with its unit: ``rate_bpp``, ``rate_kbps``."""
    unit: str
    """Unit on axes: ``bits per pixel``."""
    of: Callable[[int, Facts], float]
    """Bytes that count and a signal's facts to the rate."""
    plotted: tuple[float, float] = (0.0, math.inf)
    """Rates that a plot shows."""
    compared: tuple[float, float] = (0.0, math.inf)
    """Rates of a reference that BD-rates are over; ours counts wherever its quality is one that the reference has there."""


@dataclass(frozen=True, slots=True)
class Speed:
    """Speed, how much of a signal is coded in a second."""

    unit: str
    """``Mpixel/s``, ``frames/s``, ``times real time``."""
    amount: Callable[[Facts], float]
    """A signal's facts to its megapixels, frames or seconds."""


@dataclass(frozen=True, slots=True)
class Metric(Generic[S]):
    """A measure of quality."""

    column: str
    """Name in CSVs, with its unit: ``psnr_db``."""
    title: str
    """Name in tables: ``PSNR``."""
    label: str
    """Name on axes, with the unit: ``PSNR, RGB (dB)``."""
    of: Callable[[S, S], float]
    """Original and decoded signal to the value; nan where it is not defined: the file is in no mean of this metric then."""
    higher_is_better: bool = True
    scaled: Callable[[float], float] = identity
    """The value as plots and BD-rates take it, for instance in decibels; keeps the order."""
    defined: str = ""
    """Where it is defined, if not everywhere: ``above 160 pixels a side``."""
    modules: tuple[str, ...] = ()
    """Modules it needs beyond the task's: a report without them goes without this metric, and says so."""
    extra: str = "eval"
    """The extra of this package that brings them."""

    @property
    def name(self) -> str:
        """The title as part of a column's name: ``ms_ssim`` for MS-SSIM."""
        return re.sub(r"\W+", "_", self.title.lower())


@dataclass(frozen=True, slots=True)
class Reference(Generic[S]):
    """A codec to compare with, at each setting of its curve; ours as well."""

    settings: tuple[float, ...]
    """Qualities, rate factors or bit rates, as the codec itself counts them; a BD-rate needs four."""
    encode: Callable[[S, float], bytes]
    """A signal and a setting to all the bytes of a file. InputError or OSError: this signal cannot be coded."""
    decode: Callable[[bytes], S]
    note: str = ""
    """What is not said by the name: ``method 6``."""
    check: Callable[[], None] = nothing_to_check
    """InputError if it cannot run here, with what to install."""
    counted: Callable[[bytes], int] = len
    """Bytes of a file that its rate counts: all, or for instance the payload of a codec whose container is for streaming."""
    weights: str = ""
    """Of a learned codec: the hash of its weights, by which its points are told from those of others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[S]):
    """A file of the report that shows the signals themselves."""

    name: str
    """Name of the file: ``listen.html``."""
    write: Callable[[Path, str, Sequence[Path], Mapping[str, Reference[S]], Sequence[Metric[S]]], None]
    """Path to write, title, signals' paths, codecs by name with ours among them, and metrics."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task(Generic[S]):
    """Signals, rate, quality and codecs of one evaluation."""

    signals: str
    """What the files hold, for messages: ``images``."""
    remark: str = ""
    """A sentence for the help: what every codec gets."""
    find: Callable[[Path], Sequence[Path]]
    """A folder, or one file, to what there is to code, sorted; it may look into files, but need not decode them. A path
    may be a folder (of frames)."""
    read: Callable[[Path], S]
    """InputError or OSError for a damaged one, which is then left out."""
    facts: Callable[[S], Facts]
    rate: Rate
    speed: Speed
    metrics: tuple[Metric[S], ...]
    references: Mapping[str, Reference[S]]
    """References by the names that ``--references`` takes."""
    ours: Callable[[str | None, str], Reference[S]]
    """Weights by name (None: the default) and device to our codec, loaded; its settings are qualities 0..100."""
    ours_at: Callable[..., Reference[S]] | None = None
    """The same with an ``effort`` as well, 0..9; None: the codec has none."""
    default_references: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    """Modules that the metrics import, beside those of every report."""
    page: Page[S] | None = None


@dataclass(frozen=True, slots=True)
class Command:
    """``codec eval NAME`` of a codec whose evaluation is no folder of signals, like a cache's: a model and a text."""

    run: Callable[..., Any]
    """A function whose parameters are annotated for typer, and whose docstring is the help."""
