"""Never the wrong cache, and never a right one refused: what makes a model another, and a prefix none."""

from __future__ import annotations

import inspect
import warnings

import numpy as np
import pytest
import torch

transformers = pytest.importorskip("transformers", reason="needs the extra 'kv'")
from model_cases import VOCABULARY, latent_decoder, prefilled, prompt, seeing, tiny
from rdcodec.codecs.kv_cache import (
    KvSettings,
    earlier_fingerprint,
    filled_cache,
    fingerprint,
    load_cache,
    save_cache,
    with_contents,
)
from rdcodec.codecs.kv_cache.format.identity import differing, fields_in
from rdcodec.codecs.kv_cache.hf import cache_io
from rdcodec.codecs.kv_cache.hf.config_fields import config_fields
from rdcodec.codecs.kv_cache.hf.fingerprint import placeholders
from rdcodec.codecs.kv_cache.hf.weights_digest import digest_weights
from rdcodec.codecs.kv_store import PrefixStore, open_backend
from rdcodec.codecs.text.cache_argument import cache_argument
from rdcodec.entropy_models.errors import InputError, Mismatch, Unsupported
from torch import nn

EXACT = KvSettings(mode="lossless", block_tokens=16)


def two_adapters(**options):
    """A decoder with LoRA adapters A (active) and B in PEFT."""
    peft = pytest.importorskip("peft", reason="needs the extra 'test'")
    settings = peft.LoraConfig(r=2, lora_alpha=8, target_modules=["k_proj", "v_proj"], init_lora_weights=False, **options)
    torch.manual_seed(1)
    model = peft.get_peft_model(tiny(), settings, adapter_name="A").eval()
    model.add_adapter("B", settings)
    return model


def test_adapters_are_told_apart_and_inactive_ones_do_not_count(tmp_path):
    model, ids = two_adapters(), prompt(20)
    first = fingerprint(model)
    save_cache(prefilled(model, ids), ids, tmp_path / "a.rdc", model, settings=EXACT)
    model.set_adapter("B")
    second = fingerprint(model)
    with pytest.raises(Mismatch, match="other active adapters, or another scale of them$"):
        load_cache(tmp_path / "a.rdc", model)
    with model.disable_adapter():
        assert fingerprint(model) == fingerprint(tiny())
        with pytest.raises(Mismatch, match="it was made with adapters, here none are active$"):
            load_cache(tmp_path / "a.rdc", model)
    model.base_model.set_adapter(["A", "B"])
    both = fingerprint(model)
    assert len({first, second, both}) == 3
    model.set_adapter("A")
    assert fingerprint(model) == first and load_cache(tmp_path / "a.rdc", model).get_seq_length() == 20
    model.delete_adapter("B")
    assert fingerprint(model) == first


def test_the_scale_and_the_weights_of_an_adapter_count_and_merging_makes_other_weights(tmp_path):
    model, ids = two_adapters(), prompt(20)
    names = [fingerprint(model)]
    layer = model.base_model.model.model.layers[1].self_attn.k_proj
    layer.scale_layer(2.0)
    names.append(fingerprint(model))
    layer.unscale_layer(2.0)
    assert fingerprint(model) == names[0]
    with torch.no_grad():
        layer.lora_B["A"].weight[3, 1] += 1
    names.append(fingerprint(model))
    model.merge_adapter(["A"])
    names.append(fingerprint(model))
    assert "adapters" not in names[-1].fields and len(set(names)) == 4
    save_cache(prefilled(model, ids), ids, tmp_path / "a.rdc", model, settings=EXACT)
    with pytest.raises(Mismatch, match="other weights"):
        load_cache(tmp_path / "a.rdc", tiny())


