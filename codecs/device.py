"""The device that a codec's networks run on."""

from __future__ import annotations

import re

import torch

from ..entropy_models.errors import InputError


def resolve_device(device: str) -> str:
    """``auto`` to a device that is there; ``cpu``, ``cuda`` and ``cuda:N`` stay as they are.

    Raises:
        ValueError: another name, or CUDA is asked for and not available.
    """
    match = re.fullmatch(r"auto|cpu|cuda(?::(\d+))?", device, re.ASCII)
    if not match:
        raise InputError(f"device {device!r}; need auto, cpu, cuda or cuda:N")
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise InputError("device cuda: torch sees no CUDA device here; use --device cpu or auto")
    if match[1] and int(match[1]) >= torch.cuda.device_count():
        raise InputError(f"device {device}; torch sees {torch.cuda.device_count()} CUDA devices here, counted from 0")
    return device
