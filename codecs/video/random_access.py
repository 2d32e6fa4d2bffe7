"""Frames of an .rdc file by their numbers, decoded when they are asked for: for training loops and viewers."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from functools import cached_property, lru_cache, partial
from operator import index
from pathlib import Path
from typing import Any, BinaryIO, Self, SupportsIndex

import numpy as np

from .. import container
from .codec import VideoCodec
from .frames import format_of
from .header import TIMES, extra_of, parse, show_frames
from .timing import times_of

CODECS_KEPT = 4
"""Loaded codecs that a process keeps for its readers."""


class VideoReader:
    """The frames of a file as a sequence; a context manager.

    ``reader[7]`` is a frame, uint8 (height, width, 3); ``reader[100:164]``, with steps of either sign, and
    ``reader[[3, 9, 7]]``, a list or array of numbers, are uint8 (frames, height, width, 3). Only the groups that hold them
    are read, and of each the frames that those are made of are decoded. A reader may be copied into other processes, by
    pickle or by fork: each opens the file for itself.

    Args:
        path: an .rdc file of a video.
        device: ``cpu``, ``cuda`` or ``auto`` (CUDA if there is one). CUDA needs processes that are spawned, or one.
        threads: as of `VideoCodec.load`.

    Raises:
        OSError: it cannot be read.
        BitstreamError: no video, or a damaged header.
    """

    def __init__(self, path: str | os.PathLike[str], *, device: str = "cpu", threads: int | None = None) -> None:
        self.path, self.device, self.threads = Path(path), device, threads
        self._file: BinaryIO | None = None
        self._process = -1
        self._open()

    def _open(self) -> None:
        if self._file is not None:  # the place in it is shared with the process that it was opened in
            self._file.close()
        file = self.path.open("rb")
        try:
            stream, header = parse(container.parse(container.FileBytes(file)))
        except BaseException:
            file.close()
            raise
        self._file, self._process = file, os.getpid()
        self._stream, self.header = stream, header

    @property
    def fps(self) -> float:
        """Mean rate in frames a second."""
        return float(self.header.rate)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Frames, height, width, 3."""
        return self.header.frames, self.header.height, self.header.width, 3

    @cached_property
    def times_s(self) -> np.ndarray:
        """When each frame is shown, in seconds from the first on: float64 (frames,).

        Raises:
            BitstreamError: the times are damaged.
            ValueError: the reader is closed.
        """
        self._ready()
        time_base = format_of(self.header).time_base
        packed = extra_of(self._stream, self.header, TIMES)
        times, _ = times_of(packed, len(self), self.header.rate * time_base)
        return (times - times[0]) * float(time_base)

    def __repr__(self) -> str:
        frames, height, width, _ = self.shape
        closed = ", closed" if self._file is None else ""
        told = f"{show_frames(frames)} of {width}x{height}, {self.fps:g} a second{closed}"
        return f"{type(self).__name__}({str(self.path)!r}: {told})"

    def __len__(self) -> int:
        return self.header.frames

    def __getitem__(self, wanted: SupportsIndex | slice | list[int] | np.ndarray) -> np.ndarray:
        """A frame, or the frames of a slice or list of numbers; see the class.

        Raises:
            IndexError: there is no frame of that number.
            TypeError: it is no number, slice or list of numbers.
            BitstreamError: a group is damaged.
            ValueError: the reader is closed.
        """
        numbers = range(len(self))
        if isinstance(wanted, slice):
            return self._stacked(numbers[wanted])
        if isinstance(wanted, list) or (isinstance(wanted, np.ndarray) and wanted.ndim):
            return self._stacked([numbers[index(one)] for one in wanted])
        return next(self._decoded({numbers[wanted]}))

    def _stacked(self, numbers: Sequence[int]) -> np.ndarray:
        """Frames in the order of their numbers here, each decoded once."""
        frames = np.empty((len(numbers), *self.shape[1:]), np.uint8)
        places: dict[int, list[int]] = {}
        for place, number in enumerate(numbers):
            places.setdefault(number, []).append(place)
        for number, frame in zip(sorted(places), self._decoded(places.keys()), strict=True):
            frames[places[number]] = frame
        return frames

    def __iter__(self) -> Iterator[np.ndarray]:
        """All frames, each decoded once."""
        return self._decoded(range(len(self)))

    def _decoded(self, numbers: Collection[int]) -> Iterator[np.ndarray]:
        self._ready()
        codec = loaded(self._stream.weights, self.device, self.threads)
        return codec.frames(self._stream, self.header, numbers)

    def _ready(self) -> None:
        """The file open, and by this process."""
        if self._file is None:
            raise ValueError(f"the reader of {self.path} is closed")
        if self._process != os.getpid():
            self._open()

    def close(self) -> None:
        """Close the file; to be called as often as one likes."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), device=self.device, threads=self.threads), (self.path,)


@lru_cache(maxsize=CODECS_KEPT)
def loaded(weights: bytes, device: str, threads: int | None) -> VideoCodec:
    """The codec with these weights, which the readers of a process share. Errors as `VideoCodec.load`."""
    return VideoCodec.load(stream_hash=weights, device=device, threads=threads)