@pytest.mark.parametrize("kind", ["FourierFTConfig", "ShiraConfig", "TrainableTokensConfig"])
def test_scales_and_places_of_other_adapters_count(kind):
    peft = pytest.importorskip("peft", reason="needs the extra 'test'")
    settings = {
        "FourierFTConfig": [{"n_frequency": 8, **x} for x in ({}, {"scaling": 7.0}, {"random_loc_seed": 3})],
        "ShiraConfig": [{"r": 2, "random_seed": seed} for seed in (1, 2)],
        "TrainableTokensConfig": [{"token_indices": ids} for ids in ([1, 2], [1, 3])],
    }[kind]
    names = set()
    for each in settings:
        where = {} if "token_indices" in each else {"target_modules": ["k_proj"]}
        model = peft.get_peft_model(tiny(), getattr(peft, kind)(**where, **each)).eval()
        for name, weight in model.named_parameters():
            if weight.requires_grad and "lm_head" not in name:
                nn.init.ones_(weight)
        names.add(fingerprint(model))
    assert len(names) == len(settings)


def test_modules_that_an_adapter_trained_whole_count_where_it_acts():
    model = two_adapters(modules_to_save=["input_layernorm"])
    first = fingerprint(model)
    wrapped = model.base_model.model.model.layers[0].input_layernorm
    with torch.no_grad():
        wrapped.modules_to_save["A"].weight[0] += 1
    changed = fingerprint(model)
    assert changed != first
    with torch.no_grad():
        wrapped.original_module.weight[0] += 1
    assert fingerprint(model) == changed
    with model.disable_adapter():
        assert fingerprint(model) != fingerprint(tiny())


def test_prompt_tuning_is_refused():
    peft = pytest.importorskip("peft", reason="needs the extra 'test'")
    tuned = peft.get_peft_model(tiny(), peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4))
    with pytest.raises(Unsupported, match="prompt tuning"):
        fingerprint(tuned)


def test_files_of_adapters_are_not_read_by_the_name_that_all_of_them_had(tmp_path, monkeypatch):
    model, ids = two_adapters(), prompt(20)
    monkeypatch.setattr(cache_io, "fingerprint", lambda model, **_: fingerprint(model).of({"old": "1"}))
    save_cache(prefilled(model, ids), ids, tmp_path / "a.rdc", model, settings=EXACT)
    data = (tmp_path / "a.rdc").read_bytes()
    monkeypatch.undo()
    old = fingerprint(model).of({"old": "1"})
    monkeypatch.setattr(cache_io, "earlier_fingerprint", lambda _: bytes(old))
    assert data.count(old) > 1
    with pytest.raises(Mismatch):
        load_cache(tmp_path / "a.rdc", model)


def test_files_under_an_earlier_fingerprint_stay_readable(tmp_path):
    decoder, ids = tiny(), prompt(40)
    layers = tuple((layer.keys[0], layer.values[0]) for layer in prefilled(decoder, ids).layers)
    from rdcodec.codecs.kv_cache.codec import Cache, KvCodec

    (tmp_path / "a.rdc").write_bytes(KvCodec(EXACT, earlier_fingerprint(decoder)).encode(Cache(ids[0].numpy(), layers)))
    assert load_cache(tmp_path / "a.rdc", decoder).get_seq_length() == 40
    with pytest.raises(Mismatch, match="is of model"):
        load_cache(tmp_path / "a.rdc", tiny(seed=1))
    assert earlier_fingerprint(tiny()).hex() == earlier_fingerprint(decoder).hex() != fingerprint(decoder).hex()


