"""What `codec info` shows: what a file says about itself, without numpy and torch."""

from __future__ import annotations

import dataclasses
from typing import Any

from rich.table import Table

from .. import container, load_face, name_of
from ..contract import Face, Tagged

CHUNKS_SHOWN = 16
"""Rows of the chunk table."""
APART = frozenset({"codec", "stream_id", "file_bytes", "expected_bytes", "chunks"})
"""Facts of every file, which `rows` says in its own way."""


def describe(face: Face, stream: container.Stream) -> dict[str, Any]:
    """Fields of the header and table, in reading order, for scripts; ``chunks`` is a list of the table's rows.

    ``expected_bytes`` is the length that the table adds up to; `codec decode --salvage` needs no more than there is.

    Raises:
        BitstreamError: a codec's own header is damaged.
    """
    chunks = [
        {"kind": kind_of(face, stream, i), "offset": e.offset, "bytes": e.length, "crc32": f"{e.crc:08x}"}
        for i, e in enumerate(stream.entries)
    ]
    sizes = {"file_bytes": len(stream.data), "expected_bytes": stream.expected_bytes}
    return {
        "codec": name_of(stream.stream_id),
        "stream_id": stream.stream_id,
        **sizes,
        **face.describe(stream),
        "chunks": chunks,
    }


def kind_of(face: Face, stream: container.Stream, index: int) -> str:
    """The name of a chunk's kind."""
    kind = stream.entries[index].kind
    if isinstance(face, Tagged) and kind == container.METADATA:
        return face.metadata_kind(stream, index)
    return {container.DATA: "data", container.METADATA: "metadata", **face.chunk_kinds}.get(kind, str(kind))


def rows(fields: dict[str, Any]) -> dict[str, Any]:
    """What `describe` returned, for people, without the chunks."""
    first = {"codec": f"{fields['codec']} (id {fields['stream_id']})", "file_bytes": fields["file_bytes"]}
    missing = fields["expected_bytes"] - fields["file_bytes"]
    if missing > 0:
        salvages = "salvage" in (field.name for field in dataclasses.fields(load_face(fields["codec"]).Decode))
        hint = "; `codec decode --salvage` shows what is left" if salvages else ""
        first["damage"] = f"{missing} bytes at the end are missing{hint}"
    elif missing < 0:
        first["damage"] = f"{-missing} bytes after the last chunk"
    rest = {name: value for name, value in fields.items() if name not in APART}
    return first | load_face(fields["codec"]).rows(rest)


def chunk_table(chunks: list[dict[str, Any]]) -> Table:
    """The first rows of a file's chunk table; a large file has thousands."""
    rest = len(chunks) - CHUNKS_SHOWN
    more = f"and {rest} more (all with --json)" if rest > 0 else None
    table = Table("chunk", "kind", "offset", "bytes", "crc32", caption=more)
    for index, chunk in enumerate(chunks[:CHUNKS_SHOWN]):
        table.add_row(str(index), *map(str, chunk.values()))
    return table


def frame_table(frames: list[dict[str, Any]]) -> Table:
    """A row for each frame."""
    table = Table(*frames[0])
    for frame in frames:
        values = (" ".join(map(str, value)) if isinstance(value, list) else str(value) for value in frame.values())
        table.add_row(*values)
    return table


def field_table(title: str, fields: dict[str, Any]) -> Table:
    """Names and values below each other."""
    table = Table("field", "value", title=title, title_justify="left", show_header=False)
    for name, value in fields.items():
        table.add_row(name.replace("_", " "), str(value))
    return table
