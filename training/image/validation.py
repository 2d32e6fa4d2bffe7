"""Validation as a user would measure: real bytes from the frozen codec, real decoding, BD-rate against JPEG."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from ...codecs.evaluation.bd_rate import bd_rate
from ...codecs.evaluation.points import OURS, Point, means
from ...codecs.evaluation.run import code, point
from ...codecs.image.codec import ImageCodec
from ...codecs.image.dcvc_rt import ImageNetwork
from ...codecs.image.evaluation import TASK, reference_of
from ...codecs.weights_file import Architecture
from ..coder import start_tables
from ..freeze import frozen

QUALITIES = (10, 30, 50, 70, 90)


def provisional_codec(network: ImageNetwork, architecture: Architecture[ImageNetwork]) -> ImageCodec:
    """A codec around a network that is still training; its streams carry a zero hash."""
    return ImageCodec(frozen(network, architecture), start_tables(), bytes(8))


class ImageValidation:
    """Collects rate and distortion over images, ours and JPEG's."""

    def __init__(self, network: ImageNetwork, architecture: Architecture[ImageNetwork]) -> None:
        ours = provisional_codec(network, architecture)
        self.codecs = {OURS: reference_of(ours, QUALITIES), "jpeg": TASK.references["jpeg"]}
        self.points: list[Point] = []

    def add(self, batch: Tensor) -> np.ndarray:
        """Code one uint8 (rows, columns, 3) image; returns it beside its reconstruction at the middle quality."""
        image, name = batch.cpu().numpy(), str(len(self.points))
        shown = image
        for codec, reference in self.codecs.items():
            for setting in reference.settings:
                coded = code(reference, image, setting)
                self.points.append(point(TASK, codec, setting, name, image, coded))
                if (codec, setting) == (OURS, QUALITIES[len(QUALITIES) // 2]):
                    shown = coded.signal
        return np.concatenate([image, shown], axis=1)

    def figures(self) -> dict[str, float]:
        """Figures for the log: BD-rate in percent, mean rate and PSNR at each quality."""
        rows, psnr = means(self.points), TASK.metrics[0]
        figures = {"bd_rate_jpeg_percent": bd_rate(rows, "jpeg", psnr)}
        for row in rows:
            if row.codec == OURS:
                figures[f"rate_bpp_q{row.setting}"] = row.rate
                figures[f"psnr_db_q{row.setting}"] = row.metrics[psnr.column]
        return {name: value for name, value in figures.items() if math.isfinite(value)}