@pytest.mark.parametrize("name", ["model.embed_tokens", "model.layers.2.mlp.down_proj", "model.layers.0.input_layernorm"])
def test_every_number_of_the_weights_counts_but_those_of_the_head(name):
    decoder = tiny()
    weight = decoder.get_submodule(name).weight
    seen = {fingerprint(decoder)}
    for at in (0, weight.numel() // 2 + 1, weight.numel() - 1):
        with torch.no_grad():
            weight.view(-1)[at] += 1e-3
        seen.add(fingerprint(decoder))
    assert len(seen) == 4
    with torch.no_grad():
        decoder.lm_head.weight += 1
    assert fingerprint(decoder) in seen


def test_rows_and_layers_that_change_places_count():
    decoder, seen = tiny(), set()
    for a, b in ((decoder.model.embed_tokens.weight, [3, 4]), (decoder.model.embed_tokens.weight, [0, 64])):
        with torch.no_grad():
            a[b] = a[b[::-1]].clone()
        seen.add(fingerprint(decoder))
    layers = decoder.model.layers
    layers[0].mlp, layers[1].mlp = layers[1].mlp, layers[0].mlp
    seen.add(fingerprint(decoder))
    assert len(seen) == 3 and fingerprint(tiny()) not in seen


def test_what_shapes_no_key_does_not_count():
    decoder = tiny()
    known = fingerprint(decoder)
    decoder.config.pad_token_id = 3
    decoder.config.max_position_embeddings = 1024  # of default RoPE
    decoder.config._name_or_path = "elsewhere"
    decoder.config.id2label = {0: "x"}
    assert fingerprint(decoder) == known
    assert fingerprint(torch.compile(decoder)) == known
    decoder.model.layers[1] = torch.compile(decoder.model.layers[1])
    assert fingerprint(decoder) == known
    assert fingerprint(nn.DataParallel(tiny())) == known
    for name, value in (("rms_norm_eps", 0.5), ("hidden_act", "gelu"), ("attention_bias", True)):
        changed = tiny()
        setattr(changed.config, name, value)
        (said,) = differing(known.fields, fingerprint(changed).fields)
        assert said.startswith(f"{name} was the default, here it is")


TYPES = {
    "llama": {}, "qwen2": {}, "qwen3": {"head_dim": 32}, "phi": {}, "stablelm": {}, "glm4": {"head_dim": 32},
    "phi3": {"sliding_window": None},
    "qwen3_moe": {"head_dim": 32, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64},
    "deepseek_v3": {
        "num_key_value_heads": 4, "kv_lora_rank": 32, "q_lora_rank": 48, "qk_rope_head_dim": 16, "qk_nope_head_dim": 32,
        "v_head_dim": 32, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1,
        "moe_intermediate_size": 64, "first_k_dense_replace": 1, "n_shared_experts": 1,
    },
}  # fmt: skip
PINS = {
    "llama": "039b6838ee02dfc43bd4bb55e60b29e1", "qwen2": "2a6f4339328ed00b1ee2e98a34b7f048",
    "qwen3": "28054220ee4c79babf4c86be96bac42f", "phi": "b508bfff20c8b50d37a22a28cb94a146",
    "stablelm": "27075273e5332d0f3e5ea3d5392a0725", "glm4": "67fa19b888733f50ba575dd95060c90a",
    "phi3": "f18adfc1ac06df8525e9c461f26b6890", "qwen3_moe": "cd1cc918ce32b00272f5b5e73e36b7ec",
    "deepseek_v3": "0e31d6fb392f99bc039929205e617d48",
}  # fmt: skip
"""Fingerprints under transformers 5.0.0, 5.8.1 and 5.24.0 alike."""


@pytest.mark.parametrize("kind", TYPES)
def test_the_same_folder_has_one_fingerprint_under_every_transformers(tmp_path, kind):
    base = {
        "vocab_size": 512, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 2048, "pad_token_id": 0, "model_type": kind,
    }  # fmt: skip
    config = transformers.AutoConfig.for_model(**{**base, **TYPES[kind]})
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            seed = sum(int(part) + 1 for part in name.split(".") if part.isdigit()) * 1009 + sum(tensor.shape)
            tensor.copy_(torch.randn(tensor.shape, generator=torch.Generator().manual_seed(seed)).bfloat16())
    assert fingerprint(model).hex() == PINS[kind]


def test_weights_kept_in_another_type_have_the_digest_of_their_numbers():
    """Versions differ in which tensors they keep in float32."""
    half = tiny(dtype=torch.bfloat16)
    known = digest_weights(half)
    half.model.norm.float()
    assert digest_weights(half) == known
    with torch.no_grad():
        half.model.norm.weight[0] = 1.0001  # no bfloat16
    assert digest_weights(half) != known


def test_weights_that_are_elsewhere_are_refused():
    with torch.device("meta"):
        away = transformers.LlamaForCausalLM(tiny().config)
    with pytest.raises(Unsupported, match="is not in memory"):
        fingerprint(away)


def test_a_record_is_believed_only_where_it_hashes_to_the_fingerprint():
    known = fingerprint(tiny())
    assert fields_in(known.record(), known) == known.fields
    assert fields_in(known.record().replace(b"llama", b"lluma"), known) is None
    for record in (None, b"", b"[]", b'{"a": 1}', b"{" * 100_000):
        assert fields_in(record, known) is None


def test_an_extra_key_is_part_of_the_identity(tmp_path):
    decoder, ids, path = tiny(), prompt(20), tmp_path / "a.rdc"
    save_cache(prefilled(decoder, ids), ids, path, decoder, extra_key=b"steered")
    assert load_cache(path, decoder, extra_key=b"steered").get_seq_length() == 20
    for other in (b"", b"else"):
        with pytest.raises(Mismatch, match="another extra key$"):
            load_cache(path, decoder, extra_key=other)
    with pytest.raises(InputError, match="an extra key of type str; need bytes"):
        load_cache(path, decoder, extra_key="steered")


# ---- pictures ----


def test_placeholder_ids_are_those_of_pieces_of_what_is_no_text():
    stands = (
        "image_token_id", "image_token_index", "video_token_id", "image_patch_id", "audio_token_id",
        "audio_prompt_token_id", "audio_latent_token_id", "document_token_id",
    )  # fmt: skip
    ordinary = "bos", "eos", "pad", "decoder_start", "sep", "cls", "mask", "unk", "audio_bos", "audio_prompt_bos", "user"
    names = [*stands, *(f"{name}_token_id" for name in ordinary)]
    config = transformers.PretrainedConfig()
    for at, name in enumerate(names):
        setattr(config, name, 100 + at)
    assert placeholders(config) == {100 + at for at in range(len(stands))}


def picture_prompt(model, seed):
    """Ids with 16 placeholders from position 10, and a cache of a picture."""
    ids = torch.randint(5, 90, (1, 60), generator=torch.Generator().manual_seed(3))
    ids[0, 10:26] = model.config.image_token_id
    pixels = torch.randn(1, 3, 56, 56, generator=torch.Generator().manual_seed(seed)) * seed
    cache = transformers.DynamicCache()
    with torch.no_grad():
        model(input_ids=ids, pixel_values=pixels, use_cache=True, **cache_argument(model, cache))
    return ids[0], cache


def test_a_store_tells_pictures_apart_or_refuses(tmp_path):
    model = seeing()
    name = fingerprint(model)
    ids, cache = picture_prompt(model, 1)
    _, other = picture_prompt(model, 3)
    assert not torch.equal(cache.layers[0].keys, other.layers[0].keys)
    store = PrefixStore(open_backend(tmp_path), fingerprint=name, settings=EXACT)
    for use in (store.get, store.longest_prefix, store.unread, lambda ids: store.put(ids, cache)):
        with pytest.raises(Unsupported, match=f"token id {model.config.image_token_id} stands for a picture"):
            use(ids)
    with pytest.raises(Unsupported, match="stands for a picture"):
        next(store.stream(ids, range(1)))
    first, second = (with_contents(ids, [(10, 26, key)]) for key in (b"first", b"second"))
    store.put(first, cache)
    assert store.get(first).tokens == 60
    assert store.get(second).tokens == store.longest_prefix(second) == 10
    store.put(second, other)
    for ids_of, made in ((first, cache), (second, other)):
        hit = store.get(ids_of)
        assert hit.tokens == 60 and torch.equal(hit.layers[2][0], made.layers[2].keys[0])
    assert store.get(ids[:10]).tokens == 10  # no picture yet


def test_no_hit_ends_within_a_picture(tmp_path):
    store = PrefixStore(open_backend(tmp_path), fingerprint=fingerprint(seeing()), settings=EXACT)
    ids, cache = picture_prompt(seeing(), 1)
    first = with_contents(ids, [(10, 26, b"first")])
    layers = [(layer.keys[:, :, :20], layer.values[:, :, :20]) for layer in cache.layers]
    store.put(first[:20], layers)
    assert store.get(first).tokens == store.longest_prefix(first) == 10
    assert store.get(first[:20]).tokens == 20  # the caller's own cut


def test_an_extra_key_may_tell_pictures_apart(tmp_path):
    model = seeing()
    ids, cache = picture_prompt(model, 1)
    for key, found in ((b"first", 60), (b"second", None)):
        store = PrefixStore(open_backend(tmp_path), fingerprint=fingerprint(model, extra_key=key), settings=EXACT)
        if found:
            store.put(ids, cache)
        assert (hit := store.get(ids)) is None or hit.tokens == found
        assert (hit is None) == (found is None)


def test_a_file_with_a_picture_is_not_matched_by_placeholders(tmp_path):
    model, path = seeing(), tmp_path / "a.rdc"
    ids, cache = picture_prompt(model, 1)
    save_cache(cache, ids, path, model, settings=EXACT)
    assert load_cache(path, model).get_seq_length() == 60
    for given in ("tokens", "prompt"):
        with pytest.raises(Unsupported, match="stands for a picture"):
            load_cache(path, model, **{given: ids})
    keyed = [with_contents(ids, [(10, 26, key)]) for key in (b"first", b"second")]
    save_cache(cache, keyed[0], path, model, settings=EXACT)
    assert [load_cache(path, model, prompt=ids).get_seq_length() for ids in keyed] == [59, 10]
    with pytest.raises(Unsupported, match="mode tokens keeps the ids alone"):
        save_cache(cache, keyed[0], path, model, settings=KvSettings(mode="tokens"))


def test_contents_are_checked():
    ids = np.arange(20)
    made = with_contents(ids, [(4, 8, b"a"), (8, 20, b"b")])
    assert (made[:4] == ids[:4]).all() and made[4:].min() >= 1 << 31 and len(set(made.tolist())) == 20
    assert not np.isin(made[4:8], with_contents(ids, [(4, 9, b"a")])).any()  # of another length, another content
    for contents in ([(4, 8, b"a"), (7, 12, b"b")], [(4, 21, b"a")], [(4, 7, b"a")], [(4, 9, b"")], [(-4, 4, b"a")]):
        with pytest.raises(InputError, match="contents at tokens"):
            with_contents(ids, contents)
    for no_span in ((10, 26), 10, ("a", 9, b"a"), (4, 9.5, b"a")):
        with pytest.raises(InputError, match=r"need \(first, end, key\)"):
            with_contents(ids, [no_span, (4, 8, b"a")])
    assert (with_contents(ids, [(np.int64(4), torch.tensor(8), b"a")])[:8] == made[:8]).all()
    with pytest.raises(InputError, match="those from 2\\^31 on stand for contents"):
        with_contents(made, [])


def seeing_under_m_rope():
    """A tiny Qwen2-VL."""
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}
    text = tiny().config.to_dict() | {"rope_parameters": rope}
    config = transformers.Qwen2VLConfig(
        text_config={k: v for k, v in text.items() if k not in ("model_type", "architectures")},
        vision_config={"depth": 1, "embed_dim": 16, "num_heads": 2, "hidden_size": 64}, image_token_id=90,
        video_token_id=91, vision_start_token_id=92, vision_end_token_id=93,
    )  # fmt: skip
    torch.manual_seed(0)
    return transformers.Qwen2VLForConditionalGeneration(config).eval()


