"""Caches with windows and recurrent states: kept as they are, gone on from exactly. Those of other classes: converted."""

from __future__ import annotations

import json

import pytest
import torch

transformers = pytest.importorskip("transformers", reason="needs the extra 'kv'")
from hybrid_cases import HYBRIDS, hybrid, logits, own_cache, with_states
from model_cases import go_on, prefilled, prompt, tiny
from rdcodec.codecs import container
from rdcodec.codecs.kv_cache import KvSettings, filled_cache, fingerprint, load_cache, save_cache, split_batch
from rdcodec.codecs.kv_cache.codec import KvCodec
from rdcodec.codecs.kv_cache.face import FACE
from rdcodec.codecs.kv_cache.format.describe import describe_kv, kv_rows
from rdcodec.codecs.kv_cache.hf.going_on import goes_on_at_once, run_one_by_one
from rdcodec.codecs.kv_store import PrefixStore, open_backend
from rdcodec.codecs.text.cache_argument import cache_argument
from rdcodec.entropy_models.errors import BitstreamError, Corrupt, InputError, Mismatch, Unsupported

EXACT = KvSettings(mode="lossless", block_tokens=16)


@pytest.mark.parametrize("kind", HYBRIDS)
@pytest.mark.filterwarnings("ignore")
def test_caches_of_windows_and_states_are_gone_on_from_exactly(tmp_path, kind):
    model, ids, path = hybrid(kind), prompt(60), tmp_path / "a.rdc"
    more = torch.cat([ids, ids[:, 10:17]], 1)
    save_cache(own_cache(model, ids), ids, path, model, settings=EXACT)
    loaded = load_cache(path, model)
    assert [type(x) for x in loaded.layers] == [type(x) for x in transformers.DynamicCache(config=model.config).layers]
    right = logits(model, more[:, 60:], own_cache(model, ids))
    assert torch.equal(logits(model, more[:, 60:], loaded), right)
    assert torch.equal(logits(model, more[:, 60:], load_cache(path)), right)  # layers by their kinds alone
    options = {"max_new_tokens": 8, "do_sample": False}
    whole = model(more).logits[0, -1]
    if kind == "mamba2":  # states alone do not tell generate how many tokens they have seen
        one_by_one = load_cache(path, model)
        run_one_by_one(model, one_by_one, more[0, 60:-1].numpy())
        start, first = one_by_one, 66
        if not goes_on_at_once(model):
            with pytest.raises(Unsupported, match="forgets the states of this mamba2 where several tokens follow"):
                load_cache(path, model, prompt=more)
    else:
        start, first = load_cache(path, model, prompt=more), 0
        assert start.get_seq_length() == (60 if goes_on_at_once(model) else 66)
        found = logits(model, more[:, start.get_seq_length() :], load_cache(path, model, prompt=more))[0, -1]
        assert float((found - whole).norm() / whole.norm()) < 2e-6
    again = model.generate(more[:, first:], **cache_argument(model, start), **options)
    assert torch.equal(again, model.generate(more, **options)[:, first:])
    with pytest.raises(Mismatch, match="is of model"):
        load_cache(path, tiny())


@with_states
def test_states_are_exact_and_windows_lossy_where_asked(tmp_path):
    model, ids, path = hybrid("falcon_h1"), prompt(60), tmp_path / "a.rdc"
    cache = own_cache(model, ids)
    save_cache(cache, ids, path, model)
    for a, b in zip(cache.layers, load_cache(path, model).layers, strict=True):
        assert torch.equal(a.recurrent_states[0], b.recurrent_states[0]) and torch.equal(a.conv_states[0], b.conv_states[0])
        assert 0 < float((a.keys - b.keys).norm() / a.keys.norm()) < 0.15
    for mode in ("tokens", "residual"):
        with pytest.raises(InputError, match=f"mode {mode} takes full-attention layers alone"):
            save_cache(cache, ids, path, model, settings=KvSettings(mode=mode))


def test_a_whole_cache_is_not_cut(tmp_path):
    model, ids, path = hybrid("mistral"), prompt(60), tmp_path / "a.rdc"
    save_cache(own_cache(model, ids), torch.cat([ids, ids[:, :1]], 1), path, model, settings=EXACT)  # one id more is cut
    for options in ({"prefix": 59}, {"prompt": ids}, {"tokens": ids[:, :20]}):
        with pytest.raises(Unsupported, match=r"of the 60 tokens are asked for, of a cache with windows"):
            load_cache(path, model, **options)
    assert load_cache(path, model, tokens=ids).get_seq_length() == 60
    with pytest.raises(InputError, match=r"58 token ids for a cache whose layers have seen \[60\] tokens"):
        save_cache(own_cache(model, ids), ids[:, :58], path, model)


