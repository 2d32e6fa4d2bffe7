"""The video codec beyond its contract: kinds of frames, parts, damage, bounded memory."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from clips import drawn_clip
from rdcodec.codecs import container, load
from rdcodec.codecs.image.s2lic import S2licConfig, S2licNetwork
from rdcodec.codecs.video import codec as codec_module
from rdcodec.codecs.video.clip import Clip
from rdcodec.codecs.video.groups import INTER, INTRA, SAME, GroupEncoder
from rdcodec.codecs.video.header import LOW_DELAY, PYRAMID, VideoHeader, extras_of, parse
from rdcodec.codecs.video.stem import StemNetwork
from rdcodec.codecs.weights_file import read_weights
from rdcodec.entropy_models.coder import Measure
from rdcodec.entropy_models.errors import BitstreamError, Corrupt, InputError, Unsupported


@pytest.fixture(scope="module")
def codec():
    return load("video", device="cpu")


@pytest.fixture(scope="module")
def clip() -> np.ndarray:
    """Ten frames, repeated ones and a cut among them."""
    frames = drawn_clip(10, 48, 80, speed=1)
    frames[4:6] = frames[3]
    frames[7:] = 255 - frames[7:, ::-1, ::-1]
    return frames


@pytest.fixture(scope="module")
def stream(codec, clip) -> bytes:
    return codec.encode(clip, quality=40, group=4)


def test_kinds_of_frames(codec, clip):
    header = VideoHeader(width=80, height=48, frames=10, quality=40, rate=Fraction(25), lifts=LOW_DELAY)
    encoder, measure = GroupEncoder(codec.image, codec.stem, codec.tables, header), Measure(codec.tables)
    kinds, bits = [], [0.0]
    for number, frame in enumerate(clip):
        (coded,) = encoder.code(measure, frame)
        assert coded.number == number
        kinds.append(coded.kind)
        bits.append(float(measure.bits[0]))
    assert kinds[0] == kinds[7] == INTRA and kinds[4] == kinds[5] == SAME
    assert {kinds[i] for i in (1, 2, 3, 6, 8, 9)} == {INTER}
    cost = np.diff(bits)
    assert cost[4] < 9 and cost[5] < 0.1 and cost[1] < 0.7 * cost[0]


def test_a_frame_looks_as_it_would_on_its_own(codec):
    """No residual picture, no drift: quality holds all along, though the first frame is coded better."""
    frames = drawn_clip(8, 64, 96, speed=1)
    shown = codec.estimate(frames, quality=40).signal.frames
    errors = [np.square(a.astype(float) - b).mean() for a, b in zip(shown, frames, strict=True)]
    assert max(errors) < 1.5 * errors[0]


@pytest.mark.parametrize(("start", "stop", "every"), [(0, 1, 1), (3, 4, 1), (2, 9, 1), (0, 10, 3), (9, 10, 1)])
def test_parts_are_those_of_the_whole(codec, stream, start, stop, every):
    whole = codec.decode(stream).frames
    part = codec.decode(stream, start=start, stop=stop, every=every)
    assert np.array_equal(part.frames, whole[start:stop:every])


def test_only_the_groups_that_are_needed_are_read(codec, stream):
    damaged = bytearray(stream)
    damaged[container.parse(stream).entries[0].offset] ^= 1
    assert len(codec.decode(bytes(damaged), start=4, salvage=True).frames) == 6
    with pytest.raises(Corrupt, match="group|chunk"):
        codec.decode(bytes(damaged), start=0)


def test_parts_outside_are_refused(codec, stream):
    for start, stop in ((0, 11), (5, 5), (-1, 3), (10, None)):
        with pytest.raises(InputError, match=r"frames 0\.\.9, and all of them are 0:10"):
            codec.decode(stream, start=start, stop=stop)
    with pytest.raises(InputError, match="at least 1"):
        codec.decode(stream, every=0)


def test_damage_costs_its_own_group(codec, stream):
    whole, entry = codec.decode(stream).frames, container.parse(stream).entries[1]
    damaged = bytearray(stream)
    damaged[entry.offset + entry.length // 2] ^= 4
    with pytest.raises(BitstreamError):
        codec.decode(bytes(damaged))
    found = codec.decode(bytes(damaged), salvage=True)
    assert found.lost == (1,) and "frames 4 to 7" in found.notices[0]
    assert np.array_equal(found.frames[:4], whole[:4]) and np.array_equal(found.frames[8:], whole[8:])
    assert (found.frames[4:8] == 128).all()


def test_symbols_that_are_not_those_written_are_found(codec, stream):
    """A chunk that is read for another header passes its CRC, but not the check of its symbols."""
    parsed, header = parse(stream)
    other = replace(header, quality=41)
    chunks = [(entry.kind, bytes(parsed.chunk(i))) for i, entry in enumerate(parsed.entries)]
    forged = container.write(stream_id=3, weights=parsed.weights, signal=other.pack(), chunks=chunks)
    for read in (codec.decode, codec.verify):
        with pytest.raises(BitstreamError, match="group 0"):
            read(forged)


def test_frames_come_one_by_one(clip, stream):
    """An encoder of one thread takes frames as they come, and gives the same chunks."""
    asked, codec = [], load("video", device="cpu", threads=1)

    def frames():
        for index, frame in enumerate(clip):
            asked.append(index)
            yield frame

    header = parse(stream)[1]
    groups = codec.encode_groups(frames(), header)
    first = next(groups)
    assert asked == [0, 1, 2, 3]
    assert [first, *groups] == [bytes(container.parse(stream).chunk(i)) for i in range(3)]
    with pytest.raises(InputError, match="more than 4 frames; the header says 4"):
        list(codec.encode_groups(iter(clip[:5]), replace(header, frames=4)))
    with pytest.raises(InputError, match="a frame is"):
        list(codec.encode_groups(iter(clip[:, :40]), header))


def test_frames_that_end_early_give_no_short_group(codec, clip, stream):
    """Whether they end within a group or between two, and however many are announced."""
    header = parse(stream)[1]
    for count in (5, 4):
        groups = codec.encode_groups(iter(clip[:count]), replace(header, frames=2**31 - 1))
        next(groups)
        with pytest.raises(InputError, match=f"^{count} frames; the header says 2147483647"):
            next(groups)
    with pytest.raises(InputError, match="^1 frames; the header says 2"):
        list(codec.encode_groups(iter(clip[:1]), replace(header, frames=2)))


def test_what_travels_with_the_frames(codec, clip):
    given = Clip(frames=clip[:2], rate=Fraction(24000, 1001), extras={b"SOUN": b"\x00\x01", b"TIME": b""}, source=b"s")
    found = codec.decode(codec.encode(given))
    assert (found.extras, found.rate, found.source) == (given.extras, given.rate, given.source)


def test_headers_out_of_range_are_refused(stream):
    parsed, header = parse(stream)
    for change in (
        {"width": 0},
        {"quality": 101},
        {"group": 0},
        {"frames": 0},
        {"rate": Fraction(0)},
        {"height": 20000},
        {"lifts": (16,)},
        {"lifts": (16, -101)},
        {"lifts": (0,) * 11},
    ):
        with pytest.raises(Corrupt):
            replace(header, **change)
    header = replace(header, lifts=PYRAMID)
    packed, told = header.pack(), 128 + len(PYRAMID)
    assert VideoHeader.unpack(packed) == header and packed[11] == told and len(packed) == 20 + len(PYRAMID)
    as_shown = replace(header, lifts=LOW_DELAY)
    assert VideoHeader.unpack(as_shown.pack()) == as_shown and len(as_shown.pack()) == 20
    longer = packed[:11] + b"\x82" + packed[12:20] + bytes(LOW_DELAY)  # what a byte can tell, in three
    for signal in (
        packed[:19],
        packed[:24],
        packed[:11] + b"\x65" + packed[12:],
        longer,
        packed[:11] + b"\xff" + packed[12:],
    ):
        with pytest.raises(Corrupt):
            VideoHeader.unpack(signal)
    twice = [(container.DATA, b"")] * 3 + [(container.METADATA, b"TAGSx")] * 2
    data = container.write(stream_id=3, weights=bytes(8), signal=header.pack(), chunks=twice)
    with pytest.raises(Corrupt, match="TAGS"):
        extras_of(*parse(data))


@pytest.mark.parametrize("frames", [np.zeros((2, 4, 4), np.uint8), np.zeros((0, 4, 4, 3), np.uint8), np.zeros((1, 4, 4, 3))])
def test_what_is_no_clip_is_refused(codec, frames):
    with pytest.raises(InputError, match="need uint8"):
        codec.encode(frames)


def test_pictures_of_another_architecture_are_refused(monkeypatch):
    def other(data, architectures):
        found, tables = read_weights(data, architectures)
        return (found if isinstance(found, StemNetwork) else S2licNetwork(S2licConfig())), tables

    monkeypatch.setattr(codec_module, "read_weights", other)
    with pytest.raises(Unsupported, match=r"image-\d+, a S2licNetwork"):
        codec_module.VideoCodec.load(device="cpu")