@torch.no_grad()
@pytest.mark.parametrize("told", [True, False])  # by the config; else the model's code has the sections
def test_pictures_under_m_rope_are_refused_and_text_is_not(tmp_path, told):
    model, ids, path = seeing_under_m_rope(), prompt(40) % 90, tmp_path / "a.rdc"
    for layer in model.model.language_model.layers:  # so that places count
        nn.init.normal_(layer.self_attn.q_proj.weight)
        nn.init.normal_(layer.self_attn.k_proj.weight)
    if not told:
        if "rope_parameters" in inspect.getsource(type(model.model.language_model.layers[0].self_attn)):
            pytest.skip("this transformers takes the sections from the config alone")
        del model.config.text_config.rope_parameters["mrope_section"]
    cache = prefilled(model, ids)
    layers = [(layer.keys[0], layer.values[0]) for layer in cache.layers]
    save_cache(cache, ids, path, model, settings=EXACT)
    more = torch.cat([ids, ids[:, :5]], 1)
    right = model(more).logits[:, 40:]
    for differences in (None, torch.tensor([[-7]])):  # -7: of a prompt with a picture, run since
        for load in (lambda: load_cache(path, model), lambda: filled_cache(layers, 40, model=model)):
            model.model.rope_deltas = differences
            found = model(more[:, 40:], **cache_argument(model, load())).logits
            assert torch.allclose(found, right, atol=1e-6)
    ids[0, 10:20] = 90
    for given in (ids, with_contents(ids, [(10, 20, b"a")])):
        with pytest.raises(Unsupported, match="M-RoPE gives pictures fewer positions than tokens"):
            save_cache(cache, given, path, model)
    store = PrefixStore(open_backend(tmp_path), fingerprint=fingerprint(model), settings=EXACT)
    with pytest.raises(Unsupported, match="M-RoPE"):
        store.put(with_contents(ids, [(10, 20, b"a")]), cache)


