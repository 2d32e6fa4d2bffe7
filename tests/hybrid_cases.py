"""Tiny transformers decoders with sliding windows and recurrent states, and their own caches. No tests here."""

from __future__ import annotations

import pytest
import torch

transformers = pytest.importorskip("transformers", reason="needs the extra 'kv'")
from model_cases import VOCABULARY
from rdcodec.codecs.text.cache_argument import cache_argument

MOE = {"num_experts_per_tok": 2, "moe_intermediate_size": 32}
LINEAR = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 16, "linear_value_head_dim": 16}
HYBRIDS = {
    "mistral": {"sliding_window": 16},
    "gemma2": {"sliding_window": 16},
    "gemma3_text": {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"] * 2},
    "phi3": {"sliding_window": 16},
    "gpt_oss": {"sliding_window": 16, "num_local_experts": 4, "num_experts_per_tok": 2},
    "llama4_text": {"attention_chunk_size": 16, "num_local_experts": 2, "intermediate_size_mlp": 96},
    "olmo3": {"sliding_window": 16},
    "qwen3_next": {**LINEAR, **MOE, "num_experts": 4, "shared_expert_intermediate_size": 32},
    "jamba": {"num_experts": 2, "mamba_d_state": 8, "attn_layer_period": 2, "attn_layer_offset": 1, "mamba_dt_rank": 8},
    "falcon_h1": {"mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 16, "mamba_n_groups": 1},
    "mamba2": {"num_heads": 8, "state_size": 16, "head_dim": 16, "n_groups": 1, "expand": 2},
    "lfm2": {"layer_types": ["conv", "full_attention"] * 2},
}
HAS_STATES = hasattr(transformers.cache_utils, "LinearAttentionLayer")
"""Whether caches of this transformers hold recurrent states; before, models had cache classes of their own for them."""
with_states = pytest.mark.skipif(not HAS_STATES, reason="this transformers has no layers of recurrent states")
if not HAS_STATES:
    HYBRIDS = {kind: options for kind, options in HYBRIDS.items() if "sliding_window" in options or kind == "llama4_text"}


def hybrid(kind: str):
    """A tiny decoder with layers of its kind, four of them."""
    shape = {
        "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 512,
        "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": None,
    }  # fmt: skip
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **{**shape, **HYBRIDS.get(kind, {})})
    return transformers.AutoModelForCausalLM.from_config(config).eval()


@torch.no_grad()
def own_cache(model, ids):
    cache = transformers.DynamicCache(config=model.config)
    model(ids, use_cache=True, **cache_argument(model, cache))
    return cache


@torch.no_grad()
def logits(model, ids, cache):
    return model(ids, use_cache=True, **cache_argument(model, cache)).logits
