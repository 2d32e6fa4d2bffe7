"""Caches of transformers models, saved and gone on with: tiny, randomly initialised, offline."""

from __future__ import annotations

import pytest
import torch

transformers = pytest.importorskip("transformers", reason="needs the extra 'kv'")
from model_cases import VOCABULARY, go_on, latent_decoder, prefilled, prompt, tiny
from rdcodec.codecs.kv_cache import KvSettings, load_cache, save_cache
from rdcodec.codecs.kv_cache.hf import model


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_lossless_cache_continues_exactly(tmp_path, kind, dtype):
    decoder, ids = tiny(kind, dtype=dtype), prompt()
    cache = prefilled(decoder, ids)
    size = save_cache(cache, ids, tmp_path / "a.rdc", decoder, settings=KvSettings(mode="lossless", block_tokens=32))
    assert size == (tmp_path / "a.rdc").stat().st_size
    loaded = load_cache(tmp_path / "a.rdc", decoder)
    assert isinstance(loaded, transformers.DynamicCache) and loaded.get_seq_length() == ids.shape[1]
    for a, b in zip(cache.layers, loaded.layers, strict=True):
        assert torch.equal(a.keys, b.keys) and torch.equal(a.values, b.values)
    assert go_on(decoder, loaded, ids) == go_on(decoder, cache, ids)


@pytest.mark.parametrize("mode", ["quantized", "fp8", "turboquant"])
def test_lossy_cache_goes_on(tmp_path, mode):
    decoder, ids = tiny(), prompt()
    cache = prefilled(decoder, ids)
    save_cache(cache, ids, tmp_path / "a.rdc", decoder, settings=KvSettings(mode=mode))
    loaded = load_cache(tmp_path / "a.rdc", decoder)
    error = float((loaded.layers[1].keys - cache.layers[1].keys).norm() / cache.layers[1].keys.norm())
    assert 0 < error < 0.15
    assert len(go_on(decoder, loaded, ids)) == ids.shape[1] + 13


def test_prefix_by_length_and_by_tokens(tmp_path):
    decoder, ids = tiny(), prompt()
    cache = prefilled(decoder, ids)
    settings = KvSettings(mode="lossless", block_tokens=32)
    save_cache(cache, ids, tmp_path / "a.rdc", decoder, settings=settings)
    part = load_cache(tmp_path / "a.rdc", decoder, prefix=40)
    assert part.get_seq_length() == 40
    assert torch.equal(part.layers[2].values, cache.layers[2].values[:, :, :40])
    other = ids.clone()
    other[0, 70] = (other[0, 70] + 1) % VOCABULARY
    assert load_cache(tmp_path / "a.rdc", decoder, tokens=other).get_seq_length() == 70
    longer = torch.cat([ids, ids], 1)
    assert load_cache(tmp_path / "a.rdc", decoder, tokens=longer).get_seq_length() == ids.shape[1]


def test_prefixes_below_one_and_salts_of_text_are_refused(tmp_path):
    decoder, ids, path = tiny(), prompt(20), tmp_path / "a.rdc"
    cache = prefilled(decoder, ids)
    save_cache(cache, ids, path, decoder)
    for prefix in (0, -1):
        with pytest.raises(ValueError, match=rf"a prefix of {prefix} tokens; need at least 1"):
            load_cache(path, decoder, prefix=prefix)
    for use in (lambda: load_cache(path, decoder, salt="x"), lambda: save_cache(cache, ids, path, decoder, salt="x")):
        with pytest.raises(TypeError, match="a salt of type str; need bytes"):
            use()


def test_ids_beyond_the_cache_are_refused_but_for_the_last_of_generation(tmp_path):
    decoder, ids, path = tiny(), prompt(40), tmp_path / "a.rdc"
    cache = prefilled(decoder, ids[:, :38])
    with pytest.raises(ValueError, match="40 token ids for a cache of 38 tokens; need one for each. Is it of"):
        save_cache(cache, ids, path, decoder)
    save_cache(cache, ids[:, :39], path, decoder)
    assert load_cache(path, decoder).get_seq_length() == 38


def test_latent_attention_is_stored_and_goes_on(tmp_path):
    """Keys and values of different widths: in transformers 5.23 the latent and the turned channels."""
    decoder, ids = latent_decoder(), prompt()
    cache = prefilled(decoder, ids)
    assert cache.layers[0].keys.shape[-1] != cache.layers[0].values.shape[-1]
    for mode, bound in (("lossless", 0), ("quantized", 0.15), ("fp8", 0.15)):
        save_cache(cache, ids, tmp_path / mode, decoder, settings=KvSettings(mode=mode, block_tokens=32))
        loaded = load_cache(tmp_path / mode, decoder)
        for a, b in zip(cache.layers, loaded.layers, strict=True):
            for x, y in ((a.keys, b.keys), (a.values, b.values)):
                assert x.shape == y.shape and float((x - y).norm()) <= bound * float(x.norm())
        assert len(go_on(decoder, loaded, ids)) == ids.shape[1] + 13
    whole = load_cache(tmp_path / "lossless", decoder)
    assert go_on(decoder, whole, ids) == go_on(decoder, prefilled(decoder, ids), ids)


def test_rope_is_undone_only_where_that_is_known_to_be_right():
    frequencies = model.rope_of(tiny()).frequencies
    assert frequencies.shape == (8,) and frequencies[0] == 1
    scaled = tiny(rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0})
    assert model.rope_of(scaled) is None
    decoder, ids = tiny(), prompt(50)
    keys = prefilled(decoder, ids).layers[0].keys[0]
    with torch.no_grad():
        layer = decoder.model.layers[0]
        h = layer.input_layernorm(decoder.model.embed_tokens(ids))
        plain = layer.self_attn.k_proj(h)[0].view(50, 2, 16).permute(1, 2, 0)
    undone = model.rope_of(decoder).turned(keys.transpose(1, 2).contiguous(), 0, -1.0)
    assert torch.allclose(undone, plain, atol=1e-5)
