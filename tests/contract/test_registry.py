"""Every codec of the registry has its line of cases, its pinned number, and is loaded and described alike."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from contract.cases import CASES, each_codec, each_variant, loaded
from rdcodec.codecs import REGISTRY, Unsupported, container, load, name_of
from rdcodec.entropy_models.errors import UnknownName


def test_no_codec_is_without_cases():
    assert set(CASES) >= set(REGISTRY)
    assert len({cases.stream_id for cases in CASES.values()}) == len(CASES)


@each_codec
def test_the_stream_id_is_pinned(name):
    cases = CASES[name]
    assert REGISTRY[name].stream_id == cases.stream_id == load(name).stream_id and name_of(cases.stream_id) == name


@each_codec
def test_signals_begin_with_the_smallest_and_have_odd_sizes(name):
    shapes = [CASES[name].array(make()).shape for make in CASES[name].signals.values()]
    sizes = [math.prod(shape) for shape in shapes]
    assert len(sizes) >= 4 and sizes[0] == min(sizes)
    assert any(side > 1 and side % 2 for shape in shapes for side in shape)


@each_variant
def test_a_stream_says_what_it_needs(name, variant):
    codec, cases = loaded(name, variant), CASES[name]
    data = codec.encode(cases.small())
    stream = container.parse(data)
    assert stream.stream_id == cases.stream_id
    if not cases.variants[variant].shipped:
        with pytest.raises(Unsupported):
            type(codec).load(stream_hash=stream.weights, device="cpu")
        return
    again = type(codec).load(stream_hash=stream.weights, device="cpu")
    if cases.variants[variant].alone:
        assert cases.same(again.decode(data), codec.decode(data))
    else:
        with pytest.raises(Unsupported):
            again.decode(data)
        assert again.verify(data)


@each_codec
def test_weights_that_are_not_here_are_named(name):
    kind = type(load(name))
    with pytest.raises(Unsupported, match="0102030405060708"):
        kind.load(stream_hash=bytes(range(1, 9)))
    with pytest.raises(UnknownName, match=f"no {name} model 'nothing'"):
        kind.load(model="nothing")


@each_variant
def test_info_describes_a_file(name, variant, run, tmp_path):
    data = loaded(name, variant).encode(CASES[name].small())
    Path(tmp_path / "it.rdc").write_bytes(data)
    code, out, err = run("info", "it.rdc", "--json")
    facts = json.loads(out)
    assert (code, err, facts["codec"], facts["file_bytes"]) == (0, "", name, len(data))
    stream = container.parse(data)
    assert [(c["offset"], c["bytes"]) for c in facts["chunks"]] == [(e.offset, e.length) for e in stream.entries]
    for people in (run("info", "it.rdc")[1],):
        assert name in people and all(f"{entry.crc:08x}" in people for entry in stream.entries)
