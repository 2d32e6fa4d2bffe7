"""Lanes of rANS: every table, sizes around steps, rate, damage; and the Triton kernel beside the numpy decoder."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from rdcodec.entropy_models import lanes
from rdcodec.entropy_models.errors import BitstreamError, Corrupt
from rdcodec.entropy_models.fast_rows import PAIRED_MAX, SINGLE_MAX
from rdcodec.entropy_models.gaussian import tables
from rdcodec.entropy_models.lane_rows import MeasureLanes, ReadLanes, WriteLanes
from rdcodec.entropy_models.lanes import Lanes, byte_counts, decode, encode, lanes_for, reach_of
from rdcodec.entropy_models.tables import LEVELS, TOTAL, scale


def body_of(level, rng):
    """Bytes drawn from the table of each level."""
    out = np.empty(len(level), np.uint8)
    for one in np.unique(level):
        counts = byte_counts(int(one), one <= PAIRED_MAX)
        out[level == one] = rng.choice(256, int((level == one).sum()), p=counts / lanes.SLOTS)
    return out


def sample(size, seed=0):
    rng = np.random.default_rng(seed)
    level = np.sort(rng.integers(1, SINGLE_MAX + 1, size)).astype(np.uint8)
    return body_of(level, rng), level


@pytest.mark.parametrize("size", [1, 31, 32, 33, 255, 256, 1000, 16_384, 100_001, 300_000])
def test_bodies_come_back(size):
    body, level = sample(size)
    coded = encode(body, level)
    assert np.array_equal(decode(coded, level), body)
    assert len(coded.states) in {lanes_for(2 * len(coded.words)), lanes_for(2 * len(coded.words) + 4 * len(coded.states))}


def test_lanes_are_a_power_of_two_that_costs_little():
    for count in (1, 8191, 8192, 10_000, 65_536, 262_144, 10**7):
        found = lanes_for(count)
        assert found & (found - 1) == 0 and lanes.LANES_MIN <= found <= lanes.LANES_MAX
        assert found == lanes.LANES_MIN or 2 * found <= 0.01 * count
    assert lanes_for(65_536.5) == 256 and lanes_for(0) == 32 and lanes_for(1e9) == 1024


def test_tables_sum_to_the_slots_and_have_what_is_likely():
    for level in range(1, LEVELS):
        paired = level <= PAIRED_MAX
        counts, reach = byte_counts(level, paired), reach_of(level, paired)
        assert counts.sum() == lanes.SLOTS and counts.min() >= 0
        assert (counts > 0).sum() == (2 * reach + 1) ** (1 + paired)
        exact = tables().counts[level]
        middle = len(exact) // 2 - 1
        if level <= SINGLE_MAX:
            inside = exact[middle - reach : middle + reach + 1].sum() / TOTAL
            assert inside > 1 - 2 / (1 << 13) or reach == (7 if paired else 127)
    assert reach_of(1, True) == 1 and byte_counts(30, False)[0] > byte_counts(30, False)[255] >= byte_counts(30, False)[2]


def test_rate_is_near_the_entropy():
    """Of numbers that are Gaussian, not drawn from the tables; what is not in them counts 64 bits."""
    rng = np.random.default_rng(1)
    for level in (9, 20, PAIRED_MAX, PAIRED_MAX + 6, 50):
        values = np.rint(rng.normal(0, scale(level), (64, 4096))).astype(np.int32)
        writer = WriteLanes()
        writer.rows(values, np.full(64, level, np.uint8))
        writer.finish()
        spent = 8 * len(writer.chunk()) / values.size
        counts = tables().counts[level]
        middle = len(counts) // 2 - 1
        inside = np.clip(values + middle, 0, len(counts) - 1)
        ideal = -np.log2(counts[inside] / TOTAL).mean()
        assert ideal <= spent * 1.001 and spent < 1.02 * ideal + 0.02, (level, spent, ideal)


@pytest.mark.parametrize("columns", [1, 2, 63, 64])
def test_rows_of_all_levels_come_back(columns):
    rng = np.random.default_rng(2)
    level = rng.permutation(np.repeat(np.arange(LEVELS, dtype=np.uint8), 4))
    spread = np.where(level, np.array([scale(int(one)) for one in level]), 0)[:, None]
    values = np.rint(rng.normal(0, 1.5, (len(level), columns)) * spread).astype(np.int32)
    values[level == 0] = 0
    values[5] = 0 if level[5] == 0 else 100_000
    writer, meter = WriteLanes(), MeasureLanes()
    for coder in (writer, meter):
        coder.rows(values, level)
        coder.finish()
    data = writer.chunk()
    reader = ReadLanes(data)
    assert np.array_equal(reader.rows(values, level), values)
    reader.finish()
    assert abs(meter.bits[0] / 8 - len(data)) < 0.01 * len(data) + 64


def test_damage_is_seen():
    body, level = sample(20_000)
    coded = encode(body, level)
    rng, seen = np.random.default_rng(3), 0
    for _ in range(50):
        states, words = coded.states.copy(), coded.words.copy()
        if rng.integers(2):
            words[rng.integers(len(words))] ^= 1 << rng.integers(16)
        else:
            states[rng.integers(len(states))] ^= np.uint32(1 << rng.integers(32))
        try:
            decode(Lanes(states, words), level)
        except Corrupt:
            seen += 1
    assert seen >= 40, "the rest is left to the chunk's checksum"
    for words in (coded.words[:-1], np.append(coded.words, np.uint16(0))):
        with pytest.raises(Corrupt, match="words"):
            decode(Lanes(coded.states, words), level)


def test_forged_heads_are_refused():
    values, level = np.zeros((8, 64), np.int32), np.full(8, 5, np.uint8)
    writer = WriteLanes()
    writer.rows(values, level)
    writer.finish()
    data = bytearray(writer.chunk())
    for at, bad in ((4, 4), (4, 11), (5, 255), (8, 255)):
        forged = bytearray(data)
        forged[at] = bad
        with pytest.raises(BitstreamError):
            ReadLanes(bytes(forged)).rows(values, level)


# ---- the kernel ----

KERNEL = """
import numpy as np
import torch
from test_lanes import sample
from rdcodec.entropy_models.errors import Corrupt
from rdcodec.entropy_models.lanes import Lanes, decode, encode
from rdcodec.entropy_models.lanes_triton import decode_many

