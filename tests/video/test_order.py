"""Pyramids: the order of coding, what frames are made of, and what need not be decoded."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from clips import drawn_clip
from rdcodec.codecs import load
from rdcodec.codecs.image.dcvc_rt import ImageNetwork
from rdcodec.codecs.video.codec import VideoCodec
from rdcodec.codecs.video.groups import INTER, INTRA, NEXT, GroupPass
from rdcodec.codecs.video.header import FRAMES_MAX, LOW_DELAY, PYRAMID, VideoHeader, parse
from rdcodec.codecs.video.order import needed, needed_until, order_of
from rdcodec.codecs.video.ordering import chosen_lifts, tried
from rdcodec.codecs.video.packets import head_of
from rdcodec.codecs.video.prediction import Motion, blended, changes_pay, code_motion, code_shares, onward, scaled
from rdcodec.codecs.video.streaming import StreamDecoder
from rdcodec.entropy_models.coder import Measure, Read, Write
from rdcodec.entropy_models.errors import Corrupt


@pytest.fixture(scope="module")
def codec() -> VideoCodec:
    return load("video", device="cpu")


@pytest.mark.parametrize("frames", [1, 2, 3, 8, 9, 10, 17, 31, 32])
@pytest.mark.parametrize("distance", [1, 2, 8, 16])
def test_every_frame_is_coded_once_after_what_it_is_made_of(frames, distance):
    places = order_of(frames, distance)
    assert sorted(place.number for place in places) == list(range(frames))
    done: set[int] = set()
    for place in places:
        assert done >= set(place.references)
        assert place.before is None or place.before < place.number
        assert place.after is None or place.after > place.number
        assert (place.depth == 0) == (place.after is None)
        assert place.depth <= distance.bit_length() - 1, "there is a lift for every depth"
        done.add(place.number)
    if distance == 1:
        assert [place.number for place in places] == list(range(frames))


def test_the_order_that_is_documented():
    assert [place.number for place in order_of(9, 8)] == [0, 8, 4, 2, 1, 3, 6, 5, 7]
    assert [place.depth for place in order_of(9, 8)] == [0, 0, 1, 2, 3, 3, 2, 3, 3]


def test_what_is_needed_of_a_group():
    places = order_of(32, 8)
    assert needed(places, {0}) == ({0}, 1)
    assert needed(places, {8}) == ({0, 8}, 2)
    assert needed(places, {3}) == ({0, 8, 4, 2, 3}, 6)
    pixels, steps = needed(places, {31})
    assert pixels == {0, 8, 16, 24, 31} and places[steps - 1].number == 31
    last = needed_until(places)
    assert places[last[0]].number == 1 and places[last[31]].references[-1] == 31


def still_clip() -> np.ndarray:
    """20 frames: a scene that stands still, then moves, and is cut."""
    frames = drawn_clip(20, 48, 80, speed=1)
    frames[:6] = frames[5]
    frames[14:] = 255 - frames[14:, ::-1, ::-1]
    frames[17:] = frames[16]
    return frames


def test_streams_of_pyramids(codec):
    """The decoder shows what the estimate says, part by part as well, and the table names what it is made of."""
    frames = still_clip()
    data, ideal = (
        codec.encode(frames, quality=40, group=17, low_delay=False),
        codec.estimate(frames, quality=40, group=17, low_delay=False),
    )
    whole = codec.decode(data).frames
    np.testing.assert_array_equal(whole, ideal.signal.frames)
    for number in range(len(frames)):
        np.testing.assert_array_equal(codec.decode(data, start=number, stop=number + 1).frames[0], whole[number])
    np.testing.assert_array_equal(codec.decode(data, every=3).frames, whole[::3])
    table = codec.frame_table(data)
    assert [line["frame"] for line in table] == list(range(20))
    assert table[10]["references"] == [8, 12] and table[8]["references"] == [0] and table[0]["references"] == []
    assert table[18]["group"] == 1 and table[17]["kind"] == "intra" and table[19]["references"] == [17]
    assert {table[number]["kind"] for number in (1, 2, 3, 4, 5)} == {"same"}


def test_held_frames_cost_next_to_nothing(codec):
    """Of two references whichever is the very frame is shown once more."""
    frames = drawn_clip(9, 48, 80, speed=2)
    frames[1:4], frames[5:8] = frames[0], frames[8]
    frames[4] = frames[8]
    table = codec.frame_table(codec.encode(frames, quality=40, low_delay=False))
    kinds = {line["frame"]: (line["kind"], line["bits"]) for line in table}
    assert [kinds[number][0] for number in (1, 2, 3)] == ["same"] * 3
    assert table[2]["references"] == [0] and table[4]["references"] == [8], "those that are shown"
    assert kinds[4][0] == "next" and {kinds[number][0] for number in (5, 6, 7)} <= {"same", "next"}
    assert sum(bits for number, (_, bits) in kinds.items() if 1 <= number <= 7) < 8 * 8


def test_only_what_is_needed_is_decoded(codec, monkeypatch):
    """Of the frames between, symbols alone are read, and of those after nothing."""
    data = codec.encode(drawn_clip(17, 32, 48), quality=30, low_delay=False)
    synthesised, coded = [], []
    to_image, code = ImageNetwork.to_image, GroupPass.code
    monkeypatch.setattr(ImageNetwork, "to_image", lambda *given: synthesised.append(0) or to_image(*given))
    monkeypatch.setattr(GroupPass, "code", lambda *given: coded.append(0) or code(*given))
    for number, pixels, symbols in ((16, 3, 10), (8, 2, 2), (12, 4, 11)):
        synthesised.clear()
        coded.clear()
        codec.decode(data, start=number, stop=number + 1)
        assert (len(synthesised), len(coded)) == (pixels, symbols)


def test_memory_does_not_grow_along_a_group(codec):
    header = replace(parse(codec.encode(drawn_clip(2, 16, 16)))[1], frames=64, group=64, lifts=PYRAMID)
    encoder, measure, kept = codec.encoder_of(header), Measure(codec.tables), []
    for frame in drawn_clip(64, 16, 16, speed=1):
        encoder.code(measure, frame)
        kept.append((len(encoder.group._pictures), len(encoder._sources)))
        pictures = encoder.group._pictures.values()
        assert all(picture._moved is None for picture in pictures), "no picture after motion is kept"
    assert max(pictures for pictures, _ in kept) <= 5 and max(sources for _, sources in kept) <= 9


def test_quality_by_depth(codec):
    header = replace(parse(codec.encode(drawn_clip(1, 16, 16), quality=50))[1], lifts=PYRAMID)
    assert [header.quality_of(depth) for depth in range(4)] == [50 + lift for lift in PYRAMID[1:]]
    assert header.quality_of(0, intra=True) == 50 + PYRAMID[0]
    assert header.quality_of(2, intra=True) == header.quality_of(2), "nothing is made of it for long"
    assert replace(header, quality=99).quality_of(0, intra=True) == 100 and replace(header, quality=1).quality_of(3) == 0


def test_scaled_vectors_are_whole_and_the_nearest():
    field = torch.tensor([[[[5.0, -5.0], [1.0, -1.0], [7.0, -2047.0]]]])
    assert scaled(field, 1, 2).tolist() == [[[[3, -2], [1, 0], [4, -1023]]]]
    assert scaled(field, -3, 3).tolist() == (-field).tolist()
    place = order_of(9, 8)[3]  # frame 2, between 0 and 4
    assert onward(field, place).tolist() == (-field).tolist()


def test_blends():
    before, after = torch.zeros(1, 32, 32, 3), torch.ones(1, 32, 32, 3)
    for share, value in ((-1.0, 0.0), (0.0, 0.5), (1.0, 1.0)):
        assert (blended(before, after, torch.full((1, 2, 2), share)) == value).all()


@pytest.mark.parametrize("seed", range(6))
def test_motion_comes_back_as_it_was_coded(codec, seed):
    random = torch.Generator().manual_seed(seed)
    rows, columns = 1 + seed, 7 - seed
    place = order_of(9, 8)[2 + seed % 3]

    def vectors(size: int) -> torch.Tensor:
        return torch.randint(-size, size + 1, (1, rows, columns, 2), generator=random).float()

    expected = vectors(3) * (seed % 2)

    motion = Motion(vectors(9), vectors(9), torch.randint(-1, 2, (1, rows, columns), generator=random).float())
    writer = Write(codec.tables)
    written = code_motion(writer, motion, expected, place)
    reader = Read(codec.tables, writer.close())
    read = code_motion(reader, None, expected, place)
    for wrote, was, found in zip(written, motion, read, strict=True):
        assert torch.equal(wrote, was) and torch.equal(found, was)
    assert changes_pay(expected + 1, expected) or not expected.any()


def test_shares_that_are_alike_cost_little(codec):
    alike, mixed = torch.zeros(1, 16, 16), torch.randint(-1, 2, (1, 16, 16)).float()
    bits = []
    for shares in (alike, mixed):
        measure = Measure(codec.tables)
        assert torch.equal(code_shares(measure, shares), shares)
        bits.append(float(measure.bits[0]))
    assert bits[0] < 0.3 * bits[1]


def test_kinds_that_no_frame_has_are_refused(codec):
    header = replace(parse(codec.encode(drawn_clip(3, 16, 16)))[1], lifts=LOW_DELAY)
    for kind in (NEXT, 3, -2):
        writer = Write(codec.tables)
        group = GroupPass(codec.image, codec.stem, header)
        group.code(writer, INTRA, torch.zeros(1, 16, 16, 3))
        writer.code(torch.tensor([[float(kind)]]), torch.tensor([[8.0]]))
        reader = GroupPass(codec.image, codec.stem, header)
        source = Read(codec.tables, writer.close())
        reader.code(source)
        with pytest.raises(Corrupt, match=f"kind {kind}"):
            reader.code(source)


def test_motion_is_blended_of_both_references(codec):
    """A frame half way of a movement that no single reference shows."""
    header = replace(parse(codec.encode(drawn_clip(3, 64, 64)))[1], lifts=(0, 0, 0))
    frames = drawn_clip(3, 64, 64, speed=1)
    encoder, measure = codec.encoder_of(header, 3), Measure(codec.tables)
    kinds = [coded.kind for frame in frames for coded in encoder.code(measure, frame)]
    motion = encoder.group.picture.motion
    assert kinds == [INTRA, INTER, INTER] and motion.shares is not None and motion.after is not None


def test_the_order_that_takes_fewer_bits_is_chosen(codec):
    """By trial: what moves is better made of two references, what stands still of copies."""
    moving = drawn_clip(17, 64, 96, speed=3)
    still = np.repeat(moving[:1], 17, 0)
    still[8:, 20:30, 20:30] += 9
    found = []
    for frames in (moving, still):
        sizes = {choice: len(codec.encode(frames, quality=40, low_delay=choice)) for choice in (True, False, None)}
        found.append(sizes)
        assert sizes[None] in (sizes[True], sizes[False])
    header = parse(codec.encode(moving, quality=40))[1]
    samples = [moving[numbers.start : numbers.stop] for numbers in tried(header)]
    assert [len(sample) for sample in samples] == [9]
    assert chosen_lifts(samples, codec, header) == header.lifts


def test_what_is_tried_of_a_video(codec):
    """A few frames here and there, and none of groups in which all orders are one."""
    header = VideoHeader(width=16, height=16, frames=3200, quality=40, rate=Fraction(25))
    assert [numbers[0] // 32 for numbers in tried(header)] == [16, 50, 83] and {
        len(numbers) for numbers in tried(header)
    } == {9}
    assert [tuple(numbers) for numbers in tried(replace(header, frames=3))] == [(0, 1, 2)]
    assert tried(replace(header, frames=2)) == tried(replace(header, group=1)) == []
    assert chosen_lifts([], codec, header) == LOW_DELAY


def test_live_video_has_no_pyramids(codec):
    header = VideoHeader(width=16, height=16, frames=FRAMES_MAX, quality=40, rate=Fraction(25), lifts=PYRAMID)
    with pytest.raises(Corrupt, match="this head says pyramids"):
        StreamDecoder(codec, head_of(header, codec.stream_hash))


def test_the_callers_default_dtype_has_no_influence(codec):
    frames = drawn_clip(5, 32, 48)
    data = codec.encode(frames, quality=30, low_delay=False)
    torch.set_default_dtype(torch.float64)
    try:
        assert codec.encode(frames, quality=30, low_delay=False) == data
        found = codec.decode(data).frames
    finally:
        torch.set_default_dtype(torch.float32)
    np.testing.assert_array_equal(found, codec.decode(data).frames)
