"""Caches in safetensors files, as dumps and mlx_lm hold them: tensors by name to layers and back."""

from __future__ import annotations

import json
import re

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ...entropy_models.errors import InputError, Unsupported
from .hf.inputs import as_layers, as_token_ids, held_ids
from .hf.layer_kinds import EVERY_POSITION
from .recognised import LAYOUTS, part_of
from .splice import Layers

KEYS = "layers.{i}.{k}"
"""Default pattern of tensor names: {i} the layer, {k} ``k``/``keys``/``key`` or ``v``/``values``/``value``."""
MLX_KEYS = "{i}.{k}"
"""Names that mlx_lm's ``save_prompt_cache`` writes: layer, then 0 for keys and 1 for values. Tried after `KEYS`."""
_MLX_CLASSES = {"KVCache", "ConcatenateKVCache"}
"""mlx_lm layers that hold keys and values of every position."""
_MLX_OFFSET = "{i}.2"
"""Since mlx_lm 0.32: how many positions of a layer's buffers are filled."""
_MLX_TOKENS = "0.tokens"
"""Entry of mlx_lm's metadata with the ids as JSON, where this program wrote the file: its loader takes no tensor more."""
TOKENS_NAME = "tokens"
_KINDS = {"k": 0, "key": 0, "keys": 0, "0": 0, "v": 1, "value": 1, "values": 1, "1": 1}


def read_tensors(data: bytes, pattern: str | None = None) -> tuple[Layers, np.ndarray | None, list[str]]:
    """Layers, token ids (None: the file has none) and notices of a safetensors file.

    Raises:
        ValueError: no keys and values by these names, or a layout that cannot be stored (`Unsupported` names it).
    """
    try:
        tensors = load(data)
    except SafetensorError as error:
        raise InputError(f"not a safetensors file: {error}") from None
    if pattern is None:
        pattern = MLX_KEYS if any(re.match(r"0\.[01]\b", name) for name in tensors) else KEYS
    ids: np.ndarray | None = None
    if pattern == MLX_KEYS:
        metadata = _metadata(data)
        _refuse_mlx_classes(metadata)
        ids, tensors = _mlx_ids(metadata), _filled_part(tensors)
    check_pattern(pattern)
    regex = re.escape(pattern).replace(r"\{i\}", r"(?P<i>\d+)").replace(r"\{k\}", r"(?P<k>keys?|values?|k|v|0|1)")
    found: dict[int, dict[int, Tensor]] = {}
    others = []
    for name, tensor in tensors.items():
        if match := re.fullmatch(regex, name):
            pair = found.setdefault(int(match["i"]), {})
            if _KINDS[match["k"]] in pair:
                raise InputError(f"{name}: the file has these keys or values under another name as well")
            pair[_KINDS[match["k"]]] = tensor
        elif name != TOKENS_NAME:
            others.append(name)
    _refuse_layouts(others)
    if found and (missing := sorted(set(range(max(found))) - set(found))):
        raise InputError(f"layers {', '.join(map(str, missing[:8]))} are missing; the last one is {max(found)}")
    if lone := sorted(i for i, pair in found.items() if len(pair) != 2):
        has, lacks = ("keys", "values") if 0 in found[lone[0]] else ("values", "keys")
        raise InputError(f"layer {lone[0]} has {has} but no {lacks} (names {pattern!r})")
    if not found:
        names = ", ".join(sorted(tensors)[:4])
        raise InputError(f"no keys and values named {pattern!r} for layers 0, 1, ...; the file has {names} ... (--keys)")
    ids = _ids(tensors[TOKENS_NAME]) if TOKENS_NAME in tensors else ids
    layers = as_layers([(found[i][0], found[i][1]) for i in range(len(found))])
    ids = None if ids is None else held_ids(ids, layers)
    if not layers[0][0].shape[1]:
        raise InputError("the cache holds 0 tokens; need at least 1")
    notices = [f"not stored: {_some(others)}, which do not fit {pattern!r}"] if others else []
    return layers, ids, notices


def check_pattern(pattern: str) -> None:
    if pattern.count("{i}") != 1 or pattern.count("{k}") != 1:
        raise InputError(f"pattern {pattern!r} of tensor names; it needs one {{i}} for the layer and one {{k}} for k or v")


def _ids(tensor: Tensor) -> np.ndarray:
    if tensor.is_floating_point() or tensor.is_complex():
        raise InputError(f"tensor 'tokens' is of type {tensor.dtype}; need integers".replace("torch.", ""))
    return as_token_ids(tensor.reshape(-1))


