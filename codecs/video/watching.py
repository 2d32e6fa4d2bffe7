"""A page to watch: frames as they were, as we code them, and as x265 does in as many bytes, in step; one file without links.

Frames are embedded as WebP at quality 90, which changes all of them a little.
"""

from __future__ import annotations

import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

import numpy as np
from PIL import Image

from ..container import write_file
from ..evaluation.page import data_uri, scores_list
from ..evaluation.points import OURS
from ..evaluation.task import Metric, Reference
from .footage import Footage
from .formats import QUALITIES
from .references import REFERENCES
from .watching_template import PAGE

CLIPS_MAX = 4
"""Videos on a page."""
FRAMES_MAX = 32
"""Of each video, its first: one group."""
REFERENCE = "x265-medium-g32"
CRF_RANGE = (0.0, 51.0)
"""Rate factors that x265 takes."""
WEBP_QUALITY = 90


@dataclass(frozen=True, slots=True, kw_only=True)
class Take:
    """Frames that can be watched on the page."""

    name: str
    frames: np.ndarray
    """uint8 (frames, height, width, 3)."""
    note: str
    """Its rate and size."""
    scores: Mapping[str, float]
    """Values by the metrics' titles."""


def watching_page(
    path: Path,
    title: str,
    clips: Mapping[str, Footage],
    ours: Reference[Footage],
    metrics: Sequence[Metric[Footage]],
    qualities: Sequence[int] = QUALITIES,
) -> None:
    """Write the page.

    Args:
        clips: by name.
        ours: settings are whole qualities 0..100.
        qualities: of ours; x265 gets as close to our bytes as its rate factor allows.

    Raises:
        InputError: there is no x265 here.
    """
    REFERENCES[REFERENCE].check()
    rows = "\n".join(_clip(name, begun(clip), ours, metrics, qualities) for name, clip in clips.items())
    choices = "".join(
        f'<label><input type="radio" name="rate" value="{i}"{"" if i else " checked"}> {quality}</label>'
        for i, quality in enumerate(qualities)
    )
    page = Template(PAGE).substitute(title=html.escape(title), rates=choices, rows=rows, ours=OURS, reference=REFERENCE)
    write_file(path, page.encode())


def begun(clip: Footage) -> Footage:
    """The first frames of a clip."""
    planes = None if clip.own_planes is None else clip.own_planes[:FRAMES_MAX]
    return Footage(clip.rgb[:FRAMES_MAX], clip.rate, clip.colours, planes)


def _clip(
    name: str, clip: Footage, ours: Reference[Footage], metrics: Sequence[Metric[Footage]], qualities: Sequence[int]
) -> str:
    """A row of the page: one video at every quality."""
    frames, height, width, _ = clip.rgb.shape
    note = f"{width}x{height}, {frames} frames, {float(clip.rate):g} a second"
    figures = [_figure(Take(name="original", frames=clip.rgb, note=note, scores={}), "1", None)]
    theirs = REFERENCES[REFERENCE]
    for index, quality in enumerate(qualities):
        data = ours.encode(clip, quality)
        same = of_size(clip, ours.counted(data))
        takes = (
            (f"{OURS}, quality {quality}", ours.decode(data), ours.counted(data)),
            (REFERENCE, theirs.decode(same), theirs.counted(same)),
        )
        for key, (codec, decoded, size) in zip("23", takes, strict=True):
            scores = {metric.title: metric.of(clip, decoded) for metric in metrics}
            kbps = size / 125 * float(clip.rate) / frames
            shown = Take(name=codec, frames=decoded.rgb, note=f"{size:,} bytes, {kbps:.0f} kbit/s", scores=scores)
            figures.append(_figure(shown, key, index))
    head = f'<section class="clip" tabindex="0" data-fps="{float(clip.rate):g}" data-frames="{frames}">'
    controls = (
        f'<div class="controls"><button type="button">play</button>'
        f'<input type="range" min="0" max="{frames - 1}" value="0" aria-label="frame"><output>1 of {frames}</output></div>'
    )
    return f'{head}<h2>{html.escape(name)}</h2>{controls}<div class="takes">{"".join(figures)}</div></section>'


def of_size(clip: Footage, wanted: int, tries: int = 10) -> bytes:
    """The file of `REFERENCE` whose counted bytes are closest to a number, by bisection over its rate factor."""
    reference = REFERENCES[REFERENCE]
    low, high = CRF_RANGE
    found: list[tuple[int, bytes]] = []
    for _ in range(tries):
        crf = (low + high) / 2
        data = reference.encode(clip, crf)
        size = reference.counted(data)
        found.append((abs(size - wanted), data))
        if abs(size - wanted) < wanted / 200:
            break
        low, high = (crf, high) if size > wanted else (low, crf)
    return min(found, key=lambda one: one[0])[1]


def _figure(take: Take, key: str, index: int | None) -> str:
    """One canvas with its frames; ``index`` of the quality, None: shown at every one."""
    rate = "" if index is None else f' data-rate="{index}"'
    label = html.escape(take.name)
    _, height, width, _ = take.frames.shape
    pictures = "".join(f'<img alt="" src="{data_uri("image/webp", _webp(frame))}">' for frame in take.frames)
    return (
        f'<figure data-key="{key}"{rate}>'
        f"<figcaption><kbd>{key}</kbd> {label} <small>{html.escape(take.note)}</small></figcaption>"
        f'<canvas width="{width}" height="{height}" role="img" aria-label="{label}"></canvas>'
        f"<div hidden>{pictures}</div>{scores_list(take.scores)}</figure>"
    )


def _webp(frame: np.ndarray) -> bytes:
    """A frame as a WebP file."""
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "WEBP", quality=WEBP_QUALITY, method=4)
    return buffer.getvalue()
