"""What `codec encode`, `decode` and `verify` do with caches: safetensors bytes in, safetensors bytes out."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ...entropy_models.errors import Unsupported
from .. import container
from .codec import Cache, KvCodec, join, verify_sequence
from .format.blocks import KvSettings, decode_block, read_block_header
from .format.header import BLOCK, ELEMENT_TYPES, width_text
from .format.sequence import decode_blocks
from .hf.model import SUPPORTED, check_model, fingerprint, load_model, mapped_model, rope_of
from .layout import Layout, check_fits, layout_of
from .modes.place import type_name
from .modes.profiles import Profile
from .modes.rope import Rope
from .modes.table import MODES, check_command_mode
from .splice import Layers, held_ids, layers_of, tokens_of
from .token_file import ids_of

KEYS = "layers.{i}.{k}"
"""Default pattern of tensor names: {i} the layer, {k} ``k``/``keys``/``key`` or ``v``/``values``/``value``."""
MLX_KEYS = "{i}.{k}"
"""Names that mlx_lm's ``save_prompt_cache`` writes: layer, then 0 for keys and 1 for values. Tried after `KEYS`."""
_MLX_CLASSES = {"KVCache", "ConcatenateKVCache"}
"""mlx_lm layers that hold keys and values of every position."""
TOKENS_NAME = "tokens"
NO_TOKENS = "no tensor 'tokens': ids are stored as 0, so no prefix is matched (--tokens FILE gives them)"
ROPE_KEPT = (
    "RoPE stays in the keys, which takes more bytes (some 5 % at quality 60 with a small Llama); "
    "--model FOLDER of the transformers model undoes it"
)
_LAYOUTS = (
    (
        "multi-head latent attention (MLA)",
        r"(?:compressed_kv|kv_compressed|kv_latent|latent|c_?kv|kv_c|kv_a|k_?pe|k_rope|pe_cache)(?:_cache)?",
        "; name the latent layers.{i}.k and what RoPE turns layers.{i}.v, shape (1, tokens, width) each",
    ),
    ("linear-attention or state-space (SSM) layers", r"(?:conv|ssm|recurrent|temporal)_?states?", ""),
)
"""Layout, names of its tensors, what to do about it."""
_KINDS = {"k": 0, "key": 0, "keys": 0, "0": 0, "v": 1, "value": 1, "values": 1, "1": 1}


def encode_bytes(
    data: bytes,
    *,
    mode: str | None = None,
    quality: int | None = None,
    bits: int | None = None,
    keys: str | None = None,
    model: str | None = None,
    profile: Path | None = None,
    tokens: Path | None = None,
    salt: str | None = None,
) -> tuple[bytes, dict[str, Any]]:
    """A cache file from a safetensors file.

    Args:
        data: safetensors with keys and values of shape (kv_heads, n, head_dim) or (1, kv_heads, n, head_dim) for each
            layer, and, if there, ``tokens``, the ids.
        mode: of `modes.MODES`, except those that need the model.
        quality: 0..100, of modes that have one.
        bits: 1..5, of modes that have them.
        keys: pattern of tensor names, with {i} and {k}.
        model: folder of the transformers model that made the cache, for its fingerprint and RoPE.
        profile: file of a calibrated profile; modes transform and predictive need it, quantized takes its steps.
        tokens: file of the ids (`token_file`), where the safetensors file has none.
        salt: the tenant's, which goes into the blocks' ids; None: none.

    Returns:
        The file, and fields for the command to print: numbers by name; rate and shape, texts; notices.

    Raises:
        ValueError: the file does not hold a cache, or not of these ids; the message says what it holds.
    """
    settings = kv_settings(mode or "quantized", quality, bits, profile)
    tensors, held, notices = read_tensors(data, keys)
    ids, name = ids_of(held, tokens), bytes(16)
    if model:
        name, rope = identity_of(model, layout_of(tensors))
        settings = replace(settings, rope=rope)
    elif MODES[settings.mode].option == "quality":
        notices = [*notices, ROPE_KEPT]
    if ids is None:
        ids = np.zeros(tensors[0][0].shape[1], np.int64)
        notices = [*notices, NO_TOKENS]
    stream = KvCodec(settings, name, _salt(salt) or b"").encode(Cache(held_ids(tokens_of(ids), tensors), tensors))
    raw = sum(x.numel() * x.element_size() for pair in tensors for x in pair)
    elements = sum(x.numel() for pair in tensors for x in pair)
    rate = 8 * len(stream) / elements
    fields = {"codec": "kv", "mode": settings.mode, "raw_bytes": raw, "bits_per_element": rate, **_shape(tensors)}
    return stream, fields | {"rate": f"{rate:.3f} bits per element", "notices": notices}


