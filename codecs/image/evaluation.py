"""``codec eval image``: real bytes, PSNR, MS-SSIM and times of every file, quality and codec; plot and BD-rates.

PSNR is over RGB on decoded 8-bit pixels; rate is bytes on disk times 8 over pixels. Means are over images; each counts the
same whatever its size, in rate and in quality. BD-rate compares the curves of means (package ``bjontegaard``, Akima).
"""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ..container import write_file
from . import references
from .codec import ImageCodec
from .pictures import read_picture

QUALITIES = (0, 8, 16, 24, 32, 40, 48, 56, 64, 72, 80, 88, 96, 100)
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Point:
    """One file, coded once."""

    codec: str
    quality: int
    file: str
    width: int
    height: int
    bytes: int
    rate_bpp: float
    psnr_db: float
    ms_ssim: float
    encode_s: float
    decode_s: float


@dataclass(frozen=True, slots=True)
class MeanPoint:
    """Mean over files of one codec at one quality."""

    codec: str
    quality: int
    rate_bpp: float
    psnr_db: float
    ms_ssim: float
    encode_s: float
    decode_s: float


METRICS = {"psnr_db": "PSNR, RGB (dB)", "ms_ssim": "MS-SSIM (dB)"}
"""Fields of a point that measure quality, and what plots call them."""
Curves = dict[str, list[MeanPoint]]
"""Means of every codec and quality, by metric."""


def check_packages() -> None:
    """Whether everything a report needs is installed.

    Raises:
        ImportError: it is not; says what to install.
    """
    try:
        import bjontegaard  # noqa: F401
        import matplotlib  # noqa: F401
        import pytorch_msssim  # noqa: F401
    except ImportError as error:
        raise ImportError(f"a report needs more packages ({error}): pip install 'rdcodec[eval]'") from None


