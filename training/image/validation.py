"""Validation as a user would measure: real bytes from the frozen codec, real decoding, BD-rate against JPEG."""

from __future__ import annotations

import math

import numpy as np

from ...codecs.evaluation.bd_rate import bd_rate
from ...codecs.evaluation.points import OURS, Point, means
from ...codecs.evaluation.run import code, point
from ...codecs.image.dcvc_rt import ImageNetwork
from ...codecs.image.evaluation import TASK, reference_of
from ..freeze import provisional_codec

QUALITIES = (10, 30, 50, 70, 90)


class Validation:
    """Collects rate and distortion over images, ours and JPEG's."""

    def __init__(self, network: ImageNetwork) -> None:
        self.codecs = {OURS: reference_of(provisional_codec(network), QUALITIES), "jpeg": TASK.references["jpeg"]}
        self.points: list[Point] = []

    def add(self, image: np.ndarray) -> np.ndarray:
        """Code one uint8 (rows, columns, 3) image; returns it beside its reconstruction at the middle quality."""
        name = str(len(self.points))
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
        figures = {"val/bd_rate_jpeg_percent": bd_rate(rows, "jpeg", psnr)}
        for row in rows:
            if row.codec == OURS:
                figures[f"val/rate_bpp_q{row.setting}"] = row.rate
                figures[f"val/psnr_db_q{row.setting}"] = row.metrics[psnr.column]
        return {name: value for name, value in figures.items() if math.isfinite(value)}
