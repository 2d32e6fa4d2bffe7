"""A model's calibration: steps, bases and predictors, in one safetensors file named by its hash.

Tensors, l a layer, t 0 for keys and 1 for values, C = kv_heads * head_dim:

    exponents           int32 (L, 2)     step of each tensor at quality 60, as a power of `tables` ratio
    offsets.l.t         int32 (C,)       what each channel's step differs by
    basis.l.t           float32 (C, C)   coefficients = (x - mean.l.t) basis;  unbasis.l.t is its inverse
    residual_basis.l.t, residual_mean.l.t, residual_unbasis.l.t     the same for what prediction leaves
    weight.l.t, bias.l.t                 predictors (`predictive.sources` gives the inputs)
    token_ids int64 (m,), token_mean.0 and token_mean.1 float16 (m + 1, C)   layer 0 by token; the last row is the rest

`quantized` uses the first two while encoding, and writes what it used: its files decode without a profile.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ....entropy_models.errors import Corrupt, Mismatch, Unsupported
from ... import container


@dataclass(frozen=True, eq=False)
class Basis:
    """An invertible linear map of the channels: coefficients = (x - mean) forward."""

    mean: Tensor
    forward: Tensor
    inverse: Tensor


@dataclass(frozen=True, eq=False)
class Predictor:
    """``guess = inputs weight + bias``; in layer 0 the mean by token id, plus ``weight`` of the keys' residual."""

    weight: Tensor
    bias: Tensor
    token_ids: Tensor
    token_mean: Tensor

    def of_tokens(self, ids: Tensor) -> Tensor:
        """Mean by token id, float32, shape (tokens, C)."""
        at = torch.searchsorted(self.token_ids, ids).clamp_max(len(self.token_ids) - 1)
        row = torch.where(self.token_ids[at] == ids, at, len(self.token_ids))
        return self.token_mean[row].float()


class Profile:
    """See the module's docstring. Compared and named by ``hash``, 8 bytes of the SHA-256 of the file."""

    def __init__(self, data: bytes) -> None:
        """``data``: the file's bytes.

        Raises:
            Corrupt: not such a file.
        """
        try:
            self.tensors = load(data)
            self.exponents = self.tensors["exponents"].numpy()
        except (SafetensorError, KeyError) as error:
            raise Corrupt(f"not a calibrated profile: {error}") from None
        self.data = data
        self.hash = hashlib.sha256(data).digest()[:8]

    @classmethod
    def of(cls, tensors: dict[str, Tensor]) -> Profile:
        """A profile of these tensors."""
        return cls(save({name: tensor.contiguous() for name, tensor in sorted(tensors.items())}))

    @classmethod
    def read(cls, path: str | Path) -> Profile:
        """A profile from a file."""
        return cls(Path(path).read_bytes())

    def write(self, path: str | Path) -> None:
        """Write the profile to a file."""
        container.write_file(Path(path), self.data)

    @cached_property
    def offsets(self) -> list[list[np.ndarray]]:
        """Step offsets of the channels by layer and kind."""
        return [[self.tensors[f"offsets.{i}.{t}"].numpy() for t in (0, 1)] for i in range(len(self.exponents))]

    def basis(self, layer: int, kind: int, name: str = "") -> Basis:
        """Basis of mode `transform`."""
        self.check_layer(layer)
        at = f"{layer}.{kind}"
        return Basis(*(self.tensors[f"{name}{part}.{at}"] for part in ("mean", "basis", "unbasis")))

    def residual_basis(self, layer: int, kind: int) -> Basis:
        """Basis of mode `predictive`."""
        return self.basis(layer, kind, "residual_")

    def predictor(self, layer: int, kind: int) -> Predictor:
        """Predictor of mode `predictive`."""
        self.check_layer(layer)
        get = self.tensors.get
        empty = torch.zeros(0)
        at = f"{layer}.{kind}"
        return Predictor(
            get(f"weight.{at}", empty), get(f"bias.{at}", empty), self.tensors["token_ids"],
            self.tensors[f"token_mean.{kind}"],
        )  # fmt: skip

    def check_layer(self, layer: int) -> None:
        """Mismatch if the profile is of a shallower model."""
        if layer >= len(self.exponents):
            raise Mismatch(f"layer {layer} of a cache; the profile has {len(self.exponents)} layers")

    def check(self, layers: int, channels: tuple[int, int]) -> None:
        """Whether the profile fits a cache.

        Args:
            layers: of the cache.
            channels: kv_heads * width of its keys and of its values.

        Raises:
            Mismatch: it is of another model.
        """
        found = len(self.exponents), *(self.tensors[f"offsets.0.{t}"].numel() for t in (0, 1))
        if found != (layers, *channels):
            raise Mismatch(f"a profile for (layers, key and value channels) {found}; the cache has {(layers, *channels)}")


def profile_named(name: bytes, given: Profile | None) -> Profile:
    """The profile that a block was made with.

    Args:
        name: its hash, which the block holds.
        given: what the caller has.

    Raises:
        Unsupported: none is given, or another one.
    """
    if given is None or given.hash != name:
        other = f", not {given.hash.hex()}" if given else ""
        raise Unsupported(
            f"the block needs profile {name.hex()}{other}; give its file: --profile FILE (profile=Profile.read(FILE) "
            "in Python)"
        )
    return given
