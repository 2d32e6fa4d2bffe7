"""From a trained network to a deployable one, and to the codec around it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..codecs.image.codec import ImageCodec
from ..codecs.image.dcvc_rt import ImageNetwork
from ..entropy_models.integer_net import ACTIVATION_SCALE, IntegerDepthwise, IntegerLinear
from ..entropy_models.tables import Tables, gaussian_tables

BLOCK_BITS = 9
"""Significant bits of the blocks' matrices, of the 11 that float16 has: 0.05 % of the loss for a tenth of the zipped file.
The layers that begin and end a transform keep all: a picture at 45 dB sees their rounding."""
SKIP_LEVEL = 3
"""Scales below 0.134 are not coded: such a symbol is zero in 9,998 of 10,000 cases."""


def frozen(network: ImageNetwork) -> ImageNetwork:
    """The deployable copy: pixel path as `stored`, parse path as exact integers. On the CPU, in float32.

    Raises:
        ValueError: an integer layer could leave the exact range, or the parse path is the float ablation.
    """
    deployed = ImageNetwork(network.config)
    trained = dict(network.named_modules())
    state: dict[str, Tensor] = {}
    for name, module in deployed.named_modules():
        if isinstance(module, IntegerLinear | IntegerDepthwise):
            state |= {f"{name}.{key}": value for key, value in trained[name].frozen_state().items()}
    for name, value in network.state_dict().items():
        if name not in state:
            state[name] = stored(name, value).float()
    deployed.load_state_dict({name: value.cpu() for name, value in state.items()})
    check_exact(deployed)
    return deployed.eval().requires_grad_(False)


def stored(name: str, value: Tensor) -> Tensor:
    """A tensor of the pixel path as the file keeps it: float16, fewer bits for the matrices of blocks."""
    if name.endswith((".expand.weight", ".project.weight")):
        mantissa, exponent = torch.frexp(value.float())
        value = torch.ldexp(torch.round(mantissa * 2**BLOCK_BITS) / 2**BLOCK_BITS, exponent)
    return value.to(torch.float16)


def thawed(deployed: ImageNetwork) -> dict[str, Tensor]:
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


def provisional_codec(network: ImageNetwork, tables: Tables | None = None) -> ImageCodec:
    """A codec around a network that is still training; its streams carry a zero hash."""
    return ImageCodec(frozen(network), tables or gaussian_tables(SKIP_LEVEL), bytes(8))
