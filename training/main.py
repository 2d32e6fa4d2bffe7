"""Command line of training: Lightning's, with this project's modules and defaults."""

from __future__ import annotations

from lightning.pytorch.cli import LightningCLI

from .data import ImageData
from .image import ImageTraining


def image(arguments: list[str]) -> None:
    """Run ``fit`` (or another Lightning subcommand) with the given arguments, ``--config recipe.yaml`` among them."""
    if not arguments or arguments[0].startswith("-"):
        arguments = ["fit", *arguments]
    LightningCLI(ImageTraining, ImageData, args=arguments, save_config_kwargs={"overwrite": True})
