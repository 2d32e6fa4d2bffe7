"""Live streams: a file's numbers packet by packet, whatever is lost on the way."""

from __future__ import annotations

import io
from types import SimpleNamespace

import numpy as np
import pytest
from rdcodec.codecs import Corrupt, Truncated, Unsupported
from rdcodec.codecs.speech.codec import SpeechCodec
from rdcodec.codecs.speech.header import SEGMENT_SAMPLES
from rdcodec.codecs.speech.live import decode_live, encode_live
from rdcodec.codecs.speech.packets import BACK, NUMBERS, live_bytes, packets_of
from rdcodec.codecs.speech.streaming import DELAY_S, StreamDecoder, StreamEncoder
from rdcodec.entropy_models.errors import InputError
from voices import RATE, voice

QUALITY = 30


@pytest.fixture(scope="module")
def sound() -> np.ndarray:
    """9.3 s and a little, with digital silence over whole segments."""
    samples = voice(9.3, seed=2)[: 148_801 - 1]
    samples[40_000:60_000] = 0
    return samples


@pytest.fixture(scope="module")
def packets(codec, sound) -> list[bytes]:
    encoder = StreamEncoder(codec, quality=QUALITY)
    return [*encoder.push(sound), *encoder.finish()]


@pytest.fixture(scope="module")
def minute(codec) -> list[bytes]:
    """188 packets, all of them unlike."""
    encoder = StreamEncoder(codec, quality=QUALITY)
    return [*encoder.push(voice(188 * SEGMENT_SAMPLES / RATE, seed=7)), *encoder.finish()]


def head(codec: SpeechCodec, channels: int = 1) -> bytes:
    return StreamEncoder(codec, quality=QUALITY, channels=channels).head


def played(codec: SpeechCodec, packets: list[bytes], channels: int = 1) -> tuple[np.ndarray, StreamDecoder]:
    decoder = StreamDecoder(codec, head(codec, channels))
    blocks = [decoder.push(packet) for packet in packets]
    return np.concatenate([*blocks, decoder.finish()], axis=1), decoder


def test_a_stream_is_its_file_to_the_last_bit(codec, sound, packets):
    samples, decoder = played(codec, packets)
    np.testing.assert_array_equal(samples, codec.decode(codec.encode(sound, quality=QUALITY)).samples)
    assert samples.shape == (1, len(sound)) and not decoder.lost


@pytest.mark.parametrize(
    "samples", [1, 639, 640, SEGMENT_SAMPLES, SEGMENT_SAMPLES + 1, SEGMENT_SAMPLES + 1440, 3 * SEGMENT_SAMPLES]
)
def test_every_length_comes_back(codec, samples):
    encoder = StreamEncoder(codec, quality=QUALITY)
    packets = [*encoder.push(voice(1.1)[:samples]), *encoder.finish()]
    assert played(codec, packets)[0].shape == (1, min(samples, len(voice(1.1))))


def test_packets_do_not_depend_on_how_samples_come(codec, sound, packets):
    random, encoder = np.random.default_rng(0), StreamEncoder(codec, quality=QUALITY)
    found, start = [], 0
    while start < len(sound):
        end = start + int(random.integers(0, 9000))
        found += encoder.push(sound[start:end])
        start = end
    assert found + encoder.finish() == packets


def test_two_channels(codec, sound):
    both = np.stack([sound[:30_000], sound[60_000:90_000]])
    encoder = StreamEncoder(codec, quality=QUALITY, channels=2)
    samples, _ = played(codec, [*encoder.push(both), *encoder.finish()], channels=2)
    np.testing.assert_array_equal(samples, codec.decode(codec.encode(both, quality=QUALITY)).samples)
    with pytest.raises(InputError, match="shape"):
        StreamEncoder(codec, channels=2).push(sound)


