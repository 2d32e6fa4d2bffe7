"""Training of the speech codec: ``codec train speech --config recipe.yaml``."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import Tensor

from ...codecs.speech.architectures import ARCHITECTURES
from ...codecs.speech.header import SAMPLE_RATE, SEGMENT
from ...entropy_models.errors import InputError
from ...entropy_models.hyperprior import QUALITY_MAX
from ...entropy_models.layers import full_precision
from ..coder import Train
from ..loop import CodecTraining
from ..losses import rate_distortion, rate_distortion_weight, stratified_qualities
from .initialise import revive_hyper_latents, start_as_principal_components
from .intelligibility import Unintelligibility
from .losses import RESOLUTIONS, level_error, spectral_errors
from .perceptual import Disturbance
from .signals import coded, decoded, latent
from .similarity import Dissimilarity
from .validation import SpeechValidation, TransformValidation


class SpeechTraining(CodecTraining):
    """Trains a speech network.

    Args:
        lambda_range: rate-distortion weight (kbit/s per unit of distortion) at quality 0 and 100.
        magnitude_weight, complex_weight, mel_weight: of spectral errors in the distortion, see `losses`.
        complex_floor: share of the complex weight at quality 0, from where it grows to all of it at 100: few bits cannot
            afford phases.
        disturbance_weight, intelligibility_weight, similarity_weight: of `perceptual.Disturbance` (PESQ),
            `intelligibility.Unintelligibility` (STOI) and `similarity.Dissimilarity` (ViSQOL).
        level_weight: of `losses.level_error`, per decibel: what those three do not hear.
        quantised: False trains the transforms alone, without rate and rounding, at the highest quality: the first step of
            the recipe, which must reach PESQ 3.5, for no entropy model repairs a transform.
        principal_start: begin with the linear maps as the spectra's principal components instead of at random.
        loop: what every codec's training takes.
    """

    codec = "speech"
    architectures = ARCHITECTURES

    def __init__(
        self,
        lambda_range: tuple[float, float] = (1.5, 40.0),
        magnitude_weight: float = 3.0,
        complex_weight: float = 2.0,
        complex_floor: float = 0.2,
        mel_weight: float = 0.6,
        disturbance_weight: float = 0.5,
        intelligibility_weight: float = 8.0,
        similarity_weight: float = 4.0,
        level_weight: float = 0.3,
        quantised: bool = True,
        principal_start: bool = True,
        **loop: Any,
    ) -> None:
        super().__init__(**loop)
        self.disturbance = Disturbance()
        self.unintelligibility = Unintelligibility()
        self.dissimilarity = Dissimilarity()

    def check_data(self, data: L.LightningDataModule) -> None:
        frames = getattr(data, "frames", SEGMENT)
        if frames % SEGMENT:
            raise InputError(f"crops of {frames} frames; need a multiple of {SEGMENT}")

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
        quality = stratified_qualities(len(batch)).to(batch.device)
        coder = Train()
        y_hat = coded(self.network, coder, latent(self.network, batch, quality), quality)
        charged_bits, side_bits = self.charged_bits(coder)
        kbits_per_s = SAMPLE_RATE / batch.shape[1] / 1000
        distortion, figures = self.distortion(batch, decoded(self.network, y_hat, quality), quality)
        weight = rate_distortion_weight(quality, *self.hparams["lambda_range"])
        rate_kbps = charged_bits * kbits_per_s
        figures |= {"rate_kbps": rate_kbps.mean(), "side_kbps": (side_bits * kbits_per_s).mean()}
        return rate_distortion(rate_kbps, distortion * weight, weight), figures

    def distortion(self, original: Tensor, decoded: Tensor, quality: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Distortion of each signal, (batch,), and its terms' means. Spectra are compared at one resolution, drawn anew each
        time."""
        return full_precision(self._distortion, original, decoded.float(), quality)

    def _distortion(self, original: Tensor, decoded: Tensor, quality: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """In full precision: correlations are differences of large numbers."""
        h = self.hparams
        window = list(RESOLUTIONS)[int(torch.randint(len(RESOLUTIONS), ()))]
        errors = spectral_errors(original, decoded, window)
        disturbance = self.disturbance(original, decoded).clamp(max=8)
        unintelligibility = self.unintelligibility(original, decoded)
        dissimilarity = self.dissimilarity(original, decoded)
        level_db = level_error(original, decoded)
        phases = h["complex_floor"] + (1 - h["complex_floor"]) * quality / QUALITY_MAX
        total = (
            h["magnitude_weight"] * errors.magnitude + h["complex_weight"] * phases * errors.complex_
            + h["mel_weight"] * errors.mel + h["disturbance_weight"] * disturbance
            + h["intelligibility_weight"] * unintelligibility + h["similarity_weight"] * dissimilarity
            + h["level_weight"] * level_db
        )  # fmt: skip
        figures = {
            "stoi": 1 - unintelligibility.mean(),
            "similarity": 1 - dissimilarity.mean(),
            "level_error_db": level_db.mean(),
            "magnitude": errors.magnitude.mean(),
            "complex": errors.complex_.mean(),
            "mel": errors.mel.mean(),
            "disturbance": disturbance.mean(),
        }
        return total, figures

    def validation(self) -> SpeechValidation | TransformValidation:
        kind = SpeechValidation if self.hparams["quantised"] else TransformValidation
        return kind(self.network, self.architecture)
