"""Training of the speech codec: ``codec train speech --config recipe.yaml``."""

from __future__ import annotations

from functools import partial
from typing import Any

import lightning as L
import torch
from torch import Tensor

from ...codecs.speech.architectures import ARCHITECTURES
from ...codecs.speech.header import SAMPLE_RATE, SEGMENT
from ...codecs.speech.hearing.distortion import LAMBDA_RANGE, WEIGHTS, Distortion, Weights
from ...codecs.speech.hearing.spectra import RESOLUTIONS
from ...entropy_models.errors import InputError
from ...entropy_models.hyperprior import QUALITY_MAX
from ...entropy_models.layers import full_precision
from ..coder import Train
from ..loop import CodecTraining
from ..losses import rate_distortion, rate_distortion_weight, stratified_qualities
from .initialise import revive_hyper_latents, start_as_principal_components
from .pool import LatentPool
from .signals import coded, decoded, latent
from .validation import SpeechValidation, TransformValidation


class SpeechTraining(CodecTraining):
    """Trains a speech network.

    Args:
        lambda_range: rate-distortion weight (kbit/s per unit of distortion) at quality 0 and 100.
        magnitude_weight, complex_weight, complex_floor, mel_weight, disturbance_weight, intelligibility_weight,
        similarity_weight, level_weight: of the terms of the distortion, `codecs.speech.hearing.distortion.Weights`.
        quantised: False trains the transforms alone, without rate and rounding, at the highest quality: the first step of
            the recipe, which must reach PESQ 3.5, for no entropy model repairs a transform.
        refined_crops: crops of each batch whose latents are refined over many steps, see `pool`; the others teach the
            analysis.
        principal_start: begin with the linear maps as the spectra's principal components instead of at random.
        loop: what every codec's training takes.
    """

    codec = "speech"
    architectures = ARCHITECTURES

    def __init__(
        self,
        lambda_range: tuple[float, float] = LAMBDA_RANGE,
        magnitude_weight: float = WEIGHTS.magnitude,
        complex_weight: float = WEIGHTS.complex_,
        complex_floor: float = WEIGHTS.complex_floor,
        mel_weight: float = WEIGHTS.mel,
        disturbance_weight: float = WEIGHTS.disturbance,
        intelligibility_weight: float = WEIGHTS.intelligibility,
        similarity_weight: float = WEIGHTS.similarity,
        level_weight: float = WEIGHTS.level,
        quantised: bool = True,
        principal_start: bool = True,
        refined_crops: int = 0,
        **loop: Any,
    ) -> None:
        super().__init__(**loop)
        h = self.hparams
        self.distance = Distortion(
            Weights(
                magnitude=h["magnitude_weight"], complex_=h["complex_weight"], complex_floor=h["complex_floor"],
                mel=h["mel_weight"], disturbance=h["disturbance_weight"], intelligibility=h["intelligibility_weight"],
                similarity=h["similarity_weight"], level=h["level_weight"],
            )
        )  # fmt: skip
        self.pool = LatentPool(refined_crops) if refined_crops else None

    def check_data(self, data: L.LightningDataModule) -> None:
        frames = getattr(data, "frames", SEGMENT)
        if frames % SEGMENT:
            raise InputError(f"crops of {frames} frames; need a multiple of {SEGMENT}")
        if self.pool and not self.hparams["quantised"]:
            raise InputError("refined_crops without quantised: there are no symbols to refine")
        size, crops = getattr(data, "batch_size", None), self.hparams["refined_crops"]
        if size is not None and not 0 <= crops < size:
            raise InputError(
                f"refined_crops={crops} of a batch of {size}; need 0..{size - 1}, for the analysis learns from the rest"
            )

    def on_fit_start(self) -> None:
        """Starts that need data; of a training that goes on, whose step is not known yet, nothing."""
        data = getattr(self.trainer, "datamodule", None)
        if self.elapsed_s or data is None:
            return
        if self.hparams["principal_start"] and not self.hparams["init"]:
            start_as_principal_components(self.network, data)
        if self.hparams["quantised"]:
            revive_hyper_latents(self.network, data)

    def loss(self, batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """``batch``: samples, float (batch, samples), a multiple of a segment's."""
        if not self.hparams["quantised"]:
            quality = torch.full((len(batch),), QUALITY_MAX, device=batch.device)
            distortion, figures = self.distortion(
                batch, decoded(self.network, latent(self.network, batch, quality), quality), quality
            )
            return distortion.mean(), figures
        batch, quality, y = self.latents(batch)
        coder = Train()
        y_hat = coded(self.network, coder, y, quality)
        charged_bits, side_bits = self.charged_bits(coder)
        kbits_per_s = SAMPLE_RATE / batch.shape[1] / 1000
        distortion, figures = self.distortion(batch, decoded(self.network, y_hat, quality), quality)
        weight = rate_distortion_weight(quality, *self.hparams["lambda_range"])
        rate_kbps = charged_bits * kbits_per_s
        figures |= {"rate_kbps": rate_kbps.mean(), "side_kbps": (side_bits * kbits_per_s).mean()}
        return rate_distortion(rate_kbps, distortion * weight, weight), figures

    def latents(self, batch: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Samples, qualities and latents to learn from: the analysis' of the first crops, then the pool's."""
        plain = len(batch) - (self.pool.size if self.pool else 0)
        quality = stratified_qualities(plain).to(batch.device)
        y = latent(self.network, batch[:plain], quality)
        if not self.pool:
            return batch, quality, y
        samples, qualities, refined = self.pool.drawn(self.network, batch[plain:])
        return torch.cat([batch[:plain], samples]), torch.cat([quality, qualities]), torch.cat([y, refined])

    def on_after_backward(self) -> None:
        if self.pool:
            self.pool.step()

    def distortion(self, original: Tensor, decoded: Tensor, quality: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Distortion of each signal, (batch,), and its terms' means. Spectra are compared at one resolution, drawn anew each
        time."""
        window = list(RESOLUTIONS)[int(torch.randint(len(RESOLUTIONS), ()))]
        return full_precision(partial(self.distance, windows=[window]), original, decoded.float(), quality)

    def validation(self) -> SpeechValidation | TransformValidation:
        kind = SpeechValidation if self.hparams["quantised"] else TransformValidation
        return kind(self.network, self.architecture)
