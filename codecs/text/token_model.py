"""Token ids, arithmetic-coded with the model's own next-token probabilities; the cache is recomputed on load.

This is what "sequential KV compression" (2604.15356) reaches: the entropy of the cache given the model is that of
the tokens, and coding the tokens attains it. The price is a prefill on load, and a decoder that runs the model
token by token.

The probabilities are floats of one machine, and of a number of threads, which is in the file. A writer therefore decodes
what it wrote and stores plain ids where they do not come back; a reader on another machine checks ids against the block's
hash and reports what does not match.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import constriction
import numpy as np
import torch

from ...entropy_models.errors import Corrupt
from .cache_argument import cache_argument

FIRST_TOKEN_BITS = 32
"""The first token of a sequence has no context and is written as it is."""


@contextmanager
def with_threads(count: int) -> Iterator[None]:
    """Let PyTorch compute with so many threads (0: as it does), for another number adds up in another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class TokenModel:
    """Next-token probabilities along a sequence, one token at a time, the same way for writer and reader."""

    def __init__(self, model: Any) -> None:
        from transformers.cache_utils import DynamicCache

        self.model, self.cache = model, DynamicCache()
        self._probabilities: np.ndarray | None = None
        self.on_feed: Callable[[], None] | None = None
        """A function that is called after each token, for progress."""

    @torch.no_grad()
    def feed(self, token: int) -> None:
        """Append a token."""
        ids = torch.tensor([[token]], device=self.model.device)
        logits = self.model(ids, use_cache=True, **cache_argument(self.model, self.cache)).logits[0, -1]
        self._probabilities = torch.softmax(logits.double(), -1).cpu().numpy()
        if self.on_feed:
            self.on_feed()

    def distribution(self) -> constriction.stream.model.Categorical | None:
        """Probabilities of the next token; None before the first."""
        if self._probabilities is None:
            return None
        return constriction.stream.model.Categorical(self._probabilities, perfect=False)


def encode_ids(state: TokenModel, ids: np.ndarray) -> bytes:
    """Code ids (int64, shape (n,)) after what ``state`` was fed; the state moves on."""
    encoder, head = constriction.stream.queue.RangeEncoder(), b""
    for token in ids:
        model = state.distribution()
        if model is None:
            head = int(token).to_bytes(FIRST_TOKEN_BITS // 8, "little")
        else:
            encoder.encode(np.array([token], np.int32), model)
        state.feed(int(token))
    return head + encoder.get_compressed().astype("<u4").tobytes()


def decode_ids(state: TokenModel, data: bytes, count: int) -> np.ndarray:
    """Inverse of `encode_ids`: int64, shape (count,).

    Raises:
        Corrupt: the bytes are impossible under the model.
    """
    if len(data) % 4:
        raise Corrupt(f"coded ids of {len(data)} bytes; need a multiple of 4")
    words, ids = np.frombuffer(data, "<u4").astype(np.uint32), np.zeros(count, np.int64)
    vocabulary = state.model.get_input_embeddings().num_embeddings
    decoder = None
    for i in range(count):
        model = state.distribution()
        if model is None:
            if not len(words):
                raise Corrupt("coded ids without their first token")
            ids[i], words = int(words[0]), words[1:]
        else:
            decoder = decoder or constriction.stream.queue.RangeDecoder(words)
            try:
                ids[i] = int(decoder.decode(model))
            except AssertionError as error:
                raise Corrupt(f"entropy decoder: {error}") from None
        if ids[i] >= vocabulary:
            raise Corrupt(f"token id {ids[i]}; the model has {vocabulary}")
        state.feed(int(ids[i]))
    return ids


def plain_ids(ids: np.ndarray) -> bytes:
    """4 bytes each."""
    return ids.astype("<u4").tobytes()
