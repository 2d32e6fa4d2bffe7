"""Mode ``tokens``: files of ids alone, coded by the model that will recompute the cache (`format.sequence`, content 1)."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch

from ....entropy_models.errors import BitstreamError, Mismatch, Unsupported
from ...container import Stream
from ...contract import Progress
from ...text.token_model import TokenModel, decode_ids, encode_ids, plain_ids, with_threads
from ..format.blocks import block_id
from ..format.header import ROOT, THREADS_MAX, TOKEN_IDS, SequenceHeader, parse_sequence
from ..format.sequence import CODED_IDS, PLAIN_IDS, Run, token_runs, write_sequence

RUN_TOKENS = 4096
"""Tokens of one coded run: a coder's last words cost 5 bytes, 1 % of a run of 1,000."""


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
    writer, reader = TokenModel(model), TokenModel(model)
    chunks, parent, fed = [], ROOT, itertools.count(1)
    if progress:  # the model runs once a token to write, once more to verify
        writer.on_feed = reader.on_feed = lambda: progress(min(next(fed) // (1 + verify), len(tokens)), len(tokens))
    for start in range(0, len(tokens), RUN_TOKENS):
        run = tokens[start : start + RUN_TOKENS]
        coding, body = CODED_IDS, encode_ids(writer, run)
        if verify and not _comes_back(reader, body, run):
            coding, body = PLAIN_IDS, plain_ids(run)
            reader = _fed(model, tokens[: start + len(run)])
        parent = block_id(parent, fingerprint, salt, run)
        chunks.append(Run(coding, len(run), parent, body).pack())
    threads = torch.get_num_threads()
    head = SequenceHeader(
        content=TOKEN_IDS, tokens=len(tokens), fingerprint=fingerprint, last_id=parent,
        threads=threads if threads <= THREADS_MAX else 0,
    )  # fmt: skip
    return write_sequence(head, chunks)


def _fed(model: Any, tokens: np.ndarray) -> TokenModel:
    """A token model that was fed these ids."""
    state = TokenModel(model)
    for token in tokens:
        state.feed(int(token))
    return state


def _comes_back(reader: TokenModel, body: bytes, run: np.ndarray) -> bool:
    try:
        return bool(np.array_equal(decode_ids(reader, body, len(run)), run))
    except BitstreamError:
        return False


def decode_tokens(
    data: bytes | memoryview | Stream,
    model: Any,
    *,
    fingerprint: bytes | None,
    salt: bytes,
    prefix: int | None = None,
    progress: Progress | None = None,
) -> np.ndarray:
    """Ids of a file with content 1, int64.

    Args:
        prefix: runs of `RUN_TOKENS` ids after the one that holds the last of so many are left out.
        progress: called with (tokens done, tokens in the file).

    Raises:
        BitstreamError: damage, another model or salt, or a machine whose probabilities differ from the writer's.
    """
    stream, head = parse_sequence(data)
    if head.content != TOKEN_IDS:
        raise Unsupported("the file holds blocks, not token ids alone")
    if fingerprint is not None and head.fingerprint != fingerprint:
        raise Mismatch(f"the file is of model {head.fingerprint.hex()}, expected {fingerprint.hex()}")
    state, parent, fed = TokenModel(model), ROOT, itertools.count(1)
    if progress:
        state.on_feed = lambda: progress(next(fed), head.tokens)
    runs: list[np.ndarray] = []
    for i, run in enumerate(token_runs(stream, head)):
        with with_threads(head.threads):
            ids = _ids_of(state, run)
        if block_id(parent, head.fingerprint, salt, ids) != run.id:
            raise Mismatch(
                f"run {i} does not hash to its id: another salt, or other probabilities than the writer's (mode tokens "
                "needs its hardware, PyTorch and attention implementation)"
            )
        runs.append(ids)
        parent = run.id
        if prefix is not None and sum(map(len, runs)) >= prefix:
            return np.concatenate(runs)
    return np.concatenate(runs) if runs else np.zeros(0, np.int64)


def _ids_of(state: TokenModel, run: Run) -> np.ndarray:
    if run.coding == CODED_IDS:
        return decode_ids(state, run.body, run.tokens)
    ids = np.frombuffer(run.body, "<u4").astype(np.int64)
    for token in ids:
        state.feed(int(token))
    return ids
