"""A whole cache in one .rdc file: its blocks one after another, or only its tokens.

`header` specifies the signal header.

Content 0: each chunk is the file of one block (`blocks`), in order; ids chain, so a missing or foreign one shows.
Content 1: each chunk is a coding byte (0 plain ids of 4 bytes, 1 coded by the model, `tokens`), the number of tokens
(4 bytes), the block id of those tokens (16 bytes), and the ids. A reader can stop at any chunk: a prefix is the first
few.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ....entropy_models.errors import BitstreamError, Corrupt, Mismatch, Truncated, Unsupported
from ... import container
from ...text import token_model as token_coding
from .blocks import KvBlock, KvSettings, block_id, decode_parsed, encode_block
from .header import (
    BLOCKS,
    ROOT,
    STREAM_ID,
    THREADS_MAX,
    TOKEN_IDS,
    TOKENS_MAX,
    SequenceHeader,
    pack_sequence,
    parse,
    parse_sequence,
)

_TOKENS_HEAD = struct.Struct("<BI16s")
CODED_TOKENS = 4096
"""Tokens of one coded run: a coder's last words cost 5 bytes, 1 % of a run of 1,000."""
Layers = tuple[tuple[Any, Any], ...]
Progress = Callable[[int, int], None]
"""Called with (tokens done, tokens in all)."""


def split(tokens: np.ndarray, layers: Layers, block_tokens: int) -> Iterator[tuple[int, KvBlock]]:
    """(start, block) along a cache of shape (kv_heads, tokens, head_dim) per layer."""
    for start in range(0, len(tokens), block_tokens):
        part = slice(start, start + block_tokens)
        yield start, KvBlock(tokens[part], tuple((k[:, part], v[:, part]) for k, v in layers))


def encode_sequence(
    tokens: np.ndarray,
    layers: Layers,
    settings: KvSettings,
    *,
    fingerprint: bytes = bytes(16),
    salt: bytes = b"",
    progress: Progress | None = None,
) -> bytes:
    """A cache's bytes; see `blocks.encode_block` for the arguments and errors."""
    chunks, parent = [], ROOT
    for start, block in split(tokens, layers, settings.block_tokens):
        chunks.append(
            encode_block(
                block, parent=parent, fingerprint=fingerprint, salt=salt, start=start, settings=settings,
                total=len(tokens),
            )
        )  # fmt: skip
        parent = block_id(parent, fingerprint, salt, block.tokens)
        if progress:
            progress(start + len(block.tokens), len(tokens))
    return _write(SequenceHeader(BLOCKS, len(tokens), fingerprint, parent), chunks)


