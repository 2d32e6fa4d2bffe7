"""Groups of small frames that several threads do at once: the same bytes and pixels, and errors in the groups' order."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from clips import drawn_clip
from rdcodec.codecs.torch_state import THREADED_WORK
from rdcodec.codecs.video import group_work
from rdcodec.codecs.video.codec import VideoCodec
from rdcodec.codecs.video.group_work import GroupWork
from rdcodec.codecs.video.header import parse
from rdcodec.entropy_models.errors import BitstreamError, InputError

THREADS = 1, 2, 3


@pytest.fixture(scope="module")
def codecs() -> dict[int, VideoCodec]:
    return {threads: VideoCodec.load(device="cpu", threads=threads) for threads in THREADS}


@pytest.fixture(scope="module")
def clip() -> np.ndarray:
    return drawn_clip(15, 48, 80, speed=2)


@pytest.fixture(scope="module")
def stream(codecs, clip) -> bytes:
    return codecs[1].encode(clip, quality=40, group=4)


@pytest.mark.parametrize("threads", THREADS[1:])
@pytest.mark.parametrize("effort", [0, 1])
def test_bytes_pixels_and_bits_are_those_of_one_thread(codecs, clip, threads, effort):
    told = {1: [], threads: []}
    found = {}
    for count in told:
        codec, progress = codecs[count].with_effort(effort), lambda *done, count=count: told[count].append(done)
        data = codec.encode(clip, quality=40, group=4, progress=progress)
        parts = codec.decode(data, start=3, stop=14, every=5, progress=progress)
        estimate = codec.estimate(clip, quality=40, group=4, progress=progress)
        assert codec.verify(data) == []
        found[count] = data, codec.decode(data).frames.tobytes(), parts.frames.tobytes(), estimate.bits
        np.testing.assert_array_equal(estimate.signal.frames, codec.decode(data).frames)
    assert found[1] == found[threads] and told[1] == told[threads]


def test_groups_are_done_at_once(codecs, clip, stream, monkeypatch):
    pixels = clip.shape[1] * clip.shape[2]
    header = parse(stream)[1]
    assert [GroupWork(codecs[threads], header, header.groups).workers for threads in THREADS] == [1, 2, 3]
    assert GroupWork(codecs[3], header, 2).workers == 2
    large = replace(header, width=1024, height=THREADED_WORK // 1024)
    assert GroupWork(codecs[3], large, 2).workers == 1, "large frames keep all threads busy"
    monkeypatch.setattr(group_work, "HELD_BYTES", 3 * 3 * pixels * header.group)
    assert GroupWork(codecs[3], header, header.groups).workers == 2, "no more frames are held than that"
    monkeypatch.setattr(group_work, "HELD_BYTES", 0)
    assert GroupWork(codecs[3], header, header.groups).workers == 1


@pytest.mark.parametrize("threads", THREADS)
def test_damage_is_told_in_the_groups_order(codecs, clip, stream, threads):
    entries, lost = parse(stream)[0].entries, (1, 2)
    damaged = bytearray(stream)
    for group in lost:
        damaged[entries[group].offset + entries[group].length // 2] ^= 1
    with pytest.raises(BitstreamError, match="group 1 "):
        codecs[threads].decode(bytes(damaged), start=0, stop=14)
    shown = codecs[threads].decode(bytes(damaged), salvage=True)
    assert shown.lost == lost
    assert all(f"group {group} " in notice for group, notice in zip(lost, shown.notices, strict=True))
    expected = codecs[threads].decode(stream).frames
    expected[4:12] = group_work.GREY
    np.testing.assert_array_equal(shown.frames, expected)


@pytest.mark.parametrize("threads", THREADS)
def test_frames_of_another_number_or_size(codecs, clip, stream, threads):
    header = parse(stream)[1]
    for frames, message in ((clip[:-1], "14 frames"), (np.concatenate([clip, clip[:1]]), "more than 15")):
        with pytest.raises(InputError, match=message):
            list(codecs[threads].encode_groups(iter(frames), header))
    with pytest.raises(InputError, match="a frame is"):
        list(codecs[threads].encode_groups(iter([*clip[:9], clip[0, :-1]]), header))
    chunks = list(codecs[threads].encode_groups(iter(clip), header))
    assert chunks == [parse(stream)[0].chunk(index) for index in range(4)]
