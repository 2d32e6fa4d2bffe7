"""Codecs to compare with: every frame back, groups as named, packets counted, the same bytes every time."""

from __future__ import annotations

import os
import sys
from dataclasses import replace

import numpy as np
import pytest
from rdcodec.codecs.evaluation.metrics import psnr_db
from rdcodec.codecs.video.footage import Colours
from rdcodec.codecs.video.references import REFERENCES, group_starts

av = pytest.importorskip("av")


@pytest.fixture(params=REFERENCES)
def name(request):
    try:
        REFERENCES[request.param].check()
    except ValueError as error:
        pytest.skip(str(error))
    return request.param


def test_every_frame_comes_back_in_groups_as_named(name, moving):
    reference = REFERENCES[name]
    data = reference.encode(moving, reference.settings[2])
    decoded = reference.decode(data)
    assert decoded.rgb.shape == moving.rgb.shape and decoded.rate == moving.rate and decoded.colours == moving.colours
    assert psnr_db(moving.rgb, decoded.rgb) > 30
    middle = [psnr_db(moving.rgb[20], decoded.rgb[i]) for i in range(40)]
    assert int(np.argmax(middle)) == 20, "frames keep their order"
    group = int(name.split("-g")[1].split("-")[0])
    assert group_starts(data) == list(range(0, 40, group))


def test_higher_factors_cost_less_and_the_bytes_are_the_same(name, moving):
    reference = REFERENCES[name]
    files = [reference.encode(moving, setting) for setting in (reference.settings[0], reference.settings[-1])]
    sizes = [reference.counted(data) for data in files]
    assert sizes[0] > 2 * sizes[1] > 0
    assert reference.encode(moving, reference.settings[0]) == files[0]


def test_packets_alone_count_and_hold_no_notes(name, moving):
    reference = REFERENCES[name]
    data = reference.encode(moving, reference.settings[-1])
    assert 100 < len(data) - reference.counted(data) < 2500
    for text in (b"x264 - core", b"x265 (build"):
        assert text not in data[data.index(b"\x1f\x43\xb6\x75") :], "after the first cluster's mark"


@pytest.mark.parametrize("colours", [Colours(6), Colours(1, True)])
def test_colours_come_back_as_they_were(colours, moving):
    same = replace(moving, colours=colours)
    for name in ("x264-medium-g12", "x265-veryfast-g12", "svtav1-p6-g12"):
        decoded = REFERENCES[name].decode(REFERENCES[name].encode(same, 18))
        assert decoded.colours == colours, name
        assert np.abs((decoded.rgb - same.rgb.astype(float)).mean((0, 1, 2))).max() < 0.7, name


def test_own_planes_are_coded(moving):
    grey = replace(moving, own_planes=np.full_like(moving.planes(), 128))
    decoded = REFERENCES["x264-medium-g12"].decode(REFERENCES["x264-medium-g12"].encode(grey, 20))
    assert np.ptp(decoded.rgb) <= 2


def test_what_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(av, "codecs_available", set())
    with pytest.raises(ValueError, match="no libx265; the wheel has: pip install av"):
        REFERENCES["x265-veryfast-g12"].check()
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ValueError, match="SVT-AV1 needs more packages .* pip install av"):
        REFERENCES["svtav1-p6-g32"].check()


@pytest.mark.skipif(
    not hasattr(os, "SCHED_FIFO") or os.geteuid() != 0, reason="SVT-AV1 takes real-time priority as root on Linux"
)
def test_no_thread_keeps_realtime_priority(moving):
    """It would be inherited by every program that is started from then on."""
    REFERENCES["svtav1-p6-g32"].encode(moving, 60)
    policies = {os.sched_getscheduler(int(thread)) for thread in os.listdir("/proc/self/task")}
    assert policies == {os.SCHED_OTHER}
