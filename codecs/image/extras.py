"""What a picture's file holds beside its tiles: alpha plane and metadata chunks, both ways. The format is in `header`."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from ...entropy_models.errors import BitstreamError, Corrupt
from .. import container
from ..symbols import CHECK
from .header import ALPHA, TAGS, ImageHeader
from .pictures import Picture
from .tiles import Box

_MODES = {8: "L", 16: "I;16"}
"""Pillow's modes of alpha planes by depth."""


def extra_chunks(picture: Picture) -> list[tuple[int, bytes]]:
    """Kind and body of each chunk after the tiles; compresses the alpha plane."""
    chunks = []
    if picture.alpha is not None:
        chunks.append((ALPHA, CHECK.pack(_crc(picture.alpha)) + _png(picture.alpha)))
    fields = ((tag, getattr(picture, name)) for tag, name in TAGS.items())
    return chunks + [(container.METADATA, tag + body) for tag, body in fields if body]


def with_extras(
    picture: Picture, stream: container.Stream, header: ImageHeader, box: Box, lost: list[str] | None
) -> Picture:
    """Add the alpha (of a part of the image) and metadata of a stream.

    Args:
        picture: without them.
        stream, header: parsed.
        box: top, left, bottom, right of the part in pixels.
        lost: damage is noted here; None: it raises.

    Raises:
        BitstreamError: a damaged chunk.
    """
    found: dict[str, Any] = {}
    for index in range(len(header.grid) + header.together, len(stream.entries)):
        try:
            body = stream.chunk(index)
            if stream.entries[index].kind == ALPHA:
                found["alpha"] = _alpha(body, header)[box[0] : box[2], box[1] : box[3]]
            elif body[:4] in TAGS:
                found[TAGS[body[:4]]] = body[4:]
            else:
                raise Corrupt(f"metadata tag {body[:4]!r}; known are {', '.join(t.decode() for t in TAGS)}")
        except BitstreamError as error:
            if lost is None:
                raise
            lost.append(f"alpha or metadata is lost ({error})")
    return replace(picture, **found)


def _crc(alpha: np.ndarray) -> int:
    return zlib.crc32(alpha.astype(alpha.dtype.newbyteorder("<")).tobytes())


def _png(alpha: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(alpha).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _alpha(body: bytes, header: ImageHeader) -> np.ndarray:
    """Alpha plane; its size is checked before its pixels are decoded."""
    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(body[CHECK.size :]), formats=["PNG"]) as plane:
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            if plane.size != (header.width, header.height) or plane.mode != _MODES[header.depth]:
                found = f"alpha is {plane.size} {plane.mode}"
                raise Corrupt(f"{found}, the image {header.width}x{header.height} of {header.depth} bits")
            alpha = np.asarray(plane)
        if CHECK.pack(_crc(alpha)) != body[: CHECK.size]:
            raise Corrupt("the alpha plane does not match its checksum")
        return alpha
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, struct.error, zlib.error) as error:
        raise error if isinstance(error, BitstreamError) else Corrupt(f"alpha plane: {error}") from None
