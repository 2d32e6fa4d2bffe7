"""A thousand corrupted blocks in stores of every mode: each is a miss, none a wrong cache, and the next put heals it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from damage import flip_bits, rechecked, truncate
from kv_cases import ALL, all_same, make_block, settings_for
from rdcodec.codecs.kv_cache.format.blocks import KvBlock, KvSettings
from rdcodec.codecs.kv_cache.splice import Layers, cut
from rdcodec.codecs.kv_store.backends import open_backend
from rdcodec.codecs.kv_store.store import PrefixStore

COUNT = 1000
TOKENS, BLOCK, HEADS, DIM = 30, 8, 2, 6
CACHE = make_block(HEADS, TOKENS, DIM)
MODEL, SALT = bytes(range(16)), b"tenant"
SIGNAL, TABLE = 22, 22 + 90
FIELDS = [*range(4, 8), *range(16, 22), *(SIGNAL + at for at in (4, 5, *range(12, 24), *range(42, 90)))]
FIELDS += [TABLE + 9 * line + at for line in range(8) for at in range(1, 9)]
"""Bytes of version, codec, sizes, place and chunk table. Left out is what only the checksum guards: a writer who forges
it too can give a block another type, shape, mode or rate, as he can write any block."""


@dataclass
class Stored:
    """A store of one mode that holds `CACHE`: three whole blocks and a tail."""

    folder: Path
    settings: KvSettings
    paths: list[Path]
    bodies: list[bytes]
    known: Layers

    def opened(self) -> PrefixStore:
        return open_store(self.folder, self.settings)


def open_store(folder: Path, settings: KvSettings, fingerprint: bytes = MODEL, salt: bytes = SALT) -> PrefixStore:
    return PrefixStore(open_backend(folder), fingerprint=fingerprint, salt=salt, settings=settings)


def filled(folder: Path, settings: KvSettings, cache: KvBlock = CACHE, **names: bytes) -> Stored:
    store = open_store(folder, settings, **names)
    store.put(cache.tokens, cache.layers)
    paths = [folder / store.index.key(node.id) for node in store.index.match(cache.tokens).path]
    return Stored(folder, settings, paths, [path.read_bytes() for path in paths], store.get(cache.tokens).layers)


@pytest.fixture(scope="module")
def stores(tmp_path_factory) -> list[Stored]:
    """One of every mode."""
    folder = tmp_path_factory.mktemp("stores")
    return [filled(folder / mode, settings_for(mode, HEADS, DIM, block_tokens=BLOCK)) for mode in ALL]


@pytest.fixture(scope="module")
def strangers(tmp_path_factory) -> list[bytes]:
    """Whole blocks of another model, another tenant and another prompt."""
    folder, settings = tmp_path_factory.mktemp("strangers"), KvSettings(mode="lossless", block_tokens=BLOCK)
    other = make_block(HEADS, TOKENS, DIM, seed=1)
    of_model, of_tenant = filled(folder / "m", settings, fingerprint=bytes(16)), filled(folder / "t", settings, salt=b"")
    return [body for it in (of_model, of_tenant, filled(folder / "p", settings, other)) for body in it.bodies]


def zeros(rng, data, others):
    """As of a file whose last pages never reached the disk."""
    at = rng.integers(len(data))
    return data[:at] + bytes(len(data) - at)


def splice(rng, data, others):
    """The beginning of one block and the end of another."""
    at, other = rng.integers(1, len(data)), others[rng.integers(len(others))]
    return data[:at] + other[at:]


def other_block(rng, data, others):
    """A whole block in another one's place."""
    return others[rng.integers(len(others))]


def wild_header(rng, data, others):
    body = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        body[rng.integers(TABLE + 9 * 8)] = rng.integers(256)
    return bytes(body)


def wild_place(rng, data, others):
    """A field that the reader knows or can count, under a checksum that holds."""
    body = bytearray(data)
    body[FIELDS[rng.integers(len(FIELDS))]] = rng.integers(256)
    return rechecked(bytes(body))


KINDS = (flip_bits, truncate, zeros, splice, other_block, wild_header, wild_place)


def damaged(rng, kind, it: Stored, which: int, others: list[bytes]) -> bytes:
    body = it.bodies[which]
    while body == it.bodies[which]:
        body = kind(rng, it.bodies[which], others)
    return body


def test_a_thousand_corrupted_blocks(stores, strangers):
    rng, seen = np.random.default_rng(20), Counter()
    for number in range(COUNT):
        it, kind = stores[number % len(ALL)], KINDS[number // len(ALL) % len(KINDS)]
        round_ = number // (len(ALL) * len(KINDS))
        which, opened_before = round_ % 4, bool(round_ // 4 % 2)
        # the block of another mode at the same place is no stranger: it holds the same cache
        others = strangers + [body for other in stores for i, body in enumerate(other.bodies) if i != which]
        store = it.opened() if opened_before else None
        it.paths[which].write_bytes(damaged(rng, kind, it, which, others))
        store = store or it.opened()
        hit = store.get(CACHE.tokens)
        assert (hit.tokens if hit else 0) == BLOCK * which, (number, kind.__name__, "not a miss from there on")
        assert hit is None or all_same(hit.layers, cut(it.known, 0, hit.tokens)), (number, kind.__name__, "a wrong cache")
        assert store.put(CACHE.tokens, CACHE.layers).new_blocks == 1
        assert it.paths[which].read_bytes() == it.bodies[which], (number, kind.__name__, "not healed")
        seen[it.settings.mode, kind.__name__, which, opened_before] += 1
    assert len(seen) > 0.9 * min(COUNT, len(ALL) * len(KINDS) * 4 * 2), "modes, kinds and places should mix"
