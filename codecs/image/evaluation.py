"""What ``codec eval image`` measures: real bytes, PSNR, MS-SSIM and times of the RGB pixels of image files.

PSNR is over RGB on decoded 8-bit pixels; rate is bytes on disk times 8 over pixels. Every codec gets the same pixels: alpha
and metadata are left out, grey becomes RGB. No numpy and no torch before something is measured.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from ..evaluation.metrics import psnr_db, similarity_db
from ..evaluation.task import Metric, Rate, Reference, Speed, Task, files_below
from .references import REFERENCES

if TYPE_CHECKING:
    import numpy as np

    from .codec import ImageCodec

QUALITIES = (0, 8, 16, 24, 32, 40, 48, 56, 64, 72, 80, 88, 96, 100)
"""Qualities of our curve."""
MS_SSIM_SIDE_MIN = 161
"""Pixels, for five scales of an 11-pixel window."""


def find_images(folder: Path) -> list[Path]:
    """The files below a folder, or the one file, that Pillow knows, judged by content."""
    from .pictures import looks_like_image

    return [path for path in files_below(folder) if looks_like_image(path.read_bytes())]


def read_rgb(path: Path) -> np.ndarray:
    """Pixels of an image file, uint8 (height, width, 3).

    Raises:
        InputError: not an image, or a damaged one.
    """
    from .pictures import read_picture

    return read_picture(path.read_bytes()).rgb()


def size_of(rgb: np.ndarray) -> dict[str, float]:
    """Width and height in pixels."""
    return {"width": rgb.shape[1], "height": rgb.shape[0]}


def ms_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Multi-scale SSIM of RGB arrays (package pytorch-msssim); nan below 161 pixels a side, where it is undefined."""
    import numpy as np
    import torch
    from pytorch_msssim import ms_ssim as compute

    if min(a.shape[:2]) < MS_SSIM_SIDE_MIN:
        return math.nan
    x, y = (torch.from_numpy(v.astype(np.float32)).permute(2, 0, 1)[None] for v in (a, b))
    return float(compute(x, y, data_range=255))


def load_ours(model: str | None = None, device: str = "auto", effort: int = 0) -> Reference[np.ndarray]:
    """Our codec with these weights, as one more reference. Errors as `ImageCodec.load`, and of `with_effort`."""
    from .codec import ImageCodec

    return reference_of(ImageCodec.load(model=model, device=device).with_effort(effort))


def reference_of(codec: ImageCodec, qualities: tuple[int, ...] = QUALITIES) -> Reference[np.ndarray]:
    """A loaded codec, as one more reference."""

    def encode(rgb: np.ndarray, quality: float) -> bytes:
        return codec.encode(rgb, quality=int(quality))

    return Reference(qualities, encode, lambda data: codec.decode(data).array(), weights=codec.stream_hash.hex())


TASK: Task[np.ndarray] = Task(
    signals="images",
    remark="Every codec gets the same RGB pixels: alpha and metadata are left out, grey becomes RGB.",
    find=find_images,
    read=read_rgb,
    facts=size_of,
    rate=Rate(
        "rate_bpp", "bits per pixel", lambda size, facts: 8 * size / (facts["width"] * facts["height"]), plotted=(0.0, 2.0)
    ),
    speed=Speed("Mpixel/s", lambda facts: facts["width"] * facts["height"] / 1e6),
    metrics=(
        Metric("psnr_db", "PSNR", "PSNR, RGB (dB)", psnr_db),
        Metric(
            "ms_ssim", "MS-SSIM", "MS-SSIM (dB)", ms_ssim, scaled=similarity_db, defined="above 160 pixels a side"
        ),
    ),
    references=REFERENCES,
    default_references=("jpeg", "webp", "avif"),
    ours=load_ours,
    ours_at=load_ours,
    packages=("pytorch_msssim",),
)  # fmt: skip
