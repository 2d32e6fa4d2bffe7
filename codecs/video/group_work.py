"""What is done to one group of a video's frames. Groups need nothing of each other: where frames are small, threads do
several at once, one each, and hold their frames; else all threads do one after the other, frame by frame."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing
from functools import partial
from itertools import islice
from typing import Protocol, TypeVar

import numpy as np
import torch

from ...entropy_models.coder import Measure
from ...entropy_models.errors import BitstreamError, InputError
from ...entropy_models.tables import Tables
from .. import container, torch_state
from ..contract import Progress
from ..image.dcvc_rt import ImageNetwork
from ..symbols import chunk_of, new_writer, reading
from ..workers import Job, Told, in_order
from .groups import GroupEncoder, GroupPass
from .header import VideoHeader
from .stem import StemNetwork

R = TypeVar("R")
HELD_BYTES = 1 << 28
"""Frames of groups that are done at once, at most."""
GREY = 128
"""Level of all pixels of a frame that is lost, where no frame before it can be shown."""


class Coding(Protocol):
    """What work needs of `codec.VideoCodec`."""

    image: ImageNetwork
    stem: StemNetwork
    tables: Tables
    device: torch.device
    threads: int | None

    def encoder_of(self, header: VideoHeader, frames: int | None = None, told: Told | None = None) -> GroupEncoder: ...

    def at_work(self, header: VideoHeader) -> AbstractContextManager[None]: ...


class GroupWork:
    """Groups of one video.

    Args:
        count: groups that there are to do.
    """

    def __init__(self, codec: Coding, header: VideoHeader, count: int) -> None:
        self._header = header
        pixels = header.width * header.height
        held = HELD_BYTES // (3 * pixels * min(header.group, header.frames)) - 1  # one more than there are workers
        threads = torch_state.workers(pixels, codec.threads) if codec.device.type == "cpu" else 1
        self.workers = max(1, min(threads, held, count))
        self._codec = codec

    def done(self, jobs: Iterable[Job[R]], progress: Progress | None = None, total: int = 0) -> Iterator[R]:
        """What jobs give, in order.

        Args:
            progress: is called with (frames done, ``total``).
            total: frames of all jobs.
        """
        done = 0

        def told(frames: int) -> None:
            nonlocal done
            done += frames
            if progress:
                progress(done, total)

        return in_order(jobs, self.workers, told, partial(torch_state.set_own_threads, 1))

    def encodings(self, frames: Iterable[np.ndarray]) -> Iterator[Job[bytes]]:
        """Jobs that make the chunks of all groups, of frames that come one by one. InputError: they are too few."""
        coming = iter(frames)
        for index in range(self._header.groups):
            numbers = self._header.frames_of(index)
            some: Iterable[np.ndarray] = islice(coming, len(numbers))
            yield partial(self._encoded, numbers, some if self.workers == 1 else list(some))
        if next(coming, None) is not None:
            raise InputError(f"more than {self._header.frames} frames; the header says {self._header.frames}")

    def _encoded(self, numbers: range, frames: Iterable[np.ndarray], told: Told) -> Iterator[bytes]:
        writer, came = new_writer(self._codec.tables, self._header.pack()), numbers.start
        encoder = self._codec.encoder_of(self._header, len(numbers), told)
        for frame in frames:
            with self._codec.at_work(self._header):
                encoder.code(writer, checked_frame(frame, self._header))
            came += 1
        if came < numbers.stop:
            raise InputError(f"{came} frames; the header says {self._header.frames}")
        yield chunk_of(writer)

    def estimated(self, frames: Sequence[np.ndarray], told: Told) -> Iterator[tuple[float, np.ndarray]]:
        """Ideal bits of a group, and its frames as they are decoded, uint8 (frames, height, width, 3)."""
        measure = Measure(self._codec.tables)
        encoder = self._codec.encoder_of(self._header, len(frames), told)
        shown = np.empty((len(frames), *frames[0].shape), np.uint8)
        for frame in frames:
            with self._codec.at_work(self._header):
                for coded in encoder.code(measure, frame):
                    shown[coded.number] = coded.shown
        yield float(measure.bits[0]), shown

    def frames(
        self,
        stream: container.Stream,
        groups: Sequence[tuple[int, Sequence[int]]],
        lost: dict[int, BitstreamError] | None,
        progress: Progress | None,
    ) -> Iterator[np.ndarray]:
        """The wanted frames of groups, uint8 (height, width, 3), one by one.

        Args:
            groups: their numbers, and those of the wanted frames of each, ascending.
            lost: is told damaged groups, whose frames are grey; None: they raise.
        """
        jobs: Iterator[Job[np.ndarray]] = (partial(self._shown, stream, index, numbers, lost) for index, numbers in groups)
        return self.done(jobs, progress, sum(self._header.needed(index, numbers)[1] for index, numbers in groups))

    def _shown(
        self,
        stream: container.Stream,
        index: int,
        numbers: Sequence[int],
        lost: dict[int, BitstreamError] | None,
        told: Told,
    ) -> Iterator[np.ndarray]:
        """Where ``lost`` is told of damage, all is read before one is shown."""
        header = self._header
        try:
            if lost is not None:
                self._check(stream, index)
            pixels, steps = header.needed(index, numbers)
            with closing(self._read(stream, index, pixels)) as groups:
                whole = steps == len(header.frames_of(index))
                coming, ready = deque(numbers), dict[int, np.ndarray]()
                for group in groups if whole else islice(groups, steps):
                    told(1)
                    number = header.frames_of(index)[group.place.number]
                    if number in coming:
                        ready[number] = group.picture.shown(header)
                    while coming and coming[0] in ready:
                        yield ready.pop(coming.popleft())
        except BitstreamError as error:
            if lost is None:
                raise type(error)(f"{header.group_name(index)}: {error}") from None
            lost[index] = error
            told(header.needed(index, numbers)[1])
            yield from (np.full((header.height, header.width, 3), GREY, np.uint8) for _ in numbers)

    def damage(self, stream: container.Stream, index: int) -> BitstreamError | None:
        """What is wrong with a group."""
        try:
            self._check(stream, index)
        except BitstreamError as error:
            return type(error)(f"{self._header.group_name(index)}: {error}")
        return None

    def _check(self, stream: container.Stream, index: int) -> None:
        """Read a group's symbols. BitstreamError: they are damaged."""
        for _ in self._read(stream, index, ()):
            pass

    def _read(
        self, stream: container.Stream, index: int, pixels: Collection[int] | None = None
    ) -> Generator[GroupPass, None, None]:
        """The pass after each frame of a group, with pixels of these; who needs no more closes it. Symbols are checked at
        its end."""
        codec, header = self._codec, self._header
        chunk = stream.chunk(index)
        numbers = header.frames_of(index)
        group = GroupPass(codec.image, codec.stem, header, frames=len(numbers), pixels=pixels)
        with reading(codec.tables, header.pack(), chunk) as reader:
            for _ in numbers:
                with codec.at_work(header):
                    group.code(reader)
                yield group


def checked_frame(frame: np.ndarray, header: VideoHeader) -> np.ndarray:
    """A frame; ValueError if it is not of the header's size."""
    if frame.dtype != np.uint8 or frame.shape != (header.height, header.width, 3):
        raise InputError(f"a frame is {frame.dtype} {frame.shape}; need uint8 ({header.height}, {header.width}, 3)")
    return frame
