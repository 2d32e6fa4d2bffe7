"""Real bytes against ideal bits, and what quality does to them."""

from __future__ import annotations

import pytest
from contract.cases import CASES, each_variant, loaded
from rdcodec.codecs import container


def overhead_bytes(data: bytes, slack_bytes: int) -> int:
    """Of header, table and metadata, of files in chunks likewise, and ``slack_bytes`` for each data chunk."""
    stream = container.parse(data)
    total = container.table_end(len(stream.signal), len(stream.entries))
    for i, entry in enumerate(stream.entries):
        body = stream.chunk(i)
        if body.startswith(container.MAGIC):
            total += overhead_bytes(body, slack_bytes)
        else:
            total += slack_bytes if entry.kind == container.DATA else entry.length
    return total


@each_variant
def test_real_bits_are_within_one_percent_of_ideal_bits(name, variant):
    codec, cases = loaded(name, variant), CASES[name]
    signal = cases.large()
    for quality in cases.variants[variant].qualities:
        data, ideal = codec.encode(signal, quality=quality), codec.estimate(signal, quality=quality).bits
        headers = 8 * overhead_bytes(data, 0)
        assert ideal - 8 <= 8 * len(data) - headers, "fewer bits than possible"
        assert 8 * len(data) <= 1.01 * ideal + 8 * overhead_bytes(data, cases.slack_bytes)
    assert headers < 0.02 * ideal, "a large signal, by the best quality"


@each_variant
def test_bytes_rise_with_quality(name, variant):
    codec, cases = loaded(name, variant), CASES[name]
    qualities = cases.variants[variant].qualities
    if len(qualities) == 1:
        pytest.skip("the codec has no quality in this setting")
    signal = cases.large()
    sizes = [len(codec.encode(signal, quality=quality)) for quality in qualities]
    assert sizes == sorted(set(sizes))


@each_variant
def test_a_measurer_knows_the_bytes_without_a_stream(name, variant):
    codec, cases = loaded(name, variant), CASES[name]
    if not hasattr(codec, "measurer"):
        pytest.skip("no size can be asked for")
    for signal in (cases.large(), cases.small()):
        seen: list[tuple[int, int]] = []
        measure = codec.measurer(signal, progress=lambda *at, seen=seen: seen.append(at))
        for quality in (30, 90):
            real = len(codec.encode(signal, quality=quality))
            assert abs(measure(quality) - real) <= 0.01 * real + 64
        assert seen == 2 * [(done, seen[-1][1]) for done in range(1, seen[-1][1] + 1)]  # each call is told of from 1 to all
