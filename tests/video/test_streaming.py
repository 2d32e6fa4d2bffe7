"""Live video: the frames of a file packet by packet, whatever is lost on the way, and kept as that very file."""

from __future__ import annotations

import gc
import json
import struct
import weakref
import zlib
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from clips import drawn_clip
from rdcodec.codecs import container, load
from rdcodec.codecs.video.clip import Clip
from rdcodec.codecs.video.codec import VideoCodec
from rdcodec.codecs.video.group_work import GREY
from rdcodec.codecs.video.header import TIMES, extras_of, parse
from rdcodec.codecs.video.packets import number_of
from rdcodec.codecs.video.random_access import VideoReader
from rdcodec.codecs.video.recording import StreamWriter
from rdcodec.codecs.video.streaming import GAP_MAX, StreamDecoder, StreamEncoder
from rdcodec.codecs.video.timing import unpack_times
from rdcodec.entropy_models.checksum import crc32, crc32_joined
from rdcodec.entropy_models.errors import BitstreamError, InputError

QUALITY, GROUP = 40, 4


@pytest.fixture(scope="module")
def codec() -> VideoCodec:
    return load("video", device="cpu")


@pytest.fixture(scope="module")
def clip() -> np.ndarray:
    """14 frames of odd sides, 3 groups and a half, with frames that repeat and a cut."""
    frames = drawn_clip(14, 37, 61, speed=1)
    frames[5:7] = frames[4]
    frames[10:] = 255 - frames[10:, ::-1]
    return frames


@pytest.fixture(scope="module")
def packets(codec, clip) -> list[bytes]:
    return streamed(codec, clip)


@pytest.fixture(scope="module")
def data(codec, clip) -> bytes:
    return codec.encode(clip, quality=QUALITY, group=GROUP, low_delay=True)


@pytest.fixture(scope="module")
def whole(codec, data) -> np.ndarray:
    return codec.decode(data).frames


def encoder_of(codec: VideoCodec, frames: np.ndarray) -> StreamEncoder:
    height, width = frames.shape[1:3]
    return StreamEncoder(codec, width=width, height=height, quality=QUALITY, group=GROUP)


def streamed(codec: VideoCodec, frames: np.ndarray) -> list[bytes]:
    encoder = encoder_of(codec, frames)
    packets = [packet for frame in frames for packet in encoder.push(frame)]
    assert len(packets) == len(frames), "a frame in, a packet out"
    return packets + encoder.finish()


def shown(codec: VideoCodec, head: bytes, packets: list[bytes], start: int = 0) -> tuple[list[np.ndarray], StreamDecoder]:
    decoder = StreamDecoder(codec, head, start=start)
    return [frame for packet in packets for frame in decoder.push(packet)], decoder


def recorded(codec: VideoCodec, head: bytes, packets: list[bytes], path: Path, start: int = 0) -> StreamWriter:
    with StreamWriter(codec, head, path, start=start) as writer:
        for packet in packets:
            writer.push(packet)
    return writer


@pytest.fixture(scope="module")
def head(codec, clip) -> bytes:
    return encoder_of(codec, clip).head


def test_a_stream_is_its_file(codec, head, packets, whole):
    """A packet in, a frame out; and nothing is waited for at the end."""
    decoder = StreamDecoder(codec, head)
    for packet, expected in zip(packets, whole, strict=False):
        assert not decoder.ended
        (frame,) = decoder.push(packet)
        np.testing.assert_array_equal(frame, expected)
    assert decoder.push(packets[-1]) == [] and decoder.ended and not decoder.lost


@pytest.mark.parametrize("shape", [(5, 37, 61), (1, 16, 16), (2, 1, 1)])
def test_a_recording_is_the_very_file_that_is_encoded(codec, tmp_path, shape):
    frames = drawn_clip(*shape)
    frames[..., 1:] = frames[..., :1]  # grey
    packets, head, path = streamed(codec, frames), encoder_of(codec, frames).head, tmp_path / "a.rdc"
    assert not recorded(codec, head, packets, path).lost
    assert path.read_bytes() == codec.encode(frames, quality=QUALITY, group=GROUP, low_delay=True)
    np.testing.assert_array_equal(shown(codec, head, packets)[0], codec.decode(path.read_bytes()).frames)


