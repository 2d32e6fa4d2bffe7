"""A group of 96 frames, decoded in every variation of float arithmetic: the same symbols, and pictures that stay close.

Each frame is made of the one before, so what floats do to one could go on to the next.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from clips import drawn_clip
from contract.test_parse_path import VARIATIONS
from rdcodec.codecs.video.codec import VideoCodec
from rdcodec.entropy_models.errors import BitstreamError

FRAMES = 96
MEAN_LEVELS = {"bfloat16": 4.0, "noise": 0.5, "float64": 0.25, "without oneDNN": 0.25, "one thread": 0, "two threads": 0.01}
"""Mean difference that any frame may have from the plain decoding, in grey levels."""


@pytest.fixture(scope="module")
def group() -> tuple[VideoCodec, bytes, np.ndarray]:
    """A codec, a file of one group, and its frames."""
    codec = VideoCodec.load(device="cpu", threads=1)
    data = codec.encode(drawn_clip(FRAMES, 48, 64, speed=1), quality=40, group=FRAMES)
    return codec, data, codec.decode(data).frames


@pytest.mark.parametrize("variation", VARIATIONS)
def test_a_long_group_stays_what_it_was(group, variation):
    codec, data, frames = group
    torch.manual_seed(0)
    with VARIATIONS[variation](codec, "video"):
        found = codec.decode(data).frames  # to its end: all symbols, and their check
    differences = np.abs(found.astype(int) - frames).mean((1, 2, 3))
    assert differences.max() <= MEAN_LEVELS[variation], f"frame {differences.argmax()}: {differences.max():.3f} levels"


def test_a_wrong_level_late_in_the_group_is_noticed(group):
    """The symbols above can differ."""
    codec, data, _ = group
    layer = codec.stem.level_context.level[0]
    layer.bias += 2 ** int(layer.shift.max())
    try:
        with pytest.raises(BitstreamError):
            codec.decode(data)
    finally:
        layer.bias -= 2 ** int(layer.shift.max())
