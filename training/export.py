"""Checkpoint to shipped weights: integer level branch frozen, tables built, manifest line written.

    python -m rdcodec.training.export runs/image/last.ckpt --name image-1 --data ... [--calibrate FOLDER]
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from ..codecs.image.dcvc_rt import ImageConfig, ImageNetwork
from ..entropy_models.integer_net import IntegerDepthwise, IntegerLinear
from ..entropy_models.tables import Tables, gaussian_tables
from .image import LAYERS, ImageTraining


def frozen(network: ImageNetwork) -> ImageNetwork:
    """The deployable network of a trained one: float16-rounded pixel path, exact integer parse path.

    Raises:
        ValueError: an integer layer could leave the exact range.
    """
    deployed = ImageNetwork(network.config)
    trained = dict(network.named_modules())
    state: dict[str, Tensor] = {}
    for name, module in deployed.named_modules():
        if isinstance(module, IntegerLinear | IntegerDepthwise):
            state |= {f"{name}.{key}": value for key, value in trained[name].frozen_state().items()}
    for name, value in network.state_dict().items():
        if name not in state and name in deployed.state_dict():
            state[name] = value.to(torch.float16).float()
    deployed.load_state_dict(state)
    check_exact(deployed)
    return deployed.eval().requires_grad_(False)


def check_exact(network: nn.Module) -> None:
    """Run `check` of every integer layer."""
    for name, module in network.named_modules():
        if isinstance(module, IntegerLinear | IntegerDepthwise):
            try:
                module.check()
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None


def weights_bytes(network: ImageNetwork, tables: Tables) -> bytes:
    """The weights file: safetensors with the configuration in its metadata."""
    tensors = {
        name: (value.to(torch.float16) if value.is_floating_point() else value).contiguous()
        for name, value in network.state_dict().items()
    }
    tensors |= {f"tables.{name}": torch.from_numpy(value) for name, value in tables.to_arrays().items()}
    config = json.dumps(dataclasses.asdict(network.config), sort_keys=True)
    return safetensors.torch.save(tensors, {"config": config})


def load_checkpoint(path: Path) -> ImageNetwork:
    """The (averaged) network of a Lightning checkpoint, with its trainable parse path."""
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    hparams: dict[str, Any] = checkpoint["hyper_parameters"]
    config = ImageConfig(**(hparams.get("architecture") or {}))
    network = ImageNetwork(config, *LAYERS[hparams.get("level_branch", "integer")])
    prefix = "network."
    state = {n.removeprefix(prefix): v for n, v in checkpoint["state_dict"].items() if n.startswith(prefix)}
    network.load_state_dict(state)
    return network


def write_line(folder: Path, name: str, blob: bytes, **fields: Any) -> None:
    """Put a weights file in ``folder`` and its line first in the manifest there."""
    path = folder / "manifest.json"
    lines = json.loads(path.read_text()) if path.exists() else {}
    file = f"{name}.safetensors"
    (folder / file).write_bytes(blob)
    line = {"codec": "image", "file": file, "bytes": len(blob), "sha256": hashlib.sha256(blob).hexdigest(), **fields}
    lines = {name: line} | {other: value for other, value in lines.items() if other != name}
    path.write_text(json.dumps(lines, indent=1) + "\n")


__all__ = ["ImageTraining", "check_exact", "frozen", "gaussian_tables", "load_checkpoint", "weights_bytes", "write_line"]
