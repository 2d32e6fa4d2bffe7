"""Hashes of all of a model's weights, at the speed of memory: what a fingerprint knows of them.

Of a tensor: sha256 over 4,093 sums, modulo 2^64, of its 8-byte words, word i going to sum i mod 4,093; so every byte counts,
on every device alike. Of a model: sha256 over the sorted hashes of its tensors, each with its shape, type and the numbers in
its name (layer, expert), not the name's words, which versions of transformers and wrappers change. Numbers that the model's
element type holds are hashed in it, as versions also differ in which tensors they keep in float32.

Adapters (PEFT) count as they act: the weights, scaling and kind of those that are active; none where they are disabled or
merged, and then the merged weights are the model's.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ....entropy_models.errors import Unsupported

_SUMS = 4093
"""A prime, so that the rows of a table, of widths like 4,096, go to other sums when they change places."""
_ROW_BYTES = 8 * _SUMS
_STEP_ROWS = 1024
"""Rows of sums taken at a time: bounds the memory of conversions to 33 MB."""


@dataclass(frozen=True)
class WeightsDigest:
    """What is hashed of a model's tensors, in hexadecimal."""

    weights: str
    adapters: str
    """Of the active adapters, sorted; empty: none act."""


@dataclass
class _Adapter:
    parts: list[str] = field(default_factory=list)


def digest_weights(model: Any, dtype: str | None = None) -> WeightsDigest:
    """Hashes of a model's weights and of what its active adapters add; its head for tokens does not count.

    Args:
        model: a torch module of transformers, wrapped or not.
        dtype: as if its floating-point weights were of this type, named as in torch; None: as they are.

    Raises:
        Unsupported: weights that are not in memory, or prompt tuning.
    """
    base: list[str] = []
    adapters: dict[str, _Adapter] = {}
    owners = _owners(model)
    head, narrow = _head(model), getattr(torch, dtype) if dtype else model.dtype
    for name, tensor in model.state_dict().items():
        if not isinstance(tensor, Tensor) or (head and name.startswith(head)):
            continue
        owner = next((owners[at] for at in _above(name) if at in owners), None)
        adapter = owner.adapter_of(name) if owner else ""
        if adapter is None:
            continue
        line = f"{_numbers(name)} {_digest(tensor, narrow, dtype is not None, name)}"
        if adapter and owner:
            kind = name.removeprefix(owner.prefix).partition(".")[0]
            adapters.setdefault(adapter, _Adapter()).parts.append(f"{line} {kind} {owner.scale(adapter)}")
        else:
            base.append(line)
    return WeightsDigest(_hash(base), " ".join(sorted(_hash(a.parts)[:16] for a in adapters.values())))


@dataclass(frozen=True)
class _Owner:
    """A module that PEFT put in the place of another."""

    prefix: str
    module: Any
    acting: tuple[str, ...]
    """Adapters that change what it computes."""
    merged: tuple[str, ...]

    def adapter_of(self, name: str) -> str | None:
        """The adapter that a tensor in it belongs to; empty: the model itself; None: a tensor that does not act."""
        first, _, rest = name.removeprefix(self.prefix).partition(".")
        if first == "base_layer":
            return ""
        if first == "original_module":
            return None if self.acting and hasattr(self.module, "modules_to_save") else ""
        adapter = next((one for one in self.acting if rest == one or rest.startswith(f"{one}.")), None)
        return adapter

    def scale(self, adapter: str) -> str:
        """Its scaling, as text, and the places of its numbers where they are no tensor of the model's (FourierFT, SHiRA)."""
        own = {name: x[adapter] for name, x in vars(self.module).items() if isinstance(x, dict) and adapter in x}
        scaling = [float(x) for name, x in own.items() if name.endswith("scaling") and isinstance(x, (int, float))]
        places = [torch.as_tensor(x).tolist() for name, x in own.items() if name.endswith("indices")]
        return " ".join([json.dumps(scaling[0] if scaling else None), *(_hash([json.dumps(x)]) for x in places)])


