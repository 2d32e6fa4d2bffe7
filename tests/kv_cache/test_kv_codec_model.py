"""The cache codec on transformers models: tiny, randomly initialised, offline."""

from __future__ import annotations

import math
import shutil

import numpy as np
import pytest
import torch

transformers = pytest.importorskip("transformers", reason="needs the extra 'kv'")

from rdcodec.codecs.kv_cache import KvSettings, calibrate, commands, load_cache, save_cache
from rdcodec.codecs.kv_cache.evaluation import fidelity as evaluate
from rdcodec.codecs.kv_cache.format import sequence
from rdcodec.codecs.kv_cache.hf import model, residual
from rdcodec.codecs.kv_cache.splice import layers_of
from rdcodec.codecs.kv_store import PrefixStore
from rdcodec.codecs.kv_store.backends import open_backend
from rdcodec.codecs.text import token_model as tokens
from rdcodec.entropy_models.errors import BitstreamError, Mismatch, Unsupported
from safetensors.torch import load_file, save_file

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
    return decoder(ids, past_key_values=transformers.DynamicCache(), use_cache=True).past_key_values


def go_on(decoder, cache, ids: torch.Tensor) -> list[int]:
    more = torch.cat([ids, torch.tensor([[3]])], 1)
    return decoder.generate(more, past_key_values=cache, max_new_tokens=12, do_sample=False)[0].tolist()


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_lossless_cache_continues_exactly(tmp_path, kind, dtype):
    decoder, ids = tiny(kind, dtype=dtype), prompt()
    cache = prefilled(decoder, ids)
    size = save_cache(cache, ids, tmp_path / "a.rdc", decoder, settings=KvSettings(mode="lossless", block_tokens=32))
    assert size == (tmp_path / "a.rdc").stat().st_size
    loaded = load_cache(tmp_path / "a.rdc", decoder)
    assert type(loaded) is transformers.DynamicCache and loaded.get_seq_length() == ids.shape[1]
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


def test_wrong_model_salt_and_damage_are_named(tmp_path):
    decoder, ids = tiny(), prompt(40)
    path = tmp_path / "a.rdc"
    save_cache(prefilled(decoder, ids), ids, path, decoder, salt=b"a")
    with pytest.raises(Unsupported, match=r"a\.rdc is of model [0-9a-f]{32}, this one is"):
        load_cache(path, tiny(seed=1), salt=b"a")
    with pytest.raises(Unsupported, match="another salt"):
        load_cache(path, decoder, salt=b"b")
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(BitstreamError):
        load_cache(path, decoder, salt=b"a")
    with pytest.raises(ValueError, match="39 token ids for a cache of 40 tokens"):
        save_cache(prefilled(decoder, ids), ids[:, :39], path, decoder)


def test_the_likely_cause_of_another_fingerprint_is_named(tmp_path):
    decoder, ids, path = tiny(), prompt(20), tmp_path / "a.rdc"
    save_cache(prefilled(decoder, ids), ids, path, decoder)
    short = tiny(num_hidden_layers=2)
    for other, message in (
        (tiny(dtype=torch.bfloat16), "it was made with float32, this model is bfloat16"),  # bfloat16 lost what float32 had
        (tiny(num_key_value_heads=4), "it has kv heads 2; this model has kv heads 4"),
        (short.to(torch.bfloat16), "it has element type float32, layers 3; this model has element type bfloat16, layers 2"),
        (tiny(rope_parameters={"rope_type": "default", "rope_theta": 5e4}), r"its RoPE frequencies are others \(rope_theta"),
        (tiny(seed=1), "layers, heads, widths and element type agree, so other weights"),
    ):
        with pytest.raises(Unsupported, match=f"this one is [0-9a-f]{{32}}: {message}"):
            load_cache(path, other)
    data = bytearray(path.read_bytes())
    data[sequence.parse_sequence(bytes(data))[0].entries[0].offset + 50] ^= 1
    path.write_bytes(data)
    with pytest.raises(Unsupported, match="other weights, another config, or another element type"):
        load_cache(path, tiny(seed=1))


@pytest.mark.parametrize("mode", ["lossless", "tokens"])
def test_the_same_weights_in_another_type_are_recognised(tmp_path, mode):
    half, ids, path = tiny(dtype=torch.bfloat16), prompt(20), tmp_path / "a.rdc"
    save_cache(prefilled(half, ids), ids, path, half, settings=KvSettings(mode=mode))
    message = "it was made with this model in {}, here it is {}; load it with dtype=torch"
    with pytest.raises(Unsupported, match=message.format("bfloat16", "float32")):
        load_cache(path, tiny())
    same = tiny(dtype=torch.bfloat16).float()  # of a bfloat16 checkpoint
    save_cache(prefilled(same, ids), ids, path, same, settings=KvSettings(mode=mode))
    with pytest.raises(Unsupported, match=message.format("float32", "bfloat16")):
        load_cache(path, half)
    if mode == "tokens":
        with pytest.raises(Unsupported, match="other weights, another config, or another element type"):
            load_cache(path, tiny(seed=1))


