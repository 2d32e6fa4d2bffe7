"""Freezing: from a trained network to a deployable one, and to the codec around it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..codecs.image.codec import ImageCodec
from ..codecs.image.dcvc_rt import ImageNetwork
from ..codecs.image.weights_file import packed, unpacked
from ..entropy_models.integer_net import ACTIVATION_SCALE, IntegerDepthwise, IntegerLinear
from ..entropy_models.tables import Tables
from .coder import start_tables


def frozen_tensors(network: ImageNetwork) -> dict[str, Tensor]:
    """A network in training as its weights file keeps it, on the CPU: pixel path `packed`, parse path as exact integers.

    Raises:
        ValueError: an integer layer could leave the exact range, or the parse path is the float ablation.
    """
    integers: dict[str, Tensor] = {}
    trained = dict(network.named_modules())
    for name, module in ImageNetwork(network.config).named_modules():
        if isinstance(module, IntegerLinear | IntegerDepthwise):
            integers |= {f"{name}.{key}": value for key, value in trained[name].frozen_state().items()}
    return packed({name: value.cpu() for name, value in (network.state_dict() | integers).items()})


def frozen(network: ImageNetwork, tensors: dict[str, Tensor] | None = None) -> ImageNetwork:
    """The deployable copy, in float32 on the CPU, made from the very ``tensors`` of its file (`frozen_tensors`).

    Raises:
        ValueError: an integer layer could leave the exact range, or the parse path is the float ablation.
    """
    deployed = ImageNetwork(network.config)
    deployed.load_state_dict(unpacked(tensors or frozen_tensors(network)))
    check_exact(deployed)
    return deployed.eval().requires_grad_(False)


def thawed(deployed: ImageNetwork) -> dict[str, Tensor]:
    """Trainable state of a deployed network, to go on training from shipped weights; `frozen` undoes it.

    Without the correction's directions, which export learns anew.
    """
    state = {name: value for name, value in deployed.state_dict().items() if not name.startswith("correction.")}
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


def provisional_codec(network: ImageNetwork, tables: Tables | None = None) -> ImageCodec:
    """A codec around a network that is still training; its streams carry a zero hash."""
    return ImageCodec(frozen(network), tables or start_tables(), bytes(8))
