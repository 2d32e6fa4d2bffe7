"""Streams of the shipped weights decode to the same symbols and, but for a grey level here and there, pixels.

``python tests/image/test_golden.py`` writes fixtures that are missing; the test never does.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from rdcodec.codecs import container, load
from rdcodec.codecs.image.header import parse
from rdcodec.codecs.weights import manifest

GOLDEN = Path(__file__).parents[1] / "golden"
KINDS = ("rgb", "grey", "alpha", "corrected")
NAMES = tuple(f"{name}-{kind}" for name, line in manifest().items() if line.codec == "image" for kind in KINDS)


def golden_scene(name: str) -> np.ndarray:
    """Integer arithmetic only: the same on every machine."""
    y, x = np.mgrid[:61, :83]
    planes = [(x * 5 + y * 3 + 90 * (x > y)) % 256, (x * y // 7) % 256, 255 - 3 * y, 4 * ((x // 8 + y // 8) % 2) * 63]
    image = np.stack(planes, -1).clip(0, 255).astype(np.uint8)
    squares = np.repeat(255 * ((x // 8 + y // 8) % 2)[..., None], 3, 2).astype(np.uint8)
    kinds = {"rgb": image[..., :3], "grey": image[..., 0], "alpha": image, "corrected": squares}
    return kinds[name.rsplit("-", 1)[1]]


def test_no_fixture_is_missing_or_forgotten():
    assert {p.stem for p in GOLDEN.glob("*.rdc")} == {p.stem for p in GOLDEN.glob("*.npy")} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_golden_stream(name):
    data = (GOLDEN / f"{name}.rdc").read_bytes()
    pin = json.loads((GOLDEN / "pins.json").read_text())[name]
    assert hashlib.sha256(data).hexdigest() == pin["sha256"]
    stream = container.parse(data)
    assert stream.stream_id == pin["stream_id"] and stream.weights.hex() == pin["weights"]
    codec = load("image", stream_hash=stream.weights, device="cpu")
    decoded = codec.decode(data)
    off = np.abs(decoded.astype(int) - np.load(GOLDEN / f"{name}.npy"))
    assert off.max() <= 1 and (off > 0).mean() < 0.01  # the pixel path is float; symbols are exact


@pytest.mark.parametrize("name", [n for n in NAMES if n.endswith("corrected")])
def test_a_corrected_stream_holds_a_correction(name):
    stream, header = parse((GOLDEN / f"{name}.rdc").read_bytes())
    codec = load("image", stream_hash=stream.weights, device="cpu")
    assert codec._read(stream.chunk(0), header, 0)[1].count_nonzero() > 20


@pytest.mark.parametrize("name", NAMES)
def test_encoder_still_writes_what_it_wrote(name):
    """Bytes may differ where another processor rounds a residual the other way; size and picture may not."""
    data = (GOLDEN / f"{name}.rdc").read_bytes()
    codec = load("image", model=name.rsplit("-", 1)[0], device="cpu")
    again = codec.encode(golden_scene(name), 40)
    assert abs(len(again) - len(data)) <= 16
    assert np.abs(codec.decode(again).astype(int) - np.load(GOLDEN / f"{name}.npy")).mean() < 0.1


if __name__ == "__main__":
    pins = json.loads((GOLDEN / "pins.json").read_text()) if (GOLDEN / "pins.json").exists() else {}
    for missing in [n for n in NAMES if not (GOLDEN / f"{n}.rdc").exists()]:
        codec = load("image", model=missing.rsplit("-", 1)[0], device="cpu")
        written = codec.encode(golden_scene(missing), 40)
        (GOLDEN / f"{missing}.rdc").write_bytes(written)
        np.save(GOLDEN / f"{missing}.npy", codec.decode(written))
        pins[missing] = {
            "stream_id": 1,
            "weights": codec.stream_hash.hex(),
            "sha256": hashlib.sha256(written).hexdigest(),
        }
    (GOLDEN / "pins.json").write_text(json.dumps(pins, indent=1) + "\n")
