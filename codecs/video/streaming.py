"""Live video: a frame in, a packet out, and back, without delay. The frames are those of a file of the same video.

    encoder = StreamEncoder(codec, width=640, height=480, quality=40)
    decoder = StreamDecoder(codec, encoder.head)
    with StreamWriter(codec, encoder.head, "camera.rdc") as file:      # of `recording`
        for frame in camera:                                           # uint8 (height, width, 3)
            for packet in encoder.push(frame):
                file.push(packet)
                show(decoder.push(packet))
        for packet in encoder.finish():
            file.push(packet)

Packets are specified in `packets`.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from torch import Tensor

from ...entropy_models.coder import Coder
from ...entropy_models.errors import BitstreamError, InputError
from .. import symbols
from .clip import RATE
from .codec import VideoCodec
from .group_work import GREY, checked_frame
from .groups import GroupPass
from .header import FRAMES_MAX, GROUP, LOW_DELAY, checked_header, checked_rate
from .packets import CHECK_BYTES, NUMBER, head_of, header_of, opened, packet_of

GAP_MAX = 1 << 20
"""Frames in a row that may be lost; a packet that comes later than that counts as damaged."""
MISSING = "it did not come"


class StreamEncoder:
    """Frames to packets, one each.

    A packet takes some ten bytes more than its frame takes in a file: two checks, the number, and the end of its symbols
    (drawn clips of 96x160 and 288x352 pixels, groups of 8 and 32 frames, quality 10 and 50: 9.2 to 10.9).

    Args:
        width, height: of the frames, in pixels.
        rate: frames per second, as far as it is known.
        quality: 0..100; None: 50.
        group: frames from one that can be decoded on its own to the next: so long a lost packet is seen.

    Raises:
        ValueError: one is out of range.
    """

    def __init__(
        self,
        codec: VideoCodec,
        *,
        width: int,
        height: int,
        rate: Fraction | float = RATE,
        quality: int | None = None,
        group: int = GROUP,
    ) -> None:
        self.header = checked_header(
            width=width, height=height, frames=FRAMES_MAX, rate=checked_rate(rate), quality=quality, group=group,
            lifts=LOW_DELAY,
        )  # fmt: skip
        self._codec, self._encoder, self._packed = codec, codec.encoder_of(self.header), self.header.pack()
        self._number, self._finished = 0, False
        self.head = head_of(self.header, codec.stream_hash)
        """What a decoder needs before the first packet."""

    def push(self, frame: np.ndarray) -> list[bytes]:
        """The packet of the next frame, uint8 (height, width, 3).

        Raises:
            ValueError: it is none, or the stream is finished.
        """
        frame = checked_frame(np.asarray(frame), self.header)
        self._check_open()
        if self._number % self.header.group == 0:
            self._encoder = self._codec.encoder_of(self.header)
        writer = symbols.new_writer(self._codec.tables, self._packed + NUMBER.pack(self._number))
        with self._codec.at_work(self.header):
            self._encoder.code(writer, frame)
        body = symbols.packet_of(writer, CHECK_BYTES) or b"\0"  # of none at all is the last packet
        packet = packet_of(self._number, body, self._packed)
        self._number += 1
        return [packet]

    def finish(self) -> list[bytes]:
        """The last packet, which tells how many frames there are. Nothing can be pushed any more.

        Raises:
            ValueError: the stream is finished already.
        """
        self._check_open()
        self._finished = True
        return [packet_of(self._number, b"", self._packed)]

    def _check_open(self) -> None:
        if self._finished:
            raise InputError(f"the stream is finished, with {self._number} frames; begin another one")


class StreamDecoder:
    """Packets to frames. Where a packet is lost or damaged, the last frame is held up to the first of the next group.

    Args:
        head: `StreamEncoder.head`.
        start: number of the first packet (`packets.number_of`), of a stream that has long begun. What comes before the first
            group from there on is left out.

    Raises:
        BitstreamError: a head of something else.
    """

    def __init__(self, codec: VideoCodec, head: bytes, *, start: int = 0) -> None:
        self._codec, self._arrivals = codec, Arrivals(codec, head, start)
        self.header = self._arrivals.header
        self.lost = self._arrivals.lost
        """Numbers of the frames that were lost, in rows, and why the first of each was: the others need it."""
        self._last: GroupPass | None = None

    @property
    def ended(self) -> bool:
        """Whether the stream's last packet has come."""
        return self._arrivals.ended

    def push(self, packet: bytes) -> list[np.ndarray]:
        """Frames that are complete now, uint8 (height, width, 3): that of the packet, behind those for lost ones before it,
        which are one array. Of a packet that is damaged, or comes too late, there are none."""
        frames, held = list[np.ndarray](), None
        with self._codec.at_work(self.header):
            for arrival in self._arrivals.push(packet):
                if arrival is not None:
                    self._last, held = arrival.group, None
                    frames.append(self._last.picture.shown(self.header).copy())
                else:
                    held = self._held() if held is None else held
                    frames.append(held)
        return frames

    def _held(self) -> np.ndarray:
        if self._last is None:
            return np.full((self.header.height, self.header.width, 3), GREY, np.uint8)
        return self._last.picture.shown(self.header).copy()


