"""Command line of training: Lightning's, with this project's modules and defaults."""

from __future__ import annotations

import warnings

from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.utilities.rank_zero import rank_zero_module

from .image.data import ImageData
from .image.module import ImageTraining


class CommandLine(LightningCLI):
    """Lightning's command line, but resuming follows it: Lightning would take the module's settings from the checkpoint
    whatever is asked for, and a training could not be made longer."""

    def _parse_ckpt_path(self) -> None:
        pass


def image(arguments: list[str]) -> None:
    """Run ``fit`` (or another Lightning subcommand) with the given arguments, ``--config recipe.yaml`` among them."""
    if not arguments or arguments[0].startswith("-"):
        arguments = ["fit", *arguments]
    warnings.filterwarnings("ignore", message="LightningCLI's args parameter")  # `codec` has taken its own words off
    warnings.filterwarnings("ignore", message=".*LeafSpec")  # Lightning's own business
    rank_zero_module.log.addFilter(lambda record: "Tip: For seamless cloud" not in record.getMessage())
    CommandLine(
        ImageTraining,
        ImageData,
        args=arguments,
        parser_kwargs={"prog": "codec train image"},
        save_config_kwargs={"overwrite": True},
    )


TRAININGS = {"image": image}
"""Trainings by codec."""


def train(name: str, arguments: list[str]) -> None:
    """Run the training of a codec with the given arguments.

    Raises:
        ValueError: there is none; the message lists them.
    """
    if name not in TRAININGS:
        raise ValueError(f"no training of {name!r}; there are {', '.join(TRAININGS)}")
    TRAININGS[name](arguments)
