"""Prompts, caches and settings that several tests of the store use. No tests here."""

from __future__ import annotations

import numpy as np
import torch
from rdcodec.codecs.kv_cache.format.blocks import KvSettings

BLOCK = 8
SETTINGS = KvSettings(mode="lossless", block_tokens=BLOCK)
FINGERPRINT = bytes(range(16))


class Clock:
    """Seconds that pass when told to."""

    now = 1000.0

    def __call__(self):
        return self.now


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
