"""The weights file of a learned codec: safetensors, with the architecture's name and configuration as metadata.

Metadata ``architecture`` is a key of the codec's table of architectures (absent: its first), ``config`` a JSON object of the
configuration's fields. Integer layers and tables (``tables.*``) are as they run. Of the pixel path, the matrices inside the
transforms and contexts are int8 with a power of two for each row, the rest is float16 with eight bits after the point, which
compress better than ten: two fifths of the bytes less, for 0.05 % of the image codec's rate-distortion loss.
"""

from __future__ import annotations

import dataclasses
import json
import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import safetensors.torch
import torch
from torch import Tensor, nn

from ..entropy_models.errors import Unsupported
from ..entropy_models.tables import Tables

EXPONENT = ".exponent"
N = TypeVar("N", bound=nn.Module)


def unchanged(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields themselves."""
    return fields


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture(Generic[N]):
    """One kind of network of a codec: a line of the codec's table."""

    config: Callable[..., Any]
    """A frozen dataclass of numbers and tuples of numbers."""
    network: Callable[..., N]
    """Builds from a config the network as it is deployed, with the config as attribute; from a config, ``linear`` and
    ``depthwise`` one with other layers in the parse path: trainable ones."""
    coarse: re.Pattern[str]
    """Full names of the matrices that the file keeps as int8."""
    renewed: Callable[[dict[str, Any]], dict[str, Any]] = unchanged
    """The config's fields as any older file has them, to those of today; Unsupported if no network of today is like that."""

    def configured(self, fields: Mapping[str, Any]) -> Any:
        """The config of these fields, lists among them being tuples."""
        return self.config(**{name: tuple(v) if isinstance(v, list) else v for name, v in fields.items()})


def found_architecture(architectures: Mapping[str, Architecture[N]], name: str) -> Architecture[N]:
    """The architecture of that name.

    Raises:
        Unsupported: the table has none; the message lists what it has.
    """
    if name not in architectures:
        raise Unsupported(f"architecture {name!r}; this program knows {', '.join(architectures)}")
    return architectures[name]


def packed(state: Mapping[str, Tensor], coarse: re.Pattern[str]) -> dict[str, Tensor]:
    """Tensors as the file keeps them, from a network's state; a state that was packed before loses nothing more."""
    tensors = {}
    for name, value in state.items():
        if coarse.fullmatch(name) and value.is_floating_point() and value.ndim == 2:
            exponent = torch.log2(value.float().abs().amax(1).clamp_min(2**-100) / 127).ceil()
            tensors[name + EXPONENT] = exponent.to(torch.int8)
            value = torch.ldexp(value.float(), -exponent[:, None]).round().to(torch.int8)
        tensors[name] = (_short(value) if value.is_floating_point() else value).contiguous()
    return tensors


def _short(value: Tensor) -> Tensor:
    """float16 whose last two bits are zero, to the nearest."""
    bits = value.clamp(-65000, 65000).to(torch.float16).view(torch.int16)
    return ((bits + 2) & ~3).view(torch.float16)


def unpacked(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A network's state from what `packed` returned: floats in float32."""
    exponents = {name.removesuffix(EXPONENT): value for name, value in tensors.items() if name.endswith(EXPONENT)}
    state = {}
    for name, value in tensors.items():
        if name in exponents:
            state[name] = torch.ldexp(value.float(), exponents[name].float()[:, None])
        elif not name.endswith(EXPONENT):
            state[name] = value.float() if value.dtype == torch.float16 else value
    return state


def weights_bytes(architecture: str, config: Any, tensors: dict[str, Tensor], tables: Tables) -> bytes:
    """A weights file.

    Args:
        architecture: key of the codec's table.
        config: of the network, a dataclass.
        tensors: as `packed` returned them.
        tables: of all levels.
    """
    stored = {f"tables.{name}": torch.from_numpy(value) for name, value in tables.to_arrays().items()}
    metadata = {"architecture": architecture, "config": json.dumps(dataclasses.asdict(config), sort_keys=True)}
    return safetensors.torch.save(tensors | stored, metadata)


@torch.inference_mode(False)  # gradients cannot pass tensors made in the caller's
def read_weights(data: bytes, architectures: Mapping[str, Architecture[N]]) -> tuple[N, Tables]:
    """Network (float32) and tables from a weights file.

    Args:
        data: verified (`weights.verified_bytes`).
        architectures: the codec's table.

    Raises:
        Unsupported: an architecture that is not in the table, or a network that it cannot be today.
    """
    header_bytes = struct.unpack_from("<Q", data)[0]
    metadata = json.loads(data[8 : 8 + header_bytes])["__metadata__"]
    architecture = found_architecture(architectures, metadata.get("architecture", next(iter(architectures))))
    config = architecture.configured(architecture.renewed(json.loads(metadata["config"])))
    tensors = safetensors.torch.load(data)
    stored = [name for name in tensors if name.startswith("tables.")]
    tables = Tables.from_arrays({name.removeprefix("tables."): tensors.pop(name).numpy() for name in stored})
    network = architecture.network(config)
    network.load_state_dict(unpacked(tensors), assign=True)
    return network, tables
