"""Frames to video files, whole or not at all.

============  ========================================================  ==============================================
suffix        pixels                                                    times
============  ========================================================  ==============================================
``.mkv``      RGB, exactly (FFV1)                                       to the nearest millisecond, as Matroska has it
``.mp4``      the source's matrix, range, subsampling (H.264, CRF 10)   exact; the first to the millisecond
``.webm``     likewise (VP9, CRF 10)                                    as ``.mkv``
``.y4m``      likewise, with no loss but rounding to YCbCr              a constant rate, told if others differ
``.gif``      256 colours a frame, dithered                             hundredths of a second, at least two a frame
PNG           RGB, exactly                                              none
============  ========================================================  ==============================================

Colour primaries and transfer characteristics are tagged wherever the format has tags for them. RGB has neither matrix nor
range, so an ``.mkv`` tells of none. A sound track's packets are copied into the first three. Pixels that are not square stay
so in ``.mp4`` alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

from ...entropy_models.errors import InputError
from .. import container
from .formats import SILENT, WRITTEN, names_a_folder
from .frames import Format, Frame
from .muxing import KINDS, GifMuxer, Muxer
from .picture_folders import PictureFolderWriter, PictureWriter
from .whole_or_none import WholeOrNone


class VideoWriter(WholeOrNone):
    """Writer of a video; a context manager. What is interrupted or fails leaves no file, and changes none that was there.

    Args:
        target: a path: of a file with a suffix of `formats.WRITTEN`, ``.png`` for one frame, or a folder for PNG (``out``,
            ``out/%05d.png``); or a file that is open for writing and can seek, which its owner closes, and throws away if
            anything fails.
        sound: the sound track, as `reading.VideoFile.sound` gives it.
        suffix: of an open file; with a path, ``.png`` says that it is a folder, whatever its name.
        tags: title, artist and so on, where the format holds them.
        numbers: of the frames, for the names of pictures in a folder; None: counted from zero.
        force: pictures in a folder that are there may be overwritten, as files of videos are.

    Raises:
        InputError: the format is not one that is written, or cannot hold the frames or the sound's codec.
        OSError: it cannot be written.
    """

    def __init__(
        self,
        target: str | Path | BinaryIO,
        video: Format,
        sound: bytes | None = None,
        *,
        suffix: str | None = None,
        tags: Mapping[str, str] | None = None,
        numbers: Sequence[int] | None = None,
        force: bool = False,
    ) -> None:
        self._video, self._count = video, 0
        self._first, self._last = 0, -1
        self.notices: list[str] = []
        """Notices of what the format does not hold."""
        path = Path(target) if isinstance(target, str | Path) else None
        folder = path is not None and (suffix == ".png" or names_a_folder(path))
        suffix = ".png" if folder else (suffix or (path.suffix if path else "")).lower()
        if suffix not in KINDS and suffix != ".png":
            found = f"{suffix!r} videos" if suffix else "a video without a suffix"
            raise InputError(f"cannot write {found}; use one of {', '.join(WRITTEN)}, or a folder")
        if sound is not None and suffix in SILENT:
            self.notices.append(f"the sound is left out: {suffix} holds none")
            sound = None
        if video.aspect != 1 and suffix != ".mp4":  # the others take it from a field that PyAV 18 does not set
            self.notices.append(f"pixels {video.aspect} times as wide as high are shown square; .mp4 keeps their shape")
        self._constant, self._numbers, self._force = suffix == ".y4m", numbers, force
        super().__init__()
        with self._ending_on_error():
            self._sink = self._opened(target, folder, suffix, sound, tags or {})

    def _opened(
        self, target: str | Path | BinaryIO, folder: bool, suffix: str, sound: bytes | None, tags: Mapping[str, str]
    ) -> PictureFolderWriter | PictureWriter | Muxer:
        if not isinstance(target, str | Path):
            file = target
        elif folder:
            return self._stack.enter_context(PictureFolderWriter(Path(target), self._numbers, force=self._force))
        else:
            file = self._stack.enter_context(container.replaced(Path(target)))
        if suffix == ".png":
            return PictureWriter(file)
        muxer = GifMuxer if suffix == ".gif" else Muxer
        video = replace(self._video, time_base=1 / self._video.rate) if self._constant else self._video
        sink = muxer(file, KINDS[suffix], video, sound, tags, self.notices)
        self._stack.callback(sink.release)
        return sink

    def write(self, frame: Frame) -> None:
        """One more frame, shown after those before it.

        Raises:
            InputError: it is of another size, or its time is not after the last one's.
        """
        height, width = frame.rgb.shape[:2]
        if (height, width) != (self._video.height, self._video.width):
            raise InputError(f"a frame of {width}x{height} in a video of {self._video.width}x{self._video.height}")
        if (self._count and frame.time <= self._last) or frame.duration < 1:
            raise InputError(
                f"a frame at {frame.time} for {frame.duration} ticks, after one at {self._last}; times must ascend"
            )
        if not self._count:
            self._first = frame.time
        self._last = frame.time
        if self._constant:
            self._check_rate(frame)
            frame = replace(frame, time=self._count, duration=1)
        self._sink.write(frame)
        self._count += 1

    @property
    def pictures_bytes(self) -> int:
        """Bytes of the pictures written; 0: it is a file that is written."""
        return 0 if isinstance(self._sink, Muxer) else self._sink.size_bytes

    def _check_rate(self, frame: Frame) -> None:
        """A notice where a frame comes too early or late by more than half a frame."""
        video = self._video
        off = (frame.time - self._first) * video.time_base * video.rate - self._count
        notice = f"frames are written at a constant rate of {float(video.rate):g} a second; their own times vary"
        if abs(off) > Fraction(1, 2) and notice not in self.notices:
            self.notices.append(notice)

    def _finish(self) -> None:
        if not self._count:
            raise InputError("a video needs at least one frame")
        self._sink.finish()
