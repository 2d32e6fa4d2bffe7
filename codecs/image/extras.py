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
from .drawn import WEBP_SIDE_MAX, opened_webp
from .header import ALPHA, INFLATED_MAX, TAGS, TOGETHER_MAX, ImageHeader
from .pictures import Picture
from .tiles import Box

_MODES = {("PNG", "L"): 8, ("WEBP", "RGB"): 8, ("PNG", "I;16"): 16}
"""Bits of alpha planes by format and Pillow's mode."""


def extra_chunks(picture: Picture) -> list[tuple[int, bytes]]:
    """Kind and body of each chunk after the tiles; compresses the alpha plane."""
    chunks = []
    if picture.alpha is not None:
        chunks.append((ALPHA, CHECK.pack(_crc(picture.alpha)) + _alpha_file(picture.alpha)))
    fields = ((tag, getattr(picture, name)) for tag, name in TAGS.items())
    return chunks + [(container.METADATA, _tagged(tag, body)) for tag, body in fields if body]


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
            else:
                name, value = _untagged(body)
                found[name] = value
        except BitstreamError as error:
            if lost is None:
                raise
            lost.append(f"alpha or metadata is lost ({error})")
    return replace(picture, **found)


def _tagged(tag: bytes, value: bytes) -> bytes:
    """The body of a metadata chunk: deflated under the tag in small letters, where that is shorter."""
    small = zlib.compress(value, 9) if len(value) <= INFLATED_MAX else value
    return tag.lower() + small if len(small) < len(value) else tag + value


def _untagged(body: bytes) -> tuple[str, bytes]:
    """Name and value of metadata.

    Raises:
        BitstreamError: no such tag, or what cannot be inflated.
    """
    tag, value = body[:4], body[4:]
    if tag.upper() not in TAGS or tag not in (tag.upper(), tag.lower()):
        raise Corrupt(f"metadata tag {tag!r}; known are {', '.join(t.decode() for t in TAGS)}")
    if tag not in TAGS:
        try:
            value = container.inflated(value, INFLATED_MAX)
        except Corrupt as error:
            raise Corrupt(f"metadata {tag!r}: {error}") from None
    return TAGS[tag.upper()], value


def _crc(alpha: np.ndarray) -> int:
    return zlib.crc32(alpha.astype(alpha.dtype.newbyteorder("<")).tobytes())


def _alpha_file(alpha: np.ndarray) -> bytes:
    """The smaller of a PNG and a lossless WebP, which takes a third off large soft edges, and memory for all pixels."""
    files, image = [io.BytesIO()], Image.fromarray(alpha)
    image.save(files[0], "PNG", optimize=True)
    if alpha.itemsize == 1 and alpha.size <= TOGETHER_MAX and max(image.size) <= WEBP_SIDE_MAX:
        image.convert("RGB").save(webp := io.BytesIO(), "WEBP", lossless=True, quality=80, method=4)
        files.append(webp)
    return min((file.getvalue() for file in files), key=len)


def _opened(file: bytes, webp_pixels_max: int) -> Image.Image:
    """The file of an alpha plane, of whose pixels nothing is decoded yet."""
    if file[:4] == b"RIFF":
        return opened_webp(file, "an alpha plane", webp_pixels_max)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return Image.open(io.BytesIO(file), formats=["PNG"])


def _alpha(body: bytes, header: ImageHeader) -> np.ndarray:
    """Alpha plane; its size is checked before its pixels are decoded."""
    try:
        with _opened(body[CHECK.size :], min(header.width * header.height, TOGETHER_MAX)) as plane:
            depth = _MODES.get((str(plane.format), plane.mode))
            if plane.size != (header.width, header.height) or depth != header.depth:
                found = f"alpha is {plane.size} {plane.format} {plane.mode}"
                raise Corrupt(f"{found}, the image {header.width}x{header.height} of {header.depth} bits")
            alpha = np.asarray(plane)
            alpha = alpha if alpha.ndim == 2 else np.ascontiguousarray(alpha[..., 0])
        if CHECK.pack(_crc(alpha)) != body[: CHECK.size]:
            raise Corrupt("the alpha plane does not match its checksum")
        return alpha
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, struct.error, zlib.error) as error:
        raise error if isinstance(error, BitstreamError) else Corrupt(f"alpha plane: {error}") from None
