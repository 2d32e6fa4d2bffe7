"""A thousand corrupted image files: each refused or salvaged, none crashes, hangs, hoards memory, or passes unnoticed."""

from __future__ import annotations

import resource
import struct

import numpy as np
import pytest
from damage import flip_bits, rechecked, truncate
from rdcodec.codecs import container
from rdcodec.codecs.image.codec import ImageCodec
from rdcodec.entropy_models.errors import BitstreamError
from work import Work

COUNT = 1000
BYTES_MAX = 1 << 30


@pytest.fixture(scope="module")
def originals(image_codec: ImageCodec, photograph, scene) -> list[bytes]:
    images = [photograph[:70, :90], scene(40, 33, 4), scene(1, 1), photograph[200:264, :130, 0]]
    return [
        image_codec.encode(np.ascontiguousarray(image), quality=q) for image, q in zip(images, (20, 50, 90, 70), strict=True)
    ]


def append(rng, data, others):
    return data + rng.bytes(rng.integers(1, 60))


def splice_chunk(rng, data, others):
    """A chunk of another file, with table and checksums made to fit."""
    mine, other = container.parse(data), container.parse(others[rng.integers(len(others))])
    chunks = [(e.kind, mine.chunk(i)) for i, e in enumerate(mine.entries)]
    chunks[rng.integers(len(chunks))] = (0, other.chunk(rng.integers(len(other.entries))))
    return container.write(stream_id=mine.stream_id, weights=mine.weights, signal=mine.signal, chunks=chunks)


def wild_header(rng, data, others):
    """Random bytes in header, signal header or table, under a checksum that holds."""
    body = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        body[rng.integers(4, 22 + 12 + 9)] = rng.integers(256)
    return rechecked(bytes(body))


def wild_payload(rng, data, others):
    """Random symbols under checksums that hold for the chunk but not for the symbols."""
    stream = container.parse(data)
    chunks = [(e.kind, bytearray(stream.chunk(i))) for i, e in enumerate(stream.entries)]
    target = chunks[rng.integers(len(chunks))][1]
    start = rng.integers(len(target))
    target[start : start + 8] = rng.bytes(len(target[start : start + 8]))
    return container.write(
        stream_id=1, weights=stream.weights, signal=stream.signal, chunks=[(k, bytes(b)) for k, b in chunks]
    )


def test_a_thousand_corruptions(image_codec, originals):
    rng = np.random.default_rng(20)
    whole, work_max = [], 0
    for data in originals:
        with Work() as work:
            whole.append(image_codec.decode(data).array())
        work_max = max(work_max, 4 * work.elements)
    kinds = flip_bits, truncate, append, splice_chunk, wild_header, wild_payload
    refused = 0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for i in range(COUNT):
        which = rng.integers(len(originals))
        damaged = kinds[i % len(kinds)](rng, originals[which], originals)
        decoded = None
        try:
            with Work() as work:
                decoded = image_codec.decode(damaged).array()
        except BitstreamError as error:
            refused += 1
            assert str(error)
        else:  # only what changes nothing may pass
            assert damaged == originals[which] or (
                decoded.shape == whole[which].shape and np.array_equal(decoded, whole[which])
            ), kinds[i % len(kinds)].__name__
        try:
            with work:
                picture = image_codec.decode(damaged, salvage=True)
            assert picture.notices or (decoded is not None and np.array_equal(picture.array(), decoded))
        except BitstreamError:
            pass
        assert work.elements < work_max, "much more than whole files take"
    assert refused > 0.9 * COUNT
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < BYTES_MAX


def test_a_claim_of_many_pixels_costs_nothing(image_codec, originals):
    """The largest legal size with one tile: refused from the chunk count, at once."""
    stream = container.parse(originals[0])
    signal = struct.pack("<IIBBBB", 1 << 13, 1 << 14, 20, 3, 0, 8)
    data = container.write(stream_id=1, weights=stream.weights, signal=signal, chunks=[(0, stream.chunk(0))])
    with Work() as work, pytest.raises(BitstreamError, match="do not fit"):
        image_codec.decode(data)
    assert work.elements == 0
