"""Pixels of more than 8 bits, through PyAV: Pillow gives colours of such PNG, TIFF and AVIF files in 8."""

from __future__ import annotations

import io

import av
import numpy as np
from av.error import FFmpegError

FULL = 65535
"""White, and opaque: 16 bits are used in full, whatever a file's depth."""
_SAME = 8.0
"""Levels of 8 bits by which PyAV's and Pillow's pixels may differ on average. Where they differ more, one has understood
something else, as of cut-up AVIF or turned TIFF. Pillow's blue of AVIF is up to 6 % off (libyuv's coefficients end at 2)."""
_LUMA = {1: (0.2126, 0.0722), 4: (0.3, 0.11), 5: (0.299, 0.114), 6: (0.299, 0.114), 7: (0.212, 0.087), 9: (0.2627, 0.0593)}
"""Shares of red and blue in luma by the matrix's code point (H.273); others count as BT.601, AVIF's default."""


def avif_depth(data: bytes) -> int:
    """Bits per channel that an AVIF's first av1C box tells; 8 if there is none."""
    at = data.find(b"av1C", 0, 1 << 16)
    if at < 0 or len(data) < at + 7 or not data[at + 6] & 0x40:
        return 8
    return 12 if data[at + 6] & 0x20 else 10


def read_deep(data: bytes, seen: np.ndarray) -> np.ndarray | None:
    """Pixels of a file at its own depth, uint16 (height, width, 1..4) in full range; None: PyAV reads none or others.

    Args:
        seen: uint8 (height, width, 1 or 3), what Pillow reads of it.
    """
    try:
        with av.open(io.BytesIO(data), "r") as file:
            frame = next(file.decode(video=0))
            layout = frame.format
            if layout.name.startswith("yuv"):
                pixels = _from_yuv(frame)
            elif layout.components[0].bits > 8 and len(frame.planes) == 1:
                pixels = _packed(frame)
            else:
                return None
    except (FFmpegError, StopIteration, ValueError, IndexError, OSError, RuntimeError):
        return None
    if pixels.shape[:2] != seen.shape[:2] or pixels.shape[-1] < seen.shape[-1]:
        return None
    colours = pixels[..., : seen.shape[-1]]
    bands = range(0, len(seen), 256)
    off = sum(float(np.abs(colours[y : y + 256] / 257 - seen[y : y + 256]).sum()) for y in bands) / seen.size
    return pixels if off <= _SAME else None


def _packed(frame: av.VideoFrame) -> np.ndarray:
    """Grey, RGB and alpha side by side, uint16 in full range."""
    layout, plane = frame.format, frame.planes[0]
    order = ">u2" if layout.name.endswith("be") else "<u2"
    rows = np.frombuffer(bytes(plane), order).reshape(plane.height, plane.line_size // 2)
    count, depth = len(layout.components), layout.components[0].bits
    pixels = rows[:, : plane.width * count].reshape(plane.height, plane.width, count)
    return pixels.astype(np.uint16) if depth == 16 else _full(pixels / ((1 << depth) - 1))


def _from_yuv(frame: av.VideoFrame) -> np.ndarray:
    """RGB, uint16 in full range, of luma and chroma of 9 to 16 bits; chroma between its samples by linear interpolation."""
    depth = frame.format.components[0].bits
    planes = [
        np.frombuffer(bytes(plane), "<u2").reshape(plane.height, plane.line_size // 2)[:, : plane.width].astype(np.float32)
        for plane in frame.planes[:3]
    ]
    unit, full = float(1 << (depth - 8)), frame.color_range == 2
    peak = float((1 << depth) - 1)
    luma = planes[0] / peak if full else (planes[0] / unit - 16) / 219
    blue, red = (
        _upsampled((plane - 128 * unit) / peak if full else (plane / unit - 128) / 224, luma.shape) for plane in planes[1:]
    )
    share_r, share_b = _LUMA.get(int(frame.colorspace), _LUMA[6])
    r, b = luma + 2 * (1 - share_r) * red, luma + 2 * (1 - share_b) * blue
    g = (luma - share_r * r - share_b * b) / (1 - share_r - share_b)
    return _full(np.stack([r, g, b], axis=-1))


def _full(values: np.ndarray) -> np.ndarray:
    """0..1 to 0..65535."""
    return np.rint(values * FULL).clip(0, FULL).astype(np.uint16)


def _upsampled(plane: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A plane at twice the rows or columns, or both, as ``shape`` asks; a sample lies in the middle of its pixels."""
    for axis in (0, 1):
        if plane.shape[axis] < shape[axis]:
            plane = np.moveaxis(_doubled(np.moveaxis(plane, axis, 0)), 0, axis)
    return plane[: shape[0], : shape[1]]


def _doubled(rows: np.ndarray) -> np.ndarray:
    """Twice the rows, by linear interpolation."""
    padded = np.pad(rows, [(1, 1), (0, 0)], mode="edge")
    return np.stack([0.75 * rows + 0.25 * padded[:-2], 0.75 * rows + 0.25 * padded[2:]], axis=1).reshape(-1, rows.shape[1])
