"""Helper processes of ``test_backends``: eight writers at once and a killed one, then a check. No tests here.

Run as ``python writers.py STORE``. One process imports the libraries and forks: eight imports
of torch would take half a minute.
"""

import os
import signal
import sys
import time
import traceback

import numpy as np
import torch
from rdcodec.codecs.kv_cache.format.blocks import KvSettings
from rdcodec.codecs.kv_store.backends import open_backend
from rdcodec.codecs.kv_store.store import PrefixStore

WRITERS, PROMPTS, BLOCK = 8, 3, 8


def prompt_of(writer, index):
    """Two shared blocks, one shared by pairs of writers, then the writer's own, with a tail."""
    shared = np.arange(2 * BLOCK)
    return np.concatenate([shared, np.full(BLOCK, 100 + writer // 2), np.full(BLOCK + 3, 1000 + 10 * writer + index)])


def cache_of(tokens):
    """Every value depends on all tokens up to its own, so that any mix-up shows."""
    running = torch.tensor(np.cumsum(tokens * np.arange(1, len(tokens) + 1)) % 251, dtype=torch.float32)
    keys = running[None, :, None] + torch.arange(4)[None, None, :] + 10 * torch.arange(2)[:, None, None]
    return [((keys + layer).to(torch.bfloat16), (layer - keys).to(torch.bfloat16)) for layer in range(2)]


def store_at(url):
    settings = KvSettings(mode="lossless", block_tokens=BLOCK)
    return PrefixStore(open_backend(url), fingerprint=bytes(range(16)), settings=settings)


def write(url, writer, start_at, forever):
    time.sleep(max(0.0, start_at - time.time()))
    while True:
        with store_at(url) as store:
            for index in range(PROMPTS):
                tokens = prompt_of(writer, index)
                store.put(tokens, cache_of(tokens))
                assert store.get(tokens).tokens == len(tokens)
        if not forever:
            return
        own = [block for block in store.index.trie.nodes.values() if block.tokens[0] >= 1000 + 10 * writer]
        for block in sorted(own, key=lambda block: -block.start):  # children first, as eviction: it may be killed between
            store.index.forget(block, delete=True)


def child(url, writer, start_at, *, forever=False):
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        write(url, writer, start_at, forever)
        code = 0
    except Exception:  # a child's error must be seen before it exits
        traceback.print_exc()
    finally:
        os._exit(code)


def main(url):
    torch.set_num_threads(1)
    start_at = time.time() + 0.2
    victim = child(url, WRITERS, start_at, forever=True)
    writers = [child(url, writer, start_at) for writer in range(WRITERS)]
    time.sleep(0.5)
    os.kill(victim, signal.SIGKILL)
    assert os.waitpid(victim, 0)[1] == signal.SIGKILL
    for writer in writers:
        assert os.waitpid(writer, 0)[1] == 0, "a writer failed"
    store = store_at(url)
    checked = store.verify()
    assert not checked.damaged and not checked.unreachable, checked
    for writer in range(WRITERS):
        for index in range(PROMPTS):
            tokens = prompt_of(writer, index)
            hit = store.get(tokens)
            assert hit is not None and hit.tokens == len(tokens), "a block was lost"
            for got, want in zip(hit.layers, cache_of(tokens), strict=True):
                assert torch.equal(got[0], want[0]) and torch.equal(got[1], want[1])
    store.index.load()
    shared = store.index.match(prompt_of(0, 0)).path[0]
    assert shared.hits >= WRITERS * PROMPTS, f"hits of other processes were lost: {shared.hits}"
    print("ok")


if __name__ == "__main__":
    main(sys.argv[1])
