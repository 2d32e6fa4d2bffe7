"""State files of llama.cpp (``llama_state_seq_save_file``, slots that its server saves): read and written.

    cache = read_state(Path("slot.bin").read_bytes(), head_dim=64)
    data = load("kv").encode(cache)                               # to keep or send
    Path("slot.bin").write_bytes(write_state(load("kv").decode(data)))

Keys are as llama.cpp turned them, with the two halves of its RoPE side by side: these caches are not those of transformers.
Layout of version 4, little-endian (4 bytes where nothing is said), which is the only one known here:

- "qsgg", 4, number of words, words: token ids, or of a server's slot -1, 1, n, n ids, 0
- 1 (streams), number of cells, for each cell its position, 1, 0 (of one sequence)
- whether values are transposed, number of layers, whether keys and whether values are rotated (those of quantised rows are)
- for each layer type, bytes of a row (8), rows of keys; then for each layer the same of values or, transposed, type, bytes
  of an element, channels, and for each channel its elements
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from ...entropy_models.errors import BitstreamError, InputError, Truncated, Unsupported
from .codec import Cache

MAGIC, VERSION = b"qsgg", 4
_TYPES = {0: torch.float32, 1: torch.float16, 30: torch.bfloat16}
_SERVER = -1


class _Reader:
    """Numbers and rows, one after the other."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def take(self, size: int) -> bytes:
        if size < 0 or size > len(self._data) - self._at:
            raise Truncated(f"{len(self._data) - self._at} bytes are left, need {size}")
        self._at += size
        return self._data[self._at - size : self._at]

    def number(self, form: str = "<i") -> int:
        (value,) = struct.unpack(form, self.take(struct.calcsize(form)))
        return int(value)

    def numbers(self, count: int) -> np.ndarray:
        return np.frombuffer(self.take(4 * count), "<i4").astype(np.int64)

    def left(self) -> int:
        return len(self._data) - self._at


def read_state(data: bytes, *, head_dim: int) -> Cache:
    """The cache of a state file of one sequence.

    Args:
        head_dim: channels of a head, which the file does not tell.

    Returns:
        token ids, and keys and values of shape (kv_heads, n, head_dim); float16 where llama.cpp's own default was kept.

    Raises:
        BitstreamError: the file is damaged, or (`Unsupported`) of another version or several sequences or quantised rows.
    """
    reader = _Reader(data)
    magic, version = reader.take(4), reader.number()
    if magic != MAGIC or version != VERSION:
        raise Unsupported(f"a file that begins with {magic!r}, version {version}; known is {MAGIC!r}, version {VERSION}")
    tokens = _tokens(reader.numbers(reader.number()))
    streams, cells = reader.number(), reader.number()
    places = reader.numbers(3 * cells).reshape(-1, 3)
    if streams != 1 or (places != [[i, 1, 0] for i in range(cells)]).any():
        raise Unsupported("a state of several sequences, or with gaps between positions")
    if len(tokens) != cells:
        raise Unsupported(f"{len(tokens)} tokens for {cells} positions")
    transposed, count = reader.number(), reader.number()
    if any(reader.numbers(2)):
        raise Unsupported("keys or values that are rotated")
    if not 0 < count <= reader.left():
        raise Unsupported(f"{count} layers")
    keys = [_rows(reader, cells) for _ in range(count)]
    values = [_columns(reader, cells) if transposed else _rows(reader, cells) for _ in range(count)]
    if reader.left():
        raise Unsupported(f"{reader.left()} bytes after the last layer: a cache with more than keys and values")
    if any(x.shape[1] % head_dim for x in (*keys, *values)):
        raise InputError(f"rows of {keys[0].shape[1]} channels, which are no multiple of head_dim {head_dim}")
    split = (tuple(x.view(cells, -1, head_dim).transpose(0, 1) for x in pair) for pair in zip(keys, values, strict=True))
    return Cache(tokens, tuple((k, v) for k, v in split))


def _tokens(words: np.ndarray) -> np.ndarray:
    if not len(words) or words[0] != _SERVER:
        return words
    if len(words) < 4 or words[1] != 1 or words[2] != len(words) - 4 or words[-1] != 0:
        raise Unsupported("a slot whose prompt has pictures or sounds, or of another version of the server")
    return words[3:-1]


def _rows(reader: _Reader, cells: int) -> Tensor:
    kind, size = _type(reader.number()), reader.number("<Q")
    return torch.frombuffer(bytearray(reader.take(size * cells)), dtype=kind).view(cells, -1)


def _columns(reader: _Reader, cells: int) -> Tensor:
    kind, size, channels = _type(reader.number()), reader.number(), reader.number()
    return torch.frombuffer(bytearray(reader.take(size * channels * cells)), dtype=kind).view(channels, cells).T.contiguous()


def _type(number: int) -> torch.dtype:
    if number not in _TYPES:
        raise Unsupported(f"elements of ggml type {number}; known are f32, f16 and bf16 (--cache-type-k, --cache-type-v)")
    return _TYPES[number]


def write_state(cache: Cache, *, transposed: bool = False, server: bool = True) -> bytes:
    """The state file of a cache, for the model that made it.

    Args:
        cache: as `read_state` gives it.
        transposed: as values lie where flash attention is off.
        server: a slot of llama.cpp's server; else what ``llama_state_seq_save_file`` writes.

    Raises:
        ValueError: element types that llama.cpp's caches do not have.
    """
    numbers = {kind: number for number, kind in _TYPES.items()}
    if any(x.dtype not in numbers for pair in cache.layers for x in pair):
        raise InputError("element types of llama.cpp are float32, float16 and bfloat16")
    count = len(cache.tokens)
    words = [_SERVER, 1, count, *cache.tokens.tolist(), 0] if server else cache.tokens.tolist()
    places = [word for i in range(count) for word in (i, 1, 0)]

    def parts() -> Iterator[bytes]:
        yield MAGIC + struct.pack(f"<{2 + len(words)}i", VERSION, len(words), *words)
        yield struct.pack(f"<{6 + len(places)}i", 1, count, *places, int(transposed), len(cache.layers), 0, 0)
        for which, by_column in ((0, False), (1, transposed)):
            for pair in cache.layers:
                rows = pair[which].transpose(0, 1).reshape(count, -1)
                width, size = rows.shape[1], rows.element_size()
                if by_column:
                    yield struct.pack("<iii", numbers[rows.dtype], size, width)
                else:
                    yield struct.pack("<iQ", numbers[rows.dtype], width * size)
                yield (rows.T if by_column else rows).contiguous().view(torch.uint8).numpy().tobytes()

    return b"".join(parts())


__all__ = ["BitstreamError", "read_state", "write_state"]
