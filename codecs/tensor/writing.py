"""Sources to files, a piece at a time: no more than a piece is in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ...entropy_models.errors import InputError
from ...entropy_models.rows import ROW_CODERS
from .. import container
from ..contract import Progress
from .coding import EXACT, Given, Piece, code
from .header import INDEX, MODES, STREAM_ID, Entry, Layout
from .sources import Source


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSettings:
    """How tensors are stored."""

    mode: str = "lossless"
    """A key of `header.MODES`."""

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise InputError(f"no mode {self.mode!r} of tensor files; there are {', '.join(MODES)}")


def layout_of(source: Source, settings: TensorSettings) -> Layout:
    """Layout of the file that will hold a source."""
    return Layout(settings.mode, source.index, (1,) * len(source.index.entries))


def parts(source: Source, layout: Layout) -> Iterator[tuple[int, Piece, Given]]:
    """Coding, and what both sides and the writer know, of every data chunk in order."""
    for _, number, index in layout.parts():
        entry = source.index.entries[number]
        yield EXACT, piece_of(entry, index), Given(words=source.words(entry, entry.piece(index)))


def piece_of(entry: Entry, index: int, base: Callable[[], np.ndarray] | None = None) -> Piece:
    """What both sides know of a piece."""
    return Piece(dtype=entry.dtype, count=len(entry.piece(index)), row_words=entry.row_words, base=base)


def write_stream(file: BinaryIO, source: Source, settings: TensorSettings, progress: Progress | None = None) -> None:
    """Write a file.

    Args:
        file: that can seek, at its beginning.
        progress: called with (bytes of tensors done, bytes in all).

    Raises:
        InputError: a tensor that the mode does not take; the message has its name.
    """
    layout = layout_of(source, settings)
    signal, index = layout.pack()
    if layout.chunks + 2 > container.CHUNKS_MAX:
        raise InputError(f"{layout.chunks} pieces of tensors; at most {container.CHUNKS_MAX - 2} (join small tensors)")
    writer = container.Writer(file, stream_id=STREAM_ID, weights=bytes(8), signal=signal, count=1 + layout.chunks)
    writer.add(INDEX, index)
    done = 0
    for number, piece, given in parts(source, layout):
        coder = ROW_CODERS.write()
        code(coder, number, piece, given)
        writer.add(container.DATA, coder.chunk())
        done += given.words.nbytes
        if progress and given.words.nbytes:
            progress(done, layout.index.raw_bytes)
    writer.close()


def save_source(path: str | Path, source: Source, settings: TensorSettings, progress: Progress | None = None) -> None:
    """Write a file that takes the place of ``path`` when it is whole; errors as `write_stream`, or OSError."""
    with container.replaced(Path(path)) as file:
        write_stream(file, source, settings, progress)
