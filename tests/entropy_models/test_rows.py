"""Rows of symbols coded by table, with escapes."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from rdcodec.entropy_models import gaussian, rows
from rdcodec.entropy_models.errors import (
    Corrupt,
)
from rdcodec.entropy_models.tables import TOTAL, gaussian_tables


def test_stored_tables_are_the_gaussian_ones():
    stored, fresh = gaussian.tables(), gaussian_tables(1)
    for a, b in zip(stored.counts, fresh.counts, strict=True):
        assert a.sum() == TOTAL and np.abs(a - b).max() <= 2
    assert zlib.crc32(gaussian.TABLES_FILE.read_bytes()) == 4006447196


@pytest.mark.parametrize("level", [1, 9, 21, 33, 47, 63])
def test_rows_come_back_with_escapes(level):
    rng = np.random.default_rng(level)
    spread = 0.11 * np.exp(level * 0.101)
    values = np.rint(rng.normal(0, 3 * spread, (7, 33))).astype(np.int32)
    values[3, 5] = 1 << 20
    values[6, 32] = -(1 << 20)
    levels = np.full(7, level, np.uint8)
    writer, measure = rows.WriteRows(), rows.MeasureRows()
    writer.rows(values, levels)
    measure.rows(values, levels)
    data = writer.chunk()
    reader = rows.ReadRows(data)
    assert np.array_equal(reader.rows(np.empty_like(values), levels), values)
    reader.finish()
    assert measure.bits[0] - 8 <= 8 * len(data) <= 1.005 * measure.bits[0] + 96


@pytest.mark.parametrize("level", [1, 9, 21, 29, 33])
@pytest.mark.parametrize("column", [0, 4, 8])
def test_the_last_symbol_of_a_table_and_the_first_beyond(level, column):
    reach = int(gaussian.tables().reach[level])
    for symbol in (reach, -reach, reach + 1, -reach - 1):
        values, levels = np.zeros((2, 9), np.int32), np.full(2, level, np.uint8)
        values[1, column] = symbol
        writer = rows.WriteRows()
        writer.rows(values, levels)
        reader = rows.ReadRows(writer.chunk())
        assert np.array_equal(reader.rows(np.empty_like(values), levels), values)
        reader.finish()


def test_left_over_bytes_are_corrupt():
    writer = rows.WriteRows()
    writer.raw(np.arange(3), (3,), "u1")
    reader = rows.ReadRows(writer.chunk())
    reader.raw(None, (2,), "u1")
    with pytest.raises(Corrupt, match="left over"):
        reader.finish()
