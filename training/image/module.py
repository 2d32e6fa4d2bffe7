"""Lightning training of the image codec: ``codec train image --config recipe.yaml``."""

from __future__ import annotations

import math
import pickle
import re
import time
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from ...codecs import weights
from ...codecs.image.dcvc_rt import ImageConfig, ImageNetwork
from ...codecs.image.weights_file import read_weights
from ...entropy_models.hyperprior import QUALITY_MAX
from ..coder import Train
from ..freeze import thawed
from ..losses import PEAK, psnr_db, rate_distortion, rate_distortion_weight
from ..optimizer import Joint, muon_with_adamw
from ..quantisation import LAYERS
from .initialise import start_as_dct, with_more_blocks, without_blocks
from .validation import Validation

SKIPPED_MAX = 20
"""Training stops after so many steps in a row without a finite gradient."""
WIDTHS = {
    "trunk_channels": "analysis.patch.weight",
    "latent_channels": "analysis.down.weight",
    "latent_width": "analysis.last.weight",
    "hyper_channels": "hyper_analysis.last.weight",
    "context_channels": "mean_context.add.0.weight",
    "level_channels": "hyper_analysis.first.weight",
    "knots": "analysis.gain.log_gain",
}
"""Tensors with as many rows as a field of `ImageConfig` says."""


class ImageTraining(L.LightningModule):
    """Trains `ImageNetwork` over the whole quality range at once.

    Args:
        architecture: fields of `ImageConfig` that differ from its defaults.
        lambda_range: rate-distortion weight (bits per pixel per unit of MSE) at quality 0 and 100.
        muon_lr: peak learning rate of weight matrices; 0 trains them with AdamW.
        adamw_lr: peak learning rate of everything else.
        warmup_steps: linear warm-up, then cosine to zero at the end.
        duration_s: length of the cosine in seconds, validation and checkpoints among them, resumed sessions added up; None:
            ``max_steps``.
        weight_decay: decoupled.
        newton_schulz_steps: Muon's iterations; three cost two thirds of five.
        level_branch: ``integer`` is what can be exported; ``float`` is the ablation.
        side_warmup_steps: the hyper-latent's bits count in full only after so many steps, linearly from nothing. While the
            networks around it know nothing yet, bits that tell them nothing are not worth paying, and it dies for good.
        dct_start: begin as a block DCT (`initialise`) instead of with random transforms.
        init: weights to start from while the optimizer starts anew: a checkpoint, or an installed model's name.
        drop_blocks: of ``init``, blocks that do nothing there, the last of theirs, as ``analysis.trunk.4``: left out, or
            started anew if the architecture has as many.
    """

    def __init__(
        self,
        architecture: dict[str, Any] | None = None,
        lambda_range: tuple[float, float] = (0.001, 0.2),
        muon_lr: float = 5e-4,
        adamw_lr: float = 1e-3,
        warmup_steps: int = 200,
        duration_s: float | None = None,
        weight_decay: float = 1e-4,
        newton_schulz_steps: int = 3,
        level_branch: Literal["integer", "float"] = "integer",
        side_warmup_steps: int = 0,
        dct_start: bool = True,
        init: str | None = None,
        drop_blocks: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.network = ImageNetwork(ImageConfig(**(architecture or {})), *LAYERS[level_branch])
        if dct_start:
            start_as_dct(self.network)
        if init:
            state = without_blocks(initial_state(init), drop_blocks)
            state = with_more_blocks(state, self.network)
            check_fits(init, state, self.network)
            self.network.load_state_dict(state)
        self.elapsed_s = 0.0
        self.skipped_in_a_row = 0
        self._tick: float | None = None

    def configure_optimizers(self) -> Joint:
        h = self.hparams
        return muon_with_adamw(
            self.network.named_parameters(),
            is_pixel_path_matrix,
            muon_lr=h["muon_lr"],
            adamw_lr=h["adamw_lr"],
            weight_decay=h["weight_decay"],
            newton_schulz_steps=h["newton_schulz_steps"],
        )

    def progress(self) -> float:
        """Part of the training that is done, 0..1."""
        if self.hparams["duration_s"] is not None:
            return min(1.0, self.elapsed_s / self.hparams["duration_s"])
        return min(1.0, self.global_step / max(1, self.trainer.max_steps))

    def on_train_batch_start(self, batch: Tensor, batch_index: int) -> int | None:
        now = time.monotonic()
        self.elapsed_s += now - (self._tick or now)
        self._tick = now
        if self.trainer.world_size > 1:  # all processes must agree on the learning rate and on the last step
            self.elapsed_s = self.trainer.strategy.broadcast(self.elapsed_s)
        if self.progress() >= 1.0:
            self.trainer.should_stop = True
            return -1
        warmup = min(1.0, (self.global_step + 1) / max(1, self.hparams["warmup_steps"]))
        factor = warmup * 0.5 * (1 + math.cos(math.pi * self.progress()))
        for group in self.trainer.optimizers[0].param_groups:
            group.setdefault("peak_lr", group["lr"])
            group["lr"] = group["peak_lr"] * factor
        return None

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Zero a gradient that is not finite, which would spoil every weight for good; only momentum moves them then.

        Raises:
            FloatingPointError: too many in a row.
        """
        gradients = [parameter.grad for parameter in self.parameters() if parameter.grad is not None]
        if torch.isfinite(torch.nn.utils.get_total_norm(gradients)):
            self.skipped_in_a_row = 0
            return
        self.skipped_in_a_row += 1
        if self.skipped_in_a_row == SKIPPED_MAX:
            raise FloatingPointError(f"no finite gradient in {SKIPPED_MAX} steps; go on from a checkpoint at lower rates")
        rank_zero_warn(f"step {self.global_step}: the gradient is not finite and left out")
        for gradient in gradients:
            gradient.zero_()

    def training_step(self, batch: Tensor, batch_index: int) -> Tensor:
        """``batch``: uint8 (batch, rows, columns, 3)."""
        image = batch.float() / PEAK - 0.5
        quality = stratified_qualities(len(batch)).to(image.device)
        rate_bpp, mse, side_bpp = self.rate_and_distortion(image, quality)
        weight = rate_distortion_weight(quality, *self.hparams["lambda_range"])
        loss = rate_distortion(rate_bpp, mse, weight)
        self.log_dict(
            {
                "train/loss": loss,
                "train/rate_bpp": rate_bpp.mean(),
                "train/side_bpp": side_bpp.mean(),
                "train/psnr_db": psnr_db(mse).mean(),
            },
            prog_bar=True,
        )
        return loss

    def rate_and_distortion(self, image: Tensor, quality: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Differentiable rate (bpp), MSE on the 0..255 scale, the hyper-latent's part of the rate; (batch,) each."""
        coder = Train()
        y = self.network.to_latent(image, quality)
        y_hat = self.network.coding_pass(coder, y, quality)
        decoded = self.network.to_image(y_hat, quality)
        mse = (decoded - image).square().mean((1, 2, 3)) * PEAK**2
        pixels = image.shape[1] * image.shape[2]
        side_bpp = coder.side_bits() / pixels
        warmup = self.hparams["side_warmup_steps"]
        share = min(1.0, self.global_step / warmup) if warmup else 1.0
        return coder.latent_bits() / pixels + share * side_bpp, mse, side_bpp.detach()

    def on_validation_epoch_start(self) -> None:
        self._validation = Validation(self.network)

    def validation_step(self, batch: Tensor, batch_index: int) -> None:
        """``batch``: one uint8 image (rows, columns, 3); real bytes through the frozen codec."""
        picture = self._validation.add(batch.cpu().numpy())
        add_image = getattr(getattr(self.logger, "experiment", None), "add_image", None)
        if batch_index < 2 and add_image:
            add_image(f"validation/{batch_index}", picture, self.global_step, dataformats="HWC")

    def on_validation_epoch_end(self) -> None:
        self.log_dict(self._validation.figures(), prog_bar=True, sync_dist=True)

    def on_train_end(self) -> None:
        """Keep the last steps, too, at the end of the cosine: checkpoints come every so many steps."""
        for callback in self.trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint) and callback.save_last and callback.dirpath:
                self.trainer.save_checkpoint(callback.last_model_path or Path(callback.dirpath) / "last.ckpt")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["elapsed_s"] = self.elapsed_s

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.elapsed_s = checkpoint["elapsed_s"]