def test_lost_packets_are_concealed_and_the_stream_goes_on(codec, sound, packets):
    whole, _ = played(codec, packets)
    lost = {7, 15, 16, 17}
    samples, decoder = played(codec, [p for i, p in enumerate(packets) if i not in lost])
    assert samples.shape == whole.shape and {index for index, _ in decoder.lost} == lost
    late = (codec.network.behind + 3) * 640  # when what was lost is forgotten
    np.testing.assert_array_equal(samples[:, 18 * SEGMENT_SAMPLES + late :], whole[:, 18 * SEGMENT_SAMPLES + late :])
    np.testing.assert_array_equal(samples[:, : 7 * SEGMENT_SAMPLES - 1500], whole[:, : 7 * SEGMENT_SAMPLES - 1500])
    assert not samples[:, 17 * SEGMENT_SAMPLES : 18 * SEGMENT_SAMPLES].any(), "of a gap all but the first is silent"


def test_damaged_packets_are_named_and_late_ones_left_out(codec, packets):
    damaged = list(packets)
    damaged[4] = damaged[4][:8] + bytes([damaged[4][8] ^ 4]) + damaged[4][9:]
    samples, decoder = played(codec, damaged)
    assert [index for index, _ in decoder.lost] == [4] and samples.shape[1] == played(codec, packets)[0].shape[1]
    decoder = StreamDecoder(codec, head(codec))
    for packet in packets[:3]:
        decoder.push(packet)
    assert decoder.push(packets[1]).shape == (1, 0) and not decoder.lost


def spans(decoder: StreamDecoder) -> set[int]:
    return {index for index, _ in decoder.lost}


@pytest.mark.parametrize("missing", [63, 64, 70, NUMBERS - BACK - 1])
def test_a_long_dropout_is_as_long_afterwards(codec, minute, missing):
    """As of a radio link that is gone for half a minute."""
    samples, decoder = played(codec, [*minute[:40], *minute[40 + missing :]])
    assert samples.shape[1] == 188 * SEGMENT_SAMPLES and spans(decoder) == set(range(40, 40 + missing))
    assert not decoder.left_out


def test_a_stream_may_begin_with_a_dropout(codec, minute):
    samples, decoder = played(codec, minute[100:])
    assert samples.shape[1] == 188 * SEGMENT_SAMPLES and spans(decoder) == set(range(100))


def test_who_joins_late_begins_with_the_first_packet_that_comes(codec, minute):
    whole, _ = played(codec, minute)
    decoder = StreamDecoder(codec, head(codec), joined=True)
    blocks = [decoder.push(packet) for packet in [*minute[100:103], *minute[104:]]]
    samples = np.concatenate([*blocks, decoder.finish()], axis=1)
    assert samples.shape[1] == 88 * SEGMENT_SAMPLES and spans(decoder) == {3} and not decoder.left_out
    settled = 5 * SEGMENT_SAMPLES + (codec.network.behind + 3) * 640
    np.testing.assert_array_equal(samples[:, settled:], whole[:, 100 * SEGMENT_SAMPLES + settled :])


@pytest.mark.parametrize("end", [KeyboardInterrupt(), InputError("1 bytes are left over")])
def test_a_stream_that_is_interrupted_is_whole_up_to_there(codec, sound, end):
    def blocks():
        yield sound[None, :20_001]
        raise end

    out, source = io.BytesIO(), SimpleNamespace(sample_rate=RATE, channels=1, blocks=blocks)
    with pytest.raises(type(end)):
        encode_live(codec, source, out, QUALITY)
    out.seek(0)
    told = decode_live(out, None, ".pcm", lambda head: codec)
    assert told.frames == 20_001 and not told.notices and not told.lost


def test_packets_in_another_order_or_twice_cost_their_places_alone(codec, minute):
    """Each group of five is turned around, and every packet comes twice: none of them is a gap of a whole turn."""
    groups = [minute[start : start + 5] for start in range(0, 100, 5)]
    turned = [packet for group in groups for packet in reversed(group) for _ in range(2)]
    samples, decoder = played(codec, [*turned, *minute[100:]])
    assert samples.shape[1] == 188 * SEGMENT_SAMPLES and not decoder.left_out
    assert spans(decoder) == {index for index in range(100) if index % 5 != 4}


def test_a_gap_beyond_what_numbers_tell_is_recorded_and_a_turn_shorter(codec, minute):
    samples, decoder = played(codec, [*minute[:40], *minute[40 + NUMBERS - 6 :]])
    assert samples.shape[1] == (188 - NUMBERS) * SEGMENT_SAMPLES and not decoder.lost
    assert [index for index, _ in decoder.left_out] == [40] * 6 and "another packet" in decoder.left_out[0][1]


