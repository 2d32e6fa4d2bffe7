"""A whole cache in one .rdc file: its blocks one after another, or only its tokens.

`header` specifies the signal header.

Content 0: each chunk is the file of one block (`blocks`), in order; ids chain, so a missing or foreign one shows. A last
chunk of kind metadata, if there is one, says in words who made the cache (`identity`).
Content 1: each chunk is a coding byte (0 plain ids of 4 bytes, 1 coded by the model, `text.token_model`), the number of
tokens (4 bytes), the block id of those tokens (16 bytes), and the ids.

A reader can stop at any chunk: a prefix is the first few.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from ....entropy_models.errors import BitstreamError, Corrupt, Mismatch, Truncated, Unsupported
from ... import container
from ...contract import Progress
from ..modes.profiles import Profile
from ..splice import Layers, cut, join
from .blocks import KvBlock, KvSettings, block_id, decode_parsed, encode_block
from .header import (
    BLOCKS,
    ROOT,
    STREAM_ID,
    TOKENS_MAX,
    WHOLE,
    SequenceHeader,
    chunk_count,
    pack_sequence,
    parse,
    parse_sequence,
)
from .identity import Fingerprint, fields_in

_RUN_HEAD = struct.Struct("<BI16s")
PLAIN_IDS, CODED_IDS = 0, 1
"""Codings of a run of token ids."""


def split(tokens: np.ndarray, layers: Layers, block_tokens: int) -> Iterator[tuple[int, KvBlock]]:
    """(start, block) along a cache of shape (kv_heads, tokens, head_dim) per layer."""
    for start in range(0, len(tokens), block_tokens):
        end = start + block_tokens
        yield start, KvBlock(tokens[start:end], cut(layers, start, end))


def join_blocks(blocks: Sequence[tuple[int, KvBlock]]) -> tuple[np.ndarray, Layers]:
    """Tokens and layers of successive (start, block), copied."""
    tokens = np.concatenate([np.zeros(0, np.int64), *(block.tokens for _, block in blocks)])
    return tokens, join([block.layers for _, block in blocks])


def encode_sequence(
    tokens: np.ndarray,
    layers: Layers,
    settings: KvSettings,
    *,
    fingerprint: bytes = bytes(16),
    salt: bytes = b"",
    progress: Progress | None = None,
    threads: int | None = None,
) -> bytes:
    """A cache's bytes; see `blocks.encode_block` for the arguments and errors."""
    chunks, parent = [], ROOT
    for start, block in split(tokens, layers, settings.block_tokens):
        chunks.append(
            encode_block(
                block, parent=parent, fingerprint=fingerprint, salt=salt, start=start, settings=settings,
                total=len(tokens), threads=threads,
            )
        )  # fmt: skip
        parent = block_id(parent, fingerprint, salt, block.tokens)
        if progress:
            progress(start + len(block.tokens), len(tokens))
    head = SequenceHeader(content=BLOCKS, tokens=len(tokens), fingerprint=fingerprint, last_id=parent)
    return write_sequence(head, chunks, fingerprint.record() if isinstance(fingerprint, Fingerprint) else None)


def write_sequence(head: SequenceHeader, chunks: Sequence[bytes], record: bytes | None = None) -> bytes:
    """The bytes of a file, with the record of an identity if there is one."""
    data = [(container.DATA, body) for body in chunks]
    data += [(container.METADATA, record)] if record else []
    return container.write(stream_id=STREAM_ID, weights=bytes(8), signal=pack_sequence(head), chunks=data)


def made_by(stream: container.Stream, head: SequenceHeader) -> dict[str, str] | None:
    """The fields of the identity that made a file; None: it does not tell, or they are not those of its fingerprint."""
    last = len(stream.entries) - 1
    try:
        return fields_in(stream.chunk(last) if chunk_count(stream) == last else None, head.fingerprint)
    except BitstreamError:
        return None