def test_the_file_is_one_for_the_command(codec, clip, head, packets, data, whole, tmp_path, run):
    path = tmp_path / "camera.rdc"
    recorded(codec, head, packets, path)
    assert path.read_bytes() == data
    assert run("verify", path.name)[0] == 0
    facts = json.loads(run("info", path.name, "--json")[1])
    assert (facts["frames"], facts["group_frames"], facts["rate_fps"]) == (14, 4, 25)
    assert run("decode", path.name, "-o", "camera.mkv")[0] == 0
    with VideoReader(path) as reader:
        np.testing.assert_array_equal(reader[:], whole)
    assert {other.name for other in tmp_path.iterdir()} == {"camera.rdc", "camera.mkv"}


def test_a_camera_may_fill_the_same_array_again(codec, clip, packets):
    encoder, buffer, found = encoder_of(codec, clip), np.empty_like(clip[0]), []
    for frame in clip:
        buffer[...] = frame
        found += encoder.push(buffer)
    assert found == packets[:-1]


def test_frames_that_are_shown_may_be_drawn_on(codec, head, packets, whole):
    decoder = StreamDecoder(codec, head)
    for packet, expected in zip(packets, whole, strict=False):
        (frame,) = decoder.push(packet)
        np.testing.assert_array_equal(frame, expected)
        frame[...] = 0


# Loss ------------------------------------------------------------------------------------------------


def test_of_a_lost_packet_the_last_frame_is_held_up_to_the_next_group(codec, head, packets, whole, tmp_path):
    came = packets[:5] + packets[6:]
    frames, decoder = shown(codec, head, came)
    assert decoder.lost == [(range(5, 8), "it did not come")]
    expected = whole.copy()
    expected[5:8] = whole[4]
    np.testing.assert_array_equal(frames, expected)
    writer = recorded(codec, head, came, tmp_path / "a.rdc")
    assert writer.lost == decoder.lost and codec.verify((tmp_path / "a.rdc").read_bytes()) == []
    np.testing.assert_array_equal(codec.decode((tmp_path / "a.rdc").read_bytes()).frames, expected)


@pytest.mark.parametrize(("came", "lost"), [(slice(1, None), range(4)), (slice(9, None), range(12))])
def test_what_is_lost_before_the_first_frame_is_grey(codec, head, packets, whole, tmp_path, came, lost):
    frames, decoder = shown(codec, head, packets[came])
    assert [numbers for numbers, _ in decoder.lost] == [lost]
    assert (np.stack(frames)[lost] == GREY).all()
    np.testing.assert_array_equal(frames[lost.stop :], whole[lost.stop :])
    recorded(codec, head, packets[came], tmp_path / "a.rdc")
    kept = codec.decode((tmp_path / "a.rdc").read_bytes()).frames.astype(int)
    assert abs(kept[: lost.stop] - GREY).max() <= 3
    np.testing.assert_array_equal(kept[lost.stop :], whole[lost.stop :])


def test_groups_of_which_the_first_frame_is_lost(codec, head, packets, whole, tmp_path):
    """They show the group before; in a file, where none needs another, they are grey. The last one is a short one."""
    came = [packet for number, packet in enumerate(packets) if number not in (4, 12)]
    frames, decoder = shown(codec, head, came)
    assert [numbers for numbers, _ in decoder.lost] == [range(4, 8), range(12, 14)]
    assert all(np.array_equal(frame, whole[3]) for frame in frames[4:8])
    assert len(frames) == 14 and np.array_equal(frames[13], whole[11])
    recorded(codec, head, came, tmp_path / "a.rdc")
    kept = codec.decode((tmp_path / "a.rdc").read_bytes()).frames.astype(int)
    for lost in (slice(4, 8), slice(12, 14)):
        assert abs(kept[lost] - GREY).max() <= 3
    np.testing.assert_array_equal(kept[8:12], whole[8:12])


