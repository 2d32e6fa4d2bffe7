"""What a tensor file says before its numbers: signal header, index, and which chunk holds what. No numpy, no torch here.

Signal header, little-endian, 42 bytes:

======  ====  ====================================================================================
offset  size  field
======  ====  ====================================================================================
0       1     mode (`MODES`)
1       1     sections, 1..8: how often the tensors follow each other, each time finer
2       8     words of all tensors (see below), for a reader that has not read the index
10      32    of mode delta the base: sha256 of a safetensors file (`base`); else zeros
======  ====  ====================================================================================

The first chunk, of kind `INDEX`, is a zlib stream of: number of bytes of a safetensors header (4), that header (JSON: names,
types, shapes, offsets and metadata, as in the original file, so that a decoded file is the original one byte for byte),
then a byte for each tensor, in the order of offsets: the sections that hold parts of it, 1 or all.

Then, for each section, for each tensor in the order of offsets that has parts there, the chunks of kind 0 of its pieces. A
tensor is a row of words (`WORDS`), little-endian integers that its numbers' bits make; a piece is the next so many of them
(`piece_words`): whole rows of the first dimension where a row has no more than `PIECE_WORDS`. A tensor without elements has
no piece. The first byte of a chunk's raw part says how it is coded (`coding.CODINGS`), so a chunk needs no other to be read,
but those of the same piece in earlier sections.

The last chunk is for people; a decoder does not need it. Of kind `REPORT`, in lossy modes: a zlib stream of JSON, the error
of each tensor by its name. Of kind `BASE_NAME`, in mode delta where the base had one: the name of its file, UTF-8.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ...entropy_models.errors import Corrupt, InputError, Unsupported
from .. import container

STREAM_ID = 5
INDEX, REPORT, BASE_NAME = 2, 3, 4
"""Kinds of chunks."""
MODES = {"lossless": 0, "delta": 1, "quantized": 2, "nested": 3}
"""Number of each mode. Pinned for ever."""
SECTIONS_MAX = 8
NESTED_BITS = (2, 4, 8)
"""Bits a weight, about, of a nested file's sections so far."""
STRUCTURE = "rdcodec.torch"
"""Name among the metadata of what a torch file holds around its tensors (`torch_files`)."""
PIECE_WORDS = 1 << 20
INDEX_BYTES_MAX = 1 << 27
BASE_BYTES = 32
_SIGNAL = struct.Struct("<BBQ32s")
_LENGTH = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class WordType:
    """How numbers of a type become words."""

    bits: int
    """Bits of a number."""
    word: int
    """Bytes of a word: 1, 2, 4 or 8."""
    floating: bool = False


WORDS = {
    "BOOL": WordType(8, 1), "U8": WordType(8, 1), "I8": WordType(8, 1), "F8_E8M0": WordType(8, 1),
    "F8_E4M3": WordType(8, 1, True), "F8_E5M2": WordType(8, 1, True),
    "F8_E4M3FNUZ": WordType(8, 1, True), "F8_E5M2FNUZ": WordType(8, 1, True),
    "F4": WordType(4, 1), "F6_E2M3": WordType(6, 1), "F6_E3M2": WordType(6, 1),
    "I16": WordType(16, 2), "U16": WordType(16, 2), "F16": WordType(16, 2, True), "BF16": WordType(16, 2, True),
    "I32": WordType(32, 4), "U32": WordType(32, 4), "F32": WordType(32, 4, True),
    "I64": WordType(64, 8), "U64": WordType(64, 8), "F64": WordType(64, 8, True), "C64": WordType(64, 4),
}  # fmt: skip
"""Types of numbers by their names in safetensors. A complex number is two words, one of 4 or 6 bits a part of a byte."""


