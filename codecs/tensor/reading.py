"""Files to tensors: all, one, or some rows of one, from a file in memory or mapped into it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from ...entropy_models.errors import BitstreamError, InputError, Mismatch, Truncated, UnknownName
from ...entropy_models.trellis import TRELLIS_CODERS
from .. import container
from ..contract import Progress
from .coding import EXACT, Piece, code
from .header import NESTED_BITS, WORDS, Entry, Index, Layout, read_base_name, read_report
from .torch_types import tensor_of, words_from

if TYPE_CHECKING:
    from .base import Base


class TensorFile:
    """An .rdc file of tensors; a `sources.Source` as well, so that it may be another file's base.

    Args:
        stream: parsed; chunks that are not there are missed when they are needed.
        bits: of a nested file, those of the weights to read (`NESTED_BITS`); None: all that there are.
        base: of a file of mode delta; None: its numbers will be missed when they are needed.

    Raises:
        InputError: the file has no such bits.
        Mismatch: another base.
        BitstreamError: no tensor file, or its index is damaged.
    """

    def __init__(self, stream: container.Stream, bits: float | None = None, base: Base | None = None) -> None:
        self.stream, self.layout, self.base = stream, Layout.read(stream), base
        if base and base.digest != self.layout.base:
            wanted = self.base_wanted if self.needs_base else f"none, for it is of mode {self.layout.mode}"
            raise Mismatch(f"the base given has sha256 {base.digest.hex()}; the file needs {wanted}")
        self.sections = self.layout.depth if bits is None else _sections_of(bits, self.layout.mode)
        self._kept: tuple[tuple[int, int], np.ndarray] = (-1, -1), np.empty(0)

    @property
    def index(self) -> Index:
        """Names, types, shapes."""
        return self.layout.index

    @property
    def needs_base(self) -> bool:
        """Whether its numbers are differences from those of another file."""
        return any(self.layout.base)

    @property
    def base_wanted(self) -> str:
        """The base by its hash and, where it is recorded and undamaged, the name of its file."""
        name = ""
        with suppress(BitstreamError):
            name = read_base_name(self.stream)
        return f"sha256 {self.layout.base.hex()}" + (f" ({name})" if name else "")

    @cached_property
    def chunk_numbers(self) -> dict[tuple[int, int, int], int]:
        """Position in the chunk table of each section, tensor and piece."""
        return {part: at for at, part in enumerate(self.layout.parts(), 1)}

    @cached_property
    def numbers(self) -> dict[str, int]:
        """Position in the index of each name."""
        return {entry.name: number for number, entry in enumerate(self.index.entries)}

    def entry(self, name: str) -> Entry:
        """A tensor's line; UnknownName if there is none."""
        if name not in self.numbers:
            raise UnknownName(f"no tensor {name!r}; the file has {', '.join(list(self.numbers)[:4])} ...")
        return self.index.entries[self.numbers[name]]

    def piece(self, number: int, index: int) -> np.ndarray:
        """Words of a piece of a tensor.

        Raises:
            BitstreamError: its chunk is damaged; the message names the tensor.
        """
        entry = self.index.entries[number]
        wanted = self.base_wanted if self.needs_base and not self.base else ""
        piece, total = Piece.of(entry, index, self.base, wanted), None
        with named(entry.name):
            for section in range(min(self.layout.sections[number], self.sections)):
                coder = TRELLIS_CODERS.read(self.stream.chunk(self.chunk_numbers[section, number, index]))
                known = code(coder, EXACT, piece, None)
                coder.finish()
                if known.dtype != np.float32:
                    return known
                total = known if total is None else total + known
            assert total is not None
            return words_from(total.reshape(-1), entry.dtype)

    def words(self, entry: Entry, span: range) -> np.ndarray:
        """Words of a tensor; keeps the piece it decoded last."""
        number, each = self.numbers[entry.name], entry.piece_words
        out = np.empty(len(span), f"<u{WORDS[entry.dtype].word}")
        for index in range(span.start // each, -(-span.stop // each) if span else 0):
            inside = entry.piece(index)
            start, stop = max(span.start, inside.start), min(span.stop, inside.stop)
            if len(inside) == len(span) and inside.start == span.start:
                return self.piece(number, index)
            if self._kept[0] != (number, index):
                self._kept = (number, index), self.piece(number, index)
            part = self._kept[1][start - inside.start : stop - inside.start]
            out[start - span.start : stop - span.start] = part
        return out

    def tensor(self, name: str) -> Tensor:
        """One tensor; errors as `piece`, and UnknownName."""
        return self.rows(name, None)

    def rows(self, name: str, rows: range | None) -> Tensor:
        """Rows of a tensor's first dimension, a range with step 1; None: all."""
        entry = self.entry(name)
        if rows is None:
            return tensor_of(self._writable(entry, range(entry.words)), entry.dtype, entry.shape)
        span = range(rows.start * entry.row_words, rows.stop * entry.row_words)
        return tensor_of(self._writable(entry, span), entry.dtype, (len(rows), *entry.shape[1:]))

    def _writable(self, entry: Entry, span: range) -> np.ndarray:
        words = self.words(entry, span)
        return words if words.flags.writeable else words.copy()

    def of_right_length(self) -> TensorFile:
        """The file itself.

        Raises:
            Truncated: it ends before the last chunk does; names the first tensor that it lacks a part of.
            Corrupt: it goes on after it.
        """
        try:
            self.stream.of_right_length()
        except Truncated as error:
            for (_, number, _), line in zip(self.layout.parts(), self.stream.entries[1:], strict=False):
                if line.offset + line.length > len(self.stream.data):
                    raise Truncated(f"{self.index.entries[number].name}: {error}") from None
            raise
        return self

    @cached_property
    def report(self) -> dict[str, dict[str, float]]:
        """Errors of tensors, as the encoder found them."""
        return read_report(self.stream)

    def check_remarks(self) -> None:
        """Read what is for people; BitstreamError if it is damaged."""
        read_base_name(self.stream)
        self.report  # noqa: B018

    def check(self) -> Iterator[int]:
        """Decode every piece; yields the bytes done.

        Raises:
            BitstreamError: the first damage; the message names the tensor.
        """
        for number, entry in enumerate(self.index.entries):
            for index in range(entry.pieces):
                yield self.piece(number, index).nbytes
        self.check_remarks()


@contextmanager
def named(name: str) -> Iterator[None]:
    """Errors of a stream say which tensor they are of."""
    try:
        yield
    except BitstreamError as error:
        raise type(error)(f"{name}: {error}") from None


def _sections_of(bits: float, mode: str) -> int:
    """Sections of a nested file for so many bits a weight; InputError if it has none of these, or is not nested."""
    if mode != "nested":
        raise InputError(f"--bits {bits:g}, but the file is of mode {mode}; only nested files hold fewer bits to choose")
    if bits not in NESTED_BITS:
        raise InputError(f"--bits {bits:g}; a nested file has {', '.join(map(str, NESTED_BITS))}")
    return NESTED_BITS.index(int(bits)) + 1


def verified(file: TensorFile) -> list[str]:
    """Decode every piece; without the base of a delta, checksums alone. What could not be checked.

    Raises:
        BitstreamError: anything is wrong with the file.
    """
    if file.needs_base and file.base is None:
        file.stream.check()
        return [f"checksums are right; numbers were not decoded, which takes the base, {file.base_wanted} (--base)"]
    for _ in file.check():
        pass
    return []


def safetensors_parts(file: TensorFile, progress: Progress | None = None) -> Iterator[bytes]:
    """The safetensors file of a stream, piece by piece; errors as `TensorFile.piece`."""
    index, done = file.index, 0
    yield len(index.text).to_bytes(8, "little") + index.text
    for number, entry in enumerate(index.entries):
        for piece in range(entry.pieces):
            words = file.piece(number, piece)
            yield words.tobytes()
            done += words.nbytes
            if progress:
                progress(done, index.raw_bytes)
    if file.sections >= file.layout.depth:  # of the beginning of a file the end is not asked for
        file.check_remarks()