def test_the_last_packet_tells_what_is_lost_before_it(codec, head, packets, whole):
    frames, decoder = shown(codec, head, [*packets[:10], packets[-1]])
    assert decoder.ended and decoder.lost[0][0] == range(10, 14)
    np.testing.assert_array_equal(frames, [*whole[:10], *[whole[9]] * 4])
    assert decoder.push(packets[12]) == []


def test_damage_is_named_and_shows_no_wrong_frame(codec, head, packets, whole):
    """Wherever in a packet it is."""
    decoder, frames = StreamDecoder(codec, head), []
    for packet in packets[:2]:
        frames += decoder.push(packet)
    for at in range(len(packets[2])):
        damaged = bytearray(packets[2])
        damaged[at] ^= 1 << at % 8
        assert decoder.push(bytes(damaged)) == []
    frames += decoder.push(packets[4])
    ((lost, reason),) = decoder.lost
    assert lost == range(2, 4) and reason.startswith("a packet has checksum")
    np.testing.assert_array_equal(frames, [whole[0], whole[1], whole[1], whole[1], whole[4]])


def test_symbols_that_are_not_those_written_are_found(codec, head, packets, tmp_path):
    """Under a checksum that is right: a frame that is numbered anew, or of other symbols."""
    signal = container.parse(head).signal

    def signed(number: int, body: bytes) -> bytes:
        told = struct.pack("<I", number) + body
        return struct.pack("<I", zlib.crc32(told, zlib.crc32(signal))) + told

    assert signed(2, packets[2][8:]) == packets[2]
    for forged in (signed(2, packets[3][8:]), signed(2, b"\0")):
        came = [*packets[:2], forged, *packets[3:5]]
        frames, decoder = shown(codec, head, came)
        assert len(frames) == 5 and [numbers for numbers, _ in decoder.lost] == [range(2, 4)]
        recorded(codec, head, came, tmp_path / "a.rdc")
        np.testing.assert_array_equal(codec.decode((tmp_path / "a.rdc").read_bytes()).frames, frames)
    far, decoder = signed(GAP_MAX + 3, packets[2][8:]), StreamDecoder(codec, head)
    assert [len(decoder.push(packet)) for packet in (*packets[:2], far, packets[2])] == [1, 1, 0, 1]


