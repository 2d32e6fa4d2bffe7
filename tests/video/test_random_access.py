"""Frames by number: the very frames that decoding everything gives, from the groups that hold them alone."""

from __future__ import annotations

import multiprocessing
import pickle
from fractions import Fraction

import numpy as np
import pytest
from clips import drawn_clip
from rdcodec.codecs import container
from rdcodec.codecs.video import random_access
from rdcodec.codecs.video.clip import Clip
from rdcodec.codecs.video.codec import VideoCodec
from rdcodec.codecs.video.frames import Format
from rdcodec.codecs.video.groups import GroupPass
from rdcodec.codecs.video.random_access import VideoReader
from rdcodec.codecs.video.timing import pack_times
from rdcodec.entropy_models.errors import BitstreamError, Corrupt
from torch.utils.data import DataLoader

FRAMES, GROUP = 11, 4


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A file of three groups, and what all of it decodes to."""
    codec = VideoCodec.load(device="cpu")
    path = tmp_path_factory.mktemp("reader") / "clip.rdc"
    path.write_bytes(codec.encode(drawn_clip(FRAMES, 33, 50), rate=30000 / 1001, quality=30, group=GROUP, low_delay=True))
    return path, codec.decode(path.read_bytes()).frames


SLICES = [
    slice(None), slice(5, 7), slice(3, 9), slice(-2, None), slice(None, None, 3), slice(None, None, -1), slice(9, 1, -3),
    slice(4, 4), slice(8, 2), slice(6, 99), slice(None, None, -20),
]  # fmt: skip


@pytest.mark.parametrize("wanted", SLICES, ids=str)
def test_slices_are_those_of_the_array(clip, wanted):
    path, frames = clip
    with VideoReader(path) as reader:
        found = reader[wanted]
    assert found.dtype == np.uint8 and found.shape == frames[wanted].shape and np.array_equal(found, frames[wanted])


def test_single_frames_and_facts(clip):
    path, frames = clip
    with VideoReader(path) as reader:
        assert len(reader) == FRAMES and reader.shape == frames.shape and abs(reader.fps - 29.97003) < 1e-5
        for number in (0, 6, -1, np.int64(3)):
            assert np.array_equal(reader[number], frames[number])
        for number in (FRAMES, -FRAMES - 1):
            with pytest.raises(IndexError):
                reader[number]
        assert np.array_equal(np.stack(list(reader)), frames)


def test_lists_of_numbers_give_frames_in_their_order(clip):
    path, frames = clip
    with VideoReader(path) as reader:
        for wanted in ([7, 3, 9, 7, -1], np.array([0, 10]), []):
            found = reader[wanted]
            assert found.dtype == np.uint8 and np.array_equal(found, frames[np.array(wanted, int)])
        with pytest.raises(IndexError):
            reader[[0, FRAMES]]
        for wanted in ("0", [0.5], 1.5, None):
            with pytest.raises(TypeError):
                reader[wanted]


def test_times_are_those_of_the_file(clip, tmp_path):
    with VideoReader(clip[0]) as reader:
        assert np.allclose(reader.times_s, np.arange(FRAMES) * 1001 / 30000)
    times = [50, 3050, 6750, 11150]
    form = Format(width=48, height=32, time_base=Fraction(1, 90000), rate=Fraction(25))
    extras = {b"SOUN": b"x", b"TIME": pack_times(times, 3000)}
    given = Clip(frames=np.zeros((4, 32, 48, 3), np.uint8), extras=extras, source=form.pack())
    (tmp_path / "uneven.rdc").write_bytes(VideoCodec.load(device="cpu").encode(given))
    with VideoReader(tmp_path / "uneven.rdc") as reader:
        assert np.allclose(reader.times_s, [0, 3000 / 90000, 6700 / 90000, 11100 / 90000])
        assert repr(reader) == f"VideoReader({str(tmp_path / 'uneven.rdc')!r}: 4 frames of 48x32, 25 a second)"
    assert repr(reader).endswith("a second, closed)")
    with pytest.raises(ValueError, match="closed"):
        reader[[0]]


def test_only_the_groups_that_are_wanted_are_read(clip, monkeypatch):
    path, _ = clip
    read = []
    chunk = container.Stream.chunk
    monkeypatch.setattr(container.Stream, "chunk", lambda self, index: read.append(index) or chunk(self, index))
    with VideoReader(path) as reader:
        assert read == [], "opening reads the header alone"
        assert reader[5:6].any() and read == [1]
        assert reader[0::8].any() and read == [1, 0, 2]


def test_a_closed_reader_says_so(clip):
    path, _ = clip
    reader = VideoReader(path)
    reader.close()
    reader.close()
    with pytest.raises(ValueError, match="closed"):
        reader[0]


def test_pickled_readers_open_the_file_anew(clip):
    path, frames = clip
    with VideoReader(path, threads=1) as reader:
        data = pickle.dumps(reader)
    with pickle.loads(data) as again:
        assert (again.path, again.device, again.threads) == (path, "cpu", 1)
        assert np.array_equal(again[4:6], frames[4:6])


@pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker processes")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_of_a_loader_read_at_the_same_time(clip, method):
    path, frames = clip
    with VideoReader(path) as reader:
        loader = DataLoader(reader, batch_size=2, num_workers=2, multiprocessing_context=method)
        assert np.array_equal(np.concatenate([batch.numpy() for batch in loader]), frames)


def tell_whether_opened(reader, queue):
    before = reader._file
    reader[0]
    queue.put(reader._file is not before)


def test_a_forked_reader_has_a_place_in_the_file_of_its_own(clip):
    """Forked processes share one place in an open file, and would read each other's bytes."""
    with VideoReader(clip[0]) as reader:
        context = multiprocessing.get_context("fork")
        queue = context.Queue()
        process = context.Process(target=tell_whether_opened, args=(reader, queue))
        process.start()
        assert queue.get(timeout=60) is True
        process.join()