@pytest.mark.parametrize("kind", ["qwen2_vl", "minicpmv4_7"])
def test_a_model_under_m_rope_that_names_no_placeholders_is_refused(tmp_path, kind):
    """Nothing tells its pictures from text; an extra key tells them apart, and keeps no differences of positions."""
    if kind == "qwen2_vl":
        model, layers = seeing_under_m_rope(), 3
        model.config.image_token_id = model.config.video_token_id = -1
    elif not hasattr(transformers, "MiniCPMV4_7Config"):
        pytest.skip("this transformers has no MiniCPM-V 4.7")
    else:
        small, layers = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}, 1
        text = small | {"num_key_value_heads": 2, "head_dim": 16, "vocab_size": 97, "layer_types": ["full_attention"]}
        vision = small | {"image_size": 28, "patch_size": 14}
        config = transformers.MiniCPMV4_7Config(text_config=text, vision_config=vision, insert_layer_id=0)
        model = transformers.MiniCPMV4_7ForConditionalGeneration(config).eval()
    cache = [(torch.zeros(2, 40, 16),) * 2] * layers
    message = "M-RoPE gives pictures fewer positions.*the config has vision_config and names no placeholder ids"
    for key in (b"", b"a picture"):
        with pytest.raises(Unsupported, match=message):
            PrefixStore(open_backend(tmp_path), fingerprint=fingerprint(model, extra_key=key))
        with pytest.raises(Unsupported, match=message):
            save_cache(cache, prompt(40), tmp_path / "a.rdc", model, extra_key=key)


