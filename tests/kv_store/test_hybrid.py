"""Windows and recurrent states in a store: what is a hit, that one goes on exactly, damage, and upkeep."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

transformers = pytest.importorskip("transformers", reason="needs the extra 'kv'")
from hybrid_cases import HYBRIDS, hybrid, logits, own_cache, with_states
from model_cases import prefilled, prompt, tiny
from rdcodec.codecs.kv_cache import KvSettings, fingerprint
from rdcodec.codecs.kv_cache.hf.going_on import goes_on_at_once
from rdcodec.codecs.kv_store import HybridStore, PrefixStore, open_backend
from rdcodec.codecs.kv_store.block_store import NOTHING_STORED
from rdcodec.codecs.kv_store.trie import MARK_MIN, Node
from rdcodec.codecs.text.cache_argument import cache_argument
from rdcodec.entropy_models.errors import InputError, Mismatch, Unsupported
from store_cases import damage, files
from store_commands import run

BLOCK, WINDOW = 8, 16
EXACT = KvSettings(mode="lossless", block_tokens=BLOCK)
WINDOWS = ("mistral", "gemma2", "gemma3_text", "phi3", "gpt_oss", "llama4_text", "olmo3")
STATES = tuple(kind for kind in HYBRIDS if kind not in WINDOWS)
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def opened(tmp_path):
    def open_again(model, **options):
        return HybridStore(open_backend(tmp_path / "store"), model, **{"settings": EXACT} | options)

    return open_again


def assert_goes_on(model, hit, ids, count):
    """A hit is of the first ``count`` ids, and greedy text after it is what it would be without a cache."""
    seen = count if goes_on_at_once(model) else ids.shape[1] - 1
    assert hit is not None and hit.tokens == seen
    alone = "mamba" in model.config.model_type  # states alone do not tell generate how many tokens they have seen
    assert alone or hit.cache.get_seq_length() == seen
    options = {"max_new_tokens": 8, "do_sample": False}
    first = seen if alone else 0
    text = model.generate(ids[:, first:], **cache_argument(model, hit.cache), **options)
    assert torch.equal(text, model.generate(ids, **options)[:, first:])


def another(ids, count, more=9):
    """A prompt that shares the first ``count`` ids."""
    return torch.cat([ids[:, :count], (ids[:, :more] + 1) % 97], 1)


@pytest.mark.parametrize("kind", HYBRIDS)
def test_a_prompt_that_goes_on_from_a_stored_one_hits_all_of_it(opened, kind):
    model, ids = hybrid(kind), prompt(61)
    with opened(model) as store:
        assert store.get(ids) is None
        put = store.put(ids, own_cache(model, ids))
        assert put.new_tokens == 61 and put.new_blocks > 8
    store, more = opened(model), another(ids, 61)
    hit = store.get(more)
    assert_goes_on(model, hit, more, 61)
    again = store.get(more)
    found, whole = logits(model, more[:, again.tokens :], again.cache)[0, -1], model(more).logits[0, -1]
    assert float((found - whole).norm() / whole.norm()) < 2e-6
    assert [type(x) for x in hit.cache.layers] == [type(x) for x in transformers.DynamicCache(config=model.config).layers]
    assert store.longest_prefix(more) == 61 and (store.asked_tokens, store.found_tokens) == (140, 122)
    again = opened(model).put(ids, own_cache(model, ids))
    assert (again.new_tokens, again.new_blocks, again.new_bytes) == (0, 0, 0)


@pytest.mark.parametrize("kind", STATES)
def test_states_hit_at_just_the_lengths_that_were_put(opened, kind):
    model, ids = hybrid(kind), prompt(60)
    store = opened(model)
    for count in (60, 21, 40):  # a shorter one after a longer one too, within its blocks
        store.put(ids[:, :count], own_cache(model, ids[:, :count]))
    assert [store.longest_prefix(another(ids, count)) for count in (60, 59, 40, 39, 21, 20)] == [60, 40, 40, 21, 21, 0]
    assert store.longest_prefix(ids) == 40 and store.get(ids[:, :21]) is None
    for count in (60, 40, 21):
        more = another(ids, count)
        assert_goes_on(model, opened(model).get(more), more, count)


@with_states
def test_tokens_after_states_are_run_one_by_one_where_several_would_be_wrong(opened):
    """Many of them are a miss: running the whole prompt is faster."""
    model, ids = hybrid("falcon_mamba"), prompt(60)
    try:
        goes_on = goes_on_at_once(model)
    except IndexError:
        pytest.skip("this transformers cannot go on from a falcon_mamba's cache at all")
    store = opened(model)
    store.put(ids, own_cache(model, ids))
    for more in (another(ids, 60, 9), another(ids, 60, 17), another(ids, 60, 1)):
        hit = store.get(more)
        whole = model(more).logits[0, -1]
        found = logits(model, more[:, hit.tokens :], hit.cache)[0, -1]
        assert float((found - whole).norm() / whole.norm()) < 2e-6
    assert (store.get(another(ids, 60, 18)) is None) == (not goes_on)


@pytest.mark.parametrize("kind", WINDOWS)
def test_windows_hit_where_blocks_cover_them(opened, kind):
    """Puts of 40 and 50 tokens leave positions 25 to 49 of a window of 16, which needs 15."""
    model, ids = hybrid(kind), prompt(60)
    store = opened(model)
    for count in (40, 50):
        store.put(ids[:, :count], own_cache(model, ids[:, :count]))
    counts = [store.longest_prefix(another(ids, count)) for count in (60, 50, 45, 40, 39)]
    assert counts == [50, 50, 45, 40, 0]
    for count in (50, 45, 40):
        more = another(ids, count)
        assert_goes_on(model, opened(model).get(more), more, count)


@pytest.mark.parametrize("kind", WINDOWS)
def test_a_window_that_holds_the_whole_prompt_hits_at_every_length(opened, kind):
    model, ids = hybrid(kind), prompt(15)
    store = opened(model)
    store.put(ids, own_cache(model, ids))
    for count in (15, 13, 8, 3):
        more = another(ids, count)
        assert store.longest_prefix(more) == count
        assert_goes_on(model, store.get(more), more, count)
    assert store.longest_prefix(ids) == 14


@pytest.mark.parametrize("kind", ["mistral", "gemma3_text"])
def test_a_plain_cache_keeps_every_position_and_hits_at_every_length(opened, kind):
    model, ids = hybrid(kind), prompt(60)
    store = opened(model)
    store.put(ids, own_cache(model, ids))
    assert store.longest_prefix(another(ids, 30)) == 0
    store.put(ids, prefilled(model, ids))
    for count in (60, 30, 7):
        more = another(ids, count)
        assert store.longest_prefix(more) == count
        assert_goes_on(model, opened(model).get(more), more, count)
    assert store.longest_prefix(ids) == 59


@pytest.mark.parametrize("window", [3, 8, 11, 40])
def test_hits_against_all_that_was_put(opened, window):
    """Never longer than what puts left, never wrong, and at least as long as what was put as a whole."""
    torch.manual_seed(3)
    config = {"sliding_window": window, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
    model = tiny("qwen3", use_sliding_window=True, max_window_layers=0, **config)
    rng, base = np.random.default_rng(window), prompt(64)
    store, held = opened(model), []
    for step in range(24):
        ids = another(base, int(rng.integers(1, 60)), int(rng.integers(1, 5)))
        if step % 2:
            store.put(ids, own_cache(model, ids))
            held.append((ids[0].numpy(), range(max(0, ids.shape[1] - window + 1), ids.shape[1])))
            continue
        got = store.longest_prefix(ids)
        least = [len(put) for put, _ in held if len(put) < ids.shape[1] and (ids[0, : len(put)].numpy() == put).all()]
        assert max(least, default=0) <= got <= longest(ids[0].numpy(), held, window)
        hit = store.get(ids)
        assert (hit is None) == (got == 0)
        if hit:
            want = own_cache(model, ids[:, :got])
            for a, b in zip(hit.cache.layers, want.layers, strict=True):
                assert a.keys.shape == b.keys.shape and torch.allclose(a.keys, b.keys, atol=1e-4)


def longest(ids, held, window):
    """The longest prefix that can be made of what puts left."""
    shares = [(int(np.argmin(np.append(ids[: len(put)] == put[: len(ids)], False))), rows) for put, rows in held]
    for count in range(len(ids) - 1, 0, -1):
        needed = range(max(0, count - window + 1), count)
        there = all(any(position in rows and position < share for share, rows in shares) for position in needed)
        if there and any(share >= count for share, _ in shares):
            return count
    return 0


@pytest.mark.parametrize("kind", ["gemma3_text", pytest.param("jamba", marks=with_states)])
@pytest.mark.parametrize("where", ["memory", "redis"])
def test_other_backends_find_windows_and_states_too(request, where, kind):
    url = {
        "memory": lambda: f"memory://hybrid-{kind}",
        "redis": lambda: f"{request.getfixturevalue('redis_url')}?prefix={kind}",
    }
    backend, model, ids = url[where](), hybrid(kind), prompt(60)
    for count in (40, 60):
        with HybridStore(open_backend(backend), model, settings=EXACT) as store:
            store.put(ids[:, :count], own_cache(model, ids[:, :count]))
    other = torch.cat([ids[:, :40], torch.full((1, 20), 96)], 1)  # after it in order of tokens, as windows and states are
    with HybridStore(open_backend(backend), model, settings=EXACT) as store:
        store.put(other, own_cache(model, other))
    for count in (60, 40):
        more = another(ids, count)
        assert_goes_on(model, HybridStore(open_backend(backend), model, settings=EXACT).get(more), more, count)
    assert HybridStore(open_backend(backend), model, settings=EXACT).longest_prefix(another(ids, 20)) == 0


def test_a_store_that_fails_is_a_miss_where_that_is_wanted(opened, monkeypatch):
    model, ids = hybrid("mistral"), prompt(40)
    opened(model).put(ids, own_cache(model, ids))
    for on_error in ("raise", "miss"):
        store, more = opened(model, on_error=on_error), another(ids, 40)
        assert store.longest_prefix(more) == 40
        for verb in ("get", "get_many", "put"):
            monkeypatch.setattr(store.index.backend, verb, refuse)
        if on_error == "raise":
            with pytest.raises(OSError, match="no disk"):
                store.get(more)
        else:
            assert store.get(more) is None and store.put(more, own_cache(model, more)) == NOTHING_STORED


def refuse(*_):
    raise OSError("no disk")


def test_tenants_and_other_caches_of_the_model_do_not_meet(opened, tmp_path):
    model, ids = hybrid("gemma3_text"), prompt(40)
    opened(model, salt=b"a").put(ids, own_cache(model, ids))
    more = another(ids, 40)
    assert opened(model, salt=b"b").get(more) is None and opened(model, extra_key=b"x").get(more) is None
    plain = PrefixStore(open_backend(tmp_path / "store"), fingerprint=fingerprint(model), salt=b"a", settings=EXACT)
    assert plain.get(more) is None
    assert opened(model, salt=b"a").get(more) is not None


@with_states
def test_lossy_modes_keep_states_exact_and_windows_close(opened):
    model, ids = hybrid("falcon_h1"), prompt(60)
    store = opened(model, settings=KvSettings(block_tokens=BLOCK))
    cache = own_cache(model, ids)
    store.put(ids, cache)
    for a, b in zip(cache.layers, store.get(another(ids, 60, 1)).cache.layers, strict=True):
        assert torch.equal(a.recurrent_states[0], b.recurrent_states[0]) and torch.equal(a.conv_states[0], b.conv_states[0])
        assert 0 < float((a.keys - b.keys).norm() / a.keys.norm()) < 0.15
    windows = hybrid("mistral")
    store = opened(windows, settings=KvSettings(block_tokens=BLOCK))
    cache = own_cache(windows, ids)
    store.put(ids, cache)
    for a, b in zip(cache.layers, store.get(another(ids, 60, 1)).cache.layers, strict=True):
        assert a.keys.shape == b.keys.shape and 0 < float((a.keys - b.keys).norm() / a.keys.norm()) < 0.15


def marks(store):
    store.index.load()
    return [node for node in store.index.trie.nodes.values() if node.is_mark]


@pytest.mark.parametrize("kind", ["gemma3_text", "mistral", pytest.param("jamba", marks=with_states)])
@pytest.mark.parametrize("how", ["flip", "cut", "zeros", "empty", "gone"])
def test_a_damaged_block_is_a_miss_and_the_next_put_heals_it(opened, tmp_path, kind, how):
    model, ids, rng = hybrid(kind), prompt(60), np.random.default_rng(0)
    opened(model).put(ids, own_cache(model, ids))
    more = another(ids, 60)
    for node in marks(opened(model)):
        path = tmp_path / "store" / opened(model).index.key(node.id)
        if how == "gone":
            path.unlink()
        else:
            damage(path, rng, how)
        assert opened(model).get(more) is None
        healed = opened(model)
        assert healed.put(ids, own_cache(model, ids)).new_blocks == 1
        assert_goes_on(model, healed.get(more), more, 60)


def test_a_put_that_holds_more_replaces_what_held_less(opened):
    model, ids = hybrid("gemma3_text"), prompt(41)
    store = opened(model)
    store.put(ids, own_cache(model, ids))
    assert sorted((node.start, node.count) for node in marks(store)) == [(32, 6), (40, 8), (41, 1)]
    store.put(ids, prefilled(model, ids))
    assert sorted((node.start, node.count) for node in marks(opened(model))) == [*((8 * i, 8) for i in range(1, 6)), (41, 1)]
    assert opened(model).put(ids, own_cache(model, ids)).new_blocks == 0


@with_states
def test_upkeep_counts_prompts_and_evicts_what_stands_beside_them_first(opened, tmp_path):
    model, ids = hybrid("jamba"), prompt(60)
    store = opened(model)
    store.put(ids, own_cache(model, ids))
    stats = store.stats()
    assert (stats.prompts, stats.tokens, stats.prompt_tokens, stats.blocks) == (1, 60, 60, 9) and stats.sharing == 1
    (row,) = json.loads(run("ls", tmp_path / "store", "--json").stdout)
    assert (row["tokens"], row["blocks"]) == (60, 8) and row["bytes"] == stats.size_bytes
    assert store.verify().damaged == {}
    before = {path: path.read_bytes() for path in files(tmp_path / "store")}
    store.transcode("quantized")
    exact = own_cache(model, ids).layers[0].recurrent_states[0]
    assert torch.equal(store.get(another(ids, 60, 1)).cache.layers[0].recurrent_states[0], exact)
    assert len(before) == len(files(tmp_path / "store")) and store.verify().damaged == {}
    (mark,) = marks(store)
    evicted = store.evict(store.stats().size_bytes - 1)
    assert evicted.blocks == 1 and mark.id not in store.index.trie.nodes and store.get(another(ids, 60)) is None


def test_a_limit_counts_windows_and_keeps_what_was_put(opened):
    model = hybrid("mistral")
    store = opened(model, limit_bytes=60_000)
    for seed in range(6):
        ids = (prompt(60) + seed) % 97
        store.put(ids, own_cache(model, ids))
        assert store.longest_prefix(another(ids, 60)) == 60
    assert store.stats().size_bytes <= 60_000 < sum(node.size_bytes for node in marks(store)) * 6


def test_what_does_not_fit_is_refused(opened):
    model, ids = hybrid("gemma3_text"), prompt(40)
    store = opened(model)
    with pytest.raises(Mismatch, match="the cache has layers of kinds window 16, .*the model window 16, full"):
        store.put(ids, own_cache(hybrid("mistral"), ids))
    with pytest.raises(InputError, match="38 token ids for a cache whose layers have seen"):
        store.put(ids[:, :38], own_cache(model, ids))
    store.put(torch.cat([ids, ids[:, :1]], 1), own_cache(model, ids))  # one id more is cut
    assert store.longest_prefix(another(ids, 40)) == 40
    with pytest.raises(InputError, match="stand for what layers keep"):
        store.get([1, 2, MARK_MIN])
    with pytest.raises(Unsupported, match="profile"):
        from kv_cases import make_profile

        opened(model, settings=KvSettings(profile=make_profile(2, 16)))


def test_a_model_whose_adapters_have_changed_needs_another_store(opened):
    peft = pytest.importorskip("peft", reason="needs the extra 'test'")
    settings = peft.LoraConfig(r=2, target_modules=["k_proj"], init_lora_weights=False)
    model = peft.get_peft_model(hybrid("mistral"), settings, adapter_name="A").eval()
    model.add_adapter("B", settings)
    ids, layer = prompt(40), model.base_model.model.model.layers[0].self_attn.k_proj
    store = opened(model)
    store.put(ids, own_cache(model, ids))

    def is_refused():
        for ask in (store.get, store.longest_prefix, lambda ids: store.put(ids, own_cache(model, ids))):
            with pytest.raises(Mismatch, match="the model's adapters are others than when the store was opened"):
                ask(another(ids, 40))
        return True

    model.set_adapter("B")
    assert is_refused()
    model.set_adapter("A")
    with model.disable_adapter():
        assert is_refused()
    layer.scale_layer(2.0)
    assert is_refused()
    layer.unscale_layer()
    model.merge_adapter()
    assert is_refused()
    model.unmerge_adapter()
    assert store.get(another(ids, 40)).tokens == 40


def test_marks_are_of_no_prompt():
    node = Node(id=bytes(16), parent_id=bytes(16), key=(MARK_MIN).to_bytes(4, "big"), start=0)
    assert node.is_mark and not node.ends_prompt
    assert not Node(id=bytes(16), parent_id=bytes(16), key=(MARK_MIN - 1).to_bytes(4, "big"), start=0).is_mark