@torch.inference_mode()  # a fortieth of the time
def decode_blocks(
    data: bytes | memoryview | container.Stream,
    *,
    fingerprint: bytes | None = None,
    salt: bytes | None = None,
    layers: range | None = None,
    prefix: int | None = None,
    profile: Profile | None = None,
    progress: Progress | None = None,
    threads: int | None = None,
) -> list[tuple[int, KvBlock]]:
    """Blocks of a file with content 0 as (start, block), as far as ``prefix`` tokens reach (None: all).

    Their tensors are PyTorch's inference tensors; `join_blocks` makes usual ones of them.

    Args:
        fingerprint, salt, layers, profile, threads: as for `blocks.decode_block`.
        progress: called with (tokens done, tokens wanted).

    Raises:
        BitstreamError: damage, another model or salt, or blocks that do not follow each other; the message says how many
            tokens before it are intact.
    """
    stream, head = parse_sequence(data)
    if head.content == WHOLE:
        raise Unsupported("the file holds a whole cache with windows or recurrent states: load_cache in Python")
    if head.content != BLOCKS:
        raise Unsupported("the file holds token ids only; the cache has to be recomputed by the model")
    parent, at = ROOT, 0
    out: list[tuple[int, KvBlock]] = []
    wanted = head.tokens if prefix is None else min(prefix, head.tokens)
    for i in range(chunk_count(stream)):
        if at >= wanted:
            return out
        try:
            opened, header = parse(stream.unchecked(i))
            if header.parent != parent or header.start != at or header.fingerprint != head.fingerprint:
                raise Corrupt(f"it starts at token {header.start}, expected {at}, or follows another block")
            block = decode_parsed(
                opened, header, fingerprint=fingerprint, salt=salt, layers=layers, profile=profile, threads=threads
            )
        except BitstreamError as error:
            raise _of_block(error, stream, i, at) from error.__cause__
        start, at, parent = at, at + len(block.tokens), header.id
        if at > wanted:
            block = KvBlock(block.tokens[: wanted - start], cut(block.layers, 0, wanted - start))
        out.append((start, block))
        if progress:
            progress(min(at, wanted), wanted)
    if at < wanted or (prefix is None and parent != head.last_id):
        raise Truncated(f"blocks end at token {at}, the header says {head.tokens}")
    return out


def _of_block(error: BitstreamError, stream: container.Stream, index: int, intact: int) -> BitstreamError:
    """The error to raise for a block that cannot be read; ``intact``: tokens before it."""
    error = _damage(stream, index) or error
    if isinstance(error, Mismatch) and not index:  # so is the whole file
        return error
    before = f"; the {intact} tokens before it are intact, `codec decode --prefix {intact}` reads them" if intact else ""
    return type(error)(f"block {index}: {error}{before}")


def _damage(stream: container.Stream, index: int) -> BitstreamError | None:
    """The error in the bytes of a chunk, whatever their reader made of them."""
    try:
        stream.chunk(index)
    except BitstreamError as error:
        return error
    return None


class Run(NamedTuple):
    """A chunk of a file with content 1."""

    coding: int
    """`PLAIN_IDS` or `CODED_IDS`."""
    tokens: int
    """Number of ids, 1..65536."""
    id: bytes
    """Id of the block of these tokens."""
    body: bytes

    def pack(self) -> bytes:
        """The chunk's bytes."""
        return _RUN_HEAD.pack(self.coding, self.tokens, self.id) + self.body


def check_tokens(data: bytes | memoryview | container.Stream) -> int:
    """Check a file of token ids as far as that goes without the model: checksums and structure.

    Returns:
        How many of its ids only the model can decode.

    Raises:
        BitstreamError: damage.
    """
    return sum(run.tokens for run in token_runs(*parse_sequence(data)) if run.coding == CODED_IDS)


def token_runs(stream: container.Stream, head: SequenceHeader) -> Iterator[Run]:
    """Runs of a file with content 1, checked as far as they go without decoding."""
    at, last = 0, ROOT
    for i in range(chunk_count(stream)):
        chunk = stream.chunk(i)
        if len(chunk) < _RUN_HEAD.size:
            raise Truncated(f"run {i} has {len(chunk)} bytes; at least {_RUN_HEAD.size}")
        coding, count, last = _RUN_HEAD.unpack_from(chunk)
        body, at = chunk[_RUN_HEAD.size :], at + count
        if coding > CODED_IDS or not 1 <= count <= TOKENS_MAX or at > head.tokens:
            raise Corrupt(f"run {i}: coding {coding}, {count} of {head.tokens} tokens: out of range")
        if coding == PLAIN_IDS and len(body) != 4 * count:
            raise Corrupt(f"plain ids of {len(body)} bytes for {count} tokens")
        yield Run(coding, count, last, body)
    if at != head.tokens or last != head.last_id:
        raise Truncated(f"{at} tokens, the header says {head.tokens}")