def psnr_db(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio of uint8 arrays; 100 for equal ones."""
    mse = float(np.mean((a.astype(np.float64) - b) ** 2))
    return 10 * math.log10(255**2 / mse) if mse else 100.0


def ms_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Multi-scale SSIM of RGB arrays (package pytorch-msssim); nan below 161 pixels a side, where it is undefined."""
    import torch
    from pytorch_msssim import ms_ssim as compute

    if min(a.shape[:2]) <= 160:
        return math.nan
    x, y = (torch.from_numpy(v.astype(np.float32)).permute(2, 0, 1)[None] for v in (a, b))
    return float(compute(x, y, data_range=255))


def evaluate(
    codec: ImageCodec,
    files: Sequence[Path],
    names: Sequence[str] = (),
    qualities: Sequence[int] = QUALITIES,
    progress: Progress = lambda name: None,
    left_out: Callable[[Path, Exception], None] | None = None,
) -> list[Point]:
    """Code every file at every quality, with ours and with each anchor in ``names``.

    Args:
        left_out: called with a file that some codec cannot take, and the error; none of its points is kept, so that every
            mean is over the same pictures. None: the error is raised.

    Raises:
        ValueError: a file is not an image, an anchor is missing, or no file is left.
    """
    points, folder = [], os.path.commonpath([path.parent for path in files])
    for path in files:
        name = str(path.relative_to(folder))  # two folders may hold files of one name
        try:
            points += _points_of(codec, path, name, names, qualities, progress)
        except (ValueError, OSError) as error:
            if left_out is None:
                raise
            left_out(path, error)
    if not points:
        raise ValueError(f"none of {len(files)} images could be coded")
    return points


def _points_of(
    codec: ImageCodec, path: Path, file: str, names: Sequence[str], qualities: Sequence[int], progress: Progress
) -> list[Point]:
    """Every point of one file."""
    points = []
    rgb = read_picture(path.read_bytes()).rgb()
    for quality in qualities:
        progress(f"{file} ours q{quality}")
        coded = references.timed(partial(codec.encode, rgb, quality), codec.decode)
        points.append(point("rdcodec", quality, file, rgb, coded))
    for name in names:
        for quality in references.ANCHORS[name].qualities:
            progress(f"{file} {name} q{quality}")
            points.append(point(name, quality, file, rgb, references.code(name, rgb, quality)))
    return points


def point(codec: str, quality: int, file: str, rgb: np.ndarray, coded: references.Coded) -> Point:
    """Rate and distortion of one coded image, ``rgb`` being the original."""
    height, width = rgb.shape[:2]
    return Point(
        codec=codec, quality=quality, file=file, width=width, height=height, bytes=len(coded.data),
        rate_bpp=len(coded.data) * 8 / (height * width), psnr_db=psnr_db(rgb, coded.pixels),
        ms_ssim=ms_ssim(rgb, coded.pixels), encode_s=coded.encode_s, decode_s=coded.decode_s,
    )  # fmt: skip


def means(points: Sequence[Point]) -> list[MeanPoint]:
    """Mean over files for each codec and quality, by rising rate."""
    groups = defaultdict(list)
    for point in points:
        groups[point.codec, point.quality].append(point)
    fields = [field.name for field in dataclasses.fields(MeanPoint)][2:]
    rows = []
    for key, group in groups.items():
        rows.append(MeanPoint(*key, *(_mean([getattr(p, field) for p in group]) for field in fields)))
    return sorted(rows, key=lambda row: (row.codec != "rdcodec", row.codec, row.rate_bpp))


def _mean(values: list[float]) -> float:
    """Mean of the values that are defined; small pictures have no MS-SSIM, see `curves`."""
    defined = [value for value in values if not math.isnan(value)]
    return float(np.mean(defined)) if defined else math.nan


def curves(points: Sequence[Point]) -> Curves:
    """Means for each metric, over the pictures that have it, so that rate and quality are of the same ones."""
    return {metric: means([p for p in points if not math.isnan(getattr(p, metric))]) for metric in METRICS}


def curve(rows: Sequence[MeanPoint], codec: str, metric: str, rates: tuple[float, float]) -> tuple[list, list]:
    """Rates and metric of one codec inside ``rates`` (and the neighbours just outside)."""
    inside = sorted((r.rate_bpp, getattr(r, metric)) for r in rows if r.codec == codec)
    low = max([x for x, _ in inside if x <= rates[0]], default=0.0)
    high = min([x for x, _ in inside if x >= rates[1]], default=math.inf)
    kept = [(x, y) for x, y in inside if low <= x <= high]
    return [x for x, _ in kept], [y for _, y in kept]


def rising(rates: list, values: list) -> tuple[list, list]:
    """The points of a curve that are better than every cheaper one; interpolation needs them strictly rising."""
    kept = [i for i, value in enumerate(values) if value > max(values[:i], default=-math.inf)]
    return [rates[i] for i in kept], [values[i] for i in kept]


def bd_rate(
    rows: Sequence[MeanPoint], anchor: str, metric: str = "psnr_db", rates: tuple[float, float] = (0.0, math.inf)
) -> float:
    """Rate of ours over the anchor's at equal quality, percent (negative: ours is smaller); nan if too few points.

    Each curve counts between the two ``rates`` (bpp), and where both have one quality.
    """
    import bjontegaard

    ours, theirs = (curve(rows, name, metric, rates) for name in ("rdcodec", anchor))
    ours, theirs = rising(*ours), rising(*theirs)
    if min(len(ours[0]), len(theirs[0])) < 4:
        return math.nan
    if metric == "ms_ssim":
        ours, theirs = ((x, decibels(y)) for x, y in (ours, theirs))
    ours, theirs = (between(x, y, rates) for x, y in (ours, theirs))
    return float(bjontegaard.bd_rate(*theirs, *ours, method="akima", require_matching_points=False, min_overlap=0))


def between(rates: list, values: list, limits: tuple[float, float]) -> tuple[list, list]:
    """A curve from one rate to another, its ends interpolated (Akima, over the logarithm of the rate).

    Ending at a point outside instead, a codec that gets better moves that point, and its BD-rate jumps by half a per cent.
    """
    from scipy.interpolate import Akima1DInterpolator

    low, high = max(limits[0], rates[0]), min(limits[1], rates[-1])
    inside = [i for i, rate in enumerate(rates) if low < rate < high]
    first, last = Akima1DInterpolator(np.log(rates), values)(np.log([low, high]))
    return [low, *(rates[i] for i in inside), high], [float(first), *(values[i] for i in inside), float(last)]


def decibels(similarities: Sequence[float]) -> list[float]:
    """MS-SSIM as the field plots it; 100 for equal pictures."""
    return [-10 * math.log10(max(1 - value, 1e-10)) for value in similarities]


def write_csv(path: Path, rows: Sequence[Point] | Sequence[MeanPoint]) -> None:
    """One line per row, six significant digits."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([field.name for field in dataclasses.fields(rows[0])])
    for row in rows:
        writer.writerow([f"{v:.6g}" if isinstance(v, float) else v for v in dataclasses.astuple(row)])
    write_file(path, buffer.getvalue().encode())


def plot(path: Path, curves: Curves, title: str) -> None:
    """Rate-distortion curves, PSNR and MS-SSIM side by side, as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (metric, rows) in zip(figure.subplots(1, len(curves)), curves.items(), strict=True):
        for name in dict.fromkeys(row.codec for row in rows):
            x, y = curve(rows, name, metric, (0.0, 2.0))
            y = decibels(y) if metric == "ms_ssim" else y
            axes.plot(x, y, marker="o", markersize=3, linewidth=2.2 if name == "rdcodec" else 1.2, label=name)
        axes.set(xlabel="rate (bits per pixel)", ylabel=METRICS[metric], xlim=(0, 2))
        axes.grid(alpha=0.3)
        if rows:
            axes.legend()
    figure.suptitle(title)
    figure.savefig(path, dpi=110)
