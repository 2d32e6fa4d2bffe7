"""The prefix store: sharing, exactness, appends, and what other processes do meanwhile."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from kv_cases import all_same, make_profile
from rdcodec.codecs.kv_cache.modes.rope import Rope
from store_cases import BLOCK, PROMPT, SETTINGS, assert_is_cache, cache_of, files, put


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
    assert (stats.shared_tokens, stats.shared_bits) == (16, None)


def test_what_prompts_share_is_counted_in_bits_where_log_probabilities_are_known(opened):
    store, other = opened(), [*PROMPT[:16], *range(900, 910)]
    put(store, PROMPT, log_probs=[-0.5] * 30)
    put(store, other, log_probs=[-0.5] * 16 + [-2.0] * 10)
    store.save()
    stats = opened().stats()
    assert stats.shared_tokens == 16 and stats.shared_bits == pytest.approx(8 / np.log(2))
    put(store, [*PROMPT[:24], 7])  # its third block was stored with log-probabilities, too
    assert store.stats().shared_tokens == 24 and store.stats().shared_bits == pytest.approx(12 / np.log(2))
    put(store, [1000, *range(8)])
    put(store, [1000, *range(7), 1001])
    assert store.stats().shared_tokens == 32 and store.stats().shared_bits is None, "of eight tokens no bits are known"


def test_a_block_of_a_calibrated_mode_is_read_with_its_profile_alone(opened):
    profile, other = make_profile(2, 4), make_profile(2, 4, exponent=-13)
    settings = dataclasses.replace(SETTINGS, mode="transform", profile=profile)
    first = opened(settings=settings)
    put(first, PROMPT)
    known = first.get(PROMPT)
    for options in ({}, {"profiles": [other]}, {"settings": dataclasses.replace(settings, profile=other)}):
        store = opened(**options)
        assert store.get(PROMPT) is None
        assert f"needs profile {profile.hash.hex()}" in "".join(store.index.refused.values())
    found = opened(profiles=[other, profile]).get(PROMPT)
    assert found.tokens == 30 and all_same(found.layers, known.layers)


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


def test_what_others_store_is_found_at_once(opened):
    reader, writer = opened(), opened()
    assert reader.get(PROMPT) is None
    put(writer, PROMPT)
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


def test_caches_of_transformers_and_with_a_batch_dimension(opened):
    transformers = pytest.importorskip("transformers")
    cache = transformers.DynamicCache()
    for i, (k, v) in enumerate(cache_of(PROMPT)):
        cache.update(k[None], v[None], i)
    opened().put(torch.tensor([PROMPT]), cache)
    assert_is_cache(opened().get(np.array(PROMPT, np.int32)), PROMPT)


def test_the_last_id_of_generation_may_be_there_as_well(opened):
    assert opened().put([*PROMPT, 7], cache_of(PROMPT), np.full(31, -1.0)).new_tokens == 30
    assert opened().get(PROMPT).tokens == 30
    for ids in ([*PROMPT, 7, 8], PROMPT[:-1]):
        with pytest.raises(ValueError, match=f"{len(ids)} token ids for a cache of 30 tokens; need one for each"):
            opened().put(ids, cache_of(PROMPT))


def test_progress_is_told_in_tokens(opened):
    steps = []
    put(opened(), PROMPT, progress=lambda done, total: steps.append((done, total)))
    assert steps == [(8, 30), (16, 30), (24, 30), (30, 30)]