@dataclass(frozen=True)
class Entry:
    """A tensor's line of the index."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    """Offset in the tensors' bytes."""

    @cached_property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @cached_property
    def raw_bytes(self) -> int:
        """Bytes of its numbers."""
        return self.elements * WORDS[self.dtype].bits // 8

    @cached_property
    def words(self) -> int:
        """Number of its words."""
        return self.raw_bytes // WORDS[self.dtype].word

    @cached_property
    def row_words(self) -> int:
        """Words of a row of the first dimension; of all where rows do not end at words."""
        rows = self.shape[0] if self.shape else 1
        return self.words // rows if rows and self.words % rows == 0 else self.words

    @cached_property
    def piece_words(self) -> int:
        """Words of every piece but the last."""
        row = self.row_words
        return PIECE_WORDS // row * row if 0 < row <= PIECE_WORDS else PIECE_WORDS

    @cached_property
    def pieces(self) -> int:
        """Number of its pieces."""
        return -(-self.words // self.piece_words)

    def piece(self, index: int) -> range:
        """Words of a piece."""
        return range(index * self.piece_words, min((index + 1) * self.piece_words, self.words))


@dataclass(frozen=True)
class Index:
    """Names, types and shapes of all tensors: a safetensors header."""

    text: bytes
    """The header's JSON, as it is in the file."""
    entries: tuple[Entry, ...]
    """In the order of offsets."""
    metadata: Mapping[str, str]

    @classmethod
    def parse(cls, text: bytes, error: type[ValueError] = InputError) -> Index:
        """Index of a header's JSON; ``error`` for one that safetensors would not take."""
        try:
            fields = json.loads(text)
            metadata = fields.pop("__metadata__", None) or {}
            if not all(isinstance(value, str) for value in metadata.values()):
                raise ValueError("its metadata are not texts")
            entries = sorted((_entry(name, line) for name, line in fields.items()), key=lambda e: (e.start, e.raw_bytes))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as wrong:
            raise error(f"no safetensors header: {wrong}") from None
        end = 0
        for entry in entries:
            if entry.start != end:
                raise error(f"{entry.name}: its numbers begin at byte {entry.start}, and those before end at {end}")
            end += entry.raw_bytes
        return cls(text, tuple(entries), metadata)

    @classmethod
    def of(cls, tensors: Mapping[str, tuple[str, tuple[int, ...]]], metadata: Mapping[str, str]) -> Index:
        """Index of tensors by name, each a type and a shape; InputError for the name that safetensors keeps for metadata."""
        if "__metadata__" in tensors:
            raise InputError("a tensor of the name __metadata__, which safetensors keeps for other things")
        fields: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
        end = 0
        for name, (dtype, shape) in tensors.items():
            start, end = end, end + math.prod(shape) * WORDS[dtype].bits // 8
            fields[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
        text = json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()
        return cls.parse(text + b" " * (-len(text) % 8))

    @cached_property
    def raw_bytes(self) -> int:
        """Bytes of all tensors' numbers."""
        return sum(entry.raw_bytes for entry in self.entries)

    @cached_property
    def words(self) -> int:
        """Words of all tensors."""
        return sum(entry.words for entry in self.entries)


def _entry(name: str, line: Mapping[str, Any]) -> Entry:
    dtype, shape, (start, end) = line["dtype"], tuple(line["shape"]), line["data_offsets"]
    if dtype not in WORDS:
        raise ValueError(f"{name}: type {dtype!r}; there are {', '.join(WORDS)}")
    if not all(type(n) is int and 0 <= n < 1 << 48 for n in (*shape, start, end)):
        raise ValueError(f"{name}: shape {shape}, bytes {start} to {end}; need whole numbers")
    entry = Entry(name, dtype, shape, start)
    if entry.elements * WORDS[dtype].bits != 8 * (end - start):
        raise ValueError(f"{name}: {end - start} bytes for shape {shape} of {dtype}")
    return entry


@dataclass(frozen=True)
class Layout:
    """Which chunk of a file holds what."""

    mode: str
    index: Index
    sections: tuple[int, ...]
    """Of each tensor, in the index's order: how many sections hold parts of it."""
    base: bytes = bytes(BASE_BYTES)
    """sha256 of the base; zeros if there is none."""

    def pack(self) -> tuple[bytes, bytes]:
        """Signal header, and body of the index's chunk."""
        signal = _SIGNAL.pack(MODES[self.mode], self.depth, self.index.words, self.base)
        body = _LENGTH.pack(len(self.index.text)) + self.index.text + bytes(self.sections)
        return signal, zlib.compress(body, 9)

    @property
    def depth(self) -> int:
        """Number of sections."""
        return max(self.sections, default=1)

    def parts(self) -> Iterator[tuple[int, int, int]]:
        """Section, tensor and piece of each data chunk, in their order."""
        for section in range(self.depth):
            for number, entry in enumerate(self.index.entries):
                if section < self.sections[number]:
                    yield from ((section, number, piece) for piece in range(entry.pieces))

    @property
    def chunks(self) -> int:
        """Number of data chunks."""
        return sum(entry.pieces * count for entry, count in zip(self.index.entries, self.sections, strict=True))

    @classmethod
    def read(cls, stream: container.Stream) -> Layout:
        """Layout of a file.

        Raises:
            BitstreamError: it is none, or its index does not fit its chunks.
        """
        if stream.stream_id != STREAM_ID:
            raise Unsupported(f"stream id {stream.stream_id}, the tensor codec is {STREAM_ID}")
        if any(stream.weights) or len(stream.signal) != _SIGNAL.size:
            raise Unsupported(f"weights {stream.weights.hex()}, a signal header of {len(stream.signal)} bytes")
        number, depth, words, base = _SIGNAL.unpack(stream.signal)
        mode = next((name for name, value in MODES.items() if value == number), None)
        if mode is None or not 1 <= depth <= SECTIONS_MAX or any(base) != (mode == "delta"):
            raise Unsupported(f"mode {number} of tensor files, {depth} sections; this program knows {', '.join(MODES)}")
        if not stream.entries or stream.entries[0].kind != INDEX:
            raise Corrupt("the first chunk is not the index")
        body = container.inflated(stream.chunk(0), INDEX_BYTES_MAX)
        size = _LENGTH.unpack_from(body)[0] + _LENGTH.size if len(body) >= _LENGTH.size else len(body) + 1
        if size > len(body):
            raise Corrupt(f"an index of {len(body)} bytes; its header needs {size}")
        index, sections = Index.parse(body[_LENGTH.size : size], Corrupt), tuple(body[size:])
        if len(sections) != len(index.entries) or any(count not in (1, depth) for count in sections) or index.words != words:
            raise Corrupt(f"{len(sections)} counts of sections for {len(index.entries)} tensors, {words} words")
        found = cls(mode, index, sections, base)
        kinds = [entry.kind for entry in stream.entries[1:]]
        if found.depth != depth or found.chunks > len(kinds) or any(kinds[: found.chunks]):
            raise Corrupt(f"{len(kinds)} chunks after the index; its tensors need {found.chunks}")
        if kinds[found.chunks :] not in ([], [BASE_NAME if mode == "delta" else REPORT]):
            raise Corrupt(f"chunks of kinds {kinds[found.chunks :][:4]} after the tensors")
        return found


def pack_report(errors: Mapping[str, Mapping[str, float]]) -> bytes:
    """Body of the report's chunk."""
    return zlib.compress(json.dumps(errors).encode(), 9)


def read_report(stream: container.Stream) -> dict[str, dict[str, float]]:
    """Errors of tensors by name; empty where there is no report.

    Raises:
        BitstreamError: it is damaged.
    """
    if not (found := stream.indices(REPORT)):
        return {}
    try:
        report = json.loads(container.inflated(stream.chunk(found[-1]), INDEX_BYTES_MAX))
        return {name: {key: float(value) for key, value in line.items()} for name, line in report.items()}
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise Corrupt(f"the report: {error}") from None


def read_base_name(stream: container.Stream) -> str:
    """Name of the base's file; empty where none is recorded.

    Raises:
        BitstreamError: it is damaged.
    """
    if not (found := stream.indices(BASE_NAME)):
        return ""
    try:
        return bytes(stream.chunk(found[-1])).decode()
    except UnicodeDecodeError as error:
        raise Corrupt(f"the base's name: {error}") from None
