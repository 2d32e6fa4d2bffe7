"""``codec info``: what a file says about itself, without torch."""

from __future__ import annotations

from typing import Any

from ..entropy_models.errors import Unsupported
from . import container, name_of, weights
from .files import show_size


def describe(data: bytes) -> dict[str, Any]:
    """Fields of the header and table, in reading order; ``chunks`` is a list of the table's rows.

    Raises:
        BitstreamError: the header or table is damaged.
    """
    stream = container.parse(data)
    codec = name_of(stream.codec_id)
    fields: dict[str, Any] = {"codec": f"{codec} (id {stream.codec_id})", "file_bytes": len(data)}
    if codec == "image":
        fields |= _image(data)
    else:
        from .kv_cache.describe import describe_kv

        fields |= describe_kv(data)
    return fields | {"chunks": _chunks(stream)}


def _chunks(stream: container.Stream) -> list[dict[str, Any]]:
    """The chunk table."""
    from .image.header import ALPHA

    names = {container.DATA: "data", container.METADATA: "metadata", ALPHA: "alpha"}
    return [
        {"kind": names.get(e.kind, str(e.kind)), "offset": e.offset, "bytes": e.length, "crc32": f"{e.crc:08x}"}
        for e in stream.entries
    ]


def _image(data: bytes) -> dict[str, Any]:
    from .image.header import ALPHA, parse

    stream, header = parse(data)
    sizes = {kind: sum(stream.entries[i].length for i in stream.indices(kind)) for kind in (0, 1, ALPHA)}
    tags = [bytes(data[stream.entries[i].offset :][:4]).decode("ascii", "replace") for i in stream.indices(1)]
    try:
        line = weights.line_of_stream("image", stream.weights)
        model = f"{line.name} ({stream.weights.hex()})"
    except Unsupported:
        model = f"{stream.weights.hex()}, not installed"
    return {
        "size": f"{header.width}x{header.height}",
        "channels": f"{header.channels}{' + alpha' if header.alpha else ''}, 8 bits",
        "quality": header.quality,
        "rate_bpp": round(len(data) * 8 / (header.width * header.height), 4),
        "weights": model,
        "tiles": f"{len(header.grid)} ({header.grid.columns}x{header.grid.rows}), {show_size(sizes[0])}",
        "alpha": show_size(sizes[ALPHA]) if header.alpha else "none",
        "metadata": f"{', '.join(tags)}, {show_size(sizes[1])}" if tags else "none",
    }
