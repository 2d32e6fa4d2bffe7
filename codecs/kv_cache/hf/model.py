"""The model of a cache, as far as a cache needs it: its files, its RoPE, and whether its layers can be stored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from ....entropy_models.errors import Unsupported
from ..modes.rope import Rope
from .fingerprint import static_rope

HALF_ROTATION = frozenset(
    (
        "llama",
        "mistral",
        "mixtral",
        "qwen2",
        "qwen2_moe",
        "qwen3",
        "qwen3_moe",
        "phi",
        "phi3",
        "gemma",
        "granite",
        "olmo2",
    )
    + ("smollm3", "stablelm")
)
"""Model types whose RoPE pairs channel i with i + rotary_dim / 2. Others keep their keys as they are."""

_LAYER_TYPES = {
    "sliding_attention": "sliding-window", "chunked_attention": "sliding-window", "conv": "convolution",
    "hybrid_sliding": "sliding-window and state-space (SSM)", "linear_attention": "linear-attention",
    "hybrid": "attention and state-space (SSM)", "mamba": "state-space (SSM)",
}  # fmt: skip
"""``layer_types`` of a transformers config: the field's word."""


def load_model(folder: str | Path, dtype: Any = "auto") -> Any:
    """The transformers model in a folder, on the CPU; its own progress bars stay hidden, which would mix with ours."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True).eval()
    finally:
        if shown:
            logging.enable_progress_bar()


def mapped_model(folder: str | Path) -> Any | None:
    """A model whose weights stay in the safetensors files: what a fingerprint samples is all that is read.

    It has the config, the names, shapes and numbers of the weights and the RoPE tables of the loaded model. It is not
    meant to run.

    Returns:
        None where `load_model` may do more than take the files' tensors by their names: other types than
        `HALF_ROTATION`, adapters, quantised, renamed or missing weights, or another type in the files than the config's.

    Raises:
        OSError: a file is missing that the config or the index names.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = Path(folder)
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    changed = any(hasattr(config, name) for name in ("quantization_config", "auto_map"))
    if changed or config.model_type not in HALF_ROTATION or (folder / "adapter_config.json").exists():
        return None
    if not isinstance(config.dtype, torch.dtype):
        return None
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=config.dtype).eval()
    model.tie_weights()  # which transformers 5.0.0 does not do without storage
    weights = _weights(model, _mapped_tensors(folder))
    if weights is None or model._keep_in_fp32_modules or model._keep_in_fp32_modules_strict:
        return None
    model.load_state_dict(weights, assign=True)
    for module in model.modules():
        if isinstance(getattr(module, "inv_freq", None), Tensor):
            module.inv_freq = type(module)(config).inv_freq
    return model


def _mapped_tensors(folder: Path) -> dict[str, Tensor]:
    """Tensors of a model's safetensors files by name, memory-mapped; empty where it has no such files."""
    files, index = {folder / "model.safetensors"}, folder / "model.safetensors.index.json"
    if not (folder / "model.safetensors").is_file():
        weight_map = json.loads(index.read_text())["weight_map"] if index.is_file() else {}
        files = {folder / name for name in weight_map.values()}
    found: dict[str, Tensor] = {}
    for file in sorted(files):
        with safe_open(file, "pt") as opened:
            found |= {name: opened.get_tensor(name) for name in opened.keys()}
    return found


def _weights(model: Any, found: dict[str, Tensor]) -> dict[str, Tensor] | None:
    """A model's state out of its files' tensors; None where it is not all there in the model's shapes and type."""
    state = model.state_dict(keep_vars=True)
    tied: dict[int, list[str]] = {}
    for name, tensor in state.items():
        tied.setdefault(id(tensor), []).append(name)
    out: dict[str, Tensor] = {}
    for names in tied.values():
        stored = [name for name in names if name in found]
        if len(stored) != 1:  # of two, transformers ties only those with equal numbers
            return None
        out |= dict.fromkeys(names, found[stored[0]])
    same = all(out[name].shape == tensor.shape and out[name].dtype == tensor.dtype for name, tensor in state.items())
    return out if same else None


def rope_of(model: Any) -> Rope | None:
    """RoPE to undo before quantising keys, or None where that would not be known to be right.

    None for types that are not in `HALF_ROTATION`, for frequencies that change with the length, and for models whose
    layers do not share one table. Leaving RoPE in costs bits, never correctness.
    """
    config = text_config(model)
    if config.model_type not in HALF_ROTATION or not static_rope(config):
        return None
    tables = [m.inv_freq for m in model.modules() if isinstance(getattr(m, "inv_freq", None), Tensor)]
    if not tables or any(not torch.equal(t, tables[0]) for t in tables):
        return None
    return Rope(tables[0].detach().float().cpu().numpy().astype(np.float32))


def text_config(model: Any) -> Any:
    """The language model's part of the config."""
    return model.config.get_text_config(decoder=True)


def check_full_attention(model: Any) -> None:
    """Refuse, by name, models that cannot be calibrated or measured: what that needs are queries and keys per head.

    Raises:
        Unsupported: sliding-window, linear-attention, latent or otherwise unknown layers.
    """
    config = text_config(model)
    default = "full_attention"
    if getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True):
        default = "sliding_attention"
    elif getattr(config, "attention_chunk_size", None):
        default = "chunked_attention"
    kinds = set(getattr(config, "layer_types", None) or [default]) - {"full_attention"}
    needs = "calibration, evaluation and mode residual need full attention with keys per head"
    if kinds:
        named = ", ".join(f"{_LAYER_TYPES.get(kind, 'other')} ({kind})" for kind in sorted(kinds))
        raise Unsupported(f"{config.model_type} has layers of other kinds: {named}; {needs}")
    if getattr(config, "kv_lora_rank", None):
        raise Unsupported(
            f"{config.model_type} has multi-head latent attention (MLA): its caches can be stored, but {needs}"
        )
