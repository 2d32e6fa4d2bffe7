"""What blocks of a namespace hold: read, checked against their place in the trie, and encoded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np
from torch import Tensor

from ...entropy_models.errors import BitstreamError, Corrupt, Mismatch, Unsupported
from .. import container
from ..kv_cache.format.blocks import KvBlock, KvSettings, decode_parsed, encode_block
from ..kv_cache.format.header import BlockHeader, parse
from ..kv_cache.modes.profiles import Profile
from ..kv_cache.modes.rope import Rope, rope_in
from ..kv_cache.splice import Layers
from ..torch_state import checked_threads
from .backends import Backend
from .index import BlockIndex
from .trie import Node

T = TypeVar("T")
AT_ONCE = 32
"""Blocks that are fetched together, and held in memory until they are decoded."""


class StoredBlocks(BlockIndex):
    """An index, and the blocks that it is of."""

    def __init__(
        self,
        backend: Backend,
        namespace: str,
        salt: bytes | None,
        block_tokens: int,
        clock: Callable[[], float],
        rope: Rope | None = None,
        profiles: Iterable[Profile] = (),
        threads: int | None = None,
    ) -> None:
        """``rope`` None: not known, any block's will do. ``profiles``: to decode blocks of calibrated modes with.
        ``threads``: that code layers at once.
        """
        super().__init__(backend, namespace, salt, block_tokens, clock)
        self.profiles = {profile.hash: profile for profile in profiles}
        self.rope, self.threads = rope, checked_threads(threads)

    def fetched(self, nodes: Sequence[Node]) -> Iterator[tuple[Node, bytes | None]]:
        """Bytes of blocks, in order, fetched some at a time; None: it is gone."""
        for at in range(0, len(nodes), AT_ONCE):
            some = nodes[at : at + AT_ONCE]
            yield from zip(some, self.backend.get_many([self.key(node.id) for node in some]), strict=True)

    def read(self, node: Node, layers: range | None = None) -> KvBlock | None:
        """Decode a block. One that is damaged or holds other tokens is deleted and None; so is one that is gone."""
        return self.taken(node, self.backend.get(self.key(node.id)), layers)

    def taken(self, node: Node, data: bytes | None, layers: range | None = None) -> KvBlock | None:
        """`read` of bytes that were fetched."""
        return self._or_forget(node, lambda: self.checked(node, data, layers))

    def header(self, node: Node, data: bytes | None) -> BlockHeader | None:
        """A block's header; its length and checksums are checked, no tensor is decoded. None where `taken` gives None."""
        return self._or_forget(node, lambda: self._checked_header(node, data))

    def _or_forget(self, node: Node, use: Callable[[], T]) -> T | None:
        try:
            return use()
        except Unsupported as error:  # a newer program's block, not damage: leave it to that program
            self.forget(node, delete=False, why=str(error))
        except BitstreamError:
            self.forget(node, delete=True)
        return None

    def _checked_header(self, node: Node, data: bytes | None) -> BlockHeader:
        stream, header = parse(_there(data))
        stream.check()
        self._check_place(node, stream, header)
        return header

    def _check_place(self, node: Node, stream: container.Stream, header: BlockHeader) -> None:
        place = node.id, node.parent_id, self.fingerprint, node.start
        if (header.id, header.parent, header.fingerprint, header.start) != place:
            raise Corrupt("the block is another than its place in the trie says")
        if not np.array_equal(header.tokens, node.tokens):
            raise Corrupt("the block holds other tokens than its place in the trie")
        rope = rope_in(stream.chunk(1), header.key_dim)
        if rope and self.rope and not rope.turns_as(self.rope):  # which a fingerprint does not tell, see `hf.mismatch`
            raise Mismatch("its keys are of other RoPE frequencies than the model's")

    def checked(self, node: Node, data: bytes | None, layers: range | None = None) -> KvBlock:
        """Decode a block's bytes.

        Raises:
            BitstreamError: they are not the block that belongs at this place in the trie.
        """
        stream, header = parse(_there(data))
        self._check_place(node, stream, header)
        profile = self.profiles.get(header.profile)
        return decode_parsed(stream, header, salt=self.salt, layers=layers, profile=profile, threads=self.threads)

    def encode(
        self,
        node: Node,
        layers: Layers,
        settings: KvSettings,
        total: int | None,
        states: Mapping[str, Tensor] | None = None,
    ) -> bytes:
        """The bytes of a block at ``node``'s place in a prompt of ``total`` tokens (None: not known)."""
        return encode_block(
            KvBlock(node.tokens, layers, states or {}),
            parent=node.parent_id,
            fingerprint=self.fingerprint,
            salt=self.known_salt(),
            start=node.start,
            settings=settings,
            total=total,
            threads=self.threads,
        )


def _there(data: bytes | None) -> bytes:
    if data is None:
        raise Corrupt("the block is gone")
    return data
