"""The training loop of every codec, on Lightning: schedule by the clock, resuming, averaged weights as what is validated.

A codec's module says what its loss and its validation are; everything else is here. Averaging is Lightning's
``EMAWeightAveraging``, named in the recipe: it puts the average in place for validation and in checkpoints.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from ..codecs import weights
from ..codecs.weights_file import Architecture, read_weights
from ..entropy_models.errors import InputError
from .checkpoint import architecture_of, codec_of, network_state, read_checkpoint
from .coder import Train
from .distillation import Distillation, DistillationSettings
from .freeze import thawed
from .optimizer import Joint, linear_weights, muon_with_adamw
from .quantisation import LAYERS

SKIPPED_MAX = 20
"""Training stops after so many steps in a row without a finite gradient."""
SHOWN = 2
"""Validation signals that are put into the log."""


class Validation(Protocol):
    """One pass over the validation signals: real bytes through the frozen codec."""

    def add(self, batch: Any) -> Any:
        """Measure one batch; returns what may be shown of it."""

    def figures(self) -> dict[str, float]:
        """Figures for the log, by name; finite."""


class CodecTraining(L.LightningModule):
    """Trains a network of one codec over its whole range of qualities at once.

    A subclass sets ``codec`` and ``architectures``, and defines `loss` and `validation`; where its networks do not start at
    random, `start`; where weights of another network can be made to fit, `adapted`.

    Args:
        network: name of the architecture in the codec's table; None: its first.
        architecture: fields of the architecture's config that differ from its defaults.
        muon_lr: peak learning rate of weight matrices; 0 trains them with AdamW.
        adamw_lr: peak learning rate of everything else.
        warmup_steps: linear warm-up, then cosine to zero at the end.
        duration_s: length of the cosine in seconds, validation and checkpoints among them, resumed sessions added up; None:
            the trainer's steps.
        weight_decay: decoupled.
        newton_schulz_steps: Muon's iterations; three cost two thirds of five.
        level_branch: ``integer`` is what can be exported; ``float`` is the ablation.
        side_warmup_steps: the bits of side information count in full only after so many steps, linearly from nothing. While
            the networks around it know nothing yet, bits that tell them nothing are not worth paying, and it dies for good.
        init: weights to start from while the optimizer starts anew: a checkpoint, or an installed model's name.
        distillation: fields of `distillation.DistillationSettings`: a teacher, and what this network is to learn from it;
            None: no teacher.
    """

    codec: ClassVar[str]
    """Name in the registry."""
    architectures: ClassVar[Mapping[str, Architecture[Any]]]
    adaptable: ClassVar[frozenset[str]] = frozenset()
    """Fields of configs in which `adapted` can make weights fit."""

    def __init__(
        self,
        network: str | None = None,
        architecture: dict[str, Any] | None = None,
        muon_lr: float = 5e-4,
        adamw_lr: float = 1e-3,
        warmup_steps: int = 200,
        duration_s: float | None = None,
        weight_decay: float = 1e-4,
        newton_schulz_steps: int = 3,
        level_branch: Literal["integer", "float"] = "integer",
        side_warmup_steps: int = 0,
        init: str | None = None,
        distillation: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()  # the subclass's among them
        _, self.architecture, config = architecture_of(self.hparams, self.architectures)
        self.network: Any = self.architecture.network(config, *LAYERS[level_branch])
        self.start()
        if init:
            self.start_from(init)
        self.distillation: Distillation | None = None
        if distillation:
            settings = DistillationSettings(**distillation)
            self.distillation = Distillation(settings, self.network_of(settings.teacher), self.network, self.rehearse)
        self.elapsed_s = 0.0
        self.skipped_in_a_row = 0
        self._tick: float | None = None

    # What a codec defines ---------------------------------------------------------------------------

    def loss(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss to minimise, and figures for the log by name."""
        raise NotImplementedError

    def validation(self) -> Validation:
        """A new pass over the validation signals with the network as it is now."""
        raise NotImplementedError

    def start(self) -> None:
        """Overwrite the random network, where there is a better start."""

    def adapted(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Trainable state of another network, made to fit this one where that is possible.

        Raises:
            InputError: it was asked for something it has not.
        """
        return state

    def rehearse(self, network: nn.Module, coder: Train) -> None:
        """Run a network, this one or a teacher, on something small, for `distillation`.

        Raises:
            InputError: the codec's loss has no part of a teacher.
        """
        raise InputError(f"the training of {self.codec} does not distil")

    def show(self, name: str, shown: Any) -> None:
        """Put what `Validation.add` returned into the log."""

    def check_data(self, data: L.LightningDataModule) -> None:
        """InputError for data that do not suit the settings; called before any work is done."""

    # Schedule and optimizer -------------------------------------------------------------------------

    def configure_optimizers(self) -> Joint:
        h = self.hparams
        adapters = self.distillation.named_parameters("distillation") if self.distillation else ()
        return muon_with_adamw(
            chain(self.network.named_parameters(), adapters),
            linear_weights(self.network),
            muon_lr=h["muon_lr"],
            adamw_lr=h["adamw_lr"],
            weight_decay=h["weight_decay"],
            newton_schulz_steps=h["newton_schulz_steps"],
        )

    def progress(self) -> float:
        """Part of the training that is done, 0..1.

        Raises:
            InputError: nothing says how long it is to be.
        """
        if self.hparams["duration_s"] is not None:
            return min(1.0, self.elapsed_s / self.hparams["duration_s"])
        steps = self.trainer.estimated_stepping_batches
        if not 0 < steps < math.inf:
            raise InputError("no end; need --model.duration_s or --trainer.max_steps")
        return min(1.0, self.global_step / steps)

    def on_train_batch_start(self, batch: Any, batch_index: int) -> int | None:
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

    # Steps ------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        if stage == "fit" and (data := getattr(self.trainer, "datamodule", None)):
            self.check_data(data)

    def training_step(self, batch: Any, batch_index: int) -> Tensor:
        loss, figures = self.loss(batch)
        self.log_dict({"train/loss": loss} | {f"train/{name}": v for name, v in figures.items()}, prog_bar=True)
        return loss

    def charged_bits(self, coder: Train) -> tuple[Tensor, Tensor]:
        """Bits of each signal of a batch that the loss counts, side information in part during its warm-up; and the bits of
        side information in full, for the log. (batch,) both."""
        steps, side_bits = self.hparams["side_warmup_steps"], coder.side_bits()
        share = min(1.0, self.global_step / steps) if steps else 1.0
        return coder.latent_bits() + share * side_bits, side_bits.detach()

    def on_validation_epoch_start(self) -> None:
        self._validation = self.validation()

    def validation_step(self, batch: Any, batch_index: int) -> None:
        shown = self._validation.add(batch)
        if batch_index < SHOWN:
            self.show(f"validation/{batch_index}", shown)

    def on_validation_epoch_end(self) -> None:
        figures = {f"val/{name}": value for name, value in self._validation.figures().items()}
        self.log_dict(figures, prog_bar=True, sync_dist=True)

    # Checkpoints and weights ------------------------------------------------------------------------

    def on_train_end(self) -> None:
        """Keep the last steps, too, at the end of the cosine: checkpoints come every so many steps."""
        for callback in self.trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint) and callback.save_last and callback.dirpath:
                self.trainer.save_checkpoint(callback.last_model_path or Path(callback.dirpath) / "last.ckpt")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint |= {"codec": self.codec, "elapsed_s": self.elapsed_s}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.elapsed_s = checkpoint["elapsed_s"]

    def start_from(self, init: str) -> None:
        """Take the weights of a checkpoint, or of an installed model, as far as `adapted` makes them fit.

        Raises:
            UnknownName: neither a file nor a model's name.
            InputError: a file that is no checkpoint, or weights of another network; names the config's fields that differ.
        """
        config, state = self.initial(init)
        state, expected = self.adapted(state), self.network.state_dict()
        if {name: v.shape for name, v in state.items()} != {name: v.shape for name, v in expected.items()}:
            raise InputError(f"{init} {difference(config, self.network.config, self.adaptable)}")
        self.network.load_state_dict(state)

    def initial(self, init: str) -> tuple[Any, dict[str, Tensor]]:
        """Config and trainable state of what ``init`` names; errors as `start_from`."""
        if not Path(init).is_file():
            deployed, _ = read_weights(weights.verified_bytes(weights.line_named(self.codec, init)), self.architectures)
            return deployed.config, thawed(deployed)
        checkpoint = read_checkpoint(Path(init))
        if codec_of(checkpoint) != self.codec:
            raise InputError(f"{init} is a checkpoint of `codec train {codec_of(checkpoint)}`")
        *_, config = architecture_of(checkpoint["hyper_parameters"], self.architectures)
        return config, network_state(checkpoint)

    def network_of(self, name: str) -> nn.Module:
        """The whole network of an installed model, as deployed, or of a checkpoint; errors as `start_from`."""
        if not Path(name).is_file():
            network: nn.Module = read_weights(
                weights.verified_bytes(weights.line_named(self.codec, name)), self.architectures
            )[0]
            return network
        config, state = self.initial(name)
        hyper_parameters = read_checkpoint(Path(name))["hyper_parameters"]
        network = architecture_of(hyper_parameters, self.architectures)[1].network(config, *LAYERS["integer"])
        network.load_state_dict(state)
        return network


def difference(found: Any, expected: Any, adaptable: frozenset[str]) -> str:
    """Difference of two configs, for a message; ``adaptable`` fields only where there are no others."""
    if type(found) is not type(expected):
        return f"has a {type(found).__name__}, not a {type(expected).__name__}: give another --model.network"
    has, asks = dataclasses.asdict(found), dataclasses.asdict(expected)
    other = [name for name in asks if has[name] != asks[name]]
    other = [name for name in other if name not in adaptable] or other
    has_text, asks_text = (", ".join(f"{name}={fields[name]}" for name in other) for fields in (has, asks))
    return f"has {has_text}; model.architecture asks for {asks_text}: give what the weights have"
