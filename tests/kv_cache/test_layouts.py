"""Layouts of caches and models: which fit each other, and which are refused by name."""

from __future__ import annotations

import pytest
import torch

transformers = pytest.importorskip("transformers", reason="needs the extra 'kv'")
from model_cases import latent_decoder, prefilled, prompt, tiny
from rdcodec.codecs.kv_cache import KvSettings, calibrate, fingerprint, load_cache, save_cache
from rdcodec.codecs.kv_cache.evaluation import fidelity as evaluate
from rdcodec.codecs.kv_cache.hf import model, residual
from rdcodec.codecs.kv_cache.hf.inputs import as_layers
from rdcodec.codecs.kv_store import PrefixStore
from rdcodec.codecs.kv_store.backends import open_backend
from rdcodec.codecs.text.cache_argument import cache_argument
from rdcodec.entropy_models.errors import Mismatch, Unsupported


def changed_cache(cache, change):
    return [change(layer.keys[0], layer.values[0]) for layer in cache.layers]


MISFITS = [
    (lambda k, v: (k.half(), v.half()), "element type float16", "element type float32"),
    (lambda k, v: (k[:1], v[:1]), "kv heads 1", "kv heads 2"),
    (lambda k, v: (k[..., :8], v), "head_dim 8", "head_dim 16"),
    (lambda k, v: (k, v[..., :8]), "width of values 8", "width of values 16"),
]


@pytest.mark.parametrize(("change", "found", "expected"), MISFITS, ids=[found for _, found, _ in MISFITS])
@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_a_cache_that_does_not_fit_the_model_is_refused(tmp_path, kind, change, found, expected):
    decoder, ids, path = tiny(kind), prompt(20), tmp_path / "a.rdc"
    wrong = changed_cache(prefilled(decoder, ids), change)
    with pytest.raises(Unsupported, match=rf"the cache has {found}; the model \({kind}\) has {expected}$"):
        save_cache(wrong, ids, path, decoder)
    assert not path.exists()
    save_cache(wrong, ids, path)  # without a model there is nothing to compare with, nor a fingerprint
    with pytest.raises(Unsupported, match=rf"a\.rdc has {found}; the model \({kind}\) has {expected}$"):
        load_cache(path, decoder)
    assert load_cache(path).get_seq_length() == 20


def test_a_cache_of_other_layers_is_refused_and_one_without_fingerprint_loads_where_it_fits(tmp_path):
    decoder, ids, path = tiny(), prompt(20), tmp_path / "a.rdc"
    layers = changed_cache(prefilled(decoder, ids), lambda k, v: (k, v))
    with pytest.raises(Unsupported, match=r"the cache has layers 2; the model \(llama\) has layers 3"):
        save_cache(layers[:2], ids, path, decoder)
    save_cache(layers[:2], ids, path)
    with pytest.raises(Unsupported, match=r"has layers 2; the model \(llama\) has layers 3"):
        load_cache(path, decoder)
    save_cache(layers, ids, path)
    assert load_cache(path, tiny(seed=1)).get_seq_length() == 20


def test_of_latent_attention_layers_and_type_are_checked(tmp_path):
    decoder, ids = latent_decoder(), prompt(20)
    cache = prefilled(decoder, ids)
    with pytest.raises(Unsupported, match=r"the cache has element type float16; the model \(deepseek_v3\) has"):
        save_cache(changed_cache(cache, lambda k, v: (k.half(), v.half())), ids, tmp_path / "a.rdc", decoder)
    with pytest.raises(Unsupported, match="has layers 2; the model"):
        save_cache(changed_cache(cache, lambda k, v: (k, v))[:2], ids, tmp_path / "a.rdc", decoder)


def test_a_model_that_turns_its_keys_otherwise_is_refused(tmp_path):
    """Converted along with the weights from float32, frequencies lose digits; the fingerprint does not tell."""
    decoder, ids = tiny(), prompt()
    save_cache(prefilled(decoder, ids), ids, tmp_path / "c.rdc", model=decoder, settings=KvSettings(mode="lossless"))
    before, frequencies = fingerprint(decoder), decoder.model.rotary_emb.inv_freq
    for same in (frequencies.clone(), torch.nextafter(frequencies, 2 * frequencies)):
        frequencies.copy_(same)
        assert load_cache(tmp_path / "c.rdc", decoder).get_seq_length() == ids.shape[1]
    frequencies.copy_(frequencies.bfloat16())
    assert fingerprint(decoder) == before
    with pytest.raises(Mismatch, match=r"c.rdc has keys of other RoPE frequencies .* Load with dtype=torch.float32"):
        load_cache(tmp_path / "c.rdc", decoder)


