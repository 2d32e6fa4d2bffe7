"""Export of the image codec: training crops, their coding pass, and the correction, learnt at last."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...codecs.image.dcvc_rt import ImageNetwork
from ...codecs.image.tile_coder import to_signal
from ...entropy_models.coder import Measure
from ...entropy_models.tables import Tables
from ..coder import LAGRANGIAN
from ..export import BATCH, Source, option
from ..losses import stratified_qualities
from .correction import learnt, wishes
from .data import ImageData

SEED = 99
"""Seed of the crops."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageOptions:
    """Options of the command."""

    crop: int = option(256, "side of the crops, in pixels")
    corrections: int = option(224, "coefficients of a tile's correction; 0: none")
    graphics: float = option(0.0, "share of crops with text and shapes, as in training")
    camera: float = option(0.0, "share of crops made soft, as in training")


class ImageExport:
    """Exporter of the image codec; batches are uint8 (batch, rows, columns, 3)."""

    Options = ImageOptions
    lagrangian = LAGRANGIAN

    def __init__(
        self, deployed: ImageNetwork, hyper_parameters: Mapping[str, Any], source: Source, options: ImageOptions
    ) -> None:
        self.network, self.options = deployed, options
        self.lambda_range = tuple(hyper_parameters["lambda_range"])
        self.data = ImageData(
            source.train, crop=options.crop, batch_size=BATCH, graphics=options.graphics, camera=options.camera,
            cache=source.cache, seed=SEED,
        )  # fmt: skip

    def batches(self) -> Iterator[Tensor]:
        self.data.prepare_data()
        return iter(self.data.train_dataloader())

    def code(self, coder: Measure, batch: Tensor) -> Tensor:
        quality = stratified_qualities(len(batch))
        return self.network.coding_pass(coder, self.network.to_latent(to_signal(batch), quality), quality)

    def last_fits(self, tables: Tables, batches: Iterable[Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The correction's directions and tables, see `codecs.image.correction`."""
        count = self.options.corrections
        if not count or not isinstance(self.network, ImageNetwork):  # other architectures have none
            return {}, {}
        qualities = (stratified_qualities(BATCH) for _ in itertools.count())
        found = wishes(self.network, tables, batches, qualities)
        correction = learnt(found, count, self.network.config.knots, self.lambda_range)
        return {"corrections": count}, {f"correction.{name}": value for name, value in correction.state_dict().items()}
