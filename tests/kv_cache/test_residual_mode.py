"""Mode residual: the inputs of layers are kept, and the model projects them."""

from __future__ import annotations

import pytest
import torch

transformers = pytest.importorskip("transformers", reason="needs the extra 'kv'")
from model_cases import VOCABULARY, prefilled, prompt, tiny
from rdcodec.codecs.kv_cache import KvSettings, load_cache, save_cache
from rdcodec.codecs.kv_cache.hf import residual
from rdcodec.entropy_models.errors import Unsupported


def test_residual_mode_projects(tmp_path):
    decoder, ids = tiny(num_key_value_heads=4), prompt(50)
    cache = prefilled(decoder, ids)
    inputs = residual.capture(decoder, ids[0])
    for layer, (keys, values) in zip(cache.layers, residual.project(decoder, inputs, 0), strict=True):
        assert torch.allclose(layer.keys[0], keys, atol=1e-5) and torch.allclose(layer.values[0], values, atol=1e-5)
    sizes = {}
    for mode in ("residual", "quantized"):
        sizes[mode] = save_cache(cache, ids, tmp_path / mode, decoder, settings=KvSettings(mode=mode, quality=80))
        loaded = load_cache(tmp_path / mode, decoder)
        assert float((loaded.layers[1].keys - cache.layers[1].keys).norm() / cache.layers[1].keys.norm()) < 0.03
    assert sizes["residual"] < 0.7 * sizes["quantized"]
    with pytest.raises(Unsupported, match="give the model that projects them"):
        load_cache(tmp_path / "residual")


@pytest.mark.parametrize("block_tokens", [16, 256])
def test_residual_mode_with_heads_wider_than_the_model_is_read_again(tmp_path, block_tokens):
    decoder, ids = tiny(head_dim=96), prompt(50)
    cache = prefilled(decoder, ids)
    settings = KvSettings(mode="residual", quality=80, block_tokens=block_tokens)
    save_cache(cache, ids, tmp_path / "a.rdc", decoder, settings=settings)
    loaded = load_cache(tmp_path / "a.rdc", decoder)
    for a, b in zip(cache.layers, loaded.layers, strict=True):
        assert float((a.keys - b.keys).norm() / a.keys.norm()) < 0.03


def test_residual_mode_is_refused_where_the_inputs_do_not_give_the_cache_back(tmp_path):
    """RoPE that pairs neighbouring channels, norms over all heads at once, another prompt."""
    shape = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    shape |= {"num_key_value_heads": 4, "vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": None}
    settings, ids = KvSettings(mode="residual"), prompt(20)
    for kind, message in (("Cohere", "keys of layer 0 back with a relative error of 0"), ("Olmoe", "cannot project")):
        config = getattr(transformers, f"{kind}Config")(**shape, pad_token_id=None)
        decoder = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
        with pytest.raises(Unsupported, match=f"mode residual .*{message}.*{kind}ForCausalLM .*; use quantized"):
            save_cache(prefilled(decoder, ids), ids, tmp_path / "a.rdc", decoder, settings=settings)
    decoder = tiny(num_key_value_heads=4)
    with pytest.raises(Unsupported, match="did not make this cache of these tokens"):
        save_cache(prefilled(decoder, ids), ids.flip(1), tmp_path / "a.rdc", decoder, settings=settings)
    assert not list(tmp_path.iterdir())


def test_residual_mode_is_refused_where_it_is_larger(tmp_path):
    decoder, ids = tiny(), prompt(20)
    with pytest.raises(Unsupported, match=r"would store 64 numbers .* for 64 of keys and values"):
        save_cache(prefilled(decoder, ids), ids, tmp_path / "a", decoder, settings=KvSettings(mode="residual"))
