"""The image codec's weights file: safetensors with the architecture in its metadata. Written and read here.

Integer layers and tables are as they run. Of the pixel path, the matrices inside the transforms and contexts are int8 with a
power of two for each row, the rest is float16 with eight bits after the point, which compress better than ten: two fifths of
the bytes less, for 0.05 % of the rate-distortion loss.
"""

from __future__ import annotations

import dataclasses
import json
import re
import struct
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from ...entropy_models.channel_context import STEPS
from ...entropy_models.tables import Tables
from .dcvc_rt import ImageConfig, ImageNetwork

COARSE = re.compile(r"(.*\.(expand|project)|(hyper_analysis|mean_context|mean_synthesis)\..*)\.weight")
"""Matrices kept as int8. A picture at 45 dB sees the rounding of those that begin and end a transform, not that of these."""
EXPONENT = ".exponent"
FORMER_NAMES = {"anchors": "knots"}
"""Fields of `ImageConfig` as older files have them."""


def packed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as the file keeps them, from a network's state; a state that was packed before loses nothing more."""
    tensors = {}
    for name, value in state.items():
        if COARSE.fullmatch(name) and value.is_floating_point() and value.ndim == 2:
            exponent = torch.log2(value.float().abs().amax(1).clamp_min(2**-100) / 127).ceil()
            tensors[name + EXPONENT] = exponent.to(torch.int8)
            value = torch.ldexp(value.float(), -exponent[:, None]).round().to(torch.int8)
        tensors[name] = (_short(value) if value.is_floating_point() else value).contiguous()
    return tensors


def _short(value: Tensor) -> Tensor:
    """float16 whose last two bits are zero, to the nearest."""
    bits = value.clamp(-65000, 65000).to(torch.float16).view(torch.int16)
    return ((bits + 2) & ~3).view(torch.float16)


def unpacked(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A network's state from what `packed` returned: floats in float32."""
    exponents = {name.removesuffix(EXPONENT): value for name, value in tensors.items() if name.endswith(EXPONENT)}
    state = {}
    for name, value in tensors.items():
        if name in exponents:
            state[name] = torch.ldexp(value.float(), exponents[name].float()[:, None])
        elif not name.endswith(EXPONENT):
            state[name] = value.float() if value.dtype == torch.float16 else value
    return state


def weights_bytes(config: ImageConfig, tensors: dict[str, Tensor], tables: Tables) -> bytes:
    """A weights file from what `packed` returned."""
    stored = {f"tables.{name}": torch.from_numpy(value) for name, value in tables.to_arrays().items()}
    metadata = {"config": json.dumps(dataclasses.asdict(config), sort_keys=True)}
    return safetensors.torch.save(tensors | stored, metadata)


def read_weights(data: bytes) -> tuple[ImageNetwork, Tables]:
    """Networks (float32) and tables from a weights file.

    Raises:
        ValueError: it is for another coding pass.
    """
    header_bytes = struct.unpack_from("<Q", data)[0]
    fields = json.loads(json.loads(data[8 : 8 + header_bytes])["__metadata__"]["config"])
    config: dict[str, Any] = {}
    if fields.pop("steps", STEPS) != STEPS:
        raise ValueError(f"weights for another number of coding steps than {STEPS}")
    for name, value in fields.items():
        config[FORMER_NAMES.get(name, name)] = tuple(value) if isinstance(value, list) else value
    tensors = safetensors.torch.load(data)
    stored = [name for name in tensors if name.startswith("tables.")]
    tables = Tables.from_arrays({name.removeprefix("tables."): tensors.pop(name).numpy() for name in stored})
    network = ImageNetwork(ImageConfig(**config))
    network.load_state_dict(unpacked(tensors), assign=True)
    return network, tables