def test_what_comes_after_the_last_packet_is_recorded_and_changes_nothing(codec, packets):
    decoder = StreamDecoder(codec, head(codec))
    for packet in packets:
        decoder.push(packet)
    assert decoder.push(packets[-1]).shape == (1, 0) and not decoder.left_out, "it came twice"
    assert decoder.push(packets[5]).shape == (1, 0) and decoder.left_out == [(len(packets), "the sound had ended")]
    assert not decoder.lost


def test_what_is_finished_takes_nothing_any_more(codec, packets):
    encoder, decoder = StreamEncoder(codec), StreamDecoder(codec, head(codec))
    encoder.push(voice(0.1))
    assert len(encoder.finish()) == 1
    decoder.push(packets[0])
    decoder.finish()
    for call in (lambda: encoder.push(voice(0.1)), encoder.finish, lambda: decoder.push(packets[1]), decoder.finish):
        with pytest.raises(InputError, match="is finished"):
            call()


def test_samples_of_every_type_are_scaled_as_those_of_files(codec, sound, packets):
    whole = np.round(sound * 32767).astype(np.int16)
    of_integers, of_floats = StreamEncoder(codec), StreamEncoder(codec)
    expected = of_floats.push(whole.astype(np.float64) / 32768)
    assert of_integers.push(whole) == expected


@pytest.mark.parametrize(
    ("value", "message"), [(1e6, "is 1e\\+06; full scale is 1"), (np.nan, "is nan; need finite"), (-np.inf, "is -inf")]
)
def test_samples_that_are_none_are_named_and_the_stream_goes_on(codec, value, message):
    """Named by their number from the stream's beginning."""
    both = np.stack([voice(1.0)] * 2)
    expected, encoder = StreamEncoder(codec, channels=2), StreamEncoder(codec, channels=2)
    bad = both[:, 6000:].copy()
    bad[1, 77] = value
    found = encoder.push(both[:, :6000])
    with pytest.raises(InputError, match=f"sample 6077 of channel 1 {message}"):
        encoder.push(bad)
    with pytest.raises(InputError, match="int64"):
        encoder.push([[0], [1]])
    found += [*encoder.push(both[:, 6000:]), *encoder.finish()]
    assert found == [*expected.push(both), *expected.finish()]


def test_no_packet_of_noise_stops_a_stream(codec, packets):
    random, decoder = np.random.default_rng(1), StreamDecoder(codec, head(codec))
    for _ in range(60):
        decoder.push(bytes([decoder._next % 128]) + random.bytes(int(random.integers(0, 60))))
    assert len(decoder.lost) >= 59


def test_silence_costs_next_to_nothing(codec):
    encoder = StreamEncoder(codec, quality=QUALITY)
    packets = [*encoder.push(np.zeros(20 * SEGMENT_SAMPLES, np.float32)), *encoder.finish()]
    assert max(map(len, packets[:-1])) <= 7
    assert not played(codec, packets)[0].any()
    assert len(codec.encode(np.zeros(60 * RATE, np.float32))) < 300


def test_a_live_stream_through_a_pipe(codec, packets):
    data = b"".join(live_bytes(head(codec), packets))
    assert list(packets_of(io.BytesIO(data))) == [head(codec), *packets]
    with pytest.raises(Truncated):
        list(packets_of(io.BytesIO(data[:-1])))
    assert list(live_bytes(head(codec), [])) == []


def test_heads_of_something_else_are_refused(codec):
    with pytest.raises(Unsupported):
        StreamDecoder(codec, b"RIFF....")
    damaged = bytearray(head(codec))
    damaged[9] ^= 1
    with pytest.raises((Corrupt, Unsupported)):
        StreamDecoder(codec, bytes(damaged))


def test_the_delay_is_what_is_said(codec, sound):
    """A sample is out at the latest when this much more has gone in."""
    encoder, decoder, taken, given = StreamEncoder(codec), None, 0, 0
    decoder = StreamDecoder(codec, encoder.head)
    for start in range(0, 60_000, 320):
        taken += 320
        for packet in encoder.push(sound[start : start + 320]):
            given += decoder.push(packet).shape[1]
        assert taken - given <= DELAY_S * RATE + 320
