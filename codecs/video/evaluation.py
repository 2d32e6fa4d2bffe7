"""What ``codec eval video`` measures: rate, PSNR, MS-SSIM, flicker and times of video files, and a page to watch.

Every codec gets the same frames: 8 bits, 4:2:0, the first 96 of a file; ours gets them as RGB. Our rate is of all bytes of
the file, that of a reference of its packets alone. No numpy and no torch before something is measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..evaluation.metrics import similarity_db
from ..evaluation.task import Metric, Page, Rate, Reference, Speed, Task, by_suffix
from .footage import Footage, read_footage
from .formats import READ_ONLY, WRITTEN
from .header import GROUP
from .metrics import flicker, ms_ssim, psnr_rgb_db, psnr_yuv_db
from .references import REFERENCES

if TYPE_CHECKING:
    from .codec import VideoCodec

QUALITIES = (0, 12, 24, 36, 48, 60, 72, 84)
"""Qualities of our curve."""
SUFFIXES = (READ_ONLY | WRITTEN.keys()) - {".png"}
"""Of files that are looked for."""


def facts_of(footage: Footage) -> dict[str, float]:
    """Size in pixels, number of frames, and frames per second."""
    frames, height, width, _ = footage.rgb.shape
    return {"width": width, "height": height, "frames": frames, "fps": float(footage.rate)}


def bits_per_pixel(size: int, facts: Mapping[str, float]) -> float:
    """Bits for each pixel of each frame."""
    return 8 * size / (facts["width"] * facts["height"] * facts["frames"])


def load_ours(model: str | None = None, device: str = "auto", effort: int = 0) -> Reference[Footage]:
    """Our codec with these weights, as one more reference. Errors as `VideoCodec.load`, and of `with_effort`."""
    from .codec import VideoCodec

    return reference_of(VideoCodec.load(model=model, device=device).with_effort(effort))


def reference_of(codec: VideoCodec, qualities: tuple[int, ...] = QUALITIES, group: int = GROUP) -> Reference[Footage]:
    """A loaded codec with so many frames a group, as one more reference."""

    def encode(footage: Footage, quality: float) -> bytes:
        return codec.encode(footage.rgb, rate=footage.rate, quality=int(quality), group=group)

    def decode(data: bytes) -> Footage:
        clip = codec.decode(data)
        return Footage(clip.frames, clip.rate)

    return Reference(qualities, encode, decode, weights=codec.stream_hash.hex())


def write_page(
    path: Path,
    title: str,
    sources: Sequence[Path],
    codecs: Mapping[str, Reference[Footage]],
    metrics: Sequence[Metric[Footage]],
) -> None:
    """The page to watch, of some of the videos."""
    from ..evaluation.page import spread
    from ..evaluation.points import OURS
    from .watching import CLIPS_MAX, watching_page

    clips = {source.stem: read_footage(source) for source in spread(sources, CLIPS_MAX)}
    watching_page(path, title, clips, codecs[OURS], metrics)


TASK: Task[Footage] = Task(
    signals="videos",
    remark="Every codec gets the same frames: 8 bits, 4:2:0, the first 96. Of references packets count, of ours all bytes.",
    find=by_suffix(*SUFFIXES),
    read=read_footage,
    facts=facts_of,
    rate=Rate("rate_bpp", "bits per pixel", bits_per_pixel, plotted=(0.0, 1.0)),
    speed=Speed("frames/s", lambda facts: facts["frames"]),
    metrics=(
        Metric("psnr_rgb_db", "PSNR RGB", "PSNR, RGB (dB)", psnr_rgb_db),
        Metric("psnr_yuv_db", "PSNR YUV", "PSNR, YUV 6:1:1 (dB)", psnr_yuv_db),
        Metric(
            "ms_ssim", "MS-SSIM", "MS-SSIM, RGB (dB)", ms_ssim, scaled=similarity_db, defined="above 160 pixels a side"
        ),
        Metric(
            "flicker", "flicker", "flicker of still areas (grey levels)", flicker, higher_is_better=False,
            defined="where part of the picture is still",
        ),
    ),
    references=REFERENCES,
    default_references=("x264-medium-g32", "x265-veryfast-g12", "x265-medium-g32", "svtav1-p6-g32"),
    ours=load_ours,
    ours_at=load_ours,
    packages=("av", "pytorch_msssim"),
    page=Page(name="watch.html", write=write_page),
)  # fmt: skip