def _metadata(data: bytes) -> dict[str, str]:
    found: dict[str, str] = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__") or {}
    return found


def _refuse_mlx_classes(metadata: dict[str, str]) -> None:
    """Refuse mlx_lm layers of other kinds: metadata ``1.{layer}`` names their classes, before 0.32 ``2.{layer}``."""
    classes = {value for name, value in metadata.items() if re.fullmatch(r"1\.\d+", name)}
    classes = classes or {value for name, value in metadata.items() if re.fullmatch(r"2\.\d+", name)}
    if others := classes - _MLX_CLASSES:
        raise Unsupported(f"mlx_lm cache layers of class {', '.join(sorted(others))}; {EVERY_POSITION}")


def _mlx_ids(metadata: dict[str, str]) -> np.ndarray | None:
    try:
        ids = json.loads(metadata.get(_MLX_TOKENS, ""))
    except (ValueError, RecursionError):  # other programs may keep anything under this name
        return None
    return np.array(ids, np.int64) if isinstance(ids, list) and ids and all(type(i) is int and i >= 0 for i in ids) else None


def _filled_part(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of an mlx_lm file without the empty parts of its buffers, and without the offsets that say so."""
    out = dict(tensors)
    for name in [name for name in tensors if re.fullmatch(r"\d+\.2", name)]:
        offset = out.pop(name)
        if offset.numel() != 1 or offset.is_floating_point():
            raise InputError(
                f"{name} has shape {tuple(offset.shape)}; in mlx_lm's files it is the number of filled positions"
            )
        for kind in "01":
            at = f"{name[:-1]}{kind}"
            if at in out and not 0 <= int(offset) <= out[at].shape[-2]:
                raise InputError(f"{name} says {int(offset)} positions are filled; {at} has {out[at].shape[-2]}")
            if at in out:
                out[at] = out[at][..., : int(offset), :]
    return out


def _refuse_layouts(names: list[str]) -> None:
    """Name the layout of tensors that are neither keys nor values."""
    for layout, regex, hint in LAYOUTS:
        those = [name for name in names if part_of(name, regex)]
        if those:
            raise Unsupported(f"{_some(those)}: a cache of {layout}; {EVERY_POSITION}{hint}")


def _some(names: list[str]) -> str:
    return ", ".join(sorted(names)[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def cache_file(tokens: np.ndarray, layers: Layers, first: int = 0, keys: str | None = None, batch: bool = False) -> bytes:
    """A safetensors file of a cache; arguments and errors as `named_tensors`.

    With `MLX_KEYS`, a batch dimension and all layers it is one that mlx_lm's ``load_prompt_cache`` reads (0.32 and later).
    """
    tensors = named_tensors(tokens, layers, first, keys, batch)
    if keys != MLX_KEYS or not batch or first:
        return save(tensors)
    del tensors[TOKENS_NAME]
    metadata = {_MLX_TOKENS: json.dumps(tokens.tolist()), "2.0": ""}
    for i in range(len(layers)):
        offset = _MLX_OFFSET.replace("{i}", str(i))
        tensors[offset] = torch.tensor(len(tokens), dtype=torch.int32)
        metadata |= {f"1.{i}": "KVCache", f"2.{i + 1}.0": offset, f"2.{i + 1}.1": "scalar"}
    return save(tensors, metadata)


def named_tensors(
    tokens: np.ndarray, layers: Layers, first: int = 0, keys: str | None = None, batch: bool = False
) -> dict[str, Tensor]:
    """Tensors of a safetensors file: `TOKENS_NAME`, and the keys and values of layers from ``first`` on.

    Args:
        keys: pattern of tensor names, with {i} and {k}, which is k or v; in `MLX_KEYS` 0 or 1.
        batch: shape (1, kv_heads, n, head_dim) in place of (kv_heads, n, head_dim).

    Raises:
        ValueError: no such pattern.
    """
    pattern = keys or KEYS
    check_pattern(pattern)
    kinds, out = "01" if pattern == MLX_KEYS else "kv", {TOKENS_NAME: torch.from_numpy(tokens)}
    for i, pair in enumerate(layers, first):
        for kind, x in zip(kinds, pair, strict=True):
            out[pattern.replace("{i}", str(i)).replace("{k}", kind)] = (x[None] if batch else x).contiguous()
    return out
