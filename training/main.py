"""Command line of training: Lightning's, with this project's modules and defaults."""

from __future__ import annotations

import warnings

from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.utilities.rank_zero import rank_zero_module

from . import training_of


class CommandLine(LightningCLI):
    """Lightning's command line, but resuming follows it: Lightning would take the module's settings from the checkpoint
    whatever is asked for, and a training could not be made longer."""

    def _parse_ckpt_path(self) -> None:
        pass

    def instantiate_classes(self) -> None:
        super().instantiate_classes()
        self.model.check_data(self.datamodule)


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
