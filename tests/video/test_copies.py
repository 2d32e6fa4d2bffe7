"""Blocks that are copied: their map, their edges, and which are worth it."""

from __future__ import annotations

import pytest
import torch
from rdcodec.codecs.video.copies import code_copies, with_copies, worth_copying
from rdcodec.codecs.video.motion import BLOCK
from rdcodec.entropy_models.coder import Measure, Read, Write
from rdcodec.training.coder import start_tables

TABLES = start_tables()


def some_map(rows: int, columns: int, share: float, seed: int) -> torch.Tensor:
    return (torch.rand(1, rows, columns, generator=torch.Generator().manual_seed(seed)) < share).float()


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 7), (5, 1), (6, 9)])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_any_map_comes_back(rows, columns, share):
    told, before = some_map(rows, columns, share, 1), some_map(rows, columns, 0.5, 2)
    writer = Write(TABLES)
    assert torch.equal(code_copies(writer, told, before), told)
    found = code_copies(Read(TABLES, writer.close()), torch.zeros_like(told), before)
    assert torch.equal(found, told)


def test_a_map_like_that_before_costs_little():
    told = torch.zeros(1, 16, 16)
    told[:, 4:12, 4:12] = 1

    def bits(before: torch.Tensor) -> float:
        measure = Measure(TABLES)
        code_copies(measure, told, before)
        return float(measure.bits[0])

    assert bits(told) < 100 < bits(1 - told)
    everything = Measure(TABLES)
    code_copies(everything, torch.ones_like(told), torch.ones_like(told))
    assert everything.bits[0] < 0.1 * told.numel()


def test_copies_are_the_moved_picture_and_fade_out():
    coded, moved, copies = torch.zeros(1, 64, 64, 3), torch.ones(1, 64, 64, 3), torch.zeros(1, 4, 4)
    assert torch.equal(with_copies(coded, moved, copies), coded)
    assert torch.equal(with_copies(coded, moved, torch.ones_like(copies)), moved)
    copies[0, 1:3, 1:3] = 1
    shown = with_copies(coded, moved, copies)[0, ..., 0]
    assert (shown[BLOCK + 4 : 3 * BLOCK - 4, BLOCK + 4 : 3 * BLOCK - 4] == 1).all() and (shown[: BLOCK - 4] == 0).all()
    assert (shown[2 * BLOCK].diff().abs() < 0.2).all()


def test_what_motion_tells_is_copied_and_what_is_new_is_not():
    residual = torch.zeros(1, 2, 2, 384)
    residual[0, 0, 1] = 0.3
    residual[0, 1, 0, :20] = 3
    residual[0, 1, 1] = 1.5
    assert worth_copying(residual)[0].tolist() == [[1, 1], [0, 0]]
