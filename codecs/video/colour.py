"""Decoded frames to RGB and RGB to frames for encoders: FFmpeg's swscale through PyAV, matrix and range always stated.

YCbCr becomes RGB of 16 bits a sample (bicubic chroma, accurate rounding, bit-exact, one thread) and is then rounded to 8:
within one level of the exact sum, where swscale's own way to 8 bits wraps round at extreme blues. Chroma is where the frame
says; of 4:2:0 and 4:2:2 that say nothing, swscale takes it between the two pixels. Back, chroma is left, as H.264 has it.
"""

from __future__ import annotations

from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter

from ...entropy_models.errors import InputError
from .frames import MATRICES, Format, Frame

_FLAGS = (
    Interpolation.BICUBIC
    | Interpolation.ACCURATE_RND
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
    | Interpolation.BITEXACT
)
_FLAG_NAMES = "bicubic+accurate_rnd+full_chroma_int+full_chroma_inp+bitexact"
_SWSCALE = {
    1: Colorspace.ITU709, 4: Colorspace.FCC, 5: Colorspace.ITU601, 6: Colorspace.ITU601, 7: Colorspace.SMPTE240M,
    9: Colorspace.BT2020,
}  # fmt: skip
"""swscale's names of the matrices that it converts, by their numbers in H.273."""
_KEPT_AS = {1: "bt709", 4: "bt601", 5: "bt601", 6: "bt601", 7: "bt709", 9: "bt2020nc"}
_RGB, _UNSPECIFIED = 0, 2
_HIGH_DEFINITION = 1280, 576
"""Wider or higher frames that tell no matrix are BT.709, as players guess."""


def is_rgb(frame: Any) -> bool:
    """Whether a decoded frame has no YCbCr: RGB, a palette, black and white."""
    form = frame.format
    return form.is_rgb or form.has_palette or (len(form.components) == 1 and form.components[0].bits < 8)


def subsampling_of(frame: Any) -> str:
    """One of `frames.SUBSAMPLINGS`; rarer ones as the next that has no less chroma, or as 4:2:0."""
    if is_rgb(frame):
        return "rgb"
    if sum(not component.is_alpha for component in frame.format.components) < 3:
        return "gray"
    sides = frame.format.chroma_width(64), frame.format.chroma_height(64)
    return {(64, 64): "444", (64, 32): "444", (32, 64): "422"}.get(sides, "420")


def guessed_matrix(width: int, height: int) -> str:
    """The matrix of frames that do not tell theirs."""
    return "bt709" if width >= _HIGH_DEFINITION[0] or height > _HIGH_DEFINITION[1] else "bt601"


