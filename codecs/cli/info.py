"""``codec info``: what a file says about itself, without torch."""

from __future__ import annotations

from typing import Any

from ...entropy_models.errors import Unsupported
from .. import container, name_of, weights
from ..terminal.files import show_size


def describe(data: bytes) -> dict[str, Any]:
    """Fields of the header and table, in reading order, for scripts; ``chunks`` is a list of the table's rows.

    ``expected_bytes`` is the length that an image's table adds up to; `codec decode --salvage` needs no more than there is.

    Raises:
        BitstreamError: the header or table is damaged.
    """
    stream = container.parse(data, salvage=True)
    codec = name_of(stream.stream_id)
    fields: dict[str, Any] = {"codec": codec, "stream_id": stream.stream_id, "file_bytes": len(data)}
    if codec == "image":
        fields |= {"expected_bytes": stream.expected_bytes} | _image(data)
    else:
        from ..kv_cache.format.describe import describe_kv

        fields |= describe_kv(data)
    return fields | {"chunks": _chunks(stream)}


def rows(fields: dict[str, Any]) -> dict[str, Any]:
    """What `describe` returned, for people, without the chunks."""
    apart = "codec", "stream_id", "file_bytes", "expected_bytes", "chunks"
    rest = {name: value for name, value in fields.items() if name not in apart}
    first = {"codec": f"{fields['codec']} (id {fields['stream_id']})", "file_bytes": fields["file_bytes"]}
    if (missing := fields.get("expected_bytes", fields["file_bytes"]) - fields["file_bytes"]) > 0:
        first["damage"] = f"{missing} bytes at the end are missing; `codec decode --salvage` shows what is left"
    elif missing < 0:
        first["damage"] = f"{-missing} bytes after the last chunk"
    if fields["codec"] == "image":
        return first | _image_rows(rest)
    from ..kv_cache.format.describe import kv_rows

    return first | kv_rows(rest)


def _chunks(stream: container.Stream) -> list[dict[str, Any]]:
    """The chunk table."""
    from ..image.header import ALPHA

    names = {container.DATA: "data", container.METADATA: "metadata", ALPHA: "alpha"}
    return [
        {"kind": names.get(e.kind, str(e.kind)), "offset": e.offset, "bytes": e.length, "crc32": f"{e.crc:08x}"}
        for e in stream.entries
    ]


def _image(data: bytes) -> dict[str, Any]:
    """Fields of an image: pixels, bits per pixel, bytes."""
    from ..image.header import ALPHA, parse

    stream, header = parse(data, salvage=True)
    tiles, metadata, alpha = (
        sum(stream.entries[i].length for i in stream.indices(kind)) for kind in (container.DATA, container.METADATA, ALPHA)
    )
    tags = [bytes(data[stream.entries[i].offset :][:4]) for i in stream.indices(container.METADATA)]
    try:
        model = weights.line_of_stream("image", stream.weights).name
    except Unsupported:
        model = None
    return {
        "width": header.width,
        "height": header.height,
        "channels": header.channels,
        "alpha": header.alpha,
        "bits_per_channel": 8,
        "quality": header.quality,
        "rate_bpp": round(len(data) * 8 / (header.width * header.height), 4),
        "weights": stream.weights.hex(),
        "model": model,
        "tile_columns": header.grid.columns,
        "tile_rows": header.grid.rows,
        "tile_bytes": tiles,
        "alpha_bytes": alpha,
        "metadata": [tag.decode("ascii", "replace") for tag in tags],
        "metadata_bytes": metadata,
    }


def _image_rows(image: dict[str, Any]) -> dict[str, Any]:
    """The same for people."""
    columns, lines = image["tile_columns"], image["tile_rows"]
    model, names = image["model"], ", ".join(image["metadata"])
    return {
        "size": f"{image['width']}x{image['height']}",
        "channels": f"{image['channels']}{' + alpha' if image['alpha'] else ''}, {image['bits_per_channel']} bits",
        "quality": image["quality"],
        "rate_bpp": image["rate_bpp"],
        "weights": f"{model} ({image['weights']})" if model else f"{image['weights']}, not installed",
        "tiles": f"{columns * lines} ({columns}x{lines}), {show_size(image['tile_bytes'])}",
        "alpha": show_size(image["alpha_bytes"]) if image["alpha"] else "none",
        "metadata": f"{names}, {show_size(image['metadata_bytes'])}" if names else "none",
    }