def _owners(model: Any) -> dict[str, _Owner]:
    """PEFT's modules in a model by their names with a dot after."""
    if "peft" not in sys.modules:
        return {}
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    for one in model.modules():
        if getattr(getattr(one, "active_peft_config", None), "is_prompt_learning", False):
            raise Unsupported("the model has prompt tuning, which puts positions before those of the tokens")
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, (BaseTunerLayer, AuxiliaryTrainingWrapper)):
            active = module.active_adapters
            merged = tuple(getattr(module, "merged_adapters", None) or ())
            idle = module.disable_adapters or merged
            found[f"{name}."] = _Owner(
                f"{name}.", module, () if idle else tuple([active] if isinstance(active, str) else active), merged
            )
    return found


def has_adapters(model: Any) -> bool:
    """Whether PEFT has put its modules into a model, active or not."""
    return bool(_owners(model))


def adapters_at_work(model: Any) -> list[str]:
    """Which adapters act where in a model, how strongly, and which are merged; no weights are read."""
    return [
        " ".join([at, *one.merged, "|", *(f"{name} {one.scale(name)}" for name in one.acting)])
        for at, one in _owners(model).items()
        if one.acting or one.merged
    ]


def _above(name: str) -> Iterator[str]:
    """The modules that a tensor lies in, the innermost first, with a dot after."""
    while "." in name:
        name = name.rpartition(".")[0]
        yield f"{name}."


def _head(model: Any) -> str:
    """Name of the module that turns hidden states into logits, with a dot after; empty: there is none."""
    get = getattr(model, "get_output_embeddings", None)
    try:
        head = get() if get else None
        head = None if head is model.get_input_embeddings() else head
    except (AttributeError, NotImplementedError):
        return ""
    return next((f"{name}." for name, module in model.named_modules() if module is head), "") if head is not None else ""


def _numbers(name: str) -> str:
    return " ".join(part for part in name.split(".") if part.isdigit())


def _hash(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def _digest(tensor: Tensor, narrow: torch.dtype, converted: bool, name: str) -> str:
    """Hash of a tensor's shape, type and numbers; ``narrow`` is the model's type, to which all else may be ``converted``."""
    if hasattr(tensor, "__tensor_flatten__") and type(tensor) is not torch.nn.Parameter:
        inner, _ = tensor.__tensor_flatten__()  # quantised weights of torchao: several plain tensors in one
        return _hash([f"{part} {_digest(getattr(tensor, part), narrow, converted, name)}" for part in inner])
    if tensor.is_meta:
        raise Unsupported(f"{name} is not in memory (offloaded?), so nothing tells which weights made a cache")
    wide = tensor.is_floating_point() and tensor.dtype != narrow
    target = narrow if wide and (converted or _holds(narrow, tensor)) else tensor.dtype
    line = f"{tuple(tensor.shape)} {target}".replace("torch.", "")
    return hashlib.sha256(line.encode() + _sums(tensor.detach(), target)).hexdigest()


def _holds(narrow: torch.dtype, tensor: Tensor) -> bool:
    """Whether an element type has all of a tensor's numbers."""
    return bool((tensor.to(narrow).to(tensor.dtype) == tensor).all())


def _sums(tensor: Tensor, dtype: torch.dtype) -> bytes:
    """The sums of a tensor's words in an element type, little-endian."""
    if tensor.is_complex():
        tensor, dtype = torch.view_as_real(tensor), tensor.real.dtype
    flat = tensor.reshape(-1)
    total = torch.zeros(_SUMS, dtype=torch.int64, device=flat.device)
    step = _ROW_BYTES * _STEP_ROWS // dtype.itemsize
    for at in range(0, flat.numel(), step):
        raw = flat[at : at + step].to(dtype).contiguous().view(torch.uint8)
        if lacking := -raw.numel() % _ROW_BYTES:
            raw = torch.cat([raw, raw.new_zeros(lacking)])
        elif raw.storage_offset() % 8:
            raw = raw.clone()
        total += raw.view(torch.int64).view(-1, _SUMS).sum(0)
    return total.cpu().numpy().astype("<i8").tobytes()