class ToRgb:
    """Conversion of a decoder's frames to uint8 (height, width, 3), by matrix and range of the first.

    Raises:
        InputError: a matrix that swscale does not convert.
    """

    def __init__(self, first: Any) -> None:
        self._reformatter, self._form = VideoReformatter(), first.format.name
        self._rgb = is_rgb(first)
        self._alpha = first.format.has_palette or any(component.is_alpha for component in first.format.components)
        self.depth: int = max((component.bits for component in first.format.components), default=8)
        """Bits of the frames' samples."""
        space = first.colorspace
        guessed = MATRICES[guessed_matrix(first.width, first.height)]
        self._space = guessed if self._rgb or space in (_RGB, _UNSPECIFIED) else space
        if self._space not in _SWSCALE:
            raise InputError(f"colour matrix {space} of ITU-T H.273; need one of {', '.join(MATRICES)}")
        self.matrix: str = _KEPT_AS[self._space]
        gray = subsampling_of(first) == "gray"
        full = first.format.name.startswith("yuvj") or first.color_range == ColorRange.JPEG
        self.full_range: bool = not self._rgb and (full or (gray and first.color_range != ColorRange.MPEG))
        self._scale, self._offset = self._to_eight_bits(gray)

    def _to_eight_bits(self, gray: bool) -> tuple[float, float]:
        """Factor and addend from 16 bits: swscale shifts samples up, and leaves gray of limited range as it is."""
        if self.full_range:
            return 255 / (((1 << self.depth) - 1) << (16 - self.depth)), 0.0
        return (255 / 219 / 256, -16 * 255 / 219) if gray else (1 / 256, 0.0)

    def __call__(self, frame: Any) -> np.ndarray:
        """The pixels of a frame of the same format.

        Raises:
            InputError: the frame is not opaque.
        """
        if self._alpha and self._converted(frame, "rgba").to_ndarray()[..., 3].min() < 255:
            raise InputError("it is not opaque, and the codec holds no alpha channel; lay it on a background first")
        if self._rgb:
            return np.ascontiguousarray(self._converted(frame, "rgb24").to_ndarray())
        deep = self._converted(frame, "gbrp16le")
        rgb = np.empty((frame.height, frame.width, 3), np.uint8)
        for plane, channel in zip(deep.planes, (1, 2, 0), strict=True):  # green, blue, red
            values = np.frombuffer(plane, "<u2").reshape(plane.height, -1)[:, : plane.width].astype(np.float32)
            values *= np.float32(self._scale)
            values += np.float32(self._offset)
            rgb[..., channel] = np.clip(np.rint(values, out=values), 0, 255, out=values)
        return rgb

    def _converted(self, frame: Any, form: str) -> Any:
        space = _SWSCALE[self._space]
        return self._reformatter.reformat(
            frame,
            format=form,
            src_colorspace=space,
            dst_colorspace=space,
            src_color_range=ColorRange.JPEG if self.full_range or self._rgb else ColorRange.MPEG,
            dst_color_range=ColorRange.JPEG,
            interpolation=_FLAGS,
            threads=1,
        )


class FromRgb:
    """Conversion of uint8 (height, width, 3) to an encoder's frames, with matrix and range of a format.

    Args:
        form: FFmpeg's name of the pixel format: ``pal8`` has a palette for each frame.
        chroma: where chroma samples are: ``left`` or ``center``, as `av`'s filter calls it.
    """

    def __init__(self, form: str, video: Format, *, chroma: str = "left") -> None:
        self._graph = graph = av.filter.Graph()
        source = graph.add_buffer(
            width=video.width, height=video.height, format=av.VideoFormat("rgb24"), time_base=video.time_base
        )
        sink = graph.add("buffersink")
        if form == "pal8":
            split, palette = graph.add("split"), graph.add("palettegen", "stats_mode=single:reserve_transparent=0")
            use = graph.add("paletteuse", "new=1")
            for one, other, ends in (
                (source, split, ()),
                (split, palette, ()),
                (split, use, (1, 0)),
                (palette, use, (0, 1)),
            ):
                one.link_to(other, *ends)
            use.link_to(sink)
        else:
            graph.link_nodes(source, graph.add("scale", _options(form, video, chroma)), graph.add("format", form), sink)
        graph.configure()

    def __call__(self, frame: Frame) -> Any:
        """PyAV's frame, with time and duration."""
        source = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame.rgb), format="rgb24")
        source.pts, source.duration = frame.time, frame.duration
        self._graph.push(source)
        converted = self._graph.pull()
        converted.pts, converted.duration = frame.time, frame.duration
        return converted


def _options(form: str, video: Format, chroma: str) -> str:
    """What the filter ``scale`` is told."""
    options = {"flags": _FLAG_NAMES, "in_range": "pc"}
    if not av.VideoFormat(form).is_rgb:
        options["out_color_matrix"] = video.matrix.removesuffix("nc")
        options["out_range"] = "pc" if video.full_range or form == "gray" else "tv"
    if form.startswith(("yuv420", "yuv422")):
        options["out_chroma_loc"] = chroma
    return ":".join(f"{name}={value}" for name, value in options.items())