def test_a_store_without_this_model_says_what_it_holds(tmp_path):
    from rdcodec.codecs.kv_store.commands.main import app
    from typer.testing import CliRunner

    decoder, ids = tiny(dtype=torch.bfloat16), prompt(20)
    decoder.save_pretrained(tmp_path / "model")
    decoder.float().save_pretrained(tmp_path / "wide")
    store = PrefixStore(open_backend(tmp_path / "store"), fingerprint=model.fingerprint(decoder))
    store.put(ids, prefilled(decoder, ids))
    (tmp_path / "ids").write_text(" ".join(map(str, ids[0].tolist())))

    def said(*options):
        known = ["--tokens", tmp_path / "ids", "-o", tmp_path / "o.safetensors"]
        done = CliRunner().invoke(app, ["get", *map(str, [tmp_path / "store", *known, *options])])
        assert done.exit_code == 1 and done.stderr.count("\n") == 1 and not (tmp_path / "o.safetensors").exists()
        return done.stderr

    start = "no beginning of the 20 tokens is stored for this model and tenant; "
    assert f"{start}what the store holds is of model" in said("--model", tmp_path / "model")
    other = "it was made with this model in float32, here it is bfloat16; give --dtype float32"
    assert other in said("--model", tmp_path / "model")
    command = ["transcode", tmp_path / "store", "--mode", "fp8", "--model", tmp_path / "model"]
    assert CliRunner().invoke(app, [*map(str, command)]).exit_code == 1
    assert CliRunner().invoke(app, [*map(str, command), "--dtype", "float32"]).exit_code == 0
    narrow = PrefixStore(open_backend(tmp_path / "narrow"), fingerprint=model.fingerprint(decoder, "bfloat16"))
    narrow.put(ids, prefilled(decoder.bfloat16(), ids))
    shutil.rmtree(tmp_path / "store")
    (tmp_path / "narrow").rename(tmp_path / "store")
    other = "it was made with this model in bfloat16, here it is float32; give --dtype bfloat16"
    assert other in said("--model", tmp_path / "model", "--dtype", "float32")
    assert f"{start}what the store holds is of model" in said("--fingerprint", "00" * 16)
    other = {"fingerprint": bytes(16), "settings": KvSettings(mode="lossless")}
    PrefixStore(open_backend(tmp_path / "store"), **other).put(ids, prefilled(decoder, ids))
    assert f"{start}the store holds caches of 2 other models" in said("--fingerprint", "11" * 16)
    assert f"{start}this model's caches are there under another salt" in said("--fingerprint", "00" * 16, "--salt", "x")
    (tmp_path / "ids").write_text("96 96")
    assert said("--fingerprint", "00" * 16).endswith("; caches of 1 other models or element types (--dtype) are there\n")


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
    before, frequencies = model.fingerprint(decoder), decoder.model.rotary_emb.inv_freq
    for same in (frequencies.clone(), torch.nextafter(frequencies, 2 * frequencies)):
        frequencies.copy_(same)
        assert load_cache(tmp_path / "c.rdc", decoder).get_seq_length() == ids.shape[1]
    frequencies.copy_(frequencies.bfloat16())
    assert model.fingerprint(decoder) == before
    with pytest.raises(Mismatch, match=r"c.rdc has keys of other RoPE frequencies .* Load with dtype=torch.float32"):
        load_cache(tmp_path / "c.rdc", decoder)


def test_ids_beyond_the_cache_are_refused_but_for_the_last_of_generation(tmp_path):
    decoder, ids, path = tiny(), prompt(40), tmp_path / "a.rdc"
    cache = prefilled(decoder, ids[:, :38])
    with pytest.raises(ValueError, match="40 token ids for a cache of 38 tokens; need one for each. Is it of"):
        save_cache(cache, ids, path, decoder)
    save_cache(cache, ids[:, :39], path, decoder)
    assert load_cache(path, decoder).get_seq_length() == 38


