"""Block motion: found, coded, and undone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from rdcodec.codecs.image.tile_coder import to_signal
from rdcodec.codecs.video import motion_search
from rdcodec.codecs.video.motion import UNIT, VECTOR_MAX, code_field, moved
from rdcodec.codecs.video.motion_search import REACH, REACH_MAX, reach_of, searched
from rdcodec.entropy_models.coder import Measure, Read, Write
from rdcodec.entropy_models.tables import gaussian_tables
from scenes import make_scene

TABLES = gaussian_tables(3)


def picture(scene: np.ndarray) -> torch.Tensor:
    return to_signal(torch.from_numpy(np.ascontiguousarray(scene)))[None]


def fields() -> list[torch.Tensor]:
    """Odd sizes, still, even, and wild ones."""
    random = torch.Generator().manual_seed(0)
    wild = torch.randint(-VECTOR_MAX, VECTOR_MAX + 1, (1, 5, 9, 2), generator=random).float()
    even = torch.zeros(1, 3, 6, 2) + torch.tensor([-8.0, 3.0])
    mixed = even + (torch.rand(1, 3, 6, 2, generator=random) > 0.8) * 6
    return [torch.zeros(1, 1, 1, 2), even, mixed, wild]


@pytest.mark.parametrize("changes", [False, True])
def test_a_reader_gets_the_writers_vectors(changes):
    before = torch.zeros(1, 1, 1, 2)
    for field in fields():
        before = before if before.shape == field.shape else torch.zeros_like(field) + 2
        writer, measure = Write(TABLES), Measure(TABLES)
        told = code_field(writer, field, before, changes=changes)
        assert torch.equal(told, field)
        assert torch.equal(code_field(measure, field, before, changes=changes), field)
        (data,) = writer.close()
        reader = Read(TABLES, [data])
        assert torch.equal(code_field(reader, torch.zeros_like(field), before), field)
        reader.close()
        assert abs(8 * len(data) - measure.bits[0]) < 64
        before = field


def test_changes_of_steady_motion_cost_little():
    *_, wild = fields()
    bits = []
    for changes in (False, True):
        measure = Measure(TABLES)
        code_field(measure, wild, wild, changes=changes)
        bits.append(float(measure.bits[0]))
    assert bits[1] < 0.1 * bits[0]


def test_no_motion_gives_the_picture_itself():
    x = picture(make_scene(48, 64))
    assert torch.equal(moved(x, torch.zeros(1, 3, 4, 2)), x)


@pytest.mark.parametrize("shift", [(3, -5), (0, 11), (-20, 26)])
def test_a_pan_is_found_and_undone(shift):
    down, right = shift
    coarse = np.random.default_rng(1).integers(0, 256, (25, 30, 3), dtype=np.uint8)
    scene = np.asarray(Image.fromarray(coarse).resize((240, 200), Image.Resampling.BICUBIC))
    frame, reference = map(picture, (scene[32 + down : 160 + down, 32 + right : 192 + right], scene[32:160, 32:192]))
    field = searched(frame, reference, torch.zeros(1, 8, 10, 2), quality=60)
    inside = field[:, 2:-2, 2:-2]
    assert (inside == torch.tensor([down * UNIT, right * UNIT])).float().mean() > 0.9
    error, still = ((x - frame)[:, 32:-32, 32:-32].square().mean() for x in (moved(reference, field), reference))
    assert error < 0.02 * still


def test_the_farther_a_reference_the_farther_vectors_reach():
    coarse = np.random.default_rng(1).integers(0, 256, (25, 45, 3), dtype=np.uint8)
    scene = np.asarray(Image.fromarray(coarse).resize((360, 200), Image.Resampling.BICUBIC))
    frame, reference = (picture(scene[32:160, at : at + 224]) for at in (92, 32))
    found = [searched(frame, reference, torch.zeros(1, 8, 14, 2), 60, distance=distance) for distance in (1, 8)]
    share, farther = (float((field[:, 2:-2, 2:8] == torch.tensor([0, 60 * UNIT])).all(-1).float().mean()) for field in found)
    assert share == 0 and farther > 0.9
    assert [reach_of(distance) for distance in (1, 4, 5, 8, 1000)] == [REACH, 32, 40, 64, REACH_MAX]


def test_the_first_search_knows_what_vectors_cost(monkeypatch):
    """Where nothing is alike, far vectors find something by chance."""
    coarse = np.random.default_rng(0).integers(0, 256, (2, 24, 32, 3), dtype=np.uint8)
    pictures = [picture(np.array(Image.fromarray(one).resize((256, 192), Image.Resampling.BICUBIC))) for one in coarse]
    still, bits = torch.zeros(1, 12, 16, 2), []
    for price in (motion_search.FIRST_PRICE, 0):
        monkeypatch.setattr(motion_search, "FIRST_PRICE", price)
        measure = Measure(TABLES)
        code_field(measure, searched(*pictures, still, 10, distance=8), still)
        bits.append(float(measure.bits[0]))
    assert bits[0] < 0.75 * bits[1]


def test_quarter_pixels_are_found():
    """A smooth wave that moves by three quarters of a pixel."""
    y, x = np.mgrid[:64, :96]
    waves = [127 + 60 * np.sin((x + at) ** 2 / 300) + 50 * np.cos(y / 7) for at in (0.75, 0.0)]
    frame, reference = (picture(np.repeat(wave.round()[..., None], 3, 2).astype(np.uint8)) for wave in waves)
    field = searched(frame, reference, torch.zeros(1, 4, 6, 2), quality=100)
    assert torch.equal(field[0, 1:-1, 1:-1, 1].median(), torch.tensor(3.0))


def test_vectors_cost_more_at_low_quality():
    random = np.random.default_rng(0)
    scenes = [make_scene(128, 128) + random.integers(0, 30, (128, 128, 3)).astype(np.uint8) for _ in range(2)]
    bits = []
    for quality in (0, 100):
        measure, still = Measure(TABLES), torch.zeros(1, 8, 8, 2)
        code_field(measure, searched(*map(picture, scenes), still, quality), still)
        bits.append(float(measure.bits[0]))
    assert bits[0] < 0.7 * bits[1]
