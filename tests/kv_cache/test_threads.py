"""Layers coded at once: the same bytes and tensors, and no operation that waits for several threads."""

from __future__ import annotations

import threading

import pytest
import torch
from kv_cases import ALL, all_same, decode, encode, make_block, settings_for
from rdcodec.codecs import container
from rdcodec.codecs.kv_cache.format import at_once, blocks
from rdcodec.codecs.kv_cache.format.blocks import KvSettings, decode_block
from rdcodec.entropy_models.errors import Corrupt


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
@pytest.mark.parametrize("mode", ALL)
def test_threads_change_nothing(mode, threads):
    block, settings = make_block(2, 40, 6), settings_for(mode, 2, 6)
    data = encode(block, settings)
    assert encode(block, settings, threads=threads) == data
    known = decode(data, settings).layers
    for layers in (None, range(1, 3), range(2, 3)):
        found = decode_block(data, layers=layers, profile=settings.profile, threads=threads).layers
        assert all_same(found, known[layers.start : layers.stop] if layers else known)


def test_each_run_of_layers_has_a_thread_and_one_of_torchs(monkeypatch):
    seen, before = [], torch.get_num_threads()
    coding_pass, together = blocks.coding_pass, threading.Barrier(3)

    def watched(*arguments, **options):
        seen.append((threading.get_ident(), torch.get_num_threads(), torch.is_inference_mode_enabled()))
        together.wait(10)  # who comes one after the other waits for ever
        return coding_pass(*arguments, **options)

    monkeypatch.setattr(blocks, "coding_pass", watched)
    torch.set_num_threads(2)
    try:
        encode(make_block(2, 40, 6), KvSettings(mode="lossless"), threads=3)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert len({thread for thread, _, _ in seen}) == 3 and {(own, mode) for _, own, mode in seen} == {(1, True)}


def test_runs_of_layers_are_nearly_equal():
    for layers in range(1, 20):
        for count in range(1, 12):
            runs = at_once._runs(range(layers), count)
            sizes = [len(run) for run in runs]
            assert [i for run in runs for i in run] == list(range(layers))
            assert len(runs) == min(count, layers) and max(sizes) - min(sizes) <= 1 and min(sizes) > 0
    assert at_once._runs(range(0), 4) == [range(0)]


def test_damage_is_told_from_threads_as_well():
    data = bytearray(encode(make_block(2, 40, 6), KvSettings(mode="lossless")))
    data[-1] ^= 1
    with pytest.raises(Corrupt, match="checksum"):
        decode_block(bytes(data), threads=3)
    assert container.parse(bytes(data))


@pytest.mark.parametrize("threads", [0, -1, 1.5, True])
def test_no_number_of_threads(threads):
    with pytest.raises(ValueError, match="need a whole number from 1"):
        encode(make_block(2, 40, 6), KvSettings(mode="lossless"), threads=threads)
