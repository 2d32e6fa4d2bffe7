"""Training of the video codec's entropy model: ``codec train video --config recipe.yaml``.

The image codec is frozen. The loss is what an encoder minimises, symbol by symbol: rate, and squared error of the latent at
an exchange rate; of each frame of a chain but the first, as a share of the rate of that frame on its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, Generic, Literal, NamedTuple, TypeVar

import lightning as L
import torch
from torch import Tensor

from ...codecs import weights
from ...codecs.image.architectures import ARCHITECTURES as IMAGE_ARCHITECTURES
from ...codecs.image.dcvc_rt import ImageNetwork
from ...codecs.video.architectures import ARCHITECTURES
from ...codecs.video.copies import with_copies
from ...codecs.video.stem import Past, Remembered, StemNetwork
from ...codecs.weights_file import read_weights
from ...entropy_models.coder import Coder, Measure
from ...entropy_models.errors import InputError
from ...entropy_models.hyperprior import float_knot_weights
from ..coder import LAGRANGIAN, Train, start_tables
from ..freeze import frozen, thawed
from ..hyper import revive
from ..loop import CodecTraining
from .chains import Chain
from .observations import Observation

SHARED = ("gain", "inverse_gain", "hyper_analysis", "hyper_prior", "mean_synthesis", "level_synthesis", "mean_context",
          "level_context")  # fmt: skip
"""Parts that start as the image network's."""
C = TypeVar("C", bound=Coder)
HYPER_DEVIATION = 1.0
"""Deviation in steps that hyper-latents start with."""
MEAN_SHARE = 0.2
"""Share of the image network's means that stay at the start: most of a frame is known."""
ERROR_LEAST = 1e-6
"""Mean squared error that a frame without any is taken to have."""


class VideoTraining(CodecTraining):
    """Trains the entropy model of frames that follow one another.

    Args:
        image: name of the image model whose latents are coded, and whose entropy model is the start.
        exchange: squared error, in squared steps, that is worth a bit; less than in an encoder's dead zone, for an error
            stays in the frames that follow.
        stage: ``entropy`` trains the entropy model; then ``fusion`` trains `Fusion` alone, on frames that a model of the
            first stage decodes (``data.fused``), by the squared error that is left.
        loop: what every codec's training takes.
    """

    codec = "video"
    architectures = ARCHITECTURES

    def __init__(
        self,
        image: str = "image-10",
        exchange: float = 0.1,
        stage: Literal["entropy", "fusion"] = "entropy",
        **loop: Any,
    ) -> None:
        super().__init__(**loop)
        for name, parameter in self.network.named_parameters():
            parameter.requires_grad_(parameter.requires_grad and name.startswith("fusion.") == (stage == "fusion"))

    def check_data(self, data: L.LightningDataModule) -> None:
        stage = self.hparams["stage"]
        if (stage == "fusion") != bool(getattr(data, "fused", None)):
            raise InputError(f"stage {stage}: data.fused names the model whose frames are fused, and only for stage fusion")

    def start(self) -> None:
        """Begin as the entropy model of pictures, where sizes agree."""
        network, _ = read_weights(
            weights.verified_bytes(weights.line_named("image", self.hparams["image"])), IMAGE_ARCHITECTURES
        )
        if not isinstance(network, ImageNetwork):
            raise InputError(f"image {self.hparams['image']!r} is a {type(network).__name__}; need an ImageNetwork")
        start_as_image(self.network, thawed(network))

    def on_fit_start(self) -> None:
        """Starts that need data, where weights are new."""
        data = getattr(self.trainer, "datamodule", None)
        fresh = not self.elapsed_s and not self.hparams["init"]
        if fresh and data is not None and self.hparams["stage"] == "entropy":
            revive_hyper_latents(self.network, next(iter(data.train_dataloader())))

    def loss(self, batch: Chain | Observation) -> tuple[Tensor, dict[str, Tensor]]:
        if isinstance(batch, Observation):
            left = errors_left(self.network, batch)
            return left.mean(), {"left": left.mean()}
        shares, errors = [], []
        for index, frame in enumerate(coded(self.network, batch, self.new_coder)):
            bits, _ = self.charged_bits(frame.coder)
            intra = batch.intra_bits[:, index + 1]
            shares.append(bits / intra)
            errors.append(frame.distortion / self.hparams["exchange"] / intra)
        share, distortion = torch.stack(shares), torch.stack(errors)
        figures = {"share_first": share[0].mean(), "share_last": share[-1].mean(), "distortion": distortion.mean()}
        return (share + distortion).mean(), figures

    def new_coder(self) -> Train:
        return Train(honest=True)

    def validation(self) -> VideoValidation | FusionValidation:
        if self.hparams["stage"] == "fusion":
            return FusionValidation(self.network)
        return VideoValidation(frozen(self.network, self.architecture))


def errors_left(network: StemNetwork, batch: Observation) -> Tensor:
    """Squared error of the frames that are shown, as a share of what it was without fusion, (batch,)."""
    original, coded, moved = batch.original.float() / 255 - 0.5, batch.coded.float(), batch.moved.float()
    copies = batch.copies.float()
    weights = float_knot_weights(batch.quality, network.config.knots, torch.float32)
    fused = network.fusion(coded, moved, batch.activity.float(), weights).float()
    before, after = ((with_copies(picture, moved, copies) - original).square().mean((1, 2, 3)) for picture in (coded, fused))
    return after / before.clamp(min=ERROR_LEAST)