# ---- prefixes that are none ----

LONG = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 8, "long_factor": [4.0] * 8}
DEPENDING = {
    "dynamic": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0},
    "longrope": {**LONG, "original_max_position_embeddings": 32, "factor": 4.0},
}


@pytest.mark.parametrize("kind", DEPENDING)
def test_rope_that_depends_on_the_length_is_refused_in_a_store_and_whole_files_work(tmp_path, kind):
    def fresh():
        return tiny(rope_parameters=dict(DEPENDING[kind]), max_position_embeddings=32 if kind == "dynamic" else 128)

    decoder, ids, path = fresh(), prompt(60), tmp_path / "a.rdc"
    cache = prefilled(decoder, ids)
    with pytest.raises(Unsupported, match=f"RoPE of type {kind} turns keys by angles that depend on the length"):
        PrefixStore(open_backend(tmp_path), fingerprint=fingerprint(decoder))
    save_cache(cache, ids, path, decoder, settings=EXACT)
    options = {"max_new_tokens": 6, "do_sample": False}
    for more in (ids, torch.cat([ids, ids[:, :7]], 1)):
        again = fresh()
        loaded = load_cache(path, again, prompt=more)
        assert loaded.get_seq_length() == min(60, more.shape[1] - 1)
        assert torch.equal(loaded.layers[1].keys, cache.layers[1].keys[:, :, : loaded.get_seq_length()])
        if more is ids:
            assert torch.equal(
                again.generate(more, **cache_argument(again, loaded), **options), fresh().generate(ids, **options)
            )
    with pytest.raises(Unsupported, match="20 of 60 tokens of a cache that is good only as a whole"):
        load_cache(path, decoder, prefix=20)
    with pytest.raises(Unsupported, match="good only as a whole"):
        load_cache(path, decoder, prompt=ids[:, :30])


