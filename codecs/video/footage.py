"""Footage: frames as `codec eval video` compares them, RGB for eyes, and 4:2:0 planes as other codecs take them.

Chroma lies on the left, between two rows, as MPEG-2, H.264 and H.265 have it, whatever a file says: so no codec's frames are
shifted against the original's. No numpy and no PyAV before a file is read.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...entropy_models.errors import InputError

if TYPE_CHECKING:
    import numpy as np

FRAMES_MAX = 96
"""Frames of a file that are measured, its first: memory stays bounded, and encoders have three groups of 32."""
WEIGHTS = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}
"""Weights of red and blue in luma, by the number of a matrix (ITU-T H.273): BT.709, BT.601 of 625 and 525 lines, BT.2020."""
BT709, BT601 = 1, 6
FULL_RANGE = 2
"""FFmpeg's number of the range 0..255; any other is 16..235, and 16..240 for chroma."""
WITHOUT_TAG_BT709_HEIGHT = 577
"""Rows from which a file without the tag of a matrix is taken for BT.709, as players do."""


@dataclass(frozen=True, slots=True)
class Colours:
    """What the numbers in planes mean."""

    matrix: int = BT601
    """A key of `WEIGHTS`."""
    full_range: bool = False


@dataclass(frozen=True, slots=True)
class Footage:
    """Some frames."""

    rgb: np.ndarray
    """uint8 (frames, height, width, 3); height and width are even."""
    rate: Fraction
    """Frames per second."""
    colours: Colours = Colours()
    """Those of the planes."""
    own_planes: np.ndarray | None = None
    """uint8 (frames, height * 3 / 2, width), as FFmpeg's yuv420p lies in memory; what ``rgb`` was made of."""

    def planes(self) -> np.ndarray:
        """Its own planes; made of its pixels if it has none."""
        return planes_of(self.rgb, self.colours) if self.own_planes is None else self.own_planes


def read_footage(source: Path | bytes, frames_max: int = FRAMES_MAX) -> Footage:
    """The first frames of a video file, at 8 bits and 4:2:0 whatever it has, an odd last row or column left out.

    Raises:
        InputError: not a video, or a damaged one.
    """
    import av
    import numpy as np

    try:
        with av.open(str(source) if isinstance(source, Path) else io.BytesIO(source), "r") as container:
            if not container.streams.video:
                raise InputError("it holds no video")
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            rate = stream.average_rate or stream.guessed_rate or Fraction(25)
            planes, colours = [], Colours()
            for frame in container.decode(stream):
                colours = colours_of(frame)
                planes.append(_planes(frame))
                if len(planes) == frames_max:
                    break
    except (av.FFmpegError, ValueError) as error:
        raise InputError(f"not a video that PyAV reads: {error}") from None
    if not planes:
        raise InputError("it holds no frame")
    if len({one.shape for one in planes}) > 1:
        raise InputError("the size of its frames changes")
    whole = np.stack(planes)
    return Footage(rgb_of(whole, colours), Fraction(rate), colours, whole)


def colours_of(frame: Any) -> Colours:
    """Matrix and range of a PyAV frame, by its tags."""
    matrix = int(frame.colorspace)
    if matrix not in WEIGHTS:
        matrix = BT709 if frame.height >= WITHOUT_TAG_BT709_HEIGHT else BT601
    return Colours(matrix, int(frame.color_range) == FULL_RANGE or frame.format.name.startswith("yuvj"))