def test_fingerprint_sees_weights_and_config():
    names = {model.fingerprint(d) for d in (tiny(), tiny(seed=1), tiny(rms_norm_eps=1e-3), tiny("qwen3"))}
    assert len(names) == 4 and model.fingerprint(tiny()) in names
    changed = tiny()
    with torch.no_grad():
        changed.model.layers[2].mlp.down_proj.weight[0, 0] += 1
    assert model.fingerprint(changed) not in names


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_identity_is_that_of_the_loaded_model_and_no_weights_are_loaded(tmp_path, monkeypatch, dtype, tied):
    """One file and shards; names of the same folder's model in another type as well."""
    tiny(dtype=dtype, tie_word_embeddings=tied).save_pretrained(tmp_path, max_shard_size="50kB" if tied else "1GB")
    assert (tmp_path / "model.safetensors.index.json").exists() == tied
    loaded = model.load_model(tmp_path)
    expected = [model.fingerprint(loaded, name) for name in (None, "float16")]
    monkeypatch.setattr(transformers.PreTrainedModel, "from_pretrained", None)
    found = [commands.identity_of(str(tmp_path), dtype=name) for name in (None, "float16")]
    assert [name for name, _ in found] == expected
    assert np.array_equal(found[0][1].frequencies, model.rope_of(loaded).frequencies)


def test_models_whose_files_do_not_tell_all_are_loaded(tmp_path):
    """Weights in another type than the config's, weights under two names, and weights that are missing."""
    decoder = tiny(tie_word_embeddings=True)
    decoder.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    kept = load_file(file)
    head = {"lm_head.weight": kept["model.embed_tokens.weight"].clone()}
    few = {name: x for name, x in kept.items() if name != "model.norm.weight"}
    for tensors in ({name: x.bfloat16() for name, x in kept.items()}, kept | head, few):
        save_file(tensors, file, {"format": "pt"})
        assert model.mapped_model(tmp_path) is None
    save_file(kept | head, file, {"format": "pt"})
    assert commands.identity_of(str(tmp_path))[0] == model.fingerprint(model.load_model(tmp_path))
    file.unlink()
    assert model.mapped_model(tmp_path) is None


def test_sliding_window_is_refused_by_name(tmp_path):
    decoder, ids = tiny("mistral", sliding_window=16), prompt(40)
    with torch.no_grad():
        cache = decoder(ids, past_key_values=transformers.DynamicCache(config=decoder.config)).past_key_values
    with pytest.raises(Unsupported, match=r"layer 0 is a sliding-window layer.*supported are keys and values of every"):
        save_cache(cache, ids, tmp_path / "a.rdc", decoder)
    for check in (model.check_model, lambda d: save_cache(prefilled(d, ids), ids, tmp_path / "a.rdc", d)):
        with pytest.raises(Unsupported, match=r"mistral has .*: sliding-window \(sliding_attention\); supported are"):
            check(decoder)  # what load_cache would refuse is not saved either
    tensors = [(layer.keys[0], layer.values[0]) for layer in cache.layers]
    with pytest.raises(ValueError, match="40 token ids for a cache of 15 tokens; .*sliding-window layers"):
        save_cache(tensors, ids, tmp_path / "a.rdc")  # else the last positions would pass for the first
    with pytest.raises(ValueError, match=r"keys of layer 0 hold 15 positions for 40 tokens; is it a sliding-window"):
        layers_of([tensors[0], *((k.repeat(1, 3, 1)[:, :40], v.repeat(1, 3, 1)[:, :40]) for k, v in tensors[1:])])
    assert not list(tmp_path.iterdir())


def cache_for(kind: str):
    """An empty cache with the layers of a config."""
    options = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    types = ["full_attention", kind]
    window = {"use_sliding_window": True, "sliding_window": 512, "layer_types": ["full_attention", "sliding_attention"]}
    if kind == "encoder-decoder":
        return transformers.EncoderDecoderCache(transformers.DynamicCache(), transformers.DynamicCache())
    if kind.startswith("static"):
        options |= window if kind == "static sliding" else {}
        return transformers.StaticCache(config=transformers.Qwen3Config(**options), max_cache_len=64)
    if kind == "sliding_attention":
        return transformers.DynamicCache(config=transformers.Qwen3Config(**options, **window))
    if kind == "chunked_attention":
        return transformers.DynamicCache(
            config=transformers.Llama4TextConfig(**options, attention_chunk_size=512, layer_types=types)
        )
    config = transformers.Lfm2Config if kind == "conv" else transformers.Qwen3NextConfig
    return transformers.DynamicCache(config=config(**options, layer_types=types))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("sliding_attention", r"layer 1 is a sliding-window layer \(DynamicSlidingWindowLayer\)"),  # window not full yet
        ("chunked_attention", r"layer 1 is a sliding-window layer"),
        ("linear_attention", r"layer 1 is a linear-attention or state-space \(SSM\) layer \(LinearAttentionLayer\)"),
        ("conv", r"layer 1 is a linear-attention or state-space \(SSM\) layer"),
        ("static", r"layer 0 is a static \(preallocated\) layer \(StaticLayer\)"),
        ("static sliding", r"layer 0 is a static \(preallocated\) layer"),
        ("encoder-decoder", r"EncoderDecoderCache is an encoder-decoder cache"),
    ],
)
def test_layouts_that_are_not_supported_are_refused_by_name(tmp_path, kind, message):
    cache = cache_for(kind)
    for layer in getattr(cache, "layers", ()):
        if type(layer) is transformers.cache_utils.DynamicLayer:
            layer.update(torch.zeros(1, 2, 5, 16), torch.zeros(1, 2, 5, 16))
    store = PrefixStore(open_backend(str(tmp_path / "store")), fingerprint=bytes(16))
    for save in (lambda: save_cache(cache, range(5), tmp_path / "a.rdc"), lambda: store.put(range(5), cache)):
        with pytest.raises(Unsupported, match=message + ".*supported are keys and values of every position"):
            save()
    assert not (tmp_path / "a.rdc").exists() and store.longest_prefix(range(5)) == 0


