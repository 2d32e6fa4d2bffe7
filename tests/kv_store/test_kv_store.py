"""The prefix store: sharing, exactness, damage, appends, eviction, and what other processes do meanwhile."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from kv_cases import forged, make_profile
from rdcodec.codecs.kv_cache.format.blocks import KvSettings
from rdcodec.codecs.kv_cache.modes.profiles import use_profile
from rdcodec.codecs.kv_cache.modes.rope import Rope
from rdcodec.codecs.kv_cache.splice import layers_of, tokens_of
from rdcodec.codecs.kv_store import index, ledger
from rdcodec.codecs.kv_store.backends import open_backend
from rdcodec.codecs.kv_store.index import namespaces
from rdcodec.codecs.kv_store.store import PrefixStore
from rdcodec.codecs.kv_store.trie import Node
from rdcodec.entropy_models.errors import Unsupported

BLOCK = 8
SETTINGS = KvSettings(mode="lossless", block_tokens=BLOCK)
FINGERPRINT = bytes(range(16))


class Clock:
    """Seconds that pass when told to."""

    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def opened(folder, clock):
    """Opens the store, again and again: every call is what another process would see."""

    def open_again(**options):
        options = {"fingerprint": FINGERPRINT, "settings": SETTINGS, "clock": clock} | options
        return PrefixStore(open_backend(folder), **options)

    return open_again


def cache_of(tokens, layers=3, dtype=torch.bfloat16):
    """Every value depends on its layer, head, channel and all tokens up to its own, as in a causal model."""
    tokens = np.asarray(tokens, np.int64)
    mixed = np.cumsum((tokens + 7) * np.arange(1, len(tokens) + 1) ** 2) % 241
    running = torch.tensor(mixed, dtype=torch.float32)[None, :, None]
    place = torch.arange(4.0)[None, None, :] + 16 * torch.arange(2.0)[:, None, None]
    return [((running + place + i).to(dtype), (i - running - place).to(dtype)) for i in range(layers)]


def assert_is_cache(hit, tokens, layers=range(3), dtype=torch.bfloat16):
    want = cache_of(tokens, dtype=dtype)
    assert hit.tokens == len(tokens) and len(hit.layers) == len(layers)
    for (k, v), i in zip(hit.layers, layers, strict=True):
        assert k.dtype == dtype and torch.equal(k, want[i][0]) and torch.equal(v, want[i][1])


def put(store, tokens, **options):
    return store.put(tokens, cache_of(tokens), **options)


def files(folder):
    return sorted(folder.glob("blocks/*/*/*.rdc"))


PROMPT = list(range(1, 31))  # three whole blocks and a tail of six


@pytest.mark.parametrize("length", [1, 7, 8, 9, 16, 30])
def test_what_was_put_comes_back_exactly_and_in_another_process(opened, length):
    stored = put(opened(), PROMPT[:length])
    assert (stored.shared_tokens, stored.new_tokens, stored.new_blocks) == (0, length, -(-length // BLOCK))
    store = opened()
    assert store.longest_prefix(PROMPT[:length]) == length
    assert_is_cache(store.get(PROMPT[:length]), PROMPT[:length])


def test_blocks_whose_keys_are_turned_otherwise_are_no_hit_and_written_again(opened):
    """A model loaded in another type and converted has rounded frequencies, and the same fingerprint."""

    def store(*frequencies):
        rope = Rope(np.array(frequencies, np.float32)) if frequencies else None
        return opened(settings=dataclasses.replace(SETTINGS, rope=rope))

    put(store(1, 0.01), PROMPT)
    for same in (store(1, 0.01), store(1, np.nextafter(np.float32(0.01), np.float32(1))), store()):
        assert_is_cache(same.get(PROMPT), PROMPT)
    other = store(1, 0.0100098)
    assert other.get(PROMPT) is None and not other.verify().damaged
    assert set(other.index.refused.values()) == {"its keys are of other RoPE frequencies than the model's"}
    put(other, PROMPT)
    assert_is_cache(store(1, 0.0100098).get(PROMPT), PROMPT)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_every_dtype(opened, dtype):
    opened().put(PROMPT, cache_of(PROMPT, dtype=dtype))
    assert_is_cache(opened().get(PROMPT), PROMPT, dtype=dtype)


@pytest.mark.parametrize("common", range(31))
def test_a_hit_ends_where_the_tokens_differ(opened, common):
    store = opened()
    put(store, PROMPT)
    query = [*PROMPT[:common], *range(500, 540)]
    hit = store.get(query)
    if common:
        assert_is_cache(hit, query[:common])
    else:
        assert hit is None
    assert store.longest_prefix(query) == common


def test_prompts_share_their_blocks_on_disk(opened, folder):
    store = opened()
    other = [*PROMPT[:16], *range(900, 910)]
    put(store, PROMPT)
    before = files(folder)
    stored = put(store, other)
    assert (stored.shared_tokens, stored.new_blocks, len(files(folder))) == (16, 2, len(before) + 2)
    assert stored.new_bytes == sum(path.stat().st_size for path in files(folder) if path not in before)
    for tokens in (PROMPT, other):
        assert_is_cache(store.get(tokens), tokens)
    stats = store.stats()
    assert (stats.blocks, stats.tokens, stats.prompts, stats.prompt_tokens) == (6, 40, 2, 56)
    assert stats.sharing == pytest.approx(1.4) and stats.modes == {"lossless": 6}


def test_putting_the_same_or_a_shorter_prompt_again_writes_nothing(opened, folder):
    put(opened(), PROMPT)
    times = {path: path.stat().st_mtime_ns for path in files(folder)}
    for length in (30, 27, 24, 5):
        assert put(opened(), PROMPT[:length]).new_blocks == 0
    assert {path: path.stat().st_mtime_ns for path in files(folder)} == times


def test_a_longer_prompt_replaces_the_tail_it_outgrew(opened, folder):
    store = opened()
    put(store, PROMPT[:20])
    assert put(store, PROMPT[:22]).shared_tokens == 16
    assert len(files(folder)) == 3
    put(store, PROMPT)
    assert len(files(folder)) == 4
    assert_is_cache(opened().get(PROMPT), PROMPT)
    assert_is_cache(opened().get(PROMPT[:21]), PROMPT[:21])


@pytest.mark.parametrize("cuts", [(20, 30), (16, 17, 18, 30), (3, 5, 30), (8, 16, 24, 30), (29, 30)])
def test_appending_writes_only_what_is_new(opened, folder, cuts):
    store = opened()
    put(store, PROMPT[: cuts[0]])
    for start, end in itertools.pairwise(cuts):
        there = files(folder)
        new = [(k[:, start:end], v[:, start:end]) for k, v in cache_of(PROMPT[:end])]
        stored = store.append(PROMPT[:end], new)
        assert stored.shared_tokens == start and stored.new_tokens == end - start
        assert set(there) <= set(files(folder))
    assert_is_cache(opened().get(PROMPT), PROMPT)
    assert put(opened(), PROMPT).new_blocks == 0
    branch = [*PROMPT[:22], 7, 7, 7, 7]
    put(opened(), branch)
    assert_is_cache(opened().get(branch), branch)


def test_appending_to_a_prefix_that_ends_inside_a_block_of_another_prompt(opened):
    store = opened()
    put(store, PROMPT)
    branch = [*PROMPT[:19], 700, 701, 702, 703, 704, 705]
    new = [(k[:, 19:], v[:, 19:]) for k, v in cache_of(branch)]
    store.append(branch, new)
    for tokens in (branch, PROMPT):
        assert_is_cache(opened().get(tokens), tokens)


def test_appending_to_what_is_not_stored_says_so(opened):
    store = opened()
    put(store, PROMPT[:10])
    new = [(k[:, 20:], v[:, 20:]) for k, v in cache_of(PROMPT)]
    with pytest.raises(ValueError, match="10 of the 20 tokens"):
        store.append(PROMPT, new)


@pytest.mark.parametrize("layers", [range(1), range(1, 3), range(2, 3)])
def test_a_range_of_layers_loads_alone(opened, layers):
    put(opened(), PROMPT)
    assert_is_cache(opened().get(PROMPT, layers=layers), PROMPT, layers)


def test_layers_stream_one_by_one(opened):
    put(opened(), PROMPT)
    hits = list(opened().stream([*PROMPT, 99], range(3)))
    for layer, hit in enumerate(hits):
        assert_is_cache(hit, PROMPT, range(layer, layer + 1))
    assert len(hits) == 3 and list(opened().stream([77], range(3))) == []


# ---- damage ----


def damage(path, rng, kind):
    data = bytearray(path.read_bytes())
    if kind == "flip":
        data[rng.integers(len(data))] ^= 1 << rng.integers(8)
    elif kind == "cut":
        del data[rng.integers(len(data)) :]
    elif kind == "zeros":
        data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
    elif kind == "empty":
        data.clear()
    path.write_bytes(bytes(data))


def store_with_damage(opened, folder, rng, kind):
    """A store of PROMPT, and the node of a block of it that was damaged."""
    store = opened()
    put(store, PROMPT)
    node = store.index.match(np.array(PROMPT)).path[rng.integers(4)]
    damage(folder / store.index.key(node.id), rng, kind)
    return store, node


@pytest.mark.parametrize("reopen", [False, True])
@pytest.mark.parametrize("kind", ["flip", "cut", "zeros", "empty"])
def test_a_put_over_a_damaged_block_heals_it_before_anyone_looks(opened, folder, kind, reopen):
    rng = np.random.default_rng(2)
    for _ in range(12):
        store, node = store_with_damage(opened, folder, rng, kind)
        stored = put(opened() if reopen else store, PROMPT)
        assert (stored.new_blocks, stored.new_tokens) == (1, len(node.tokens))
        assert_is_cache(opened().get(PROMPT), PROMPT)


def test_an_append_after_a_damaged_block_asks_for_the_whole_cache(opened, folder):
    store = opened()
    put(store, PROMPT[:16])
    damage(folder / store.index.key(store.index.match(np.array(PROMPT)).path[1].id), np.random.default_rng(0), "zeros")
    with pytest.raises(ValueError, match="8 of the 16 tokens before the new ones are stored; put the whole cache"):
        store.append(PROMPT, [(k[:, 16:], v[:, 16:]) for k, v in cache_of(PROMPT)])


def test_a_block_in_anothers_place_is_a_miss(opened, folder):
    store = opened()
    put(store, PROMPT)
    other = [5, 5, 5, 5, 5, 5, 5, 5]
    put(store, other)
    first = folder / store.index.key(store.index.match(np.array(PROMPT)).path[0].id)
    foreign = folder / store.index.key(store.index.match(np.array(other)).path[0].id)
    first.write_bytes(foreign.read_bytes())
    assert opened().get(PROMPT) is None
    assert store.get(PROMPT) is None
    assert_is_cache(store.get(other), other)


def test_a_hash_collision_is_caught_by_comparing_tokens(opened, monkeypatch):
    store = opened()
    put(store, PROMPT[:8])
    monkeypatch.setattr(store.index, "id_of", lambda parent, tokens: next(iter(store.index.trie.nodes)))
    assert store.longest_prefix(list(range(300, 308))) == 0
    assert store.get(list(range(300, 308))) is None


STORED = r"tokens 0 to 8 are stored as 3 layers x 2 kv heads x 4, bfloat16; the cache is "
UNLIKE = {
    "element type": (lambda k, v: (k.half(), v.half()), "3 layers x 2 kv heads x 4, float16"),
    "heads": (lambda k, v: (k[:1], v[:1]), "3 layers x 1 kv heads x 4, bfloat16"),
    "widths": (lambda k, v: (k, v[..., :3]), r"3 layers x 2 kv heads x 4 \(values 3\), bfloat16"),
}


@pytest.mark.parametrize("tokens", [PROMPT, PROMPT[:16], PROMPT[:13]], ids=len)
@pytest.mark.parametrize("what", UNLIKE)
def test_a_cache_of_another_layout_is_refused_with_both_layouts(opened, folder, what, tokens):
    put(opened(), PROMPT[:24])
    change, message = UNLIKE[what]
    wrong = [change(k, v) for k, v in cache_of(tokens)]
    there = {path: path.read_bytes() for path in files(folder)}
    with pytest.raises(ValueError, match=STORED + message):
        opened().put(tokens, wrong)
    for cut in (8, 10):  # at a block's end, and inside a block
        with pytest.raises(ValueError, match=STORED + message):
            opened().append(tokens, [(k[:, cut:], v[:, cut:]) for k, v in wrong])
    assert {path: path.read_bytes() for path in files(folder)} == there
    assert_is_cache(opened().get(PROMPT), PROMPT[:24])


def test_a_cache_of_fewer_layers_or_of_unlike_ones_is_refused(opened):
    put(opened(), PROMPT)
    with pytest.raises(ValueError, match=STORED + "2 layers x 2 kv heads"):
        opened().put(PROMPT, cache_of(PROMPT)[:2])
    good = cache_of(PROMPT)
    with pytest.raises(ValueError, match=r"layer 1 has keys \(1, 30, 4\)"):
        opened().put(PROMPT, [good[0], (good[1][0][:1], good[1][1][:1]), good[2]])
    with pytest.raises(ValueError, match="a cache without layers"):
        opened().append(PROMPT, None)


def test_the_tail_of_an_append_must_have_the_layout_too(opened):
    """No whole block before it: only the beginning of a block with another continuation."""
    put(opened(), PROMPT[:8])
    branch = [*PROMPT[:5], 700, 701]
    with pytest.raises(ValueError, match=STORED + "3 layers x 2 kv heads x 4, float16"):
        opened().append(branch, [(k[:, 5:], v[:, 5:]) for k, v in cache_of(branch, dtype=torch.float16)])


def test_blocks_of_unlike_shape_are_never_joined(opened, folder):
    """Such as another program may have left."""
    store = opened()
    put(store, PROMPT[:16])
    last = store.index.match(np.array(PROMPT)).path[-1]
    wrong = tuple((k[:1, 16:24], v[:1, 16:24]) for k, v in cache_of(PROMPT))
    tokens = np.array(PROMPT[16:24])
    node = Node(store.index.id_of(last.id, tokens), last.id, tokens, 16, 0)
    store.index.backend.put(store.index.key(node.id), store.index.encode(node, wrong, SETTINGS, None))
    assert opened().longest_prefix(PROMPT) == 24
    assert_is_cache(opened().get(PROMPT), PROMPT[:16])


def test_a_block_that_vanishes_is_a_miss_and_is_written_again(opened, folder):
    store = opened()
    put(store, PROMPT)
    (folder / store.index.key(store.index.match(np.array(PROMPT)).path[1].id)).unlink()
    assert put(store, PROMPT).new_blocks == 1
    assert_is_cache(opened().get(PROMPT), PROMPT)


def test_verify_names_what_is_damaged_and_repairs(opened, folder):
    store = opened()
    put(store, PROMPT)
    bad = store.index.match(np.array(PROMPT)).path[1]
    damage(folder / store.index.key(bad.id), np.random.default_rng(0), "zeros")
    (folder / f"blocks/{store.index.namespace}/ab").mkdir(exist_ok=True)
    (folder / f"blocks/{store.index.namespace}/ab" / f"{'ab' * 16}.rdc").write_bytes(b"no block")
    steps = []
    checked = opened().verify(progress=lambda done, total: steps.append((done, total)))
    assert checked.blocks == 5 and set(checked.damaged) == {bad.id.hex(), "ab" * 16}
    assert steps == [(i, 5) for i in range(1, 6)]
    assert len(opened().verify(repair=True).damaged) == 2
    checked = opened().verify()
    assert checked.blocks == 3 and not checked.damaged and len(checked.unreachable) == 1
    assert opened().stats().prompt_tokens == 8, "what cannot be reached is no prompt"


# ---- who may see what ----


def test_another_tenant_or_model_finds_nothing(opened, folder):
    put(opened(), PROMPT)
    for options in ({"salt": b"tenant"}, {"fingerprint": bytes(16)}):
        store = opened(**options)
        assert store.get(PROMPT) is None and store.longest_prefix(PROMPT) == 0
    theirs = opened(salt=b"tenant")
    put(theirs, PROMPT)
    assert_is_cache(opened(salt=b"tenant").get(PROMPT), PROMPT)
    assert len(namespaces(open_backend(folder))) == 2


def test_moving_another_tenants_blocks_into_ones_folder_gives_misses(opened, folder):
    theirs, ours = opened(salt=b"theirs"), opened(salt=b"ours")
    put(theirs, PROMPT)
    (folder / "blocks" / theirs.index.namespace).rename(folder / "blocks" / ours.index.namespace)
    assert opened(salt=b"ours").longest_prefix(PROMPT) == 0 and opened(salt=b"ours").get(PROMPT) is None


def test_without_the_salt_a_store_can_be_looked_at_but_not_written(opened, folder):
    put(opened(salt=b"tenant"), PROMPT)
    store = PrefixStore.of_namespace(open_backend(folder), namespaces(open_backend(folder))[0])
    assert store.stats().tokens == 30 and not store.verify().damaged
    with pytest.raises(ValueError, match="without its salt"):
        put(store, [1, 2, 3])


def test_without_the_salt_a_block_whose_tokens_were_changed_is_seen(opened, folder):
    """Under checksums that hold, after the store was opened: nothing but its tokens tells."""
    put(opened(salt=b"tenant"), PROMPT)
    store = PrefixStore.of_namespace(open_backend(folder), namespaces(open_backend(folder))[0])
    path = folder / store.index.key(store.index.match(np.array(PROMPT)).path[1].id)

    def change(signal, chunks):
        chunks[0][0] ^= 1

    path.write_bytes(forged(path.read_bytes(), change))
    assert list(store.verify().damaged.values()) == ["the block holds other tokens than its place in the trie"]


# ---- several processes ----


def test_whole_blocks_of_others_are_found_at_once_and_tails_after_refresh(opened):
    reader, writer = opened(), opened()
    put(writer, PROMPT)
    assert_is_cache(reader.get(PROMPT), PROMPT[:24])
    reader.index.refresh()
    assert_is_cache(reader.get(PROMPT), PROMPT)


def test_the_index_is_rebuilt_from_the_blocks_alone(opened, folder):
    with opened() as store:
        put(store, PROMPT)
        store.get(PROMPT)
    for path in (folder / "usage").rglob("*.json"):
        path.unlink()
    store = opened()
    assert_is_cache(store.get(PROMPT), PROMPT)
    assert store.stats().hits == 4


def test_hits_of_several_processes_add_up_and_damaged_accounts_do_no_harm(opened, folder, clock):
    with opened() as store:
        put(store, PROMPT)
    for _ in range(3):
        clock.now += 10
        with opened() as store:
            store.get(PROMPT[:8])
            store.get(PROMPT[:8])
    for number, junk in enumerate([b"", b"{", b"[]", b'{"version": 1}', b'{"version": 9, "blocks": {}, "reuse": []}']):
        (folder / "usage" / store.index.namespace / f"junk{number}.json").write_bytes(junk)
    store = opened()
    first = store.index.match(np.array(PROMPT)).path[0]
    assert first.hits == 6 and first.last_used == 1030
    store.evict(10**9)
    assert len(list((folder / "usage" / store.index.namespace).iterdir())) == 1
    first = opened().index.match(np.array(PROMPT)).path[0]
    assert first.hits == 6 and first.last_used == 1030
    assert opened().index.reuse.counts.hits.sum() == 6


def uses(store) -> int:
    """What eviction counts: reads, and puts of tokens that are stored."""
    return sum(node.hits for node in store.index.trie.nodes.values())


def test_a_save_writes_what_was_counted_since_the_last_and_puts_are_uses_but_no_hits(opened):
    store = opened()
    put(store, PROMPT)
    assert put(store, PROMPT).new_blocks == 0 and (uses(store), store.stats().hits) == (4, 0)
    store.get(PROMPT[:8])
    store.save()
    store.save()
    other = opened()
    assert (uses(other), other.stats().hits) == (5, 1)
    other.evict(10**9)
    again = opened()
    assert (uses(again), again.stats().hits) == (5, 1), "lost when accounts are folded"


def test_accounts_without_reads_are_those_of_older_programs():
    account = ledger.parse(b'{"version":1,"blocks":{"01":[3,1,null]},"reuse":[]}')
    assert (account.blocks[b"\1"].hits, account.blocks[b"\1"].reads) == (3, 0)


def test_accounts_round_trip_and_refuse_nonsense():
    account = ledger.Account({b"\1" * 16: ledger.Usage(3, 12.5, 7.25, 2), b"\2" * 16: ledger.Usage(0, 1.0, None)})
    account.reuse.hits[1, 2], account.reuse.exposure_s[3, 4] = 5, 6.5
    back = ledger.parse(account.to_json())
    assert back.blocks == account.blocks
    assert np.array_equal(back.reuse.hits, account.reuse.hits)
    assert np.array_equal(back.reuse.exposure_s, account.reuse.exposure_s)
    for bad in (
        b'{"version":1,"blocks":{"00":[-1,0,null]},"reuse":[]}',
        b'{"version":1,"blocks":{},"reuse":[[99,0,1,1]]}',
        b'{"version":1,"blocks":{"00":[1,0,null]},"reuse":[],"reads":{"00":2}}',
    ):
        with pytest.raises(ValueError, match="out of range"):
            ledger.parse(bad)


# ---- eviction and transcoding ----


def test_eviction_keeps_within_budget_and_what_is_left_is_usable(opened, folder, clock):
    store = opened()
    prompts = [[*PROMPT[:16], *range(100 * i, 100 * i + 11)] for i in range(1, 6)]
    for tokens in prompts:
        clock.now += 10
        put(store, tokens)
    size = store.stats().size_bytes
    evicted = store.evict(size // 2)
    kept = sum(path.stat().st_size for path in files(folder))
    assert evicted.kept_bytes == kept <= size // 2 and evicted.size_bytes == size - kept
    store = opened()
    assert not store.verify().damaged and not store.index.trie.orphans()
    assert store.longest_prefix(PROMPT[:16]) == 16, "the shared beginning goes last"
    assert store.longest_prefix(prompts[-1]) > store.longest_prefix(prompts[0])
    assert store.evict(0).kept_bytes == 0 and files(folder) == []
    with pytest.raises(ValueError, match="budget"):
        store.evict(-1)


def test_the_policy_recency_drops_what_was_used_longest_ago_however_likely(opened, clock):
    store = opened()
    put(store, list(range(8)), log_probs=np.full(8, -0.1))
    clock.now += 10
    put(store, list(range(50, 58)), log_probs=np.full(8, -6.0))
    store.evict(store.stats().size_bytes - 1, "recency")
    assert store.longest_prefix(list(range(8))) == 0 and store.longest_prefix(list(range(50, 58))) == 8


def test_what_another_process_evicted_is_not_damage(opened, folder, monkeypatch):
    put(opened(), PROMPT)
    store, other = opened(), opened()
    gone = next(iter(store.index.trie.nodes.values()))
    found, key_of_gone = store.index.backend.get, other.index.key(gone.id)
    monkeypatch.setattr(store.index.backend, "get", lambda key, end=None: None if key == key_of_gone else found(key, end))
    assert not store.verify().damaged and not store.transcode("fp8").damaged


def test_an_unknown_eviction_policy_is_refused(opened):
    with pytest.raises(ValueError, match="no policy 'lru'; there are worth and recency"):
        opened().evict(10, "lru")


def test_eviction_sees_what_others_stored_meanwhile(opened, folder):
    store = opened()
    put(opened(), PROMPT)
    assert store.evict(0).blocks == 4 and files(folder) == []


def test_likely_text_outlives_unlikely_text_before_anything_is_counted(opened, clock):
    store = opened()
    likely, unlikely = list(range(8)), list(range(50, 58))
    put(store, likely, log_probs=np.full(8, -0.1))
    put(store, unlikely, log_probs=np.full(8, -6.0))
    store.save()
    store = opened()
    store.evict(store.stats().size_bytes - 1)
    assert store.longest_prefix(likely) == 8 and store.longest_prefix(unlikely) == 0


def test_transcoding_changes_mode_and_size_and_keeps_ids(opened, folder):
    store = opened()
    put(store, PROMPT)
    names = files(folder)
    done = store.transcode(dataclasses.replace(SETTINGS, mode="fp8"))
    assert files(folder) == names
    assert done.after_bytes == sum(path.stat().st_size for path in names) < done.before_bytes
    hit = opened().get(PROMPT)
    assert hit.tokens == 30 and opened().stats().modes == {"fp8": 4}
    want = cache_of(PROMPT)[0][0].float()
    assert torch.allclose(hit.layers[0][0].float(), want, rtol=0.1, atol=1)


def test_transcoding_leaves_blocks_that_are_so_already(opened, folder):
    store = opened()
    put(store, PROMPT)
    settings = dataclasses.replace(SETTINGS, mode="quantized", quality=40)
    store.transcode(settings)
    once = {path: path.read_bytes() for path in files(folder)}
    done = store.transcode(settings)
    assert {path: path.read_bytes() for path in files(folder)} == once and done.before_bytes == done.after_bytes
    store.transcode(dataclasses.replace(settings, mode="quantized-small"))
    assert opened().stats().modes == {"quantized-small": 4}
    store.transcode(settings)
    assert {path: path.read_bytes() for path in files(folder)} == once, "from coder to coder nothing is lost"
    store.transcode(dataclasses.replace(settings, quality=41))
    assert all(path.read_bytes() != data for path, data in once.items())


@pytest.mark.parametrize("mode", ["quantized", "transform", "predictive"])
def test_transcoding_knows_the_profile_that_a_block_was_written_with(opened, folder, mode):
    profile, other = make_profile(2, 4), make_profile(2, 4, exponent=-13)
    use_profile(profile)
    settings = dataclasses.replace(SETTINGS, mode=mode, profile=profile)
    store = opened(settings=settings)
    put(store, PROMPT)
    once = {path: path.read_bytes() for path in files(folder)}
    store.transcode(settings)
    assert {path: path.read_bytes() for path in files(folder)} == once
    if mode == "quantized":
        store.transcode(dataclasses.replace(settings, mode="quantized-small"))
        assert all(path.read_bytes() != data for path, data in once.items())
        store.transcode(settings)
        assert {path: path.read_bytes() for path in files(folder)} == once
    store.transcode(dataclasses.replace(settings, profile=other))
    assert all(path.read_bytes() != data for path, data in once.items())


def test_transcoding_says_which_blocks_it_left_and_which_were_damaged(opened, folder, monkeypatch):
    store = opened()
    put(store, PROMPT)
    first, *_, last = store.index.match(np.array(PROMPT)).path
    damage(folder / store.index.key(last.id), np.random.default_rng(0), "zeros")
    before, decode = (folder / store.index.key(first.id)).read_bytes(), index.decode_parsed

    def missing(stream, header, **options):
        if stream.data == before:
            raise Unsupported("its profile is not in use")
        return decode(stream, header, **options)

    monkeypatch.setattr(index, "decode_parsed", missing)
    done = store.transcode("fp8")
    assert done.blocks == 4 and done.left == {first.id.hex(): "its profile is not in use"}
    assert list(done.damaged) == [last.id.hex()] and "checksum" in done.damaged[last.id.hex()]
    assert done.after_bytes == sum(path.stat().st_size for path in files(folder))
    assert (folder / store.index.key(first.id)).read_bytes() == before and len(files(folder)) == 3
    monkeypatch.undo()
    assert store.get(PROMPT).tokens == 24, "what was left is still there"


def test_a_put_says_in_which_modes_the_shared_blocks_are(opened):
    assert put(opened(), PROMPT[:16]).shared_modes == {}
    for change, label in (
        ({"mode": "quantized", "quality": 35}, "quantized, quality 35"),
        ({"mode": "turboquant", "bits": 3}, "turboquant, 3 bits"),
        ({"mode": "fp8"}, "fp8"),
    ):
        store = opened(settings=dataclasses.replace(SETTINGS, **change))
        put(store, [*PROMPT[:8], *range(600, 608)])
        assert put(store, PROMPT[:16]).shared_modes == {"lossless": 2}
        branch = [*range(40, 48), *PROMPT]
        branch[0] = 40 + len(label)
        put(store, branch[:8])
        put(opened(), branch[:16])
        assert put(opened(), branch[:16]).shared_modes == {label: 1, "lossless": 1}
        new = [(k[:, 16:], v[:, 16:]) for k, v in cache_of(branch)]
        assert opened().append(branch, new).shared_modes == {label: 1, "lossless": 1}


@pytest.mark.parametrize("mode", ["tokens", "residual"])
def test_modes_that_need_the_model_are_refused(opened, folder, mode):
    settings = dataclasses.replace(SETTINGS, mode=mode)
    put(opened(), PROMPT[:16])
    there = {path: path.read_bytes() for path in files(folder)}
    new = [(k[:, 16:], v[:, 16:]) for k, v in cache_of(PROMPT)]
    for write in (
        lambda: put(opened(settings=settings), PROMPT),
        lambda: opened(settings=settings).append(PROMPT, new),
        lambda: opened().transcode(settings),
    ):
        with pytest.raises(ValueError, match=f"mode {mode} needs the model to save and to restore a cache"):
            write()
    assert {path: path.read_bytes() for path in files(folder)} == there
    assert_is_cache(opened().get(PROMPT), PROMPT[:16])


def test_blocks_without_tensors_of_an_earlier_version_are_written_again(opened):
    store = opened()
    tokens = np.array(PROMPT[:8])
    node = Node(store.index.id_of(bytes(16), tokens), bytes(16), tokens, 0, 0)
    empty = store.index.encode(node, (), dataclasses.replace(SETTINGS, mode="tokens"), None)
    store.index.backend.put(store.index.key(node.id), empty)
    stored = put(opened(), PROMPT)
    assert (stored.shared_tokens, stored.new_blocks) == (0, 4)
    assert_is_cache(opened().get(PROMPT), PROMPT)


def test_transcoding_takes_the_name_of_a_mode(opened):
    store = opened()
    put(store, PROMPT)
    store.transcode("fp8")
    assert opened().stats().modes == {"fp8": 4} and store.settings == dataclasses.replace(SETTINGS, mode="fp8")
    with pytest.raises(ValueError, match="no mode 'fp9'; there are"):
        store.transcode("fp9")


# ---- arguments ----


def test_a_salt_of_text_is_refused(opened):
    with pytest.raises(TypeError, match="a salt of type str; need bytes"):
        opened(salt="tenant")


def test_caches_of_transformers_and_with_a_batch_dimension(opened):
    transformers = pytest.importorskip("transformers")
    cache = transformers.DynamicCache()
    for i, (k, v) in enumerate(cache_of(PROMPT)):
        cache.update(k[None], v[None], i)
    opened().put(torch.tensor([PROMPT]), cache)
    assert_is_cache(opened().get(np.array(PROMPT, np.int32)), PROMPT)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [([[1, 2], [3, 4]], "flat"), ([-1, 2], "each 0 to"), (np.array([1 << 63], np.uint64), "each 0"), ([0.5], "float64")],
)
def test_bad_tokens_are_refused(tokens, message):
    with pytest.raises(ValueError, match=message):
        tokens_of(tokens)


def test_bad_caches_are_refused_by_name():
    good = cache_of(PROMPT)
    with pytest.raises(ValueError, match=r"keys of layer 1 hold 29 positions for 30 tokens; is it a sliding-window"):
        layers_of([good[0], (good[1][0][:, 1:], good[1][1])])
    with pytest.raises(ValueError, match="batch of 2"):
        layers_of([(torch.zeros(2, 2, 30, 4), torch.zeros(2, 2, 30, 4))])
    with pytest.raises(ValueError, match="no layers"):
        layers_of([])
    with pytest.raises(TypeError, match="need a tensor"):
        layers_of([(None, None)])


def test_the_last_id_of_generation_may_be_there_as_well(opened):
    assert opened().put([*PROMPT, 7], cache_of(PROMPT), np.full(31, -1.0)).new_tokens == 30
    assert opened().get(PROMPT).tokens == 30
    for ids in ([*PROMPT, 7, 8], PROMPT[:-1]):
        with pytest.raises(ValueError, match=f"{len(ids)} token ids for a cache of 30 tokens; need one for each"):
            opened().put(ids, cache_of(PROMPT))


def test_bad_log_probabilities_and_fingerprints_are_refused(opened):
    for bad in (np.zeros(29), np.full(30, 0.1), np.full(30, np.nan)):
        with pytest.raises(ValueError, match="log-probabilities"):
            put(opened(), PROMPT, log_probs=bad)
    with pytest.raises(ValueError, match="fingerprint of 3 bytes"):
        opened(fingerprint=b"abc")


def test_progress_is_told_in_tokens(opened):
    steps = []
    put(opened(), PROMPT, progress=lambda done, total: steps.append((done, total)))
    assert steps == [(8, 30), (16, 30), (24, 30), (30, 30)]


def test_verify_never_deletes_what_it_cannot_judge(opened, folder, monkeypatch):
    """A block whose profile is missing here is whole for those who have it."""
    put(opened(), PROMPT)
    before = sorted(p.name for p in folder.rglob("*.rdc"))

    def missing(*_, **__):
        raise Unsupported("its profile is not in use")

    monkeypatch.setattr("rdcodec.codecs.kv_store.index.decode_parsed", missing)
    checked = opened().verify(repair=True)
    assert not checked.damaged and len(checked.unread) == checked.blocks == len(before) > 0
    assert sorted(p.name for p in folder.rglob("*.rdc")) == before
