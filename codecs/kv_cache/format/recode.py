"""A block's numbers, exactly, in another mode of the same coding pass: ``quantized`` and ``quantized-small``.

Decoding and encoding again would round anew, and lose a little each time.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ....entropy_models.row_coders import ChunkReader, ChunkWriter
from ..modes.table import MODES
from .blocks import assembled
from .coding_pass import coding_pass
from .header import FIRST, parse, stored_layers


class _Pass:
    """Both ends of a coding pass: what is read from one chunk is written into another."""

    def __init__(self, reader: ChunkReader, writer: ChunkWriter) -> None:
        self.reader, self.writer = reader, writer

    def number(self, value: Any, kind: str) -> Any:
        return self.writer.number(self.reader.number(None, kind), kind)

    def vector(self, values: Any, count: int) -> np.ndarray:
        return self.writer.vector(self.reader.vector(None, count), count)

    def rows(self, values: np.ndarray, level: np.ndarray) -> np.ndarray:
        return self.writer.rows(np.asarray(self.reader.rows(values, level), np.int32), level)

    def finish(self) -> None:
        self.reader.finish()
        self.writer.finish()


def same_numbers(mode: str, other: str) -> bool:
    """Whether two modes code the same numbers of a tensor, and differ in the coder alone."""
    return MODES[mode].target == MODES[other].target


def recode_block(data: bytes, mode: str) -> bytes:
    """A block in a mode of the same numbers.

    Args:
        data: a block's bytes.
        mode: for which `same_numbers` holds.

    Returns:
        The bytes that `encode_block` writes in that mode of what the block was made of.

    Raises:
        BitstreamError: anything wrong with the bytes.
    """
    stream, head = parse(data)
    read, write = MODES[head.mode].coders.read, MODES[mode].coders.write
    coders = [_Pass(read(stream.chunk(FIRST + i)), write()) for i in range(2 * stored_layers(head))]
    with torch.inference_mode():
        coding_pass(coders, head, wanted=False)
    states = [stream.chunk(FIRST + len(coders))] if head.has_states else []
    return assembled(replace(head, mode=mode), stream.chunk(1), [*(coder.writer.chunk() for coder in coders), *states])