def test_what_is_no_cache_is_named(tmp_path):
    for cache, message in (
        (object(), "a cache of type object; need a transformers Cache"),
        ([(torch.zeros(2, 5, 4),) * 3], r"layers of \[3\] tensors; need 2"),
        (None, "no cache to save"),
        ([(torch.zeros(1, 5, 72), torch.zeros(1, 5, 0))], r"width 0; of multi-head latent attention \(MLA\) give"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            save_cache(cache, range(5), tmp_path / "a.rdc")


def latent_decoder():
    """Multi-head latent attention: one head of 24 latent channels, and 8 that RoPE turns."""
    config = transformers.DeepseekV3Config(
        hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=4,
        vocab_size=VOCABULARY, q_lora_rank=16, kv_lora_rank=24, qk_rope_head_dim=8, qk_nope_head_dim=16, v_head_dim=16,
        first_k_dense_replace=3, n_routed_experts=2, max_position_embeddings=512, bos_token_id=0, eos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    return transformers.DeepseekV3ForCausalLM(config).eval()


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


def test_what_latent_attention_cannot_do_is_refused_by_name():
    decoder, contexts = latent_decoder(), torch.zeros(2, 100, dtype=torch.long)
    for use in (
        lambda: calibrate(decoder, contexts),
        lambda: evaluate.Evaluation(decoder, contexts, []),
        lambda: residual.capture(decoder, contexts[0]),
    ):
        with pytest.raises(Unsupported, match=r"deepseek_v3 has multi-head latent attention \(MLA\): its caches can be"):
            use()


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


def test_tokens_mode_recomputes(tmp_path):
    decoder, ids = tiny(), prompt(60)
    cache = prefilled(decoder, ids)
    steps: list[tuple[int, int]] = []
    size = save_cache(
        cache, ids, tmp_path / "a.rdc", decoder, settings=KvSettings(mode="tokens"), progress=lambda *s: steps.append(s)
    )
    assert size < 60 * 2 + 200
    threads = torch.get_num_threads()
    assert sequence.parse_sequence((tmp_path / "a.rdc").read_bytes())[1].threads == threads
    assert steps == sorted(steps) and len(set(steps)) >= 60 and steps[-1] == (60, 60)
    steps.clear()
    torch.set_num_threads(threads + 1)  # sums in another order, where threads share them
    try:
        seen: list[int] = []
        loaded = load_cache(
            tmp_path / "a.rdc", decoder, progress=lambda *s: (steps.append(s), seen.append(torch.get_num_threads()))
        )
        assert seen == [threads] * 60 and torch.get_num_threads() == threads + 1
    finally:
        torch.set_num_threads(threads)
    assert torch.allclose(loaded.layers[2].keys, cache.layers[2].keys, atol=1e-5)
    assert steps == [(i, 60) for i in range(1, 61)]
    with pytest.raises(Unsupported, match="keeps the ids alone, and keys of layer 0 .* are the ids those of the cache"):
        save_cache(cache, (ids + 1) % VOCABULARY, tmp_path / "b.rdc", decoder, settings=KvSettings(mode="tokens"))
    assert not (tmp_path / "b.rdc").exists()
    with pytest.raises(Unsupported, match="token ids only"):
        load_cache(tmp_path / "a.rdc")
    data = (tmp_path / "a.rdc").read_bytes()
    assert commands.verify_bytes(data) == [
        "checksums are right; 60 token ids were not decoded, which takes the model (load_cache)"
    ]
    for at in range(0, len(data), 7):
        with pytest.raises(BitstreamError):
            commands.verify_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    with pytest.raises(Unsupported, match="another salt"):
        load_cache(tmp_path / "a.rdc", decoder, salt=b"x")


def test_a_prefix_of_token_ids_reads_only_the_runs_it_needs(tmp_path, monkeypatch):
    monkeypatch.setattr(sequence, "CODED_TOKENS", 16)
    decoder, ids = tiny(), prompt(60)
    save_cache(prefilled(decoder, ids), ids, tmp_path / "a.rdc", decoder, settings=KvSettings(mode="tokens"))
    steps: list[tuple[int, int]] = []
    loaded = load_cache(tmp_path / "a.rdc", decoder, prefix=20, progress=lambda *s: steps.append(s))
    assert loaded.get_seq_length() == 20 and len(steps) == 32


def test_token_code_is_as_long_as_the_cross_entropy():
    decoder, ids = tiny(), prompt(200)[0].numpy()
    data = tokens.encode_ids(tokens.TokenModel(decoder), ids)
    with torch.no_grad():
        logits = decoder(torch.from_numpy(ids)[None]).logits[0, :-1].double()
    ideal = float(torch.nn.functional.cross_entropy(logits, torch.from_numpy(ids[1:]), reduction="sum")) / np.log(2)
    assert 8 * len(data) - 32 <= 1.001 * ideal + 64
    assert np.array_equal(tokens.decode_ids(tokens.TokenModel(decoder), data, len(ids)), ids)


def test_tokens_that_do_not_come_back_are_stored_plainly(monkeypatch):
    decoder, ids = tiny(), prompt(20)[0].numpy()
    monkeypatch.setattr(sequence, "_comes_back", lambda *_: False)
    data = sequence.encode_tokens(decoder, ids, fingerprint=bytes(16))
    assert np.array_equal(sequence.decode_tokens(data, decoder, fingerprint=bytes(16), salt=b""), ids)
    stream = sequence.parse_sequence(data)[0]
    assert stream.chunk(0)[0] == 0 and len(stream.chunk(0)) == 21 + 4 * 20
    assert commands.verify_bytes(data) == []


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


@pytest.mark.parametrize("kind", ["gpt2", "dynamic"])
def test_the_error_of_an_attention_that_is_not_known_here_is_not_made_up(kind):
    """GPT-2 has no q_proj, and RoPE that changes with length is not undone here."""
    rope = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    small = {"n_embd": 32, "n_layer": 2, "n_head": 2, "vocab_size": VOCABULARY, "n_positions": 256}
    gpt2 = transformers.GPT2LMHeadModel(transformers.GPT2Config(**small, bos_token_id=0, eos_token_id=None)).eval()
    decoder = gpt2 if kind == "gpt2" else tiny(rope_parameters=rope)
    contexts = torch.randint(0, VOCABULARY, (2, 64 + 64), generator=torch.Generator().manual_seed(1))
    evaluation = evaluate.Evaluation(decoder, contexts, evaluate.prefill(decoder, contexts), greedy_contexts=1)
    found = evaluation.measure("quantized", evaluate.through(KvSettings()))
    assert math.isnan(found.attention_error) and 0 < found.kl_mean < 1


def test_calibration_and_evaluation(tmp_path):
    """A calibrated profile makes keys of known structure smaller at the same fidelity, and the table says so."""
    decoder = tiny("qwen3")
    contexts = torch.randint(0, VOCABULARY, (6, 128 + 64), generator=torch.Generator().manual_seed(1))
    profile = calibrate(decoder, contexts[:4])
    profile.write(tmp_path / "p.safetensors")
    assert type(profile).read(tmp_path / "p.safetensors").hash == profile.hash
    caches = evaluate.prefill(decoder, contexts[4:])
    evaluation = evaluate.Evaluation(decoder, contexts[4:], caches, greedy_contexts=2)
    same = evaluation.measure("raw", lambda layers, ids: (layers, 1))
    assert same.kl_mean == same.attention_error == same.max_error == 0 and same.greedy_match == same.top1_agreement == 1
    found = {}
    for mode in ("quantized", "transform", "predictive"):
        settings = KvSettings(mode=mode, profile=profile, rope=model.rope_of(decoder), quality=60)
        found[mode] = evaluation.measure(mode, evaluate.through(settings))
        assert 0 < found[mode].kl_mean < 0.01
    evaluate.write_csv(tmp_path / "t.csv", list(found.values()))
    assert len((tmp_path / "t.csv").read_text().splitlines()) == 4
