"""Clips that tests make with PyAV: of any codec, pixel format, times, rotation and sound. No tests here."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorRange, Interpolation

EXACT = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.BITEXACT
MATRIX_601 = 5
"""The number of BT.601 for PyAV and in H.273."""


def moving(count: int, height: int = 48, width: int = 64, seed: int = 1) -> list[np.ndarray]:
    """A smooth picture that drifts by two pixels a frame and brightens, uint8 (height, width, 3)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, : width + 2 * count]
    waves = [np.sin(x / a + y / b + c) for a, b, c in rng.uniform(3, 9, (3, 3))]
    whole = np.stack([110 + 70 * wave for wave in waves], -1)
    return [np.clip(whole[:, 2 * i : 2 * i + width] + i, 0, 255).astype(np.uint8) for i in range(count)]


def quarters(height: int, width: int) -> np.ndarray:
    """Red, green, blue and grey quarters: left to right, then the next row."""
    rgb = np.full((height, width, 3), 128, np.uint8)
    rgb[: height // 2, : width // 2] = 200, 40, 40
    rgb[: height // 2, width // 2 :] = 40, 200, 40
    rgb[height // 2 :, : width // 2] = 40, 40, 200
    return rgb


def encoded(
    frames: Iterable[np.ndarray],
    codec: str = "libx264",
    container: str = "mp4",
    form: str = "yuv420p",
    *,
    times: Sequence[int] | None = None,
    time_base: Fraction = Fraction(1, 25),
    last: int = 1,
    options: Mapping[str, str] | None = None,
    muxer: Mapping[str, str] | None = None,
    tone_hz: float = 0,
    full_range: bool = False,
    matrix: int = MATRIX_601,
    metadata: Mapping[str, str] | None = None,
    **stream: Any,
) -> bytes:
    """A video file. RGB is converted by BT.601, and tagged so, unless ``matrix`` is another number.

    Args:
        times: of the frames, in ticks; None: one tick apart.
        last: ticks that the last frame is shown.
        tone_hz: pitch of an AAC track as long as the video; 0: none.
        stream: attributes of the video stream, and ``rotation`` in degrees.
    """
    frames = list(frames)
    times = range(len(frames)) if times is None else times
    target = io.BytesIO()
    with av.open(target, "w", format=container, options=dict(muxer or {})) as out:
        out.metadata.update(metadata or {})
        track = out.add_stream(
            codec,
            rate=round(1 / time_base) if time_base >= Fraction(1, 1000) else 30,
            options={**({"crf": "4", "bf": "2"} if codec == "libx264" else {}), **(options or {})},
        )
        track.height, track.width, track.pix_fmt = *frames[0].shape[:2], form
        track.codec_context.time_base = track.time_base = time_base
        rgb = av.VideoFormat(form).is_rgb
        if not rgb and codec != "gif":
            track.colorspace = matrix
            track.color_range = ColorRange.JPEG if full_range else ColorRange.MPEG
        if rotation := stream.pop("rotation", 0):
            track.set_display_rotation(rotation)
        for name, value in stream.items():
            setattr(track, name, value)
        sound = out.add_stream("aac", rate=48000, layout="mono") if tone_hz else None
        for number, (pixels, time) in enumerate(zip(frames, times, strict=True)):
            frame = as_frame(pixels, form, full_range=full_range, matrix=matrix)
            frame.pts, frame.time_base = time, time_base
            frame.duration = (times[number + 1] if number + 1 < len(frames) else time + last) - time
            out.mux(track.encode(frame))
        out.mux(track.encode())
        if sound:
            _add_tone(out, sound, tone_hz, float((times[-1] + last) * time_base))
    return target.getvalue()


def as_frame(pixels: np.ndarray, form: str, *, full_range: bool = False, matrix: int = MATRIX_601) -> av.VideoFrame:
    """PyAV's frame of RGB or RGBA."""
    source = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgba" if pixels.shape[-1] == 4 else "rgb24")
    return source.reformat(
        format=form,
        src_colorspace=matrix,
        dst_colorspace=matrix,
        src_color_range=ColorRange.JPEG,
        dst_color_range=ColorRange.JPEG if full_range or av.VideoFormat(form).is_rgb else ColorRange.MPEG,
        interpolation=EXACT,
    )


def _add_tone(out: Any, sound: Any, pitch_hz: float, duration_s: float) -> None:
    for block in range(int(duration_s * 48000) // 1024):
        at = (np.arange(1024) + 1024 * block) / 48000
        samples = (0.3 * np.sin(2 * np.pi * pitch_hz * at)).astype(np.float32)[None]
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 48000, 1024 * block, Fraction(1, 48000)
        out.mux(sound.encode(frame))
    out.mux(sound.encode())


def packets_of(data: bytes, kind: str = "audio") -> list[bytes]:
    """Bytes of each packet of a file's first track of a kind."""
    with av.open(io.BytesIO(data)) as container:
        return [bytes(packet) for packet in container.demux(**{kind: 0}) if packet.size]
