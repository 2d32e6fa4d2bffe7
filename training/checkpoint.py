"""Checkpoints of `codec train`: which codec, which network, and its averaged weights."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..codecs.weights_file import Architecture, found_architecture
from ..entropy_models.errors import InputError
from . import TRAININGS

PREFIX = "network."


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A Lightning checkpoint of a `loop.CodecTraining`, on the CPU; InputError for any other file."""
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        known = isinstance(checkpoint, dict) and {"state_dict", "hyper_parameters"} <= checkpoint.keys()
    except (pickle.UnpicklingError, RuntimeError, EOFError):
        known = False
    if not known or not network_state(checkpoint):
        raise InputError(f"{path} is no checkpoint of `codec train`")
    return checkpoint


def network_state(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The part of a checkpoint that is the network's: averaged, where training averages."""
    return {name.removeprefix(PREFIX): v for name, v in checkpoint["state_dict"].items() if name.startswith(PREFIX)}


def codec_of(checkpoint: Mapping[str, Any]) -> str:
    """Name of the codec; the first of `TRAININGS` where the checkpoint does not say."""
    return str(checkpoint.get("codec", next(iter(TRAININGS))))


def architecture_of(
    hyper_parameters: Mapping[str, Any], architectures: Mapping[str, Architecture[Any]]
) -> tuple[str, Architecture[Any], Any]:
    """Name, architecture and config of the network that a training's settings ask for.

    Raises:
        Unsupported: there is no such architecture.
    """
    name = hyper_parameters.get("network") or next(iter(architectures))
    architecture = found_architecture(architectures, name)
    return name, architecture, architecture.configured(architecture.renewed(dict(hyper_parameters["architecture"] or {})))