def test_readers_share_a_codec(clip, monkeypatch):
    random_access.loaded.cache_clear()
    loads = []
    load = VideoCodec.load
    monkeypatch.setattr(VideoCodec, "load", lambda **options: loads.append(options) or load(**options))
    for _ in range(2):
        with VideoReader(clip[0]) as reader:
            reader[0]
    assert len(loads) == 1 and loads[0]["device"] == "cpu"


def test_damage_is_told(clip, tmp_path):
    data = bytearray(clip[0].read_bytes())
    entry = container.parse(bytes(data)).entries[1]
    data[entry.offset + entry.length // 2] ^= 1
    (tmp_path / "damaged.rdc").write_bytes(data)
    with VideoReader(tmp_path / "damaged.rdc") as reader:
        assert np.array_equal(reader[0:4], clip[1][0:4])
        with pytest.raises(Corrupt, match="group 1"):
            reader[5]
    (tmp_path / "none.rdc").write_bytes(b"nothing")
    with pytest.raises(BitstreamError):
        VideoReader(tmp_path / "none.rdc")


def test_no_frame_is_decoded_after_the_last_that_is_wanted(clip, monkeypatch):
    """Also by `VideoCodec.decode`, which is not told of damage elsewhere."""
    path, frames = clip
    coded = []
    code = GroupPass.code
    monkeypatch.setattr(GroupPass, "code", lambda self, *arguments: coded.append(self) or code(self, *arguments))
    with VideoReader(path) as reader:
        assert np.array_equal(reader[5], frames[5]) and len(coded) == 2
    data = bytearray(path.read_bytes())
    entry = container.parse(bytes(data)).entries[0]
    data[entry.offset + entry.length // 2] ^= 1
    found = VideoCodec.load(device="cpu").decode(bytes(data), start=5, stop=7)
    assert np.array_equal(found.frames, frames[5:7]) and len(coded) == 2 + 3
    with pytest.raises(Corrupt):
        VideoCodec.load(device="cpu").decode(bytes(data))
