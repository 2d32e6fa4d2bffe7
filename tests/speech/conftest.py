"""A voice to code: no recording is needed."""

from __future__ import annotations

import numpy as np
import pytest
from rdcodec.codecs.speech.codec import SpeechCodec
from rdcodec.codecs.speech.voice import synthetic_voice


@pytest.fixture(scope="session")
def voice() -> np.ndarray:
    """Four seconds of a synthetic voice, float32 at 16 kHz."""
    return synthetic_voice()


@pytest.fixture(scope="session")
def codec() -> SpeechCodec:
    """The shipped codec."""
    return SpeechCodec.load(device="cpu")
