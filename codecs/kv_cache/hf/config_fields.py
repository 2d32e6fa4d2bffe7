"""The fields of a transformers config that shape keys and values, named alike under every version of transformers 5.

A field counts unless it is on the list of those that shape nothing (`_NOTHING`), or has the value that the config's class
gives it by default: a version that adds a field gives it the value that says "as before".
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import Any

_NOTHING = re.compile(
    r"""transformers_version | name | _name_or_path | architectures | auto_map | tokenizer_class | prefix | torchscript
    | _?attn_implementation(_\w+)? | _?experts_implementation(_\w+)? | (torch_)?dtype | use_bfloat16 | use_cache
    | (use_)?return_dict(_\w+)? | output_\w+
    | (\w+_)?(pad|bos|eos|sep|cls|unk|mask|start|decoder_start)_token_ids? | forced_\w+
    | problem_type | finetuning_task | task_specific_params | id2label | label2id | num_labels | classifier_\w+ | summary_\w+
    | tie_\w+ | vocab_size | initializer_\w+ | init_\w+ | \w*_initializer(_\w+)? | rescale_prenorm_residual | mup_init\w*
    | \w*dropout\w* | \w*_pdrop | (\w+_)?drop(_path)?_rate | layerdrop | \w*_loss\w* | \w*aux_loss\w*
    | gradient_checkpointing | use_fused_\w+ | use_mamba_kernels | mamba_use_mem_eff_path | pretraining_tp | pruned_heads
    | is_decoder | is_encoder_decoder | add_cross_attention | cross_attention_hidden_size | chunk_size_feed_forward
    | keys_to_ignore_at_inference | ignore_keys_at_rope_validation | quantization_config | num_nextn_predict_layers
    | max_window_layers | attribute_map | base_model_\w+ | sub_configs | model_parallel | encoder_no_repeat_ngram_size
    | expert_parallel\w* | ep_size | num_(local_)?experts | _\w+""",
    re.VERBOSE,
)
"""Names of fields that change neither keys nor values: training, generation, heads for other tasks, ways to run. A switch
between kernels is one of them, as is the number of predicted tokens; the shapes of the weights tell the vocabulary
and the number of experts, whose name has changed."""
_USUAL = {"position_embedding_type": "rope", "rms_norm": True}
"""Values that some versions have by default and others do not."""
_MOVED = ("rope_theta", "partial_rotary_factor", "rope_scaling", "rope_local_base_freq")
"""Fields that transformers has moved into ``rope_parameters``."""
_USUAL_ROPE = {"rope_type": "default", "rope_theta": 10000, "partial_rotary_factor": 1}
"""What a config without these fields has."""
_LENGTH_FREE = frozenset(("default", "linear", "llama3", "proportional"))
"""RoPE types that do not look at ``max_position_embeddings``."""


def config_fields(config: Any) -> dict[str, str]:
    """Fields by dotted name, values as JSON, without those of no account.

    Args:
        config: a transformers config, with configs in it.
    """
    found, usual = _flat(config.to_dict()), _defaults(config.__class__)
    fields = {name: value for name, value in found.items() if usual.get(name) != value}
    return {"model_type": json.dumps(config.model_type), **dict(sorted(fields.items()))}


@lru_cache(maxsize=64)
def _defaults(kind: type) -> dict[str, str]:
    """What a config of this class has where nothing is given; nothing where it cannot be made without."""
    try:
        return _flat(kind().to_dict())
    except Exception:  # noqa: BLE001 a class of another library may raise anything; its fields then all count
        return {}


def _flat(config: dict[str, Any], at: str = "") -> dict[str, str]:
    """Leaves by dotted name, as JSON; those that are None, or of no account, are left out."""
    out: dict[str, str] = {}
    for name, value in (_with_rope(config) if "rope_parameters" in config else config).items():
        if value is None or _NOTHING.fullmatch(str(name)) or _USUAL.get(name) == value:
            continue
        if isinstance(value, dict):
            out |= _flat(value, f"{at}{name}.")
        elif not (name == "layer_types" and len(set(value)) == 1):  # some versions write such a list, others do not
            out[f"{at}{name}"] = json.dumps(_number(value), sort_keys=True, default=str)
    return out


def _with_rope(config: dict[str, Any]) -> dict[str, Any]:
    """A config whose fields of RoPE are all in ``rope_parameters``, and no length where RoPE does not look at it."""
    rope = dict(config["rope_parameters"] or {})
    by_layer_type = any(isinstance(value, dict) for value in rope.values())
    for name in _MOVED[:2]:
        if not by_layer_type and name not in rope and config.get(name) is not None:
            rope[name] = config[name]
    rope = {name: value for name, value in rope.items() if not (name in _USUAL_ROPE and value == _USUAL_ROPE[name])}
    others = {name: value for name, value in config.items() if name not in _MOVED}
    kinds = [
        part.get("rope_type", "default") for part in (rope.values() if by_layer_type else [rope]) if isinstance(part, dict)
    ]
    if _LENGTH_FREE.issuperset(kinds):
        others.pop("max_position_embeddings", None)
    return {**others, "rope_parameters": rope}


def _number(value: Any) -> Any:
    """5000000.0 and 5000000 are one value, in lists as well."""
    if isinstance(value, (list, tuple)):
        return [_number(x) for x in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
