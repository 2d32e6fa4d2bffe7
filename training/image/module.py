"""Training of the image codec: ``codec train image --config recipe.yaml``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn

from ...codecs.image.architectures import ARCHITECTURES
from ...codecs.image.dcvc_rt import ImageNetwork
from ...codecs.image.distortion import LAMBDA_RANGE, MS_SSIM_SIDE_MIN, PEAK, ms_ssim_distortion
from ...entropy_models.errors import InputError
from ..coder import Train
from ..hyper import revive_silent
from ..loop import CodecTraining
from ..losses import rate_distortion, rate_distortion_weight, stratified_qualities
from ..quantisation import LAYERS
from .initialise import start_as_dct, with_more_blocks, without_blocks, without_correction
from .losses import psnr_db, squared_error
from .part import Run, check_part, start_as_part
from .validation import ImageValidation

HYPER_DEVIATION = 1.0
"""Deviation in steps that hyper-latents of random layers start with."""
PART_BATCHES = 8
"""Batches that say what of a larger network matters."""
REHEARSED = 64
"""Rows and columns of a picture that says what networks look like."""


class ImageTraining(CodecTraining):
    """Trains an image network.

    Args:
        lambda_range: rate-distortion weight (bits per pixel per unit of MSE) at quality 0 and 100.
        ms_ssim_share: of the distortion, 0..1, the rest squared error; crops must be larger than 160 pixels for it.
        dct_start: begin dcvc-rt as a block DCT (`initialise`) instead of with random transforms.
        part_of: begin as part of a larger network (`part`), an installed model or a checkpoint.
        drop_blocks: of ``init``, blocks that do nothing there, the last of theirs, as ``analysis.trunk.4``: left out, or
            started anew if the architecture has as many.
        loop: what every codec's training takes.
    """

    codec = "image"
    architectures = ARCHITECTURES
    adaptable = frozenset({"trunk_blocks", "latent_blocks", "corrections"})

    def __init__(
        self,
        lambda_range: tuple[float, float] = LAMBDA_RANGE,
        ms_ssim_share: float = 0.0,
        dct_start: bool = True,
        part_of: str | None = None,
        drop_blocks: Sequence[str] = (),
        **loop: Any,
    ) -> None:
        if not 0 <= ms_ssim_share <= 1:
            raise InputError(f"ms_ssim_share={ms_ssim_share}; need a share of the distortion, 0 to 1")
        super().__init__(**loop)

    def start(self) -> None:
        if self._starts_as_dct():
            start_as_dct(self.network)

    def _starts_as_dct(self) -> bool:
        return self.hparams["dct_start"] and isinstance(self.network, ImageNetwork)

    def on_fit_start(self) -> None:
        """The start that needs data; of a training that goes on, nothing."""
        data = getattr(self.trainer, "datamodule", None)
        if data is None or self.elapsed_s or self.hparams["init"]:
            return
        if self.hparams["part_of"]:
            config, state = self.initial(self.hparams["part_of"])
            check_part(self.network.config, config)
            whole = self.architecture.network(replace(config, corrections=0), *LAYERS["integer"])
            whole.load_state_dict(without_correction(state))
            batches = islice(data.train_dataloader(), PART_BATCHES)
            latent = start_as_part(self.network, whole, [self.run_of(batch) for batch in batches])
            if self.distillation and self.distillation.settings.teacher == self.hparams["part_of"]:
                self.distillation.given.copy_(latent)
        elif not self._starts_as_dct():
            self.revive_hyper_latents(next(iter(data.train_dataloader())))

    @torch.no_grad()
    def revive_hyper_latents(self, batch: Tensor) -> None:
        """`revive_silent` hyper-latents: random layers' round to zero, and stay there."""
        image, quality = (part.to(self.device) for part in (batch.float() / PEAK - 0.5, stratified_qualities(len(batch))))
        y = self.network.to_latent(image, quality)
        z = self.network.hyper_analysis(y, self.network.knot_weights(quality, y.dtype))
        revive_silent(self.network.hyper_analysis.last, z, HYPER_DEVIATION)

    def run_of(self, batch: Tensor) -> Run:
        """The codec's loss of any network on one batch, always at the same qualities."""
        image, quality = batch.float() / PEAK - 0.5, stratified_qualities(len(batch))
        weight = rate_distortion_weight(quality, *self.hparams["lambda_range"])

        def run(network: nn.Module, coder: Train) -> Tensor:
            mse = squared_error(passed(network, coder, image, quality), image)
            return rate_distortion(coder.bits() / (image.shape[1] * image.shape[2]), weight * mse, weight)

        return run

    def adapted(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        state = without_blocks(without_correction(state), self.hparams["drop_blocks"])
        return with_more_blocks(state, self.network)

    def check_data(self, data: L.LightningDataModule) -> None:
        crop = getattr(data, "crop", None)
        if self.hparams["ms_ssim_share"] and crop is not None and crop <= MS_SSIM_SIDE_MIN:
            raise InputError(f"crops of {crop}x{crop} with ms_ssim_share; MS-SSIM needs more than {MS_SSIM_SIDE_MIN} pixels")

    def loss(self, batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """``batch``: uint8 (batch, rows, columns, 3)."""
        image = batch.float() / PEAK - 0.5
        quality = stratified_qualities(len(batch)).to(image.device)
        if self.distillation:
            self.distillation.watch()
        rate_bpp, side_bpp, decoded = self.coded(image, quality)
        mse = squared_error(decoded, image)
        weight = rate_distortion_weight(quality, *self.hparams["lambda_range"])
        distortion_bpp, figures = weight * mse, {}
        if share := self.hparams["ms_ssim_share"]:
            structure_bpp = ms_ssim_distortion(decoded, image, quality)
            distortion_bpp = (1 - share) * distortion_bpp + share * structure_bpp
            figures["ms_ssim_bpp"] = structure_bpp.mean()
        figures |= {"rate_bpp": rate_bpp.mean(), "side_bpp": side_bpp.mean(), "psnr_db": psnr_db(mse).mean()}
        loss = rate_distortion(rate_bpp, distortion_bpp, weight)
        if self.distillation:
            term, learned = self.distillation.term(partial(passed, image=image, quality=quality), self.progress())
            loss, figures = loss + term, figures | learned
        return loss, figures

    def rehearse(self, network: nn.Module, coder: Train) -> None:
        passed(network, coder, torch.zeros(1, REHEARSED, REHEARSED, 3), torch.zeros(1, dtype=torch.long))

    def coded(self, image: Tensor, quality: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rate and decoded image of a coding pass, differentiable.

        Args:
            image: (batch, rows, columns, 3), -0.5..0.5.
            quality: integers 0..100, (batch,).

        Returns:
            the rate the loss counts (bpp, (batch,)); the part of side information, in full and without a gradient; the
            decoded image.
        """
        coder = Train()
        decoded = passed(self.network, coder, image, quality)
        charged_bits, side_bits = self.charged_bits(coder)
        pixels = image.shape[1] * image.shape[2]
        return charged_bits / pixels, side_bits / pixels, decoded

    def validation(self) -> ImageValidation:
        return ImageValidation(self.network, self.architecture)

    def show(self, name: str, shown: np.ndarray) -> None:
        """An image beside its reconstruction, to TensorBoard."""
        if add_image := getattr(getattr(self.logger, "experiment", None), "add_image", None):
            add_image(name, shown, self.global_step, dataformats="HWC")


def passed(network: Any, coder: Train, image: Tensor, quality: Tensor) -> Tensor:
    """The image that a coding pass of an image network gives back; of `ImageTraining.coded`'s shapes."""
    y_hat: Tensor = network.coding_pass(coder, network.to_latent(image, quality), quality)
    decoded: Tensor = network.to_image(y_hat, quality)
    return decoded
