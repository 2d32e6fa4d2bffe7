"""Frames of an .rdc file by their numbers, decoded when they are asked for: for training loops and viewers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, BinaryIO, Self, overload

import numpy as np

from .. import container
from .codec import VideoCodec
from .header import parse

CODECS_KEPT = 4
"""Loaded codecs that a process keeps for its readers."""


class VideoReader:
    """The frames of a file as a sequence; a context manager.

    ``reader[7]`` is a frame, uint8 (height, width, 3); ``reader[100:164]``, with steps of either sign, uint8
    (frames, height, width, 3). Only the groups that hold them are read, each from its beginning to the last frame
    that is wanted. A reader may be copied into other processes, by pickle or by fork: each opens the file for itself.

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

    def __len__(self) -> int:
        return self.header.frames

    @overload
    def __getitem__(self, wanted: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, wanted: slice) -> np.ndarray: ...
    def __getitem__(self, wanted: int | slice) -> np.ndarray:
        """A frame, or the frames of a slice; see the class.

        Raises:
            IndexError: there is no frame of that number.
            BitstreamError: a group is damaged.
            ValueError: the reader is closed.
        """
        if not isinstance(wanted, slice):
            number = range(len(self))[wanted]
            return next(self._decoded(range(number, number + 1)))
        numbers = range(len(self))[wanted]
        ascending = numbers if numbers.step > 0 else numbers[::-1]
        frames = np.empty((len(numbers), *self.shape[1:]), np.uint8)
        for place, frame in zip(frames if numbers.step > 0 else frames[::-1], self._decoded(ascending), strict=True):
            place[...] = frame
        return frames

    def __iter__(self) -> Iterator[np.ndarray]:
        """All frames, each decoded once."""
        return self._decoded(range(len(self)))

    def _decoded(self, numbers: range) -> Iterator[np.ndarray]:
        if self._file is None:
            raise ValueError(f"the reader of {self.path} is closed")
        if self._process != os.getpid():
            self._open()
        codec = loaded(self._stream.weights, self.device, self.threads)
        return codec.frames(self._stream, self.header, numbers)

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
