"""Classic speech codecs to compare with: Opus through PyAV's wheel, Codec 2. No numpy and no PyAV before one is used.

Samples are float32 (n,) at 16 kHz. What is decoded is exactly as long, and without the codec's delay.
"""

from __future__ import annotations

import io
from functools import partial
from typing import TYPE_CHECKING

from ...entropy_models.errors import InputError
from ..evaluation.task import Reference
from .header import SAMPLE_RATE

if TYPE_CHECKING:
    import numpy as np

OPUS_KBPS = (5, 6, 7, 8, 9, 10, 11, 12, 14, 16, 20, 24)
"""Rates that libopus is asked for; it stays 3 to 15 % below."""
CODEC2_MODES = (700, 1200, 1300, 1600, 2400, 3200)
"""Modes of Codec 2, named by their bits per second."""
CODEC2_RATE = 8_000
"""Hz of Codec 2."""
CODEC2_DELAY = 320
"""Samples at 16 kHz by which Codec 2 comes late in all modes but 700, by the maximum of STOI."""


def encode_opus(samples: np.ndarray, kbps: float, *, frame_ms: int) -> bytes:
    """An Ogg Opus file: libopus for voice, complexity 10, variable rate.

    Raises:
        InputError: PyAV cannot encode it.
    """
    import av
    import numpy as np

    options = {"application": "voip", "frame_duration": str(frame_ms), "vbr": "on", "compression_level": "10"}
    buffer = io.BytesIO()
    try:
        with av.open(buffer, "w", format="ogg") as container:
            stream = container.add_stream("libopus", rate=SAMPLE_RATE, options=options)
            stream.layout, stream.bit_rate = "mono", round(1000 * kbps)
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[None]), format="flt", layout="mono")
            frame.rate, frame.pts = SAMPLE_RATE, 0
            for packet in (*stream.encode(frame), *stream.encode(None)):
                container.mux(packet)
    except av.FFmpegError as error:
        raise InputError(f"libopus cannot encode it: {error}") from None
    return buffer.getvalue()


def decode_opus(data: bytes) -> np.ndarray:
    """Samples of an Ogg Opus file that `encode_opus` wrote; libsndfile leaves out the delay that the file names."""
    import soundfile

    samples, _ = soundfile.read(io.BytesIO(data), dtype="float32")
    return samples


def opus_payload(data: bytes) -> int:
    """Bytes of the packets of an Ogg Opus file, without Ogg's pages and headers."""
    import av

    with av.open(io.BytesIO(data), "r") as container:
        return sum(packet.size for packet in container.demux(audio=0))


def opus_of_rate(samples: np.ndarray, kbps: float, tries: int = 10) -> bytes:
    """The Ogg Opus file (60 ms) whose payload is closest to a rate, by bisection over what libopus is asked for.

    Much more, or much less, where the rate is out of libopus's range: 5 to 48 kbit/s are tried.
    """
    low, high = float(OPUS_KBPS[0]), 48.0
    wanted = kbps * 1000 / 8 * len(samples) / SAMPLE_RATE
    found: list[tuple[float, bytes]] = []
    for _ in range(tries):
        asked = low if not found else (low + high) / 2
        data = encode_opus(samples, asked, frame_ms=60)
        size = opus_payload(data)
        found.append((abs(size - wanted), data))
        if abs(size - wanted) < wanted / 200 or (asked == low and size > wanted):
            break
        if len(found) > 1:
            low, high = (low, asked) if size > wanted else (asked, high)
    return min(found, key=lambda one: one[0])[1]


def check_opus() -> None:
    """InputError if there is no libopus here."""
    try:
        import av
        import soundfile  # noqa: F401
    except ImportError as error:
        raise InputError(f"reference opus needs more packages ({error}): pip install av soundfile") from None
    if "libopus" not in av.codecs_available:
        raise InputError("this PyAV has no libopus; pip install av has")


def encode_codec2(samples: np.ndarray, mode: float) -> bytes:
    """Frames of Codec 2 after the number of samples, four bytes, and the mode, two."""
    import numpy as np
    import pycodec2
    import soxr

    codec = pycodec2.Codec2(int(mode))
    narrow = soxr.resample(samples, SAMPLE_RATE, CODEC2_RATE)
    size = codec.samples_per_frame()
    count = -(-(len(narrow) + CODEC2_DELAY) // size)  # what comes late has to come
    integers = np.clip(np.rint(narrow * 2.0**15), -(2**15), 2**15 - 1).astype(np.int16)
    padded = np.pad(integers, (0, count * size - len(narrow)))
    head = len(samples).to_bytes(4, "little") + int(mode).to_bytes(2, "little")
    return head + b"".join(codec.encode(frame) for frame in padded.reshape(count, size))


def decode_codec2(data: bytes) -> np.ndarray:
    """Samples of what `encode_codec2` wrote."""
    import numpy as np
    import pycodec2
    import soxr

    length, mode = int.from_bytes(data[:4], "little"), int.from_bytes(data[4:6], "little")
    codec = pycodec2.Codec2(mode)
    size = codec.bytes_per_frame()
    frames = [codec.decode(data[at : at + size]) for at in range(6, len(data), size)]
    samples = soxr.resample(np.concatenate(frames).astype(np.float32) / 2**15, CODEC2_RATE, SAMPLE_RATE)
    return samples[CODEC2_DELAY : CODEC2_DELAY + length]


def codec2_payload(data: bytes) -> int:
    """Bytes of the frames."""
    return len(data) - 6


def check_codec2() -> None:
    """InputError if there is no Codec 2 here."""
    try:
        import pycodec2  # noqa: F401
    except ImportError:
        raise InputError("reference codec2 needs the package pycodec2: pip install 'rdcodec[speech-eval]'") from None


def opus(frame_ms: int) -> Reference[np.ndarray]:
    """Opus with frames of so many milliseconds; of its bytes the payload counts, not Ogg."""
    note = f"libopus in PyAV, voice, complexity 10, variable rate, frames of {frame_ms} ms, payload alone"
    encode = partial(encode_opus, frame_ms=frame_ms)
    return Reference(OPUS_KBPS, encode, decode_opus, note, check_opus, opus_payload)


REFERENCES: dict[str, Reference[np.ndarray]] = {
    "opus": opus(60),
    "opus20": opus(20),
    "codec2": Reference(
        CODEC2_MODES, encode_codec2, decode_codec2, "8 kHz, frames alone", check_codec2, codec2_payload
    ),
}  # fmt: skip
"""References by name on the command line."""