def test_tensors_of_a_window_are_not_taken_for_those_of_every_position(tmp_path):
    decoder, ids = tiny("mistral", sliding_window=16), prompt(40)
    with torch.no_grad():
        cache = transformers.DynamicCache(config=decoder.config)
        decoder(ids, **cache_argument(decoder, cache))
    with pytest.raises(Unsupported, match=r"mistral has .*: sliding-window \(sliding_attention\); calibration"):
        model.check_full_attention(decoder)
    tensors = [(layer.keys[0], layer.values[0]) for layer in cache.layers]
    with pytest.raises(ValueError, match="40 token ids for a cache of 15 tokens; .*sliding-window layers"):
        save_cache(tensors, ids, tmp_path / "a.rdc")  # else the last positions would pass for the first
    with pytest.raises(ValueError, match=r"keys of layer 0 hold 15 positions for 40 tokens; is it a sliding-window"):
        as_layers([tensors[0], *((k.repeat(1, 3, 1)[:, :40], v.repeat(1, 3, 1)[:, :40]) for k, v in tensors[1:])])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("DynamicSlidingWindowLayer", "layer 0 is a sliding-window layer with 3 of 5 positions"),
        ("LinearAttentionLayer", r"layer 0 is a linear-attention or state-space \(SSM\) layer \(LinearAttentionLayer\)"),
        ("DummyLayer", r"layer 0 is a shared or unknown layer \(DummyLayer\)"),
    ],
)
def test_layers_without_every_position_are_refused_by_a_store_by_name(tmp_path, kind, message):
    layers = transformers.cache_utils
    if not hasattr(layers, kind):
        pytest.skip(f"this transformers has no {kind}")
    window = kind == "DynamicSlidingWindowLayer"
    cache, keys = transformers.DynamicCache(), torch.zeros(1, 2, 5, 16)
    cache.layers = [getattr(layers, kind)(**({"sliding_window": 4} if window else {})), layers.DynamicLayer()]
    for layer in cache.layers[0 if window else 1 :]:
        layer.update(keys, keys)
    store = PrefixStore(open_backend(str(tmp_path / "store")), fingerprint=bytes(16))
    with pytest.raises(Unsupported, match=message + ".*supported are keys and values of every position"):
        store.put(range(5), cache)
    assert store.longest_prefix(range(5)) == 0


def test_caches_that_are_none_to_keep_are_refused_by_name(tmp_path):
    empty = transformers.DynamicCache()
    for cache, message in (
        (transformers.EncoderDecoderCache(empty, empty), "EncoderDecoderCache is an encoder-decoder cache"),
        (empty, "the cache has no layers"),
        (transformers.DynamicCache(config=tiny().config), "the cache is empty"),
    ):
        with pytest.raises(Unsupported, match=message):
            save_cache(cache, range(5), tmp_path / "a.rdc")
    assert not (tmp_path / "a.rdc").exists()


def test_what_is_no_cache_is_named(tmp_path):
    for cache, message in (
        (object(), "a cache of type object; need a transformers Cache"),
        ([(torch.zeros(2, 5, 4),) * 3], r"layers of \[3\] tensors; need 2"),
        (None, "no cache to save"),
        ([(torch.zeros(1, 5, 72), torch.zeros(1, 5, 0))], r"width 0; of multi-head latent attention \(MLA\) give"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            save_cache(cache, range(5), tmp_path / "a.rdc")


def test_what_latent_attention_cannot_do_is_refused_by_name():
    decoder, contexts = latent_decoder(), torch.zeros(2, 100, dtype=torch.long)
    for use in (
        lambda: calibrate(decoder, contexts),
        lambda: evaluate.Evaluation(decoder, contexts, []),
        lambda: residual.capture(decoder, contexts[0]),
    ):
        with pytest.raises(Unsupported, match=r"deepseek_v3 has multi-head latent attention \(MLA\): its caches can be"):
            use()
