"""Packets of live video kept as a file that anything reads: their symbols are coded once more, a group a chunk.

No pixels are decoded for that, and no more than a frame's symbols is in memory. If no packet is lost, the file has the very
bytes that `VideoCodec.encode` gives for the frames with ``low_delay``.
"""

from __future__ import annotations

import os
import zlib
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import NamedTuple

import numpy as np

from ...entropy_models.checksum import crc32_joined
from ...entropy_models.coder import Write
from ...entropy_models.errors import InputError
from .. import container
from ..symbols import CHECK
from .codec import VideoCodec
from .frames import Format
from .group_work import GREY
from .groups import SAME, GroupPass
from .header import TIMES
from .streaming import Arrival, Arrivals
from .timing import TICK_S, Clock
from .whole_or_none import WholeOrNone

_SYMBOL_BYTES = 4


class StreamWriter(WholeOrNone):
    """Writer of a live video's file; a context manager. What is interrupted or fails within it leaves no file, so catch in
    there what is to end a recording. Until it is closed, groups lie in a file without a name beside it.

    Where packets are lost, the file shows the frame before, up to the next group; and grey, as `VideoCodec.decode` does, if
    the first of a group is lost.

    Args:
        head: `StreamEncoder.head`.
        path: of the file, which is there when all is written.
        start: number of the first packet, as of a `StreamDecoder`. The file begins with the first group from there on.

    Raises:
        OSError: it cannot be written.
        BitstreamError: a head of something else.
    """

    def __init__(self, codec: VideoCodec, head: bytes, path: str | os.PathLike[str], *, start: int = 0) -> None:
        self._codec, self._arrivals = codec, Arrivals(codec, head, start, blank=True)
        self.header = self._arrivals.header
        self.lost = self._arrivals.lost
        """As of a `StreamDecoder`."""
        self._clock, self._chunks = Clock(), list[Chunk]()
        self._writer: Write | None = None
        self._group: GroupPass | None = None
        self._grey: Write | None = None
        super().__init__()
        with self._ending_on_error():
            self._file = self._stack.enter_context(container.replaced(Path(path)))
            self._kept = self._stack.enter_context(TemporaryFile(dir=Path(os.path.realpath(path)).parent))

    @property
    def ended(self) -> bool:
        """Whether the stream's last packet has come."""
        return self._arrivals.ended

    def push(self, packet: bytes, time_s: float | None = None) -> None:
        """Keep what a packet holds; one that is damaged, or comes too late, holds nothing.

        Args:
            time_s: when its frame is shown, in seconds by any clock; in the file, the first one's becomes zero. None: evenly
                between those that have a time; if no frame has, at the stream's rate.

        Raises:
            ValueError: the time is not after the one before, or more than 13 hours; or the file is full.
        """
        self._check_open()
        ticks = None if time_s is None or not self._arrivals.awaits(packet) else self._clock.ticks(time_s)
        with self._codec.at_work(self.header):
            for arrival in self._arrivals.push(packet):
                self._add(arrival)
                self._clock.add(None if arrival is None else ticks)

    def _add(self, arrival: Arrival | None) -> None:
        if self._writer is None:
            if len(self._chunks) == container.CHUNKS_MAX - 1:
                raise InputError(f"a file holds {len(self._chunks)} groups; close it, and begin another one")
            self._writer = Write(self._codec.tables)
            self._group = None
        if arrival is not None:
            self._group = arrival.group
            arrival.symbols.code_again(self._writer)
        elif self._group is not None:
            self._group.code(self._writer, SAME)
        if (len(self._clock) + 1) % self.header.group == 0:
            self._end_group(self.header.group)

    def _end_group(self, frames: int) -> None:
        assert self._writer is not None
        writer = self._writer if self._group is not None else self._grey_group(frames)
        self._writer = None
        body = writer.close()[0]
        self._chunks.append(Chunk(len(body), writer.checks[0], _SYMBOL_BYTES * writer.counts[0]))
        self._kept.write(body)

    def _grey_group(self, frames: int) -> Write:
        """Symbols of a group of which nothing has come."""
        if self._grey is None or frames != self.header.group:
            self._grey, encoder = Write(self._codec.tables), self._codec.encoder_of(self.header)
            for _ in range(frames):
                encoder.code(self._grey, np.full((self.header.height, self.header.width, 3), GREY, np.uint8))
        return self._grey

    def close(self) -> None:
        """Write the file, and put it in its place.

        Raises:
            InputError: no frame was pushed, or it is closed already.
        """
        self._check_open()
        super().close()

    def _check_open(self) -> None:
        if self._file.closed:
            raise InputError("the file is closed; begin another one")

    def _finish(self) -> None:
        frames = len(self._clock)
        if not frames:
            raise InputError("a video needs at least one frame")
        if self._writer is not None:
            with self._codec.at_work(self.header):
                self._end_group(frames % self.header.group)
        header, times = replace(self.header, frames=frames), None
        if self._clock.told:
            times, rate = self._clock.packed(header.rate)
            video = Format(width=header.width, height=header.height, time_base=TICK_S, rate=rate)
            header = replace(header, rate=rate, source=video.pack())
        signal = header.pack()
        file = container.Writer(
            self._file, stream_id=self._codec.stream_id, weights=self._codec.stream_hash, signal=signal,
            count=len(self._chunks) + (times is not None),
        )  # fmt: skip
        seed = zlib.crc32(signal)
        self._kept.seek(0)
        for size, check, symbols_bytes in self._chunks:
            file.add(container.DATA, CHECK.pack(crc32_joined(seed, check, symbols_bytes)) + self._kept.read(size))
        if times is not None:
            file.add(container.METADATA, TIMES + times)
        file.close()


class Chunk(NamedTuple):
    """A group that waits for the header, which its check starts from."""

    size: int
    check: int
    """CRC-32 of its symbols alone."""
    symbols_bytes: int
    """Bytes that it is of."""
