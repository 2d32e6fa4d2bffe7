"""TurboQuant: its codebooks and the vectors it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from kv_cases import (
    decode,
    encode,
    make_block,
    settings_for,
)
from rdcodec.codecs.kv_cache.format.blocks import (
    KvBlock,
    KvSettings,
    read_block_header,
)
from rdcodec.codecs.tensor import turboquant


def test_codebooks_are_the_published_ones():
    """Positive centroids of a unit Gaussian and their mean squared error (TurboQuant, table of section 3.1)."""
    assert turboquant.codebook(1)[0][1:].tolist() == pytest.approx([0.7979], abs=1e-4)
    assert turboquant.codebook(2)[0][2:].tolist() == pytest.approx([0.4528, 1.5104], abs=1e-4)
    assert turboquant.codebook(3)[0][4:].tolist() == pytest.approx([0.2451, 0.7560, 1.3439, 2.1519], abs=1e-3)
    x = torch.randn(1, 4096, 64, generator=torch.Generator().manual_seed(0))
    block = KvBlock(np.zeros(4096, np.int64), ((x, x),))
    for bits, error in ((1, 0.3634), (2, 0.1175), (3, 0.03455), (4, 0.0095), (5, 0.0025)):
        settings = KvSettings(mode="turboquant", bits=bits)
        data = encode(block, settings)
        found = decode(data, settings).layers[0][0]
        assert float((found - x).square().mean()) == pytest.approx(error, rel=0.06)
        assert 8 * read_block_header(data).chunk_bytes[0][0] / x.numel() == pytest.approx(bits + 16 / 64, abs=0.01)


@pytest.mark.parametrize("factor", [1e6, 1e-8])
def test_vectors_too_long_or_too_short_for_float16_norms_are_refused(factor):
    block = make_block(2, 20, 8)
    block = KvBlock(block.tokens, tuple((k * factor, v * factor) for k, v in block.layers))
    for mode in ("turboquant", "turboquant-ec"):
        with pytest.raises(ValueError, match="keys of layer 0: the longest vector has norm"):
            encode(block, settings_for(mode, 2, 8))