def kv_settings(
    mode: str, quality: int | None = None, bits: int | None = None, profile: Path | None = None, **others: Any
) -> KvSettings:
    """Settings from options of the command; None: not given.

    Raises:
        ValueError: no such mode, one that needs the running model, an option that the mode does not have, or no profile
            where it needs one.
    """
    check_command_mode(mode)
    given: dict[str, Any] = {name: value for name, value in (("quality", quality), ("bits", bits)) if value is not None}
    has = MODES[mode].option
    for name in given.keys() - {has}:
        raise ValueError(f"mode {mode} has no --{name}; " + (f"it has --{has}" if has else "its rate is fixed"))
    if profile and has != "quality":
        raise ValueError(f"mode {mode} takes no --profile")
    if MODES[mode].needs_profile and not profile:
        raise ValueError(f"mode {mode} needs --profile FILE, the kv_profile.safetensors that `codec eval kv` writes")
    return KvSettings(mode=mode, profile=Profile.read(profile) if profile else None, **given, **others)


def identity_of(folder: str, made: Layout | None = None, dtype: str | None = None) -> tuple[bytes, Rope | None]:
    """Fingerprint and RoPE of the transformers model in a folder.

    Args:
        made: layout of a cache that it made; its element type is the one that the model ran in.
        dtype: that element type where there is no cache to tell; None: as the model's files say.

    Raises:
        ValueError: no model there, one whose caches cannot be stored, or one that cannot have made this cache
            (`Mismatch` names what differs).
        ImportError: transformers is not installed.
    """
    model = model_in(folder)
    if made is not None:
        check_fits(replace(made, dtype=model.dtype), model, "the cache")
        dtype = type_name(made.dtype)
    if dtype not in (None, *ELEMENT_TYPES.values()):
        raise ValueError(f"element type {dtype!r}; need one of {', '.join(ELEMENT_TYPES.values())}")
    return fingerprint(model, dtype), rope_of(model)


@lru_cache(maxsize=2)
def model_in(folder: str) -> Any:
    """The transformers model in a folder, checked, for its identity and not to run; kept, as files of one command share it.

    Its weights are not loaded where `mapped_model` can do without. Errors as `identity_of`.
    """
    if not (Path(folder) / "config.json").is_file():
        raise ValueError(f"{folder}: no model there; need the folder of a transformers model, with config.json and weights")
    try:
        model = mapped_model(folder) or load_model(folder)
    except ImportError as error:
        raise ImportError(f"--model needs transformers ({error}): pip install 'rdcodec[kv]'") from None
    check_model(model)
    return model


def read_tensors(data: bytes, pattern: str | None = None) -> tuple[Layers, np.ndarray | None, list[str]]:
    """Layers, token ids (None: the file has none) and notices of a safetensors file.

    Raises:
        ValueError: no keys and values by these names, or a layout that cannot be stored (`Unsupported` names it).
    """
    try:
        tensors = load(data)
    except SafetensorError as error:
        raise ValueError(f"not a safetensors file: {error}") from None
    if pattern is None:
        pattern = MLX_KEYS if any(re.match(r"0\.[01]\b", name) for name in tensors) else KEYS
    if pattern == MLX_KEYS:
        _refuse_mlx_classes(data)
    _check_pattern(pattern)
    regex = re.escape(pattern).replace(r"\{i\}", r"(?P<i>\d+)").replace(r"\{k\}", r"(?P<k>keys?|values?|k|v|0|1)")
    found: dict[int, dict[int, Tensor]] = {}
    others = []
    for name, tensor in tensors.items():
        if match := re.fullmatch(regex, name):
            pair = found.setdefault(int(match["i"]), {})
            if _KINDS[match["k"]] in pair:
                raise ValueError(f"{name}: the file has these keys or values under another name as well")
            pair[_KINDS[match["k"]]] = tensor
        elif name != TOKENS_NAME:
            others.append(name)
    _refuse_layouts(others)
    if found and (missing := sorted(set(range(max(found))) - set(found))):
        raise ValueError(f"layers {', '.join(map(str, missing[:8]))} are missing; the last one is {max(found)}")
    if lone := sorted(i for i, pair in found.items() if len(pair) != 2):
        has, lacks = ("keys", "values") if 0 in found[lone[0]] else ("values", "keys")
        raise ValueError(f"layer {lone[0]} has {has} but no {lacks} (names {pattern!r})")
    if not found:
        names = ", ".join(sorted(tensors)[:4])
        raise ValueError(f"no keys and values named {pattern!r} for layers 0, 1, ...; the file has {names} ... (--keys)")
    ids = _ids(tensors[TOKENS_NAME]) if TOKENS_NAME in tensors else None
    layers = layers_of([(found[i][0], found[i][1]) for i in range(len(found))])
    ids = None if ids is None else held_ids(ids, layers)
    if not layers[0][0].shape[1]:
        raise ValueError("the cache holds 0 tokens; need at least 1")
    notices = [f"not stored: {_some(others)}, which do not fit {pattern!r}"] if others else []
    return layers, ids, notices


def _check_pattern(pattern: str) -> None:
    if pattern.count("{i}") != 1 or pattern.count("{k}") != 1:
        raise ValueError(f"pattern {pattern!r} of tensor names; it needs one {{i}} for the layer and one {{k}} for k or v")


