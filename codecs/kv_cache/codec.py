"""`KvCodec`: a cache to bytes and back, without a model. `hf.cache_io` adds transformers, `kv_store` prefix sharing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from ...entropy_models.errors import InputError
from .. import container, weights
from ..contract import Estimate, Progress
from ..torch_state import checked_threads
from .format.blocks import KvBlock, KvSettings, estimate_block
from .format.header import STREAM_ID, TOKEN_IDS, WHOLE, parse_sequence
from .format.sequence import check_tokens, decode_blocks, encode_sequence, join_blocks, split
from .format.whole import decode_whole
from .modes.profiles import Profile
from .modes.table import MODES
from .splice import Layers


@dataclass(frozen=True, slots=True, eq=False)
class Cache:
    """What a model has kept of a text: the signal of `KvCodec`."""

    tokens: np.ndarray
    """Ids, int64, shape (n,)."""
    layers: Layers
    """Keys and values of each layer, shape (kv_heads, n, head_dim), bf16, fp16 or fp32."""


class KvCodec:
    """Encode, decode and estimate whole caches.

    Args:
        settings: mode and quality; its profile also decodes what was made with it.
        fingerprint: 16 bytes of the model (`hf.fingerprint.fingerprint`); zeros for a cache of unknown origin.
        salt: the tenant's.
        threads: that code layers at once; None: one.
    """

    stream_id: ClassVar[int] = STREAM_ID

    def __init__(
        self,
        settings: KvSettings | None = None,
        fingerprint: bytes = bytes(16),
        salt: bytes = b"",
        threads: int | None = None,
    ) -> None:
        self.settings, self.fingerprint, self.salt = settings or KvSettings(), fingerprint, salt
        self.threads = checked_threads(threads)

    @classmethod
    def load(
        cls,
        *,
        model: str | None = None,
        stream_hash: bytes | None = None,
        device: str = "auto",
        threads: int | None = None,
        **settings: Any,
    ) -> KvCodec:
        """A codec with these `KvSettings`, and ``threads`` that code layers at once.

        It has no weights, and works where the cache is: ``device`` is not used.

        Raises:
            KeyError: a model is asked for.
            Unsupported: the hash of weights is.
        """
        weights.check_none_asked("kv", model=model, stream_hash=stream_hash)
        return cls(KvSettings(**settings), threads=threads)

    def encode(self, cache: Cache, *, quality: int | None = None, progress: Progress | None = None) -> bytes:
        """A cache file (`format.sequence`).

        Args:
            cache: a whole cache.
            quality: 0..100; None: that of the settings.
            progress: called with (tokens done, tokens in all).

        Raises:
            ValueError: shapes, types or limits, or a quality for a mode that has none; the message has found and expected.
        """
        return encode_sequence(
            np.asarray(cache.tokens), cache.layers, self._settings(quality), fingerprint=self.fingerprint, salt=self.salt,
            progress=progress, threads=self.threads,
        )  # fmt: skip

    def decode(
        self,
        data: bytes | container.Stream,
        *,
        layers: range | None = None,
        prefix: int | None = None,
        check: bool = True,
        progress: Progress | None = None,
    ) -> Cache:
        """The cache of a file.

        Args:
            data: the file's bytes.
            layers: only these.
            prefix: only the first so many tokens.
            check: refuse another fingerprint or salt than this codec's.
            progress: called with (tokens done, tokens wanted).

        Raises:
            BitstreamError: anything wrong with the file.
        """
        blocks = decode_blocks(
            data, fingerprint=self.fingerprint if check else None, salt=self.salt if check else None, layers=layers,
            prefix=prefix, profile=self.settings.profile, progress=progress, threads=self.threads,
        )  # fmt: skip
        return Cache(*join_blocks(blocks))

    def estimate(self, cache: Cache, *, quality: int | None = None) -> Estimate[Cache]:
        """Ideal bits of the chunks and the cache as `decode` will give it, without writing. Errors as `encode`."""
        settings, tokens = self._settings(quality), np.asarray(cache.tokens)
        parts, bits = list[tuple[int, KvBlock]](), 0.0
        for start, block in split(tokens, cache.layers, settings.block_tokens):
            known, spent = estimate_block(block, start=start, settings=settings, total=len(tokens))
            parts.append((start, replace(block, layers=known)))
            bits += spent
        return Estimate(bits, Cache(*join_blocks(parts)))

    def verify(self, data: bytes | container.Stream, *, check: bool = True) -> list[str]:
        """Decode every symbol; arguments and errors as `decode`. Returns what could not be checked."""
        return verify_sequence(
            data, fingerprint=self.fingerprint if check else None, salt=self.salt if check else None,
            profile=self.settings.profile,
        )  # fmt: skip

    def _settings(self, quality: int | None) -> KvSettings:
        if quality is None:
            return self.settings
        if MODES[self.settings.mode].option != "quality":
            raise InputError(f"quality {quality!r}, but mode {self.settings.mode} has none")
        return replace(self.settings, quality=quality)


def verify_sequence(
    data: bytes | container.Stream,
    *,
    fingerprint: bytes | None = None,
    salt: bytes | None = None,
    profile: Profile | None = None,
) -> list[str]:
    """Decode every symbol of a cache file, of any model and tenant where these are None. Returns what could not be checked.

    Raises:
        BitstreamError: anything wrong with the file.
    """
    stream, head = parse_sequence(data)
    if head.content == TOKEN_IDS:
        if coded := check_tokens(data):
            return [f"checksums are right; {coded} token ids were not decoded, which takes the model (load_cache)"]
        return []
    if head.content == WHOLE:
        decode_whole(data, salt=salt)
    else:
        decode_blocks(data, fingerprint=fingerprint, salt=salt, profile=profile)
    stream.check()  # blocks have checksums of their own, which is all that a reader looks at
    return []