def encode_tokens(
    model: Any,
    tokens: np.ndarray,
    *,
    fingerprint: bytes,
    salt: bytes = b"",
    verify: bool = True,
    progress: Progress | None = None,
) -> bytes:
    """Only the ids, coded by the model; ``verify`` decodes each run and keeps plain ids where it does not come back."""
    writer, reader = token_coding.TokenModel(model), token_coding.TokenModel(model)
    chunks, parent, fed = [], ROOT, itertools.count(1)
    if progress:  # the model runs once a token to write, once more to verify
        writer.on_feed = reader.on_feed = lambda: progress(min(next(fed) // (1 + verify), len(tokens)), len(tokens))
    for start in range(0, len(tokens), CODED_TOKENS):
        run = tokens[start : start + CODED_TOKENS]
        coding, body = 1, token_coding.encode_ids(writer, run)
        if verify and not _comes_back(reader, body, run):
            coding, body = 0, token_coding.plain_ids(run)
            reader = writer_at(model, tokens[: start + len(run)])
        parent = block_id(parent, fingerprint, salt, run)
        chunks.append(_TOKENS_HEAD.pack(coding, len(run), parent) + body)
    threads = torch.get_num_threads()
    head = SequenceHeader(TOKEN_IDS, len(tokens), fingerprint, parent, threads if threads <= THREADS_MAX else 0)
    return _write(head, chunks)


def writer_at(model: Any, tokens: np.ndarray) -> token_coding.TokenModel:
    """A token model that was fed these ids."""
    state = token_coding.TokenModel(model)
    for token in tokens:
        state.feed(int(token))
    return state


def _comes_back(reader: token_coding.TokenModel, body: bytes, run: np.ndarray) -> bool:
    try:
        return bool(np.array_equal(token_coding.decode_ids(reader, body, len(run)), run))
    except BitstreamError:
        return False


def _write(head: SequenceHeader, chunks: Sequence[bytes]) -> bytes:
    data = [(container.DATA, body) for body in chunks]
    return container.write(stream_id=STREAM_ID, weights=bytes(8), signal=pack_sequence(head), chunks=data)


@torch.inference_mode()  # a fortieth of the time
def decode_blocks(
    data: bytes | memoryview | container.Stream,
    *,
    fingerprint: bytes | None = None,
    salt: bytes | None = None,
    layers: range | None = None,
    prefix: int | None = None,
    progress: Progress | None = None,
) -> list[tuple[int, KvBlock]]:
    """Blocks of a file with content 0 as (start, block), as far as ``prefix`` tokens reach (None: all).

    Their tensors are PyTorch's inference tensors; `codec.join` makes usual ones of them.

    Raises:
        BitstreamError: damage, another model or salt, or blocks that do not follow each other; the message says how many
            tokens before it are intact.
    """
    stream, head = parse_sequence(data)
    if head.content != BLOCKS:
        raise Unsupported("the file holds token ids only; the cache has to be recomputed by the model")
    parent, at = ROOT, 0
    out: list[tuple[int, KvBlock]] = []
    wanted = head.tokens if prefix is None else min(prefix, head.tokens)
    for i in range(len(stream.entries)):
        if at >= wanted:
            return out
        try:
            opened, header = parse(stream.unchecked(i))
            if header.parent != parent or header.start != at or header.fingerprint != head.fingerprint:
                raise Corrupt(f"it starts at token {header.start}, expected {at}, or follows another block")
            block = decode_parsed(opened, header, fingerprint=fingerprint, salt=salt, layers=layers)
        except BitstreamError as error:
            error = _damage(stream, i) or error
            if isinstance(error, Mismatch) and not i:  # so is the whole file
                raise
            intact = f"; the {at} tokens before it are intact, `codec decode --prefix {at}` reads them" if at else ""
            raise type(error)(f"block {i}: {error}{intact}") from error
        start, at, parent = at, at + len(block.tokens), header.id
        if at > wanted:
            keep = wanted - start
            cut = tuple((k[:, :keep], v[:, :keep]) for k, v in block.layers)
            block = replace(block, tokens=block.tokens[:keep], layers=cut)
        out.append((start, block))
        if progress:
            progress(min(at, wanted), wanted)
    if at < wanted or (prefix is None and parent != head.last_id):
        raise Truncated(f"blocks end at token {at}, the header says {head.tokens}")
    return out


def _damage(stream: container.Stream, index: int) -> BitstreamError | None:
    """What is wrong with the bytes of a chunk, whatever their reader made of them."""
    try:
        stream.chunk(index)
    except BitstreamError as error:
        return error
    return None


def decode_tokens(
    data: bytes | memoryview | container.Stream,
    model: Any,
    *,
    fingerprint: bytes | None,
    salt: bytes,
    prefix: int | None = None,
    progress: Progress | None = None,
) -> np.ndarray:
    """Ids of a file with content 1, int64.

    Args:
        prefix: runs of `CODED_TOKENS` ids after the one that holds the last of so many are left out.
        progress: called with (tokens done, tokens in the file).

    Raises:
        BitstreamError: damage, another model or salt, or a machine whose probabilities differ from the writer's.
    """
    stream, head = parse_sequence(data)
    if head.content != TOKEN_IDS:
        raise Unsupported("the file holds blocks, not token ids alone")
    if fingerprint is not None and head.fingerprint != fingerprint:
        raise Mismatch(f"the file is of model {head.fingerprint.hex()}, expected {fingerprint.hex()}")
    state, parent, fed = token_coding.TokenModel(model), ROOT, itertools.count(1)
    if progress:
        state.on_feed = lambda: progress(next(fed), head.tokens)
    runs: list[np.ndarray] = []
    for i, (coding, count, name, body) in enumerate(_runs(stream, head)):
        with token_coding.with_threads(head.threads):
            ids = _run_ids(state, coding, body, count)
        if block_id(parent, head.fingerprint, salt, ids) != name:
            raise Mismatch(
                f"run {i} does not hash to its id: another salt, or other probabilities than the writer's (mode tokens "
                "needs its hardware, PyTorch and attention implementation)"
            )
        runs.append(ids)
        parent = name
        if prefix is not None and sum(map(len, runs)) >= prefix:
            return np.concatenate(runs)
    return np.concatenate(runs) if runs else np.zeros(0, np.int64)


def check_tokens(data: bytes | memoryview | container.Stream) -> int:
    """What can be checked of a file with content 1 without the model: checksums and structure.

    Returns:
        How many of its ids only the model can decode.

    Raises:
        BitstreamError: damage.
    """
    return sum(count for coding, count, *_ in _runs(*parse_sequence(data)) if coding)


def _runs(stream: container.Stream, head: SequenceHeader) -> Iterator[tuple[int, int, bytes, bytes]]:
    """Coding, number of tokens, block id and body of each run, checked as far as they go without decoding."""
    at, last = 0, ROOT
    for i in range(len(stream.entries)):
        chunk = stream.chunk(i)
        if len(chunk) < _TOKENS_HEAD.size:
            raise Truncated(f"run {i} has {len(chunk)} bytes; at least {_TOKENS_HEAD.size}")
        coding, count, last = _TOKENS_HEAD.unpack_from(chunk)
        body, at = chunk[_TOKENS_HEAD.size :], at + count
        if coding > 1 or not 1 <= count <= TOKENS_MAX or at > head.tokens:
            raise Corrupt(f"run {i}: coding {coding}, {count} of {head.tokens} tokens: out of range")
        if not coding and len(body) != 4 * count:
            raise Corrupt(f"plain ids of {len(body)} bytes for {count} tokens")
        yield coding, count, last, body
    if at != head.tokens or last != head.last_id:
        raise Truncated(f"{at} tokens, the header says {head.tokens}")


def _run_ids(state: token_coding.TokenModel, coding: int, body: bytes, count: int) -> np.ndarray:
    if coding:
        return token_coding.decode_ids(state, body, count)
    ids = np.frombuffer(body, "<u4").astype(np.int64)
    for token in ids:
        state.feed(int(token))
    return ids
