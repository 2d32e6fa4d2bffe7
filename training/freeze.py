"""Freezing: from a trained network to a deployable one, and back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..codecs.weights_file import Architecture, packed, unpacked
from ..entropy_models.integer_net import ACTIVATION_SCALE, IntegerDepthwise, IntegerLinear


def frozen_tensors(network: nn.Module, architecture: Architecture[Any]) -> dict[str, Tensor]:
    """A network in training as its weights file keeps it, on the CPU: pixel path `packed`, parse path as exact integers."""
    integers: dict[str, Tensor] = {}
    trained: dict[str, Any] = dict(network.named_modules())
    for name, module in architecture.network(network.config).named_modules():
        if isinstance(module, IntegerLinear | IntegerDepthwise):
            integers |= {f"{name}.{key}": value for key, value in trained[name].frozen_state().items()}
    return packed({name: value.cpu() for name, value in (network.state_dict() | integers).items()}, architecture.coarse)


def frozen(network: nn.Module, architecture: Architecture[Any], tensors: dict[str, Tensor] | None = None) -> Any:
    """The deployable copy, in float32 on the CPU, made from the very ``tensors`` of its file (`frozen_tensors`).

    Raises:
        ValueError: an integer layer could leave the exact range.
    """
    deployed = architecture.network(network.config)
    deployed.load_state_dict(unpacked(tensors or frozen_tensors(network, architecture)))
    check_exact(deployed)
    return deployed.eval().requires_grad_(False)


def thawed(deployed: nn.Module) -> dict[str, Tensor]:
    """Trainable state of a deployed network, to go on training from shipped weights; `frozen` undoes it."""
    state = dict(deployed.state_dict())
    for name, module in deployed.named_modules():
        if isinstance(module, IntegerLinear | IntegerDepthwise):
            unit = torch.exp2(module.shift.float())
            state.pop(f"{name}.shift")
            by_output = unit[:, None] if isinstance(module, IntegerLinear) else unit
            state[f"{name}.weight"] = module.weight.float() / by_output
            state[f"{name}.bias"] = module.bias.float() / unit / ACTIVATION_SCALE
    return state


def check_exact(network: nn.Module) -> None:
    """Run `check` of every integer layer.

    Raises:
        ValueError: naming the layer that could leave the exact range.
    """
    for name, module in network.named_modules():
        if isinstance(module, IntegerLinear | IntegerDepthwise):
            try:
                module.check()
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