class Kept:
    """A coder that keeps what another one codes."""

    def __init__(self, coder: Coder) -> None:
        self._coder = coder
        self._calls: list[tuple[Tensor, Tensor, Tensor | None]] = []

    def code(self, residual: Tensor, level: Tensor, active: Tensor | None = None, *, side: bool = False) -> Tensor:
        """`Coder.code`."""
        coded = self._coder.code(residual, level, active, side=side)
        self._calls.append((coded, level, active))
        return coded

    def code_again(self, coder: Coder) -> None:
        """Code the same with another one."""
        for coded, level, active in self._calls:
            coder.code(coded, level, active)


class Arrival(NamedTuple):
    """A frame that has come: the pass that has decoded it, and its symbols."""

    group: GroupPass
    symbols: Kept


class Arrivals:
    """Packets in their order: which frames have come, which are lost.

    Args:
        blank: decode symbols alone; see `GroupPass`.
    """

    def __init__(self, codec: VideoCodec, head: bytes, start: int, *, blank: bool = False) -> None:
        self.header = header_of(head, codec.stream_hash)
        if not 0 <= start <= FRAMES_MAX:
            raise InputError(f"a start at frame {start}; need 0..{FRAMES_MAX}")
        self._codec, self._packed, self._blank = codec, self.header.pack(), blank
        self.next, self.ended = -(-start // self.header.group) * self.header.group, False
        self.lost: list[tuple[range, str]] = []
        """Numbers of the frames that were lost, in rows, and why the first of each was: the others need it."""
        self._group: GroupPass | None = None
        self._damage = MISSING

    def awaits(self, packet: bytes) -> bool:
        """Whether it holds a frame that has not come yet; of one that is damaged, late or the last: no."""
        try:
            number, body = opened(packet, self._packed)
        except BitstreamError:
            return False
        return bool(body) and number >= self.next and not self.ended

    def push(self, packet: bytes) -> Iterator[Arrival | None]:
        """Each frame up to that of the packet; None: it is lost."""
        try:
            number, body = opened(packet, self._packed)
        except BitstreamError as error:
            self._damage = str(error)
            return
        if number < self.next or self.ended:
            return
        if number - self.next > GAP_MAX:
            self._damage = (
                f"frame {number} came {number - self.next} frames too early; at most {GAP_MAX} can be lost in a row"
            )
            return
        while self.next < number:
            self._miss(self._damage)
            yield None
        self._damage, self.ended = MISSING, not body
        if body:
            yield self._read(body)

    def _read(self, body: bytes) -> Arrival | None:
        if self.next % self.header.group == 0:
            group = GroupPass(self._codec.image, self._codec.stem, self.header, pixels=() if self._blank else None)
        elif self._group is not None:
            group = copy(self._group)  # which stays as it is if this frame fails
        else:
            self._miss("its group's frames before it are lost")
            return None
        seed = self._packed + NUMBER.pack(self.next)
        chunk = symbols.unpacked(body, CHECK_BYTES)
        try:
            with symbols.reading(self._codec.tables, seed, chunk, CHECK_BYTES) as reader:
                kept = Kept(reader)
                group.code(kept)
        except BitstreamError as error:
            self._miss(str(error))
            return None
        self._group, self.next = group, self.next + 1
        return Arrival(group, kept)

    def _miss(self, reason: str) -> None:
        numbers = range(self.next, self.next + 1)
        if self.lost and self.lost[-1][0].stop == self.next:
            before, reason = self.lost.pop()
            numbers = range(before.start, numbers.stop)
        self.lost.append((numbers, reason))
        self._group, self.next = None, self.next + 1
