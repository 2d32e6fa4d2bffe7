"""``import rdcodec.pillow``: Pillow reads and writes .rdc pictures from here on. All of it is `rdcodec.codecs.pillow`."""

from __future__ import annotations

from ..codecs.pillow import FORMAT, RdcImageFile, accepts, save

__all__ = ["FORMAT", "RdcImageFile", "accepts", "save"]
