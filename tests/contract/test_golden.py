"""Streams of this format version decode for ever to the same signal, but for float rounding.

``cd tests && python -m contract.test_golden`` writes fixtures that are missing; the test never does.
"""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from contract.cases import CASES
from contract.subject import GOLDEN
from rdcodec.codecs import container

PINS = GOLDEN / "pins.json"
each_stream = pytest.mark.parametrize(
    ("name", "stem"), [(name, stem) for name, cases in CASES.items() for stem in cases.golden]
)

each_written = pytest.mark.parametrize(
    ("name", "stem"), [(name, stem) for name, cases in CASES.items() for stem, of in cases.golden.items() if of.written]
)


def pin_of(data: bytes) -> dict[str, object]:
    stream = container.parse(data)
    return {"stream_id": stream.stream_id, "weights": stream.weights.hex(), "sha256": hashlib.sha256(data).hexdigest()}


def test_no_fixture_is_missing_or_forgotten():
    listed = {stem for cases in CASES.values() for stem in cases.golden}
    for suffix in (".rdc", ".npy"):
        assert {str(path.relative_to(GOLDEN).with_suffix("")) for path in GOLDEN.rglob(f"*{suffix}")} == listed
    assert json.loads(PINS.read_text()).keys() == listed


@each_stream
def test_golden_stream(name, stem):
    golden, data = CASES[name].golden[stem], (GOLDEN / f"{stem}.rdc").read_bytes()
    assert pin_of(data) == json.loads(PINS.read_text())[stem]
    found, expected = CASES[name].array(golden.load().decode(data)), np.load(GOLDEN / f"{stem}.npy")
    assert found.shape == expected.shape and found.dtype == expected.dtype and golden.near(found, expected)


@each_written
def test_the_encoder_writes_what_it_wrote(name, stem):
    """Bytes may differ where another processor rounds a residual the other way; size and signal hardly."""
    golden, size = CASES[name].golden[stem], (GOLDEN / f"{stem}.rdc").stat().st_size
    codec, expected = golden.load(), np.load(GOLDEN / f"{stem}.npy").astype(np.float64)
    again = codec.encode(golden.signal(), quality=golden.quality)
    assert abs(len(again) - size) <= 0.01 * size + 16
    assert np.abs(CASES[name].array(codec.decode(again)) - expected).mean() <= 1e-3 * np.abs(expected).mean()


def write_missing() -> None:
    pins = json.loads(PINS.read_text())
    for cases in CASES.values():
        for stem, golden in cases.golden.items():
            path, codec = GOLDEN / f"{stem}.rdc", golden.load()
            if not path.exists():
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(codec.encode(golden.signal(), quality=golden.quality))
                np.save(path.with_suffix(".npy"), cases.array(codec.decode(path.read_bytes())))
            pins.setdefault(stem, pin_of(path.read_bytes()))
    PINS.write_text(json.dumps(pins, indent=1) + "\n")


if __name__ == "__main__":
    write_missing()