def _ids(tensor: Tensor) -> np.ndarray:
    if tensor.is_floating_point() or tensor.is_complex():
        raise ValueError(f"tensor 'tokens' is of type {tensor.dtype}; need integers".replace("torch.", ""))
    return tokens_of(tensor.reshape(-1))


def _refuse_mlx_classes(data: bytes) -> None:
    """Refuse mlx_lm layers of other kinds, as its metadata ``2.{layer}`` names their classes."""
    end = 8 + int.from_bytes(data[:8], "little")
    metadata = json.loads(data[8:end]).get("__metadata__", {})
    classes = {value for name, value in metadata.items() if re.fullmatch(r"2\.\d+", name)}
    if others := classes - _MLX_CLASSES:
        raise Unsupported(f"mlx_lm cache layers of class {', '.join(sorted(others))}; {SUPPORTED}")


def _refuse_layouts(names: list[str]) -> None:
    """Name the layout of tensors that are neither keys nor values."""
    for layout, regex, hint in _LAYOUTS:
        those = [name for name in names if re.search(rf"(?:^|[._/]){regex}(?:$|[._/])", name, re.IGNORECASE)]
        if those:
            raise Unsupported(f"{_some(those)}: a cache of {layout}; {SUPPORTED}{hint}")


def _some(names: list[str]) -> str:
    return ", ".join(sorted(names)[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def decode_bytes(
    data: bytes,
    profile: Path | None = None,
    prefix: int | None = None,
    *,
    keys: str | None = None,
    batch: bool = False,
    salt: str | None = None,
) -> tuple[bytes, dict[str, Any]]:
    """A safetensors file (``layers.{i}.k``, ``layers.{i}.v``, ``tokens``) from a cache file, and fields to print.

    Args:
        data: the cache file's bytes.
        profile: file of the profile that modes transform and predictive need.
        prefix: only the first so many tokens; None: all.
        keys: pattern of tensor names, with {i} and {k}, which is k or v; in `MLX_KEYS` 0 or 1.
        batch: shape (1, kv_heads, n, head_dim) in place of (kv_heads, n, head_dim).
        salt: refuse blocks of another; None: of any.

    Raises:
        ValueError: no such pattern.
        BitstreamError: anything wrong with the file, or it is one block of a store (`Unsupported`).
    """
    _check_pattern(keys or KEYS)
    if profile:
        Profile.read(profile)
    if _is_block(data):
        head = read_block_header(data)
        raise Unsupported(
            f"one block of a store, tokens {head.start} to {head.start + head.count} of a prompt; "
            "`codec kv get STORE --tokens IDS` reads whole caches"
        )
    tokens, layers = join(decode_blocks(data, prefix=prefix, salt=_salt(salt)))
    if not layers or not layers[0][1].shape[-1]:
        raise Unsupported("the file holds layer inputs; the model must project keys and values: load_cache in Python")
    out = named_tensors(tokens, layers, 0, keys, batch)
    short = prefix is not None and len(tokens) < prefix
    notices = [f"it holds {len(tokens)} tokens, fewer than --prefix {prefix}"] if short else []
    return save(out), {"codec": "kv", **_shape(layers), "notices": notices}


def named_tensors(
    tokens: np.ndarray, layers: Layers, first: int = 0, keys: str | None = None, batch: bool = False
) -> dict[str, Tensor]:
    """Tensors of a safetensors file: `TOKENS_NAME`, and the keys and values of layers from ``first`` on.

    Args:
        keys, batch: as for `decode_bytes`.

    Raises:
        ValueError: no such pattern.
    """
    pattern = keys or KEYS
    _check_pattern(pattern)
    kinds, out = "01" if pattern == MLX_KEYS else "kv", {TOKENS_NAME: torch.from_numpy(tokens)}
    for i, pair in enumerate(layers, first):
        for kind, x in zip(kinds, pair, strict=True):
            out[pattern.replace("{i}", str(i)).replace("{k}", kind)] = (x[None] if batch else x).contiguous()
    return out


def verify_bytes(data: bytes, profile: Path | None = None, salt: str | None = None) -> list[str]:
    """Decode every symbol of a cache file or of one block of a store; BitstreamError if anything is wrong.

    Args:
        profile, salt: as for `decode_bytes`.

    Returns:
        What could not be checked.
    """
    if profile:
        Profile.read(profile)
    if _is_block(data):
        decode_block(data, salt=_salt(salt))
        return []
    return verify_sequence(data, salt=_salt(salt))


def _salt(text: str | None) -> bytes | None:
    return None if text is None else text.encode()


def _is_block(data: bytes) -> bool:
    return container.parse(data).signal[:1] == bytes([BLOCK])


def _shape(layers: Any) -> dict[str, Any]:
    """Of a cache: numbers, and ``shape``, a text for people."""
    (heads, count, width), values = layers[0][0].shape, layers[0][1].shape[2]
    numbers = {"layers": len(layers), "kv_heads": heads, "tokens": count, "key_width": width, "value_width": values}
    text = f"{len(layers)} layers x {heads} heads x {count} tokens x {width_text(width, values)}"
    return numbers | {"shape": text}
