"""Caches, tokens and options that a store refuses, by name."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from rdcodec.codecs.kv_cache.hf.inputs import as_layers, as_token_ids
from rdcodec.codecs.kv_store.trie import Node, token_key
from store_cases import PROMPT, SETTINGS, assert_is_cache, cache_of, files, put

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
    node = Node(id=store.index.id_of(last.id, tokens), parent_id=last.id, key=token_key(tokens), start=16)
    store.index.backend.put(store.index.key(node.id), store.index.encode(node, wrong, SETTINGS, None))
    assert opened().longest_prefix(PROMPT) == 24
    assert_is_cache(opened().get(PROMPT), PROMPT[:16])


def test_a_salt_of_text_is_refused(opened):
    with pytest.raises(TypeError, match="a salt of type str; need bytes"):
        opened(salt="tenant")


@pytest.mark.parametrize(
    ("tokens", "message"),
    [([[1, 2], [3, 4]], "flat"), ([-1, 2], "each 0 to"), (np.array([1 << 63], np.uint64), "each 0"), ([0.5], "float64")],
)
def test_bad_tokens_are_refused(tokens, message):
    with pytest.raises(ValueError, match=message):
        as_token_ids(tokens)


def test_bad_caches_are_refused_by_name():
    good = cache_of(PROMPT)
    with pytest.raises(ValueError, match=r"keys of layer 1 hold 29 positions for 30 tokens; is it a sliding-window"):
        as_layers([good[0], (good[1][0][:, 1:], good[1][1])])
    with pytest.raises(ValueError, match="batch of 2"):
        as_layers([(torch.zeros(2, 2, 30, 4), torch.zeros(2, 2, 30, 4))])
    with pytest.raises(ValueError, match="no layers"):
        as_layers([])
    with pytest.raises(TypeError, match="need a tensor"):
        as_layers([(None, None)])


def test_bad_log_probabilities_and_fingerprints_are_refused(opened):
    for bad in (np.zeros(29), np.full(30, 0.1), np.full(30, np.nan)):
        with pytest.raises(ValueError, match="log-probabilities"):
            put(opened(), PROMPT, log_probs=bad)
    with pytest.raises(ValueError, match="fingerprint of 3 bytes"):
        opened(fingerprint=b"abc")
