"""CRC-32, for the container and for the symbols of a stream.

zlib's own takes half a nanosecond per symbol, a sixteenth of what coding one takes; zlib-ng's a tenth of that, with the
same numbers. Where it has no wheel, zlib will do.
"""

from __future__ import annotations

try:
    from zlib_ng.zlib_ng import crc32
except ImportError:
    from zlib import crc32

__all__ = ["crc32"]
