"""Validation as a user would measure: real bytes from the frozen codec, real decoding, BD-rate against JPEG."""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from ..codecs.image import evaluation, references
from ..codecs.image.dcvc_rt import ImageNetwork
from .freeze import provisional_codec

QUALITIES = (10, 30, 50, 70, 90)


class Validation:
    """Collects rate and distortion over images, ours and JPEG's."""

    def __init__(self, network: ImageNetwork) -> None:
        self.codec = provisional_codec(network)
        self.points: list[evaluation.Point] = []

    def add(self, image: np.ndarray) -> np.ndarray:
        """Code one uint8 (rows, columns, 3) image; returns it beside its reconstruction at the middle quality."""
        name = str(len(self.points))
        shown = image
        for quality in QUALITIES:
            coded = references.timed(partial(self.codec.encode, image, quality), self.codec.decode)
            self.points.append(evaluation.point("rdcodec", quality, name, image, coded))
            if quality == QUALITIES[len(QUALITIES) // 2]:
                shown = coded.pixels
        for quality in references.ANCHORS["jpeg"].qualities:
            coded = references.code("jpeg", image, quality)
            self.points.append(evaluation.point("jpeg", quality, name, image, coded))
        return np.concatenate([image, shown], axis=1)

    def figures(self) -> dict[str, float]:
        """What goes to the log: BD-rate in percent, mean rate and PSNR at each quality."""
        rows = evaluation.means(self.points)
        figures = {"val/bd_rate_jpeg_percent": evaluation.bd_rate(rows, "jpeg")}
        for row in rows:
            if row.codec == "rdcodec":
                figures[f"val/rate_bpp_q{row.quality}"] = row.rate_bpp
                figures[f"val/psnr_db_q{row.quality}"] = row.psnr_db
        return {name: value for name, value in figures.items() if math.isfinite(value)}
