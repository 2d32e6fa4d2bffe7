"""Packets of live sounds, and the streams that they are in pipes and files. No numpy, no torch here.

A packet holds one segment and needs no other:

======  ====  ==========================================================================================
offset  size  field
======  ====  ==========================================================================================
0       1     number of the packet modulo 128; and 128 more in the last one of a sound
(1)     (2)   only in the last one: how many of its samples are the sound's, 1..5120
1 or 3  2     lower half of the CRC-32 of its symbols, started as in a file (`header`)
...           entropy-coded symbols of `SpeechNetwork.coding_pass`, channel by channel, without zeros at their end
======  ====  ==========================================================================================

The check is of the symbols, not of the number: a link that flips bits needs a checksum of its own, as UDP has.

Through a pipe or into a file (`live_bytes`, `packets_of`) they go after their head, an .rdc file without chunks whose length
is zero, each with its size in bytes (2, little-endian) before it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

from ...entropy_models.errors import BitstreamError, Truncated
from .. import container
from ..contract import Readable
from .header import SEGMENT_SAMPLES, SIGNAL_BYTES, STREAM_ID, SpeechHeader

NUMBERS = 128
"""Packets are numbered modulo this, so that of a gap of 40.96 s and more whole turns cannot be told."""
BACK = 16
"""A number at most so far behind the next one, 5.12 s, is that of a packet that comes late; all others are ahead."""
LAST = 128
CHECK_BYTES = 2
COUNT = struct.Struct("<H")
HEAD_BYTES = container.table_end(SIGNAL_BYTES, 0)
"""Bytes before the first packet."""


def is_live(stream: container.Stream) -> bool:
    """Whether packets follow what was parsed."""
    return stream.stream_id == STREAM_ID and not stream.entries and SpeechHeader.of(stream).frames == 0


def begins_live(head: bytes) -> bool:
    """The same of the first bytes of a file."""
    try:
        return is_live(container.parse(head[:HEAD_BYTES]))
    except BitstreamError:
        return False


def live_bytes(head: bytes, packets: Iterable[bytes]) -> Iterator[bytes]:
    """A live stream in bytes, piece by piece: each packet behind its size, the first one behind the head; else nothing."""
    before = head
    for packet in packets:
        yield before + COUNT.pack(len(packet)) + packet
        before = b""


def packets_of(file: Readable) -> Iterator[bytes]:
    """The head of a live stream, then each of its packets as soon as it is there.

    Raises:
        Truncated: the stream ends in the middle of one.
    """
    yield _exactly(file, HEAD_BYTES)
    while first := file.read(1):
        yield _exactly(file, COUNT.unpack(first + _exactly(file, 1))[0])


def live_samples(packets: Iterable[bytes]) -> int:
    """Samples of a sound at 16 kHz, from all its packets."""
    number, count = 0, SEGMENT_SAMPLES
    for packet in packets:
        number += 1
        last = len(packet) > COUNT.size and packet[0] >= LAST
        count = min(COUNT.unpack_from(packet, 1)[0], SEGMENT_SAMPLES) if last else SEGMENT_SAMPLES
    return max(0, number - 1) * SEGMENT_SAMPLES + (count if number else 0)


def _exactly(file: Readable, size: int) -> bytes:
    data = b""
    while len(data) < size:
        if not (more := file.read(size - len(data))):
            raise Truncated(f"a live stream ends after {len(data)} of {size} bytes")
        data += more
    return data
