"""What the command line asks of the image codec: bytes in, bytes and facts out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..container import MAGIC
from ..terminal.files import show_size
from .codec import ImageCodec, Progress
from .header import parse
from .pictures import check_sides, fitting, format_of, looks_like_image, read_picture, write_picture
from .rate_control import encode_to_bytes
from .tiles import Box

Codecs = dict[str, ImageCodec]
"""Codecs that are loaded already, by whatever named them."""


def encode_bytes(
    codecs: Codecs,
    data: bytes,
    *,
    quality: int,
    bpp: float | None,
    size: int | None,
    model: str | None,
    device: str,
    progress: Progress,
) -> tuple[bytes, dict[str, Any]]:
    """An image file's bytes to a stream and what to report.

    Raises:
        ValueError: not an image, or a target out of reach.
        KeyError: no such model.
    """
    if not data:
        raise ValueError("the input is empty; expected an image or a KV cache in safetensors")
    if data.startswith(MAGIC):
        raise ValueError("is an .rdc file already; `codec decode` reads it")
    if not looks_like_image(data):
        raise ValueError(f"starts with {data[:8]!r}: neither an image nor a KV cache in safetensors")
    picture = read_picture(data)
    if "encode" not in codecs:
        codecs["encode"] = ImageCodec.load(model=model, device=device)
    codec = codecs["encode"]
    pixels = picture.pixels.shape[0] * picture.pixels.shape[1]
    if bpp is not None:
        size = int(bpp * pixels / 8)
    if size is not None:
        stream, quality = encode_to_bytes(codec, picture, size, progress)
    else:
        stream = codec.encode(picture, quality, progress)
    rate_bpp = len(stream) * 8 / pixels
    raw_bytes = picture.pixels.size + (picture.alpha.size if picture.alpha is not None else 0)
    facts = {"codec": "image", "quality": quality, "rate_bpp": rate_bpp, "rate": f"{rate_bpp:.3f} bpp"}
    notices = picture.notices
    if len(stream) > len(data):
        notices += (f"larger than the input of {show_size(len(data))}; keep that, or take a lower quality",)
    return stream, facts | {"raw_bytes": raw_bytes, "notices": notices}


def _codec_for(codecs: Codecs, stream_hash: bytes, device: str) -> ImageCodec:
    """The codec with the weights that a stream names."""
    key = stream_hash.hex()
    if key not in codecs:
        codecs[key] = ImageCodec.load(stream_hash=stream_hash, device=device)
    return codecs[key]


def decode_bytes(
    codecs: Codecs,
    data: bytes,
    target: Path | None,
    *,
    image_format: str | None,
    crop: str | None,
    salvage: bool,
    device: str,
    progress: Progress,
) -> tuple[bytes, dict[str, Any]]:
    """A stream to an image file in ``image_format``; None: the one that ``target`` names, PNG for standard output.

    Raises:
        BitstreamError: anything wrong with the data.
        ValueError: a crop outside the image, or a format that cannot hold it.
    """
    image_format = image_format or (format_of(target) if target else "PNG")
    box = parse_crop(crop) if crop else None
    stream, header = parse(data, salvage=salvage)
    if box is None:
        check_sides(header.height, header.width, image_format)
    codec = _codec_for(codecs, stream.weights, device)
    picture = fitting(codec.decode_picture(data, crop=box, salvage=salvage, progress=progress), image_format)
    height, width = picture.pixels.shape[:2]
    facts: dict[str, Any] = {"codec": "image", "width": width, "height": height, "shape": f"{width}x{height}"}
    facts |= {"notices": picture.notices, "lost_tiles": picture.lost_tiles}
    return write_picture(picture, image_format), facts


def verify_bytes(codecs: Codecs, data: bytes, *, device: str) -> None:
    """Check everything in a stream; decodes every symbol, no pixels.

    Raises:
        BitstreamError: anything wrong with the data.
    """
    _codec_for(codecs, parse(data)[0].weights, device).verify(data)


def parse_crop(text: str) -> Box:
    """``X,Y,W,H`` to (top, left, bottom, right).

    >>> parse_crop("10,20,30,40")
    (20, 10, 60, 40)

    Raises:
        ValueError: not four whole numbers, or an empty crop.
    """
    try:
        x, y, width, height = (int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"crop {text!r}; write X,Y,W,H in whole pixels, like 0,0,256,256") from None
    if width < 1 or height < 1 or x < 0 or y < 0:
        raise ValueError(f"crop {text!r}; X and Y start at 0, W and H at 1")
    return y, x, y + height, x + width