bodies = [sample(size, size) for size in (1, 40, 700, 3000, 16_500, 33_000)]
coded = [(encode(body, level), level) for body, level in bodies]
for found, (body, _), (one, level) in zip(decode_many(coded, DEVICE), bodies, coded, strict=True):
    assert np.array_equal(found.cpu().numpy(), body) and np.array_equal(decode(one, level), body)
one, level = coded[3]
words = one.words.copy()
words[5] ^= 256
for bad in (Lanes(one.states, words), Lanes(one.states, one.words[:-1]), Lanes(one.states, np.append(one.words, words[:1]))):
    try:
        decode_many([coded[2], (bad, level)], DEVICE)
    except Corrupt:
        continue
    raise AssertionError("damage unseen")
print("ok")
"""


def run_kernel(device, environment):
    pytest.importorskip("triton", reason="Triton is not installed")
    script = KERNEL.replace("DEVICE", repr(device))
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=os.path.dirname(__file__),
        env=os.environ | environment,
    )  # fmt: skip
    assert done.stdout.strip() == "ok", done.stderr[-3000:]


def test_the_kernel_gives_what_numpy_gives_in_tritons_interpreter():
    run_kernel("cpu", {"TRITON_INTERPRET": "1"})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_kernel_gives_what_numpy_gives_on_a_device():
    run_kernel("cuda", {})
