"""The registry of the contract tests has the toy codec as well."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from rdcodec.codecs import REGISTRY, Registered
from rdcodec.codecs.cli import signature
from toy_codec import STREAM_ID


@pytest.fixture(autouse=True)
def toy_registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    line = Registered(stream_id=STREAM_ID, codec="toy_codec:ToyCodec", face="toy_codec:FACE", summary="texts")
    monkeypatch.setitem(REGISTRY, "toy", line)
    signature.faces.cache_clear()
    yield
    signature.faces.cache_clear()
