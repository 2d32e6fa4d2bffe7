"""Command line of training: Lightning's, with this project's modules and defaults."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_module

from . import training_of


class CommandLine(LightningCLI):
    """Lightning's command line, but resuming follows it: Lightning would take the module's settings from the checkpoint
    whatever is asked for, and a training could not be made longer."""

    def _parse_ckpt_path(self) -> None:
        pass

    def before_instantiate_classes(self) -> None:
        """Where bfloat16 is asked for and the processor would emulate it, take float32: three times as fast."""
        settings = self.config[self.subcommand].get("trainer") or {}
        accelerator = settings.get("accelerator")
        on_cpu = accelerator == "cpu" or (accelerator == "auto" and not torch.cuda.is_available())
        if on_cpu and settings.get("precision") == "bf16-mixed" and not multiplies_bfloat16():
            settings["precision"] = "32-true"
            rank_zero_info("this processor has no bfloat16; training in float32 (--trainer.precision 32-true)")

    def instantiate_classes(self) -> None:
        super().instantiate_classes()
        self.model.check_data(self.datamodule)


def multiplies_bfloat16() -> bool:
    """Whether the processor does; one of which nothing is known is thought to."""
    has: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    told = [has[name] for name in ("avx512_bf16", "amx_bf16", "bf16") if name in has]
    return any(told) or not told


def train(codec: str, arguments: list[str]) -> None:
    """Run ``fit`` (or another Lightning subcommand) of a codec's training with the given arguments, ``--config recipe.yaml``
    among them.

    Raises:
        InputError: the codec has no training, or settings do not go together.
    """
    training = training_of(codec)
    if not arguments or arguments[0].startswith("-"):
        arguments = ["fit", *arguments]
    warnings.filterwarnings("ignore", message="LightningCLI's args parameter")  # `codec` has taken its own words off
    warnings.filterwarnings("ignore", message=".*LeafSpec")  # Lightning's own business
    rank_zero_module.log.addFilter(lambda record: "Tip: For seamless cloud" not in record.getMessage())
    CommandLine(
        training.load("module"),
        training.load("data"),
        args=arguments,
        parser_kwargs={"prog": f"codec train {codec}"},
        save_config_kwargs={"overwrite": True},
    )
