"""Cases of the speech codec."""

from __future__ import annotations

from functools import cache, partial

import numpy as np
from contract.subject import Cases, Golden, Network, Variant
from rdcodec.codecs.speech.codec import SpeechCodec
from rdcodec.codecs.speech.sound import Sound, as_sound
from rdcodec.codecs.weights import manifest
from voices import RATE, drawn_by_integers, voice


def at_rate(samples: int, rate: int = RATE, channels: int = 1) -> Sound:
    parts = [voice(samples / rate, rate, seed)[:samples] for seed in range(channels)]
    return as_sound(np.stack(parts), rate)


def refined() -> SpeechCodec:
    return SpeechCodec.load(device="cpu").with_effort(1)


def with_tags() -> Sound:
    return as_sound(voice(1.1), RATE, {"title": "Ā title", "artist": "nobody"})


def with_silence() -> Sound:
    """A pause of digital silence that holds whole segments."""
    samples = voice(2.5)
    samples[8000:30000] = 0
    return as_sound(samples, RATE)


@cache
def large() -> Sound:
    return as_sound(voice(17.3), RATE)


def some() -> list[Sound]:
    """A dozen sounds: voices, noise, a tone, steps, quiet and loud ones."""
    random, time = np.random.default_rng(0), np.arange(16000) / RATE
    others = [0.1 * random.standard_normal(16000), 0.5 * np.sin(2 * np.pi * 440 * time), np.sign(np.sin(9 * time)) * 0.9]
    quiet = [0.02 * voice(1.0), 3 * voice(1.0, seed=3)]
    voices = [voice(1.0, seed=seed, pitch_hz=90 + 30 * seed) for seed in range(7)]
    return [as_sound(np.asarray(samples, np.float32), RATE) for samples in [*others, *quiet, *voices]]


def same(a: Sound, b: Sound) -> bool:
    return np.array_equal(a.samples, b.samples) and a.sample_rate == b.sample_rate and a.tags == b.tags


def golden_sound(kind: str) -> Sound:
    """Integer arithmetic only: the same on every machine. ``chunks`` is longer than one chunk."""
    count = {"mono": 20_001, "stereo": 9_000, "chunks": 131_000}[kind]
    channels = [drawn_by_integers(count, seed) for seed in range(1, 3 if kind == "stereo" else 2)]
    return as_sound(np.stack(channels), RATE)


def near(found: np.ndarray, expected: np.ndarray) -> bool:
    """The pixel path is float; symbols are exact."""
    return bool(np.abs(found - expected).max() <= 1e-3)


SIZES = {
    "1 sample": (1,), "1 sample at 44.1 kHz": (1, 44100), "639 samples": (639,), "641 samples": (641,),
    "5121 samples": (5121,), "stereo at 48 kHz": (30011, 48000, 2), "8 kHz": (9999, 8000),
}  # fmt: skip
SPEECH = Cases(
    stream_id=2,
    variants={
        "speech": Variant(load=partial(SpeechCodec.load, device="cpu"), qualities=(0, 50, 100)),
        "refined": Variant(load=refined, qualities=(10, 60)),
    },
    signals={name: partial(at_rate, *size) for name, size in SIZES.items()}
    | {"with tags": with_tags, "with silence": with_silence, "two chunks": partial(at_rate, 130_001)},
    small=with_tags,
    large=large,
    same=same,
    array=Sound.array,
    golden={
        f"{name}-{kind}": Golden(
            load=partial(SpeechCodec.load, model=name, device="cpu"),
            signal=partial(golden_sound, kind),
            quality=40,
            near=near,
        )
        for name, line in manifest().items()
        if line.codec == "speech"
        for kind in ("mono", "stereo", "chunks")
    },
    network=Network(
        module=lambda codec: codec.network,
        level_layer=lambda codec: codec.network.level_slices.level[0],
        signals=some,
        qualities=(5, 50, 95),
    ),
)
