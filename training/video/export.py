"""Export of the video codec: training chains and their coding pass. The config learns which image weights it needs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from torch import Tensor
from torch.utils.data import default_collate

from ...codecs import weights
from ...codecs.video.stem import StemNetwork
from ...entropy_models.coder import Measure
from ...entropy_models.tables import Tables
from ..coder import LAGRANGIAN
from ..export import BATCH, Source, option
from .chains import Chain
from .data import VideoData
from .module import coded

SEED = 99
"""Seed of the chains."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoOptions:
    """Options of the command."""

    chains: int = option(160, "chains of frames that tables are counted from")
    chain_frames: int = option(4, "frames of a chain")
    chain_crop: int = option(256, "side of a chain's frames, in pixels")


class VideoExport:
    """Exporter of the video codec; batches are chains of frames."""

    Options = VideoOptions
    lagrangian = LAGRANGIAN

    def __init__(
        self, deployed: StemNetwork, hyper_parameters: Mapping[str, Any], source: Source, options: VideoOptions
    ) -> None:
        self.network, self.image = deployed, hyper_parameters["image"]
        self.data = VideoData(
            source.train, image=self.image, chains=options.chains, frames=options.chain_frames, crop=options.chain_crop,
            cache=source.cache, seed=SEED,
        )  # fmt: skip

    def batches(self) -> Iterator[list[Chain]]:
        self.data.prepare_data()
        chains = iter(self.data.shuffled())
        while True:
            yield list(islice(chains, BATCH))

    def code(self, coder: Measure, batch: list[Chain]) -> None:
        for _ in coded(self.network, default_collate(batch), lambda: coder):
            pass

    def last_fits(self, tables: Tables, batches: Iterable[list[Chain]]) -> tuple[dict[str, Any], dict[str, Tensor]]:
        return {"image": weights.line_named("image", self.image).stream_hash.hex()}, {}
