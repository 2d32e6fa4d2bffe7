"""Packets of live videos. No numpy, no torch here.

A packet holds one frame. That of the first frame of a group needs no other, each other one all those of its group before it:

======  ====  =========================================================================================
offset  size  field
======  ====  =========================================================================================
0       4     CRC-32 of all that follows, started with the CRC-32 of the head's signal header
4       4     number of the frame, from 0: those that the frames a group divide are first of a group
8       2     lower half of the CRC-32 of its symbols, started with that of the signal header and field 4
10      ...   entropy-coded symbols of `groups.GroupPass`, without zeros at their end
======  ====  =========================================================================================

The last packet of a stream ends with the number, which then is that of all its frames. The head is an .rdc file without
chunks, whose signal header (`header`) has the largest number of frames: it is not known.
"""

from __future__ import annotations

import struct
import zlib

from ...entropy_models.errors import Corrupt, Truncated
from .. import container
from .header import FRAMES_MAX, STREAM_ID, VideoHeader

CHECK_BYTES = 2
NUMBER = struct.Struct("<I")
_START = struct.Struct("<II")


def head_of(header: VideoHeader, weights: bytes) -> bytes:
    """What a decoder needs before the first packet."""
    return container.write(stream_id=STREAM_ID, weights=weights, signal=header.pack(), chunks=[])


def header_of(head: bytes, weights: bytes) -> VideoHeader:
    """The header in a head.

    Raises:
        BitstreamError: it is no head of a live video, or one for other weights.
    """
    stream = container.parse(head)
    header = VideoHeader.unpack(stream.signal) if stream.stream_id == STREAM_ID else None
    if header is None or stream.entries or header.frames != FRAMES_MAX:
        raise Corrupt(f"a file of stream id {stream.stream_id} with {len(stream.entries)} chunks is no live video's head")
    if header.anchor_distance > 1:
        raise Corrupt("frames of a live video are coded as they come; this head says pyramids")
    stream.check_weights(weights)
    return header


def packet_of(number: int, body: bytes, signal_header: bytes) -> bytes:
    """The packet of a frame; of no body: the last one."""
    told = NUMBER.pack(number) + body
    return NUMBER.pack(zlib.crc32(told, zlib.crc32(signal_header))) + told


def opened(packet: bytes, signal_header: bytes) -> tuple[int, bytes]:
    """Number and body of a packet.

    Raises:
        BitstreamError: it is too short, or damaged, or of a stream with another head.
    """
    number = number_of(packet)
    check, found = _START.unpack_from(packet)[0], zlib.crc32(packet[NUMBER.size :], zlib.crc32(signal_header))
    if check != found:
        raise Corrupt(f"a packet has checksum {found:08x}, it says {check:08x}")
    return number, bytes(packet[_START.size :])


def number_of(packet: bytes) -> int:
    """Number of a packet's frame, unchecked; Truncated if it has none."""
    if len(packet) < _START.size:
        raise Truncated(f"a packet of {len(packet)} bytes; need at least {_START.size}")
    return int(_START.unpack_from(packet)[1])
