"""Video files to frames: in display order, upright, in RGB, with the times that the file has.

Memory does not grow with the video. What ends before its structure says, is damaged so that FFmpeg cannot go on, changes its
size or is not opaque is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Self

import numpy as np

from ...entropy_models.errors import InputError
from .film import Film
from .frames import Format, Frame
from .inputs import STDIN, Input
from .picture_folders import PictureFolder, names_pictures

RATE = Fraction(25)
"""Frames a second of pictures, where none is asked for."""


class VideoFile:
    """A video that is read by frames; a context manager.

    Args:
        source: a path; a folder of PNG or JPEG, a pattern (``shots/*.png``) or ``shots/%05d.png``, or a tuple of paths of
            pictures, in the order that people count in; ``-``: standard input; a
            whole file's bytes; or an open binary file. One that cannot seek is copied to a temporary file first.
        rate: frames a second of pictures.

    Raises:
        OSError: it cannot be read.
        InputError: no video, none that FFmpeg reads, one without frames, cut off, or not opaque.
    """

    def __init__(self, source: Input | tuple[Path, ...], *, rate: Fraction = RATE) -> None:
        self._source: PictureFolder | Film
        if isinstance(source, tuple):
            self._source = PictureFolder(source, rate)
        elif isinstance(source, str | Path) and str(source) != STDIN and names_pictures(source):
            self._source = PictureFolder(source, rate)
        else:
            self._source = Film(source)
        self.format: Format = self._source.format
        self.tags: Mapping[str, str] = self._source.tags
        self.notices: list[str] = self._source.notices
        """Notices of what is converted or left out; complete when all frames were read."""
        self.count: int | None = self._source.count
        """Frames, as the file announces them; None: not known before `times` looked for them."""
        self._times: np.ndarray | None = None

    def frames(self, start: int = 0) -> Iterator[Frame]:
        """Frames from number ``start`` on, read as they are asked for. Several iterators may be in use at a time.

        Raises:
            InputError: there are not so many, the file is damaged, or a frame is not like the first.
        """
        if start == 0:
            return self._source.frames()
        times = self.times()
        if not 0 <= start < len(times):
            raise InputError(f"frame {start} of a video with {len(times)} frames, 0..{len(times) - 1}")
        return self._source.frames_from(start, int(times[start]))

    def some(self, numbers: range) -> list[np.ndarray]:
        """Pixels of some frames in a row, uint8 (height, width, 3) each. Errors as `frames`."""
        return [frame.rgb for frame in islice(self.frames(numbers.start), len(numbers))]

    def times(self) -> np.ndarray:
        """When each frame is shown, int64 (frames,), in ticks, ascending; found without decoding, and kept."""
        if self._times is None:
            self._times = self._source.times()
            self.count = len(self._times)
        return self._times

    def index_at(self, time_s: float) -> int:
        """The number of the frame that is shown at a time in seconds; of the first or last one before and after them."""
        ticks = Fraction(time_s) / self.format.time_base
        return max(0, int(np.searchsorted(self.times(), int(ticks // 1), side="right")) - 1)

    def sound(self) -> bytes | None:
        """The sound track's packets as they are, in a Matroska file of their own; None: there is none.

        Raises:
            InputError: Matroska cannot hold its codec.
        """
        return self._source.sound()

    def close(self) -> None:
        self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
