"""``codec demo``: a group of frames at two qualities beside x265 at equal bytes, on a page to watch."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image
from rich.table import Column, Table

from ..container import replaced, write_file
from ..evaluation.report import with_installed_metrics
from ..evaluation.task import Reference
from ..image.demo import sample_photograph
from .codec import VideoCodec
from .evaluation import TASK, bits_per_pixel, facts_of, reference_of
from .footage import Footage, read_footage
from .formats import DECODED, ORIGINAL, PAGE, QUALITIES, STREAMS
from .frames import Format, Frame
from .metrics import psnr_rgb_db
from .watching import FRAMES_MAX, begun, watching_page
from .writing import VideoWriter

NO_VIDEO = "a camera over a photograph, for want of a video: codec demo video FILE"
SAMPLE_FRAMES, SAMPLE_WIDTH, SAMPLE_HEIGHT = 24, 256, 192
SAMPLE_RATE = Fraction(25)
CAPTION_HEIGHT = 24
"""Rows at the bottom of the sample that stay as they are."""
ZOOM = 0.15
"""By how much less the sample's last frame shows than its first."""


def sample_clip() -> Footage:
    """A camera that drifts over a photograph and closes in, by fractions of a pixel, above a caption that is still."""
    with Image.open(sample_photograph()) as file:
        photograph = file.convert("RGB")
    rows = SAMPLE_HEIGHT - CAPTION_HEIGHT
    frames = np.full((SAMPLE_FRAMES, SAMPLE_HEIGHT, SAMPLE_WIDTH, 3), 40, np.uint8)
    for frame, way in zip(frames, np.linspace(0, 1, SAMPLE_FRAMES), strict=True):
        left, top, scale = 40 + 50 * way, 60 + 40 * way**2, 1.3 * (1 - ZOOM * way)
        box = left, top, left + SAMPLE_WIDTH * scale, top + rows * scale
        frame[:rows] = np.asarray(photograph.resize((SAMPLE_WIDTH, rows), Image.Resampling.LANCZOS, box))
    frames[:, -CAPTION_HEIGHT + 8 : -8, 12:-60:4] = 220
    return Footage(frames, SAMPLE_RATE)


def run(
    codec: VideoCodec,
    source: Path | None,
    folder: Path,
    note: Callable[[str], None] = lambda text: None,
    effort: int = 0,
) -> Table:
    """Write the clip, a file for each quality, what each decodes to and the page into ``folder``; a table of the files.

    Args:
        source: a video file, of which the first frames are taken; None: `sample_clip`.
        effort: that of the codec, for the page.

    Raises:
        InputError: not a video, or there is no x265 here.
    """
    clip, name = (read_footage(source, FRAMES_MAX), source.name) if source else (sample_clip(), NO_VIDEO)
    clip = begun(clip)
    folder.mkdir(parents=True, exist_ok=True)
    write_clip(folder / ORIGINAL, clip)
    ours, made = reference_of(codec, QUALITIES), dict[float, bytes]()
    shown = dict[bytes, Footage]()
    table = Table(Column("file", no_wrap=True, overflow="fold"), "quality", "bytes", "bpp", "PSNR (dB)", title=name)
    for stream, decoded, quality in zip(STREAMS, DECODED, QUALITIES, strict=True):
        note(f"quality {quality}")
        data = made[quality] = ours.encode(clip, quality)
        shown[data] = ours.decode(data)
        write_file(folder / stream, data)
        write_clip(folder / decoded, shown[data])
        bpp, psnr_db = bits_per_pixel(len(data), facts_of(clip)), psnr_rgb_db(clip, shown[data])
        table.add_row(str(folder / stream), str(quality), f"{len(data):,}", f"{bpp:.3f}", f"{psnr_db:.2f}")
    note("the page")
    kept = Reference(QUALITIES, lambda _, quality: made[quality], lambda data: shown[data])
    metrics = with_installed_metrics(TASK)[0].metrics
    watching_page(folder / PAGE, f"codec demo video, effort {effort}", {name: clip}, kept, metrics, QUALITIES)
    return table


def write_clip(path: Path, clip: Footage) -> None:
    """Footage as a video file, whole or not at all."""
    _, height, width, _ = clip.rgb.shape
    video = Format(width=width, height=height, time_base=1 / clip.rate, rate=clip.rate)
    with replaced(path) as file, VideoWriter(file, video, suffix=path.suffix) as writer:
        for time, rgb in enumerate(clip.rgb):
            writer.write(Frame(rgb, time, 1))