@with_states
def test_whole_caches_are_checked_described_and_refused_where_they_are_damaged(tmp_path):
    model, ids, path = hybrid("falcon_h1"), prompt(40), tmp_path / "a.rdc"
    save_cache(own_cache(model, ids), ids, path, model, settings=EXACT, salt=b"a")
    data = path.read_bytes()
    stream = container.parse(data)
    assert describe_kv(stream)["layers"] == {"full+states": 4} and kv_rows(describe_kv(stream))["layers"] == "4 full+states"
    assert KvCodec().verify(data, check=False) == [] == FACE.verify(stream, FACE.Verify(), None)
    with pytest.raises(Mismatch, match="another salt"):
        load_cache(path, model, salt=b"b")
    with pytest.raises(Unsupported, match="load_cache in Python"):
        KvCodec().decode(data, check=False)
    for entry in stream.entries[:-1]:
        hurt = bytearray(data)
        hurt[entry.offset + entry.length // 2] ^= 1
        path.write_bytes(hurt)
        with pytest.raises(BitstreamError):
            load_cache(path, model, salt=b"a")
    chunks = [stream.chunk(i) for i in range(len(stream.entries))]
    lines = json.loads(chunks[0])["layers"]
    wrong = [
        [],
        [{"kind": "x", "seen": 0, "window": 0}],
        [*lines, lines[0]],
        [{**lines[0], "run": 7}],
        [{**lines[0], "seen": -1}],
    ]
    for manifest in (b"", b"[]", *(json.dumps({"layers": one}).encode() for one in wrong)):
        forged = [(entry.kind, manifest if i == 0 else chunks[i]) for i, entry in enumerate(stream.entries)]
        path.write_bytes(container.write(stream_id=4, weights=bytes(8), signal=stream.signal, chunks=forged))
        with pytest.raises(Corrupt):
            load_cache(path, model, salt=b"a")


@pytest.mark.parametrize("kind", ["mistral", "gemma3_text", "llama4_text"])
@pytest.mark.filterwarnings("ignore")
def test_a_store_takes_sliding_window_models_whose_cache_kept_every_position(tmp_path, kind):
    model, ids = hybrid(kind), prompt(60)
    store = PrefixStore(open_backend(tmp_path), fingerprint=fingerprint(model), settings=EXACT)
    with pytest.raises(Unsupported, match="is a sliding-window layer with 15 of 60 positions; .* in a DynamicCache"):
        store.put(ids, own_cache(model, ids))
    store.put(ids, prefilled(model, ids))
    other = torch.cat([ids[:, :40], ids[:, :9]], 1)
    hit = store.get(other)
    assert hit.tokens == 40
    right = logits(model, other[:, 40:], own_cache(model, other[:, :40]))
    assert torch.allclose(logits(model, other[:, 40:], filled_cache(hit.layers, 40, model=model)), right, atol=1e-5)


def test_windows_that_are_not_full_hold_every_position(tmp_path):
    model, ids = tiny("mistral", sliding_window=64), prompt(40)
    store = PrefixStore(open_backend(tmp_path), fingerprint=fingerprint(model), settings=EXACT)
    store.put(ids, own_cache(model, ids))
    assert torch.equal(store.get(ids).layers[1][0], prefilled(model, ids).layers[1].keys[0])
    save_cache(own_cache(model, ids), ids, tmp_path / "a.rdc", model, settings=EXACT)
    assert load_cache(tmp_path / "a.rdc", model, prefix=20).get_seq_length() == 20


def test_static_caches_are_converted(tmp_path):
    model, ids = tiny(), prompt(40)
    cache = transformers.StaticCache(config=model.config, max_cache_len=64)
    logits(model, ids, cache)
    right = prefilled(model, ids)
    save_cache(cache, ids, tmp_path / "a.rdc", model, settings=EXACT)
    loaded = load_cache(tmp_path / "a.rdc", model)
    assert torch.allclose(loaded.layers[1].keys, right.layers[1].keys, atol=1e-6) and loaded.get_seq_length() == 40
    assert go_on(model, loaded, ids) == go_on(model, right, ids)
    store = PrefixStore(open_backend(tmp_path), fingerprint=fingerprint(model), settings=EXACT)
    assert store.put(ids, cache).new_tokens == 40


class Rounded(transformers.cache_utils.QuantizedLayer):
    """A quantised layer as the library's are, whose quantiser needs no other package."""

    def _quantize(self, tensor, axis):
        return (tensor * 64).round().to(torch.int8)

    def _dequantize(self, tensor):
        return tensor.float() / 64


def test_quantised_caches_are_converted_to_what_attention_sees(tmp_path):
    model, ids = tiny(), prompt(50)
    cache = transformers.DynamicCache()
    cache.layers = [Rounded(residual_length=32) for _ in range(3)]
    logits(model, ids[:, :40], cache)
    seen = [layer._dequantize(layer._quantized_keys) for layer in cache.layers]
    logits(model, ids[:, 40:], cache)
    save_cache(cache, ids, tmp_path / "a.rdc", model, settings=EXACT)
    loaded = load_cache(tmp_path / "a.rdc", model)
    for layer, first, stored in zip(loaded.layers, seen, cache.layers, strict=True):
        assert torch.equal(layer.keys[:, :, :40], first) and torch.equal(layer.keys[:, :, 40:], stored.keys)


def test_left_padded_batches_are_split(tmp_path):
    model, ids = tiny(), prompt(40)
    mask = torch.ones(2, 40, dtype=torch.long)
    mask[1, :15] = 0
    cache = transformers.DynamicCache()
    places = (mask.cumsum(1) - 1).clamp_min(0)
    with torch.no_grad():
        model(ids.repeat(2, 1), attention_mask=mask, position_ids=places, use_cache=True, **cache_argument(model, cache))
    with pytest.raises(ValueError, match="hold a batch of 2"):
        save_cache(cache, ids, tmp_path / "a.rdc", model)
    for part, own in zip(split_batch(cache, mask), (ids, ids[:, 15:]), strict=True):
        save_cache(part, own, tmp_path / "a.rdc", model, settings=EXACT)
        right, loaded = prefilled(model, own), load_cache(tmp_path / "a.rdc", model)
        assert torch.allclose(loaded.layers[2].keys, right.layers[2].keys, atol=1e-5)
        assert go_on(model, loaded, own) == go_on(model, right, own)
    mask[1, 20] = 0
    with pytest.raises(InputError, match="sequence 1 has padding within it"):
        split_batch(cache, mask)
    with pytest.raises(InputError, match="a mask of shape"):
        split_batch(cache, mask[:1])
