"""The fingerprint of a model: what it sees, what it is read from, and what a mismatch says."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

transformers = pytest.importorskip("transformers", reason="needs the extra 'kv'")
from model_cases import prefilled, prompt, tiny
from rdcodec.codecs.kv_cache import Cache, KvCodec, KvSettings, fingerprint, load_cache, rope_of, save_cache
from rdcodec.codecs.kv_cache.format import sequence
from rdcodec.codecs.kv_cache.hf import identity, model
from rdcodec.codecs.kv_store import PrefixStore
from rdcodec.codecs.kv_store.backends import open_backend
from rdcodec.entropy_models.errors import BitstreamError, Unsupported
from safetensors.torch import load_file, save_file


def test_wrong_model_salt_and_damage_are_named(tmp_path):
    decoder, ids = tiny(), prompt(40)
    path = tmp_path / "a.rdc"
    save_cache(prefilled(decoder, ids), ids, path, decoder, salt=b"a")
    with pytest.raises(Unsupported, match=r"a\.rdc is of model [0-9a-f]{32}, this one is"):
        load_cache(path, tiny(seed=1), salt=b"a")
    with pytest.raises(Unsupported, match="another salt"):
        load_cache(path, decoder, salt=b"b")
    data = bytearray(path.read_bytes())
    data[sequence.parse_sequence(bytes(data))[0].entries[0].offset + 500] ^= 1
    path.write_bytes(data)
    with pytest.raises(BitstreamError):
        load_cache(path, decoder, salt=b"a")
    with pytest.raises(ValueError, match="39 token ids for a cache of 40 tokens"):
        save_cache(prefilled(decoder, ids), ids[:, :39], path, decoder)


def test_the_likely_cause_of_another_fingerprint_is_named(tmp_path):
    decoder, ids, path = tiny(), prompt(20), tmp_path / "a.rdc"
    save_cache(prefilled(decoder, ids), ids, path, decoder)
    short, moved = tiny(num_hidden_layers=2), tiny(rope_parameters={"rope_type": "default", "rope_theta": 5e4})
    for other, message in (
        (tiny(dtype=torch.bfloat16), "element type was float32, here it is bfloat16$"),  # which lost what float32 had
        (tiny(num_key_value_heads=4), "other weights .*; num_key_value_heads was 2, here it is 4$"),
        (short.to(torch.bfloat16), "element type was float32, here it is bfloat16; num_hidden_layers was 3, here it is 2"),
        (moved, "rope_parameters.rope_theta was the default, here it is 50000$"),
        (tiny(rms_norm_eps=1e-3), "rms_norm_eps was the default, here it is 0.001$"),
        (tiny(seed=1), r"other weights \(another revision, fine-tuned, merged or quantised\)$"),
    ):
        with pytest.raises(Unsupported, match=f"this one is [0-9a-f]{{32}}: {message}"):
            load_cache(path, other)


def test_without_the_record_of_an_identity_the_layout_tells_the_cause(tmp_path):
    """Of files of a program that named the model alone: block headers and RoPE."""
    decoder, ids, path = tiny(), prompt(20), tmp_path / "a.rdc"
    layers = [(layer.keys[0], layer.values[0]) for layer in prefilled(decoder, ids).layers]
    codec = KvCodec(KvSettings(rope=rope_of(decoder)), bytes(fingerprint(decoder)))
    path.write_bytes(codec.encode(Cache(ids[0].numpy(), tuple(layers))))
    short = tiny(num_hidden_layers=2).to(torch.bfloat16)
    for other, message in (
        (tiny(dtype=torch.bfloat16), "it was made with float32, this model is bfloat16"),
        (tiny(num_key_value_heads=4), "it has kv heads 2; this model has kv heads 4"),
        (short, "it has element type float32, layers 3; this model has element type bfloat16, layers 2"),
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
    store = PrefixStore(open_backend(tmp_path / "store"), fingerprint=fingerprint(decoder))
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
    narrow = PrefixStore(open_backend(tmp_path / "narrow"), fingerprint=fingerprint(decoder, "bfloat16"))
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


def test_fingerprint_sees_weights_and_config():
    names = {fingerprint(d) for d in (tiny(), tiny(seed=1), tiny(rms_norm_eps=1e-3), tiny("qwen3"))}
    assert len(names) == 4 and fingerprint(tiny()) in names
    changed = tiny()
    with torch.no_grad():
        changed.model.layers[2].mlp.down_proj.weight[0, 0] += 1
    assert fingerprint(changed) not in names


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_identity_is_that_of_the_loaded_model_and_no_weights_are_loaded(tmp_path, monkeypatch, dtype, tied):
    """One file and shards; names of the same folder's model in another type as well."""
    tiny(dtype=dtype, tie_word_embeddings=tied).save_pretrained(tmp_path, max_shard_size="50kB" if tied else "1GB")
    assert (tmp_path / "model.safetensors.index.json").exists() == tied
    loaded = model.load_model(tmp_path)
    expected = [fingerprint(loaded, name) for name in (None, "float16")]
    monkeypatch.setattr(transformers.PreTrainedModel, "from_pretrained", None)
    found = [identity.identity_of(str(tmp_path), dtype=name) for name in (None, "float16")]
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
    assert identity.identity_of(str(tmp_path))[0] == fingerprint(model.load_model(tmp_path))
    file.unlink()
    assert model.mapped_model(tmp_path) is None
