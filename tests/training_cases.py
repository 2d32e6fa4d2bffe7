"""Small trainings that several tests use: of a tiny image network, and of a codec of waves that has no image in it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

L = pytest.importorskip("lightning", reason="needs the extra 'train'")

from rdcodec.codecs.image.dcvc_rt import ImageConfig, ImageNetwork
from rdcodec.codecs.weights_file import Architecture
from rdcodec.entropy_models.coder import Coder, Measure
from rdcodec.entropy_models.integer_net import IntegerDepthwise, IntegerLinear
from rdcodec.entropy_models.tables import LEVELS, Tables
from rdcodec.training.coder import Train, start_tables
from rdcodec.training.export import BATCH, Source, option
from rdcodec.training.freeze import frozen
from rdcodec.training.loop import CodecTraining
from rdcodec.training.losses import rate_distortion
from rdcodec.training.quantisation import LAYERS

TINY = {
    "latent_channels": 64, "latent_width": 32, "hyper_channels": 8, "context_channels": 16, "level_channels": 16,
    "trunk_blocks": (1, 1), "latent_blocks": (1, 1),
}  # fmt: skip
"""Of `ImageConfig`."""
QUIET = {
    "accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
    "enable_model_summary": False, "gradient_clip_val": 1.0, "num_sanity_val_steps": 0, "limit_val_batches": 0,
}  # fmt: skip
"""Of a trainer that only trains."""


def tiny_network(**fields: Any) -> ImageNetwork:
    """An untrained image network with a trainable parse path."""
    return ImageNetwork(ImageConfig(**TINY | fields), *LAYERS["integer"])


# Waves ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class WaveConfig:
    samples: int = 16
    channels: int = 8
    bands: tuple[int, ...] = (4, 4)


class WaveNetwork(nn.Module):
    """Waves (batch, samples) to a latent (batch, channels) and back; a symbol as side information chooses the levels."""

    def __init__(self, config: WaveConfig, linear: Any = IntegerLinear, depthwise: Any = IntegerDepthwise) -> None:
        super().__init__()
        self.config = config
        self.analysis = nn.Linear(config.samples, config.channels)
        self.energy = nn.Linear(config.channels, 1)
        self.levels = linear(1, config.channels, ceiling=LEVELS - 1)
        self.synthesis = nn.Linear(config.channels, config.samples)

    def coding_pass(self, coder: Coder, y: Tensor) -> Tensor:
        energy = self.energy(y.abs())
        known = coder.code(energy, torch.full_like(energy, 30.0), side=True)
        return coder.code(y, self.levels((100 + known).clamp(0, 255)))


WAVES = {
    "one-matrix": Architecture(config=WaveConfig, network=WaveNetwork, coarse=re.compile(r"analysis\.weight")),
}


class WaveValidation:
    def __init__(self, network: WaveNetwork) -> None:
        self.network, self.bits = network, 0.0

    def add(self, batch: Tensor) -> str:
        coder = Measure(start_tables(), len(batch))
        with torch.inference_mode():
            self.network.coding_pass(coder, self.network.analysis(batch))
        self.bits += float(coder.bits.sum())
        return f"{len(batch)} waves"

    def figures(self) -> dict[str, float]:
        return {"bits": self.bits}


class WaveTraining(CodecTraining):
    """Trains waves.

    Args:
        weight: of the squared error.
    """

    codec = "waves"
    architectures = WAVES

    def __init__(self, weight: float = 100.0, **loop: Any) -> None:
        super().__init__(**loop)
        self.shown: dict[str, str] = {}

    def loss(self, batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        coder = Train()
        y_hat = self.network.coding_pass(coder, self.network.analysis(batch))
        error = (self.network.synthesis(y_hat) - batch).square().sum(1)
        weight = torch.full_like(error, self.hparams["weight"])
        charged_bits, side_bits = self.charged_bits(coder)
        figures = {"charged_bits": charged_bits.mean(), "side_bits": side_bits.mean(), "error": error.mean()}
        return rate_distortion(charged_bits, weight * error, weight), figures

    def validation(self) -> WaveValidation:
        return WaveValidation(frozen(self.network, self.architecture))

    def show(self, name: str, shown: str) -> None:
        self.shown[name] = shown


def waves(count: int) -> Tensor:
    """Sines of random phase and loudness, float (count, 16)."""
    phase, loudness = torch.rand(count, 1) * 6.28, torch.rand(count, 1) * 8
    return loudness * torch.sin(phase + torch.arange(16) * 0.8)


class WaveData(L.LightningDataModule):
    def __init__(self, steps: int = 40) -> None:
        super().__init__()
        self.steps = steps

    def train_dataloader(self) -> DataLoader:
        torch.manual_seed(1)
        return DataLoader([waves(BATCH) for _ in range(self.steps)], batch_size=None)

    def val_dataloader(self) -> DataLoader:
        return DataLoader([waves(3), waves(2), waves(1)], batch_size=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class WaveOptions:
    offset: float = option(0.0, "added to every sample")


class WaveExport:
    """After `export.Exporter`."""

    Options = WaveOptions
    lagrangian = 0.06

    def __init__(
        self, deployed: WaveNetwork, hyper_parameters: Mapping[str, Any], source: Source, options: WaveOptions
    ) -> None:
        self.network, self.offset = deployed, options.offset

    def batches(self) -> Iterator[Tensor]:
        while True:
            yield waves(BATCH)

    def code(self, coder: Measure, batch: Tensor) -> Tensor:
        return self.network.coding_pass(coder, self.network.analysis(batch))

    def last_fits(self, tables: Tables, batches: Iterable[Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The bias that makes waves come back as loud as they are, on average."""
        wave = torch.cat(list(batches))
        missing = (wave - self.network.synthesis(self.network.analysis(wave))).mean(0)
        return {}, {"synthesis.bias": self.network.synthesis.bias + missing + self.offset}


def fit(module: CodecTraining, data: L.LightningDataModule, *, resume: Path | None = None, **options: Any) -> L.Trainer:
    """Train quietly; ``options`` of the trainer."""
    trainer = L.Trainer(**QUIET | options)
    trainer.fit(module, data, ckpt_path=resume, weights_only=True) if resume else trainer.fit(module, data)
    return trainer
