"""The index of a namespace: a trie rebuilt from block headers, kept in step with the backend.

A block is ``blocks/<namespace>/<two digits>/<id>.rdc``; its id is a hash of everything it depends on, its header holds
its tokens and its place. So nothing but the blocks is needed to find them again, and equal blocks of many processes are
one file. Hits and masses lie apart (`ledger`), and so do the fields of the models' identities (`record_key`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from hashlib import blake2b
from typing import TypeVar

import numpy as np

from ...entropy_models.errors import BitstreamError, Corrupt, InputError, Mismatch, Unsupported
from .. import container
from ..kv_cache.format.blocks import KvBlock, KvSettings, block_id, decode_parsed, encode_block, read_block_header
from ..kv_cache.format.header import BlockHeader, check_salt, parse
from ..kv_cache.modes.profiles import Profile
from ..kv_cache.modes.rope import Rope, rope_in
from ..kv_cache.splice import Layers
from . import ledger
from .backends import Backend
from .eviction import ReuseModel
from .trie import ROOT_ID, Match, Node, Trie

T = TypeVar("T")
FINGERPRINT_BYTES = 16
HEADER_READ_BYTES = 1 << 16
"""Read at first to learn a block's place; the whole block only if its header does not fit."""
_BLOCK_KEY = re.compile(r"blocks/([0-9a-f]{32}-[0-9a-f]{8})/[0-9a-f]{2}/([0-9a-f]{32})\.rdc")


def namespace_of(fingerprint: bytes, salt: bytes) -> str:
    """Folder of one model and tenant: the fingerprint in hexadecimal, and 4 bytes of a hash of the salt."""
    if len(fingerprint) != FINGERPRINT_BYTES:
        raise InputError(f"a fingerprint of {len(fingerprint)} bytes, need {FINGERPRINT_BYTES}")
    check_salt(salt)
    return f"{fingerprint.hex()}-{blake2b(salt, digest_size=4).hexdigest()}"


def record_key(fingerprint: bytes) -> str:
    """Key of what a fingerprint is a hash of, for messages; a store is whole without it."""
    return f"models/{fingerprint.hex()}.json"


def namespaces(backend: Backend) -> list[str]:
    """Namespaces that hold blocks, sorted."""
    found = (_BLOCK_KEY.fullmatch(entry.key) for entry in backend.list("blocks/"))
    return sorted({match.group(1) for match in found if match})


