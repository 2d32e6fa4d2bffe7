"""Eviction within a budget, and transcoding of what is stored."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from kv_cases import make_profile
from rdcodec.codecs.kv_store import content
from rdcodec.codecs.kv_store.trie import Node, token_key
from rdcodec.entropy_models.errors import Unsupported
from store_cases import PROMPT, SETTINGS, assert_is_cache, cache_of, damage, files, put


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
    store.index.load()
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
    before, decode = (folder / store.index.key(first.id)).read_bytes(), content.decode_parsed

    def missing(stream, header, **options):
        if stream.data == before:
            raise Unsupported("its profile is not here")
        return decode(stream, header, **options)

    monkeypatch.setattr(content, "decode_parsed", missing)
    done = store.transcode("fp8")
    assert done.blocks == 4 and done.left == {first.id.hex(): "its profile is not here"}
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
    node = Node(id=store.index.id_of(bytes(16), tokens), parent_id=bytes(16), key=token_key(tokens), start=0)
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
