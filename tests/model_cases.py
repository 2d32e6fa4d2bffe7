"""Tiny transformers decoders that several tests use: randomly initialised, offline. No tests here."""

from __future__ import annotations

import pytest
import torch

transformers = pytest.importorskip("transformers", reason="needs the extra 'kv'")
from rdcodec.codecs.text.cache_argument import cache_argument

VOCABULARY = 97


def tiny(kind: str = "llama", seed: int = 0, dtype: torch.dtype = torch.float32, **options):
    """A decoder of 3 layers, 4 heads of width 16, 2 of them for keys and values."""
    shape = {
        "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16, "vocab_size": VOCABULARY, "max_position_embeddings": 512,
        "bos_token_id": 0, "eos_token_id": None, "pad_token_id": None,
    }  # fmt: skip
    classes = {
        "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
        "qwen3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM),
        "mistral": (transformers.MistralConfig, transformers.MistralForCausalLM),
    }
    config, build = classes[kind]
    torch.manual_seed(seed)
    return build(config(**{**shape, **options})).eval().to(dtype)


def prompt(n: int = 90) -> torch.Tensor:
    return torch.randint(0, VOCABULARY, (1, n), generator=torch.Generator().manual_seed(5))


@torch.no_grad()
def prefilled(decoder, ids: torch.Tensor):
    cache = transformers.DynamicCache()
    decoder(ids, use_cache=True, **cache_argument(decoder, cache))
    return cache


def go_on(decoder, cache, ids: torch.Tensor) -> list[int]:
    more = torch.cat([ids, torch.tensor([[3]])], 1)
    return decoder.generate(more, **cache_argument(decoder, cache), max_new_tokens=12, do_sample=False)[0].tolist()


def latent_decoder():
    """Multi-head latent attention: one head of 24 latent channels, and 8 that RoPE turns."""
    config = transformers.DeepseekV3Config(
        hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=4,
        vocab_size=VOCABULARY, q_lora_rank=16, kv_lora_rank=24, qk_rope_head_dim=8, qk_nope_head_dim=16, v_head_dim=16,
        first_k_dense_replace=3, n_routed_experts=2, max_position_embeddings=512, bos_token_id=0, eos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    return transformers.DeepseekV3ForCausalLM(config).eval()


def seeing():
    """A LLaVA of a tiny Llama; 16 placeholders a picture of 56x56."""
    config = transformers.LlavaConfig(
        text_config=tiny().config, image_token_index=95, image_seq_length=16,
        vision_config=transformers.CLIPVisionConfig(
            hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=56, patch_size=14,
        ),
    )  # fmt: skip
    torch.manual_seed(0)
    return transformers.LlavaForConditionalGeneration(config).eval()
