"""Bytes under zstd's Huffman tables alone, without its search for repetitions: half a nanosecond a byte to decode.

Code words have whole bits, eleven at most; where a new table begins is the writer's choice. A frame says how long its
content is, so that nothing is allocated for one that claims another size than the reader knows.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import zstandard

from .errors import Corrupt

_LITERALS = zstandard.ZstdCompressionParameters(
    window_log=17, hash_log=6, chain_log=6, search_log=1, min_match=7, target_length=0,
    strategy=zstandard.STRATEGY_FAST, write_content_size=True, write_checksum=False,
)  # fmt: skip
"""Options for as little search for repetitions as zstd has: there are none. (Negative levels leave literals raw.)"""
_SEARCHING_LEVEL = 3
_local = threading.local()  # zstd's contexts are not for two threads at once


def compress(body: bytes | np.ndarray, cuts: Sequence[int] = ()) -> bytes:
    """One frame, with a new block at each cut; ``cuts`` begin with 0 and end with the length."""
    if not len(body):
        return b""
    if not hasattr(_local, "compressor"):
        _local.compressor = zstandard.ZstdCompressor(compression_params=_LITERALS)
    if len(cuts) <= 2:
        frame: bytes = _local.compressor.compress(body)
        return frame
    stream, parts = _local.compressor.compressobj(size=len(body)), []
    for start, end in zip(cuts, cuts[1:], strict=False):
        parts += [stream.compress(body[start:end]), stream.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)]
    return b"".join([*parts, stream.flush(zstandard.COMPRESSOBJ_FLUSH_FINISH)])


def compress_repetitive(body: bytes | np.ndarray) -> bytes:
    """A frame of bytes that may repeat, like counters and tables: zstd at its usual level. `decompress` reads it as well."""
    if not hasattr(_local, "searching"):
        _local.searching = zstandard.ZstdCompressor(level=_SEARCHING_LEVEL, write_checksum=False)
    frame: bytes = _local.searching.compress(body)
    return frame


def decompress(frame: bytes | memoryview, size: int) -> np.ndarray:
    """Inverse of `compress`, uint8; a frame that claims another size is refused before anything is allocated.

    Raises:
        Corrupt: not such a frame.
    """
    if not hasattr(_local, "decompressor"):
        _local.decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 27)
    try:
        found = zstandard.frame_content_size(frame) if size else len(frame)
        if found != size:
            raise Corrupt(f"a zstd frame of {found} bytes; need {size}")
        body = _local.decompressor.decompress(frame, allow_extra_data=False) if size else b""
    except zstandard.ZstdError as error:
        raise Corrupt(f"zstd: {error}") from None
    return np.frombuffer(body, np.uint8)