def initial_state(init: str) -> dict[str, Tensor]:
    """Trainable state of the averaged network of a checkpoint, or of an installed model.

    Raises:
        KeyError: neither a file nor a model's name.
        ValueError: a file that is no checkpoint.
    """
    if Path(init).is_file():
        return checkpoint_state(checkpoint_at(Path(init)))
    return thawed(read_weights(weights.verified_bytes(weights.line_named("image", init)))[0])


def check_fits(init: str, state: dict[str, Tensor], network: ImageNetwork) -> None:
    """ValueError that names the fields of `ImageConfig` in which the state ``init`` is another network's."""
    found, expected = architecture_of(state), architecture_of(network.state_dict())
    other = [name for name in expected if found[name] != expected[name]]
    if other:
        has, asked = (", ".join(f"{name}={fields[name]}" for name in other) for fields in (found, expected))
        raise ValueError(f"{init} has {has}; model.architecture asks for {asked}: give what the weights have")


def architecture_of(state: dict[str, Tensor]) -> dict[str, Any]:
    """The fields of `ImageConfig`, as a state's names and shapes tell them."""

    def count(pattern: str) -> int:
        return sum(re.fullmatch(pattern, name) is not None for name in state)

    both = "analysis", "synthesis"
    return {
        "trunk_blocks": tuple(count(rf"{side}\.trunk\.\d+\.project\.weight") for side in both),
        "latent_blocks": tuple(count(rf"{side}\.latent\.\d+\.project\.weight") for side in both),
        "corrections": len(state.get("correction.up", ())),
        **{field: len(state[name]) for field, name in WIDTHS.items()},
    }


def checkpoint_at(path: Path) -> dict[str, Any]:
    """A Lightning checkpoint of this module; ValueError for any other file."""
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        architecture_of(checkpoint_state(checkpoint))
    except (pickle.UnpicklingError, RuntimeError, LookupError, TypeError):
        raise ValueError(f"{path} is no checkpoint of `codec train image`") from None
    return checkpoint


def checkpoint_state(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """The part of a Lightning checkpoint that is the network's."""
    prefix = "network."
    return {n.removeprefix(prefix): v for n, v in checkpoint["state_dict"].items() if n.startswith(prefix)}


def is_pixel_path_matrix(name: str, parameter: torch.nn.Parameter) -> bool:
    """Matrices that Muon may own: not gains, and not integer layers, whose steps are per channel."""
    integer = name.startswith(("level_", "hyper_prior"))
    return parameter.ndim == 2 and "gain" not in name and not integer


def stratified_qualities(batch: int) -> Tensor:
    """One random quality from each of ``batch`` equal parts of 0..100: less noise than independent draws."""
    return ((torch.arange(batch) + torch.rand(batch)) * (QUALITY_MAX + 1) / batch).long()