def test_attention_that_looks_ahead_is_refused_in_a_store(tmp_path):
    decoder = tiny()
    decoder.config.use_bidirectional_attention = True
    with pytest.raises(Unsupported, match="attention looks ahead"):
        PrefixStore(open_backend(tmp_path), fingerprint=fingerprint(decoder))


# ---- generation ----


def test_a_cache_of_the_whole_prompt_is_not_run_twice(tmp_path):
    decoder, path = tiny(), tmp_path / "a.rdc"
    options = {"max_new_tokens": 8, "do_sample": False}
    for seed in range(3):
        ids = torch.randint(0, VOCABULARY, (1, 40), generator=torch.Generator().manual_seed(seed))
        save_cache(prefilled(decoder, ids), ids, path, decoder, settings=EXACT)
        for given in (ids, torch.cat([ids, ids[:, :3]], 1), ids[:, :20]):
            cache = load_cache(path, decoder, prompt=given)
            assert cache.get_seq_length() == min(40, given.shape[1] - 1)
            assert torch.equal(
                decoder.generate(given, **cache_argument(decoder, cache), **options), decoder.generate(given, **options)
            )
            assert cache.get_seq_length() == given.shape[1] + 7
    with pytest.raises(InputError, match="tokens and prompt"):
        load_cache(path, decoder, tokens=ids, prompt=ids)


@pytest.mark.parametrize("made", [tiny, latent_decoder])
@pytest.mark.parametrize("mode, quality", [("lossless", None), ("quantized", 20)])
def test_a_prompt_run_on_top_of_its_own_cache_warns(tmp_path, made, mode, quality):
    decoder, path, ids = made(), tmp_path / "a.rdc", torch.randint(0, VOCABULARY, (1, 41))
    options = {"max_new_tokens": 2, "do_sample": False}
    settings = KvSettings(mode=mode) if quality is None else KvSettings(mode=mode, quality=quality)
    save_cache(prefilled(decoder, ids[:, :40]), ids[:, :40], path, decoder, settings=settings)
    with pytest.warns(UserWarning, match="the 40 tokens of this cache are run once more"):
        # as generate does; that of transformers 5.0 stops at an IndexError instead
        decoder(ids[:, :40], use_cache=True, **cache_argument(decoder, load_cache(path, decoder)))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        decoder.generate(ids, **cache_argument(decoder, load_cache(path, decoder)), **options)
        decoder.generate(ids[:, :40], **cache_argument(decoder, load_cache(path, decoder, prefix=39)), **options)
        other = torch.randint(0, VOCABULARY, (1, 40))  # as many tokens, but others: what follows the cache
        decoder(other, use_cache=True, **cache_argument(decoder, load_cache(path, decoder)))


def test_fields_of_a_config_are_those_that_shape_keys_and_values():
    fields = config_fields(tiny(rope_parameters={"rope_type": "linear", "rope_theta": 5e5, "factor": 2}).config)
    assert fields["model_type"] == '"llama"' and fields["rope_parameters.rope_theta"] == "500000"
    assert not {"vocab_size", "bos_token_id", "transformers_version", "max_position_embeddings"} & set(fields)
    assert "router_jitter_noise" in config_fields(transformers.PhimoeConfig(router_jitter_noise=0.1))  # bounds its experts
