"""Encoding, decoding and estimating agree, signal by signal, from the smallest size up."""

from __future__ import annotations

import copy

import pytest
from contract.cases import CASES, each_signal, each_variant, loaded
from rdcodec.codecs import Unsupported, container
from rdcodec.entropy_models.errors import BitstreamError, InputError


@each_signal
def test_decoding_gives_what_the_estimate_predicts(name, variant, signal, quality):
    codec, cases = loaded(name, variant), CASES[name]
    made = cases.signals[signal]()
    data = codec.encode(made, quality=quality)
    decoded = codec.decode(data)
    assert cases.same(decoded, codec.estimate(made, quality=quality).signal)
    assert cases.same(codec.decode(container.parse(data)), decoded), "a parsed stream is taken wherever bytes are"
    assert codec.verify(data) == codec.verify(container.parse(data)) == []
    assert cases.array(decoded).shape == cases.array(made).shape


@each_variant
def test_encoding_again_gives_the_same_bytes(name, variant):
    """Whatever was coded before, in whatever order, by this codec or by another one."""
    codec, cases = loaded(name, variant), CASES[name]
    signals = [make() for make in cases.signals.values()]
    before = copy.deepcopy(signals)
    first = [codec.encode(signal) for signal in signals]
    other = cases.variants[variant].load()
    backwards = [other.encode(copy.deepcopy(signal)) for signal in reversed(before)]
    assert backwards[::-1] == first == [codec.encode(signal) for signal in signals]
    assert all(cases.same(a, b) for a, b in zip(signals, before, strict=True)), "a signal was changed"


@each_variant
def test_a_batch_gives_what_single_calls_give(name, variant):
    codec, cases = loaded(name, variant), CASES[name]
    if not hasattr(codec, "encode_batch"):
        pytest.skip("the codec has no batches")
    signals = [make() for make in cases.signals.values()]
    streams = [codec.encode(signal) for signal in signals]
    assert codec.encode_batch(signals) == streams
    assert all(cases.same(a, b) for a, b in zip(codec.decode_batch(streams), map(codec.decode, streams), strict=True))


@each_variant
def test_progress_is_told_to_the_end(name, variant):
    codec, signal = loaded(name, variant), CASES[name].large()
    data = codec.encode(signal)
    for work in (
        lambda progress: codec.encode(signal, progress=progress),
        lambda progress: codec.decode(data, progress=progress),
    ):
        told: list[tuple[int, int]] = []
        work(lambda done, total, told=told: told.append((done, total)))
        done, totals = [d for d, _ in told], {total for _, total in told}
        assert len(totals) == 1 and done == sorted(set(done)) and done[-1] == totals.pop()


@each_variant
@pytest.mark.parametrize("quality", [-1, 101, 50.5, "60"])
def test_qualities_out_of_range_are_refused(name, variant, quality):
    for call in (loaded(name, variant).encode, loaded(name, variant).estimate):
        with pytest.raises(InputError, match="quality"):
            call(CASES[name].small(), quality=quality)


@each_variant
def test_streams_of_other_codecs_are_refused(name, variant):
    codec = loaded(name, variant)
    stream = container.parse(codec.encode(CASES[name].small()))
    chunks = [(entry.kind, stream.chunk(i)) for i, entry in enumerate(stream.entries)]
    foreign = container.write(stream_id=60_000, weights=stream.weights, signal=stream.signal, chunks=chunks)
    for read in (codec.decode, codec.verify):
        with pytest.raises(Unsupported, match="stream id 60000"):
            read(foreign)
        for data in (b"", b"\x89", bytes(100), b"\x89RDC" + bytes(100)):
            with pytest.raises(BitstreamError):
                read(data)