def test_noise_and_late_packets_show_nothing(codec, head, packets, whole):
    random, decoder, frames = np.random.default_rng(0), StreamDecoder(codec, head), []
    for number, packet in enumerate(packets):
        for size in random.integers(0, 60, 3):
            assert decoder.push(random.bytes(int(size))) == []
        frames += decoder.push(packet)
        assert decoder.push(packets[number // 2]) == []
    np.testing.assert_array_equal(frames, whole)
    assert not decoder.lost


def test_who_comes_late_begins_with_the_next_group(codec, head, packets, whole, tmp_path):
    came = packets[6:]
    frames, decoder = shown(codec, head, came, start=number_of(came[0]))
    np.testing.assert_array_equal(frames, whole[8:])
    recorded(codec, head, came, tmp_path / "a.rdc", start=number_of(came[0]))
    np.testing.assert_array_equal(codec.decode((tmp_path / "a.rdc").read_bytes()).frames, whole[8:])
    assert not decoder.lost
    with pytest.raises(InputError, match="start at frame -1"):
        StreamDecoder(codec, head, start=-1)


# Times -----------------------------------------------------------------------------------------------


def test_a_recording_keeps_times(codec, clip, head, packets, tmp_path):
    """Of whatever clock, from zero on; the rate is the mean. The file is the one of a clip that has these times."""
    path, seconds = tmp_path / "a.rdc", [1.7e9 + 0.04 * n + 0.01 * (n % 3) for n in range(14)]
    with StreamWriter(codec, head, path) as writer:
        for packet, time_s in zip(packets, seconds, strict=False):
            writer.push(packet, time_s)
        writer.push(packets[-1])
    stream, header = parse(path.read_bytes())
    extras = extras_of(stream, header)
    times, durations = unpack_times(extras[TIMES], 14)
    np.testing.assert_allclose(times / 90_000, np.array(seconds) - seconds[0], atol=2e-5)
    assert header.rate == pytest.approx(13 / (seconds[-1] - seconds[0]), rel=1e-4)
    assert durations[-1] == round(90_000 / header.rate)
    same = Clip(frames=clip, rate=header.rate, extras=extras, source=header.source)
    assert codec.encode(same, quality=QUALITY, group=GROUP, low_delay=True) == path.read_bytes()


def test_frames_without_a_time_lie_between_those_that_have_one(codec, head, packets, tmp_path):
    path, given = tmp_path / "a.rdc", {2: 10.0, 4: 10.1, 8: 10.5, 11: 10.8}
    with StreamWriter(codec, head, path) as writer:
        for number, packet in enumerate(packets):
            if number not in (5, 13):
                writer.push(packet, given.get(number))
    stream, header = parse(path.read_bytes())
    times = unpack_times(extras_of(stream, header)[TIMES], 14)[0]
    step = 0.8 / 9
    expected = np.interp(range(14), list(given), [time_s - 10 for time_s in given.values()])
    expected[:2], expected[12:] = (-2 * step, -step), (0.8 + step, 0.8 + 2 * step)
    np.testing.assert_allclose(times / 90_000, expected - expected[0], atol=2e-5)


def test_times_that_do_not_ascend_are_refused(codec, head, packets, data, tmp_path):
    with StreamWriter(codec, head, tmp_path / "a.rdc") as writer:
        writer.push(packets[0], 5.0)
        for wrong in (5.0, 4.0, float("nan"), float("inf"), 5.0 + 48_000):
            with pytest.raises(InputError, match="times must ascend"):
                writer.push(packets[1], wrong)
        writer.push(packets[1], 5.1)
    assert parse((tmp_path / "a.rdc").read_bytes())[1].frames == 2


def test_times_of_packets_that_hold_nothing_new_are_nothing(codec, head, packets, tmp_path):
    """Of one that comes twice, late or damaged, and of the last."""
    path, damaged = tmp_path / "a.rdc", packets[5][:-1] + bytes([packets[5][-1] ^ 1])
    order = [*enumerate(packets[:5]), (4, packets[4]), (2, packets[2]), (5, damaged), *enumerate(packets)][:-1]
    with StreamWriter(codec, head, path) as writer:
        for number, packet in order:
            writer.push(packet, 0.04 * number)
        writer.push(packets[-1], 0.0)
        assert writer.ended and not writer.lost
    np.testing.assert_allclose(VideoReader(path).times_s, 0.04 * np.arange(14), atol=2e-5)


def test_a_single_frame_with_a_time(codec, head, packets, tmp_path):
    with StreamWriter(codec, head, tmp_path / "a.rdc") as writer:
        writer.push(packets[0], 5.0)
    stream, header = parse((tmp_path / "a.rdc").read_bytes())
    times, durations = unpack_times(extras_of(stream, header)[TIMES], 1)
    assert (times[0], durations[0], header.rate) == (0, 3600, 25)


def test_a_slow_stream_has_a_slow_rate(codec, head, packets, tmp_path):
    with StreamWriter(codec, head, tmp_path / "a.rdc") as writer:
        for number, packet in enumerate(packets[:3]):
            writer.push(packet, 40_000.0 * number)
    assert parse((tmp_path / "a.rdc").read_bytes())[1].rate == Fraction(1, 40_000)


# What is refused, and what is kept in memory ---------------------------------------------------------


def test_a_finished_stream_takes_nothing_more(codec, clip):
    encoder = encoder_of(codec, clip)
    encoder.push(clip[0])
    encoder.finish()
    for more in (encoder.finish, lambda: encoder.push(clip[1])):
        with pytest.raises(InputError, match="the stream is finished, with 1 frames"):
            more()


@pytest.mark.parametrize(
    ("frame", "found"),
    [
        (np.zeros((61, 37, 3), np.uint8), r"uint8 \(61, 37, 3\)"),
        (np.zeros((37, 61), np.uint8), r"uint8 \(37, 61\)"),
        (np.zeros((37, 61, 4), np.uint8), r"uint8 \(37, 61, 4\)"),
        (np.zeros((37, 61, 3)), r"float64 \(37, 61, 3\)"),
        ([1, 2], r"int64 \(2,\)"),
    ],
)
def test_other_frames_are_refused_and_the_stream_goes_on(codec, clip, packets, frame, found):
    encoder = encoder_of(codec, clip)
    with pytest.raises(InputError, match=rf"{found}; need uint8 \(37, 61, 3\)"):
        encoder.push(frame)
    assert encoder.push(clip[0]) == packets[:1]


@pytest.mark.parametrize(
    "wrong",
    [{"width": 0}, {"quality": 101}, {"group": 0}, {"rate": 0}, {"rate": float("inf")}, {"rate": "fast"}, {"rate": None}],
)
def test_settings_out_of_range_are_refused(codec, wrong):
    with pytest.raises(InputError, match="need|sides"):
        StreamEncoder(codec, **({"width": 16, "height": 16} | wrong))


def test_heads_of_something_else_are_refused(codec, head, data, tmp_path):
    damaged = bytearray(head)
    damaged[9] ^= 1
    stream = container.parse(head)
    speech = container.write(stream_id=2, weights=stream.weights, signal=stream.signal, chunks=[])
    other = container.write(stream_id=3, weights=bytes(8), signal=stream.signal, chunks=[])
    for wrong in (b"RIFF....", b"", data, bytes(damaged), speech, other):
        with pytest.raises(BitstreamError):
            StreamDecoder(codec, wrong)
        with pytest.raises(BitstreamError):
            StreamWriter(codec, wrong, tmp_path / "a.rdc")
    with pytest.raises(BitstreamError):
        codec.decode(head)
    assert list(tmp_path.iterdir()) == []


def test_a_recording_that_fails_leaves_what_was_there(codec, head, packets, tmp_path):
    path = tmp_path / "a.rdc"
    path.write_bytes(b"before")
    with pytest.raises(InputError, match="at least one frame"):
        recorded(codec, head, packets[-1:] if number_of(packets[-1]) == 0 else [], path)
    with pytest.raises(KeyboardInterrupt), StreamWriter(codec, head, path) as writer:
        writer.push(packets[0])
        raise KeyboardInterrupt
    assert path.read_bytes() == b"before" and list(tmp_path.iterdir()) == [path]
    with pytest.raises(OSError, match="gone"):
        StreamWriter(codec, head, tmp_path / "gone" / "a.rdc")
    writer = recorded(codec, head, packets, path)
    for more in (writer.close, lambda: writer.push(packets[0])):
        with pytest.raises(InputError, match="closed"):
            more()


def test_a_file_that_is_full_says_so_and_is_kept(codec, head, packets, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(container, "CHUNKS_MAX", 3)
    with StreamWriter(codec, head, tmp_path / "a.rdc") as writer:
        for packet in packets[:8]:
            writer.push(packet)
        with pytest.raises(InputError, match="holds 2 groups"):
            writer.push(packets[8])
    np.testing.assert_array_equal(codec.decode((tmp_path / "a.rdc").read_bytes()).frames, whole[:8])


def test_no_part_keeps_frames_or_symbols(codec, head, clip, tmp_path):
    """After every group as much is in memory as after the first."""
    encoder, decoder = encoder_of(codec, clip), StreamDecoder(codec, head)
    taken, given, tensors = [], [], []
    with StreamWriter(codec, head, tmp_path / "a.rdc") as writer:
        for number in range(12):
            frame = clip[number].copy()
            taken.append(weakref.ref(frame))
            for packet in encoder.push(frame):
                writer.push(packet)
                given += [weakref.ref(shown) for shown in decoder.push(packet)]
            if number % GROUP == GROUP - 1:
                del frame
                gc.collect()
                tensors.append(sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects()))
    assert len(given) == 12 and not [frame for frame in (*taken, *given) if frame() is not None]
    assert all(later <= earlier for earlier, later in pairwise(tensors)), tensors


def test_checksums_of_pieces_make_that_of_the_whole():
    random = np.random.default_rng(0)
    for size in (0, 1, 3, 4, 1000, 70_000):
        first, second = random.bytes(11), random.bytes(size)
        assert crc32_joined(crc32(first), crc32(second), size) == crc32(first + second)
