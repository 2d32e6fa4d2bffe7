"""Every truncation, every flipped byte and whatever a hostile writer makes: refused with `BitstreamError`, or harmless."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

import numpy as np
import pytest
from contract.cases import CASES, each_variant, loaded
from damage import rechecked
from rdcodec.codecs import container
from rdcodec.codecs.contract import Codec
from rdcodec.entropy_models.errors import BitstreamError

FORGERIES = 150


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1 << at * 5 % 8]) + data[at + 1 :]


def refuse(codec: Codec, damaged: Iterable[bytes]) -> None:
    """Assert that each is refused, by decoding and by verifying."""
    for number, data in enumerate(damaged):
        for read in (codec.decode, codec.verify):
            try:
                read(data)
            except BitstreamError as error:
                assert str(error)
            else:
                pytest.fail(f"{read.__name__} took damage number {number}")


@each_variant
def test_every_truncation_is_refused(name, variant):
    codec = loaded(name, variant)
    data = codec.encode(CASES[name].small())
    assert len(data) < 4000, "a small signal"
    refuse(codec, (data[:n] for n in range(len(data))))
    refuse(codec, [data + b"\0", data + data])


@each_variant
def test_every_flipped_byte_is_refused(name, variant):
    codec = loaded(name, variant)
    data = codec.encode(CASES[name].small())
    refuse(codec, (flipped(data, at) for at in range(len(data))))


@each_variant
def test_damage_anywhere_in_a_large_stream_is_refused(name, variant):
    codec = loaded(name, variant)
    data = codec.encode(CASES[name].large())
    stride = len(data) // 12
    refuse(codec, (flipped(data, at) for at in range(stride // 2, len(data), stride)))
    refuse(codec, (data[:at] for at in range(stride // 2, len(data), stride)))


def forged(rng: np.random.Generator, data: bytes) -> bytes:
    """A stream with other bytes in a chunk or in the signal header, under checksums that hold; files in chunks likewise."""
    stream = container.parse(data)
    signal = bytearray(stream.signal)
    chunks = [(entry.kind, bytearray(stream.chunk(i))) for i, entry in enumerate(stream.entries)]
    which = int(rng.integers(-1, len(chunks)))
    target = signal if which < 0 else chunks[which][1]
    if target.startswith(container.MAGIC):
        target[:] = forged(rng, bytes(target))
    elif target and rng.random() < 0.2:
        del target[rng.integers(len(target)) :]
    elif target:
        at = rng.integers(len(target))
        target[at : at + 1] = rng.bytes(int(rng.integers(1, 5)))
    parts = [(kind, bytes(body)) for kind, body in chunks]
    return container.write(stream_id=stream.stream_id, weights=stream.weights, signal=bytes(signal), chunks=parts)


@each_variant
def test_forgeries_under_right_checksums_raise_nothing_else(name, variant):
    """They are refused, or decode to something: of learned codecs to the same, as their symbols have checksums too."""
    codec, cases, rng = loaded(name, variant), CASES[name], np.random.default_rng(20)
    quality = cases.variants[variant].qualities[-1]
    streams = [codec.encode(make(), quality=quality) for make in cases.signals.values()]
    whole = [cases.array(codec.decode(data)) for data in streams]
    refused = 0
    for i in range(FORGERIES):
        which = i % len(streams)
        damaged, taken = forged(rng, streams[which]), {}
        for read in (codec.decode, codec.verify):
            with contextlib.suppress(BitstreamError):
                taken[read.__name__] = read(damaged)
        assert len(taken) in (0, 2), "what is verified can be decoded, and the other way round"
        refused += not taken
        assert not (taken and cases.network) or np.array_equal(cases.array(taken["decode"]), whole[which])
    assert refused > FORGERIES // 10


def lengthened(data: bytes, index: int) -> bytes:
    """A stream with eight bytes more at the end of a data chunk, or of a chunk of the file in it."""
    stream = container.parse(data)
    chunks = [(entry.kind, stream.chunk(i)) for i, entry in enumerate(stream.entries)]
    kind, body = chunks[index]
    nested = body.startswith(container.MAGIC)
    chunks[index] = kind, lengthened(body, len(container.parse(body).entries) - 1) if nested else body + bytes(8)
    return container.write(stream_id=stream.stream_id, weights=stream.weights, signal=stream.signal, chunks=chunks)


@each_variant
def test_bytes_left_over_in_a_chunk_are_refused(name, variant):
    codec = loaded(name, variant)
    data = codec.encode(CASES[name].small())
    refuse(codec, (lengthened(data, i) for i in container.parse(data).indices(container.DATA)))


@each_variant
def test_verifying_looks_at_every_checksum(name, variant):
    """Also at those that a reader does not need, of a chunk that is a file with checksums of its own."""
    codec = loaded(name, variant)
    data = codec.encode(CASES[name].small())
    stream = container.parse(data)
    for i, entry in enumerate(stream.entries):
        at = stream.entries[0].offset - 4 - container.ENTRY_BYTES * (len(stream.entries) - i) + 5
        damaged = rechecked(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        assert container.parse(damaged).entries[i].crc == entry.crc ^ 1
        with pytest.raises(BitstreamError):
            codec.verify(damaged)