class BlockIndex:
    """Index of what is stored for one model and tenant; reads it without ever trusting it."""

    def __init__(
        self,
        backend: Backend,
        namespace: str,
        salt: bytes | None,
        block_tokens: int,
        clock: Callable[[], float],
        rope: Rope | None = None,
        profiles: Iterable[Profile] = (),
    ) -> None:
        """Read the headers of all blocks.

        ``salt`` None: not known, ids are taken from headers unchecked. ``rope`` None: not known, any block's will do.
        ``profiles``: to decode blocks of calibrated modes with.
        """
        self.profiles = {profile.hash: profile for profile in profiles}
        self.rope = rope
        self.backend, self.namespace, self.salt = backend, namespace, salt
        self.fingerprint = bytes.fromhex(namespace.partition("-")[0])
        self.block_tokens, self.clock = block_tokens, clock
        self.trie = Trie()
        self.reuse = ReuseModel(block_tokens)
        self._pending = ledger.Account()
        self.refused: dict[bytes, str] = {}
        """Blocks that this process must not take in again, not damaged but not usable here, and why."""
        self.refresh()

    def key(self, block: bytes) -> str:
        """Key under which a block lies."""
        return f"blocks/{self.namespace}/{block[:1].hex()}/{block.hex()}.rdc"

    def id_of(self, parent: bytes, tokens: np.ndarray) -> bytes:
        """Id of the block of these tokens after ``parent``.

        Raises:
            ValueError: the index was opened without its salt.
        """
        return block_id(parent, self.fingerprint, self.known_salt(), tokens)

    def known_salt(self) -> bytes:
        if self.salt is None:
            raise InputError("the store was opened without its salt: it can be looked at, not written")
        return self.salt

    def stored(self) -> dict[bytes, int]:
        """Id and size in bytes of every block on the backend, readable or not."""
        found = ((_BLOCK_KEY.fullmatch(e.key), e.size_bytes) for e in self.backend.list(f"blocks/{self.namespace}/"))
        return {bytes.fromhex(match.group(2)): size for match, size in found if match}

    def refresh(self) -> None:
        """Take in what other processes stored, dropped and counted. Whole blocks are found without; tails are not."""
        sizes = self.stored()
        for node in [node for node in self.trie.nodes.values() if node.id not in sizes]:
            self.trie.remove(node)
        for block, size in sizes.items():
            if block not in self.trie.nodes:
                self.admit(block, size)
        total = ledger.load(self.backend, self.namespace)
        total.add(self._pending)
        self.reuse = ReuseModel(self.block_tokens, total.reuse, self._pending.reuse)
        for node in self.trie.nodes.values():
            usage = total.blocks.get(node.id)
            if usage:
                node.hits, node.reads = usage.hits, usage.reads
                node.last_used, node.edge_bits = usage.last_used, usage.edge_bits

    def admit(self, block: bytes, size_bytes: int | None = None) -> Node | None:
        """Read a block's header and put it into the trie; None if it is not there or not what its name says."""
        if block in self.refused:
            return None
        for end in (HEADER_READ_BYTES, None) if size_bytes else (None,):
            data = self.backend.get(self.key(block), end)
            if data is None:
                return None
            try:  # zeros stand for the tensors: their checksums are not looked at here, only the file's length is
                header = read_block_header(data.ljust(size_bytes or 0, b"\0"))
            except BitstreamError:
                continue
            tokens = np.asarray(header.tokens, np.int64)
            known = block if self.salt is None else self.id_of(header.parent, tokens)
            if header.id == block == known and len(tokens):
                node = Node(
                    id=block, parent_id=header.parent, tokens=tokens, start=header.start,
                    size_bytes=size_bytes or len(data), mode=header.mode,
                )  # fmt: skip
                node.last_used = node.accounted = self.clock()
                return self.trie.add(node)
        return None

    def forget(self, node: Node, *, delete: bool, why: str = "it does not fit the others") -> None:
        """Take a block out of the trie, and off the backend, or else never into this process's trie again (``why``)."""
        if node.id in self.trie.nodes:
            self.trie.remove(node)
        if delete:
            self.backend.delete(self.key(node.id))
        else:
            self.refused[node.id] = why

    def discard(self, block: bytes) -> None:
        """Delete a block that may or may not be in the trie."""
        if block in self.trie.nodes:
            self.trie.remove(self.trie.nodes[block])
        self.backend.delete(self.key(block))

    def match(self, tokens: np.ndarray) -> Match:
        """The trie's answer, extended by whole blocks that other processes stored meanwhile, found by their id."""
        while True:
            match = self.trie.match(tokens)
            block = self._next(match, tokens)
            if block is None or block in self.trie.nodes or self.admit(block) is None:
                return match

    def unread(self, tokens: np.ndarray) -> range | None:
        """Tokens after the longest stored prefix whose block is there, but with a header that cannot be read."""
        match = self.match(tokens)
        block = self._next(match, tokens)
        if block is None or block in self.trie.nodes or self.backend.get(self.key(block), 1) is None:
            return None
        return range(match.whole_tokens, self.boundary(match.whole_tokens))

    def _next(self, match: Match, tokens: np.ndarray) -> bytes | None:
        """Id of the whole block that would follow a match; None: the prompt has none, or the salt is not known."""
        first, last = match.whole_tokens, self.boundary(match.whole_tokens)
        if match.tokens >= last or last > len(tokens) or self.salt is None:
            return None
        return self.id_of(match.path[-1].id if match.path else ROOT_ID, tokens[first:last])

    def boundary(self, position: int) -> int:
        """Position at which the block that holds ``position`` must end: the next multiple of the block length."""
        return (position // self.block_tokens + 1) * self.block_tokens

    def read(self, node: Node, layers: range | None = None) -> KvBlock | None:
        """Decode a block. One that is damaged or holds other tokens is deleted and None; so is one that is gone."""
        return self._or_forget(node, lambda data: self.checked(node, data, layers))

    def header(self, node: Node) -> BlockHeader | None:
        """A block's header; its length and checksums are checked, no tensor is decoded. None where `read` gives None."""
        return self._or_forget(node, lambda data: self._checked_header(node, data))

    def _or_forget(self, node: Node, use: Callable[[bytes | None], T]) -> T | None:
        data = self.backend.get(self.key(node.id))
        try:
            return use(data)
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
        return decode_parsed(stream, header, salt=self.salt, layers=layers, profile=profile)

    def encode(self, node: Node, layers: Layers, settings: KvSettings, total: int | None) -> bytes:
        """The bytes of a block at ``node``'s place in a prompt of ``total`` tokens (None: not known)."""
        return encode_block(
            KvBlock(node.tokens, layers),
            parent=node.parent_id,
            fingerprint=self.fingerprint,
            salt=self.known_salt(),
            start=node.start,
            settings=settings,
            total=total,
        )

    def add(self, node: Node) -> Node:
        """Take in a block that was just put, in place of one of its id whose header gave another position."""
        there = self.trie.nodes.get(node.id)
        if there is not None and there.start != node.start:
            self.trie.remove(there)
        node.last_used = node.accounted = self.clock()
        self._pending.of(node.id).add(ledger.Usage(0, node.last_used, node.edge_bits))
        self.refused.pop(node.id, None)
        return self.trie.add(node)

    def used(self, node: Node, *, read: bool) -> None:
        """Count a hit, by a read or by a put of the same tokens."""
        now = self.clock()
        self.reuse.hit(node, now)
        node.hits, node.reads, node.last_used = node.hits + 1, node.reads + read, now
        self._pending.of(node.id).add(ledger.Usage(1, now, reads=int(read)))

    def save(self) -> None:
        """Write what was counted since the last save; without it other processes do not know of it."""
        ledger.save(self.backend, self.namespace, self._pending)
        self._pending = ledger.Account()
        self.reuse.gained = self._pending.reuse


def _there(data: bytes | None) -> bytes:
    if data is None:
        raise Corrupt("the block is gone")
    return data
