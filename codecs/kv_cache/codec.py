"""`KvCodec`: a cache to bytes and back, without a model. `cache_io` adds transformers, `store` prefix sharing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .format.blocks import KvSettings, decode_block, encode_block, estimate_block
from .format.sequence import Layers, Progress, decode_blocks, encode_sequence, split
from .modes.table import MODES


class KvCodec:
    """Encode, decode and estimate whole caches.

    Args:
        settings: mode and quality.
        fingerprint: 16 bytes of the model (`model.fingerprint`); zeros for a cache of unknown origin.
        salt: the tenant's.
    """

    def __init__(self, settings: KvSettings | None = None, fingerprint: bytes = bytes(16), salt: bytes = b"") -> None:
        self.settings, self.fingerprint, self.salt = settings or KvSettings(), fingerprint, salt

    @classmethod
    def load(cls, **options: Any) -> KvCodec:
        """As the registry calls it; options are those of `KvSettings`."""
        return cls(KvSettings(**options))

    def encode(self, layers: Layers, tokens: np.ndarray, progress: Progress | None = None) -> bytes:
        """A cache file (`sequence`).

        Args:
            layers: (keys, values) of each layer, shape (kv_heads, n, head_dim), bf16, fp16 or fp32.
            tokens: ids, shape (n,).
            progress: called with (tokens done, tokens in all).
        """
        return encode_sequence(
            np.asarray(tokens), layers, self.settings, fingerprint=self.fingerprint, salt=self.salt, progress=progress
        )

    def decode(
        self,
        data: bytes,
        *,
        layers: range | None = None,
        prefix: int | None = None,
        check: bool = True,
        progress: Progress | None = None,
    ) -> tuple[np.ndarray, Layers]:
        """(tokens, layers) of a cache file.

        Args:
            data: the file's bytes.
            layers: only these.
            prefix: only the first so many tokens.
            check: refuse another fingerprint or salt than this codec's.
            progress: called with (tokens done, tokens wanted).

        Raises:
            BitstreamError: anything wrong with the file.
        """
        expected = {"fingerprint": self.fingerprint, "salt": self.salt} if check else {}
        blocks = decode_blocks(data, layers=layers, prefix=prefix, progress=progress, **expected)
        return join(blocks)

    def estimate(self, layers: Layers, tokens: np.ndarray) -> tuple[Layers, float]:
        """(layers as `decode` will give them, ideal bits of the chunks), without writing."""
        parts, bits = [], 0.0
        for start, block in split(np.asarray(tokens), layers, self.settings.block_tokens):
            known, spent = estimate_block(block, start=start, settings=self.settings, total=len(tokens))
            parts.append((start, replace(block, layers=known)))
            bits += spent
        return join(parts)[1], bits


def join(blocks: list) -> tuple[np.ndarray, tuple[tuple[Tensor, Tensor], ...]]:
    """Tokens and layers of successive (start, block)."""
    if not blocks:
        return np.zeros(0, np.int64), ()
    tokens = np.concatenate([block.tokens for _, block in blocks])
    count = len(blocks[0][1].layers)
    layers = tuple(
        (torch.cat([b.layers[i][0] for _, b in blocks], 1), torch.cat([b.layers[i][1] for _, b in blocks], 1))
        for i in range(count)
    )
    return tokens, layers


__all__ = ["MODES", "KvCodec", "decode_block", "encode_block", "join"]