class FusionValidation:
    """Mean of `errors_left`, as decibels that are won."""

    def __init__(self, network: StemNetwork) -> None:
        self.network = network
        self.won: list[float] = []

    def add(self, batch: Observation) -> None:
        """One frame, as a batch of one."""
        with torch.inference_mode():
            self.won.append(-10 * math.log10(max(float(errors_left(self.network, batch)), ERROR_LEAST)))

    def figures(self) -> dict[str, float]:
        return {"won_db": sum(self.won) / len(self.won)}


class VideoValidation:
    """Collects the bits of frames as a share of what they cost on their own."""

    def __init__(self, network: StemNetwork) -> None:
        self.network = network
        self.shares: list[tuple[int, float]] = []
        """Quality of each chain, and its share."""
        self.distortions: list[float] = []
        self.tables = start_tables()

    def new_coder(self) -> Measure:
        return Measure(self.tables)

    def add(self, batch: Chain) -> None:
        """One chain, as a batch of one."""
        with torch.inference_mode():
            frames = list(coded(self.network, batch, self.new_coder))
        bits, error = sum(float(f.coder.bits[0]) for f in frames), sum(float(f.distortion) for f in frames)
        intra = float(batch.intra_bits[:, 1:].sum())
        self.shares.append((int(batch.quality[0]), bits / intra))
        self.distortions.append(error / LAGRANGIAN / intra)

    def figures(self) -> dict[str, float]:
        """Mean share, of all chains and by thirds of quality."""
        thirds = {"low": range(34), "middle": range(34, 67), "high": range(67, 101)}
        figures = {"share": sum(share for _, share in self.shares) / len(self.shares)}
        figures["distortion"] = sum(self.distortions) / len(self.distortions)
        for name, qualities in thirds.items():
            if found := [share for quality, share in self.shares if quality in qualities]:
                figures[f"share_{name}"] = sum(found) / len(found)
        return figures


class Erring(Remembered):
    """`Remembered`, and the squared error of the latent, with a gradient for means."""

    error: Tensor | None = None

    def code(self, residual: Tensor, level: Tensor, active: Tensor | None = None, *, side: bool = False) -> Tensor:
        """`Coder.code`."""
        symbols = super().code(residual, level, active, side=side)
        if not side:
            error = (residual - symbols.detach()).square().flatten(1).sum(1)
            self.error = error if self.error is None else self.error + error
        return symbols


class Coded(NamedTuple, Generic[C]):
    """A frame that was coded."""

    coder: C
    """A new coder, which has coded it."""
    distortion: Tensor
    """Squared error of its latent, in steps of the quantiser, (batch,)."""


def coded(network: Any, batch: Chain, new_coder: Callable[[], C]) -> Iterator[Coded[C]]:
    """The frames of chains but the first, one after the other.

    They were moved as decoded on their own. Quality does not depend on how a frame is coded, so that is what a decoder has
    to move; errors on top, of the frames before as they are coded here, taught a network to trust no past.
    """
    first = batch.y_hat.float()
    past = Past(first, batch.symbols.to(first.dtype), batch.levels.to(first.dtype))
    for index in range(batch.moved.shape[1]):
        coder = new_coder()
        remembered = Erring(coder)
        latents = batch.y[:, index + 1], batch.moved[:, index]
        y, moved = (network.to_synthesis(latent.float(), batch.quality) for latent in latents)
        copies = network.worth_copying(y, moved, batch.quality) > 0
        past = remembered.past(network.coding_pass(remembered, y, batch.quality, moved, past, copies))
        assert remembered.error is not None
        yield Coded(coder, remembered.error)


@torch.no_grad()
def revive_hyper_latents(network: StemNetwork, batch: Chain) -> None:
    """`revive` hyper-latents: what an image network says of a whole latent is next to nothing for the difference of two."""
    latents = batch.y[:, 1].float(), batch.moved[:, 0].float()
    y, moved = (network.to_synthesis(latent, batch.quality) for latent in latents)
    knot_weights = float_knot_weights(batch.quality, network.config.knots, y.dtype)
    revive(network.hyper_analysis.last, network.hyper_analysis(y - moved, knot_weights), HYPER_DEVIATION)


def start_as_image(network: StemNetwork, image: dict[str, Tensor]) -> None:
    """Take over the entropy model of an image network, from its trainable state. Gains stay as they are, for good: with them
    a frame's quality does not depend on how it is coded."""
    own = network.state_dict()
    taken = {name: value for name, value in image.items() if name.split(".")[0] in SHARED and name in own}
    taken = {name: value for name, value in taken.items() if value.shape == own[name].shape}
    for name in taken:
        if name.startswith("mean_context.mean."):
            taken[name] = taken[name] * MEAN_SHARE
    network.load_state_dict(own | taken)
    network.gain.requires_grad_(False)
    network.inverse_gain.requires_grad_(False)