def _planes(frame: Any) -> np.ndarray:
    """Planes, uint8 (height * 3 / 2, width)."""
    import numpy as np

    if frame.format.name not in ("yuv420p", "yuvj420p"):
        frame = frame.reformat(format="yuv420p", src_color_range=frame.color_range, dst_color_range=frame.color_range)
    height, width = frame.height // 2 * 2, frame.width // 2 * 2
    parts = []
    for plane, scale in zip(frame.planes, (1, 2, 2), strict=True):
        whole = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
        parts.append(whole[: height // scale, : width // scale].ravel())
    return np.concatenate(parts).reshape(-1, width)


def split(planes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Luma (frames, height, width) and both chroma planes, half as high and wide, of planes as `Footage` has them."""
    count, rows, width = planes.shape
    height = rows * 2 // 3
    chroma = planes[:, height:].reshape(count, 2, height // 2, width // 2)
    return planes[:, :height], chroma[:, 0], chroma[:, 1]


def luma_of(rgb: np.ndarray, colours: Colours) -> np.ndarray:
    """Luma of pixels in grey levels 0..255, not rounded, float32, without the last axis."""
    import numpy as np

    red, blue = WEIGHTS[colours.matrix]
    return rgb @ np.array([red, 1 - red - blue, blue], np.float32)


def rgb_of(planes: np.ndarray, colours: Colours) -> np.ndarray:
    """Pixels of planes, as `Footage` has both; chroma is interpolated linearly.

    FFmpeg's own conversion is darker by more than one grey level, and guesses where chroma lies by the codec.
    """
    import numpy as np

    red, blue = WEIGHTS[colours.matrix]
    black, luma_range, chroma_range = _levels(colours)
    luma, *chroma = split(planes)
    found = np.empty((*luma.shape, 3), np.uint8)
    for index, frame in enumerate(luma):
        grey = (frame - np.float32(black)) * np.float32(255 / luma_range)
        scale = np.float32(255 / chroma_range)
        u, v = ((_upsampled(plane[index].astype(np.float32)) - 128) * scale for plane in chroma)
        green = 1 - red - blue
        parts = (
            grey + 2 * (1 - red) * v,
            grey - 2 * blue * (1 - blue) / green * u - 2 * red * (1 - red) / green * v,
            grey + 2 * (1 - blue) * u,
        )
        for channel, part in enumerate(parts):
            found[index, ..., channel] = np.clip(np.rint(part), 0, 255)
    return found


def _upsampled(chroma: np.ndarray) -> np.ndarray:
    """A chroma plane at twice its height and width: samples lie on even columns, between two rows."""
    import numpy as np

    above, below = np.pad(chroma, ((1, 1), (0, 0)), "edge")[:-2], np.pad(chroma, ((1, 1), (0, 0)), "edge")[2:]
    rows = np.stack([0.75 * chroma + 0.25 * above, 0.75 * chroma + 0.25 * below], 1).reshape(-1, chroma.shape[1])
    right = np.pad(rows, ((0, 0), (0, 1)), "edge")[:, 1:]
    return np.stack([rows, 0.5 * (rows + right)], 2).reshape(len(rows), -1)


def _levels(colours: Colours) -> tuple[float, float, float]:
    """Black, and the ranges of luma and chroma."""
    return (0.0, 255.0, 255.0) if colours.full_range else (16.0, 219.0, 224.0)


def planes_of(rgb: np.ndarray, colours: Colours) -> np.ndarray:
    """Planes of pixels, as `Footage` has both; chroma is averaged over two rows and columns weighted 1:2:1."""
    import numpy as np

    red, blue = WEIGHTS[colours.matrix]
    count, height, width, _ = rgb.shape
    black, luma_range, chroma_range = _levels(colours)
    found = np.empty((count, height * 3 // 2, width), np.uint8)
    for index, frame in enumerate(rgb):
        luma = luma_of(frame, colours)
        parts = [(luma * (luma_range / 255) + black).ravel()]
        for channel, weight in ((2, blue), (0, red)):
            rows = (frame[..., channel] - luma).reshape(height // 2, 2, width).mean(1)
            left = np.pad(rows, ((0, 0), (1, 0)), "edge")[:, :-1:2]
            half = (left + 2 * rows[:, ::2] + rows[:, 1::2]) / 4
            parts.append((half * (chroma_range / 255 / 2 / (1 - weight)) + 128).ravel())
        found[index] = np.clip(np.rint(np.concatenate(parts)), 0, 255).reshape(-1, width)
    return found
