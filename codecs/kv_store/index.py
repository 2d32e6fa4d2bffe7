"""The index of a namespace: where its blocks are, which follows which, and how they were used. No torch here.

A block is ``blocks/<namespace>/<two digits>/<id>.rdc``; its id is a hash of everything it depends on, its header holds
its tokens and its place. So nothing but the blocks is needed to find them again, and equal blocks of many processes are
one file. A catalog (`catalogs`) says the same without reading them; the trie holds what of it was asked for. Hits and masses
lie apart (`ledger`), and so do the fields of the models' identities (`record_key`).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from typing import TypeVar

import numpy as np

from ...entropy_models.errors import BitstreamError, InputError
from ..kv_cache.format.header import block_id, check_salt, parse
from . import ledger
from .backends import Backend
from .catalogs.lines import Catalog, CatalogError, Line
from .catalogs.memory import NoCatalog
from .eviction import ReuseModel
from .trie import ROOT_ID, TOKEN_BYTES, Match, Node, Trie, token_key

LOG = logging.getLogger(__name__)
T = TypeVar("T")
FINGERPRINT_BYTES = 16
HEADER_READ_BYTES = 1 << 16
"""Read at first to learn a block's place; the whole block only if its header does not fit."""
AHEAD = 64
"""Blocks of a prompt that are asked for at once where each question is a round trip."""
HEADERS_AT_ONCE = 1024
NODES_MAX = 20_000
"""Nodes kept from look-up to look-up; beyond, what the catalog tells again is dropped."""
USES_MAX = 10_000
"""Uses kept to be counted together."""
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
    names = (name for name in backend.folders("blocks/") if _BLOCK_KEY.fullmatch(f"blocks/{name}/00/{'0' * 32}.rdc"))
    return sorted(names)


class BlockIndex:
    """Index of what is stored for one model and tenant; reads it without ever trusting it."""

    def __init__(
        self, backend: Backend, namespace: str, salt: bytes | None, block_tokens: int, clock: Callable[[], float]
    ) -> None:
        """Nothing is read before it is asked for.

        ``salt`` None: not known, ids are taken from headers unchecked.
        """
        self.backend, self.namespace, self.salt = backend, namespace, salt
        self.fingerprint = bytes.fromhex(namespace.partition("-")[0])
        self.block_tokens, self.clock = block_tokens, clock
        self.trie = Trie()
        self._pending = ledger.Account()
        self.reuse = ReuseModel(block_tokens, gained=self._pending.reuse)
        self.refused: dict[bytes, str] = {}
        """Blocks that this process must not take in again, not damaged but not usable here, and why."""
        self._uses: list[tuple[Node, float, bool]] = []
        self._counted: set[bytes] = set()
        self._opened_at = clock()
        self._catalog: Catalog | None = None
        self._added: dict[bytes, Line] = {}
        self._removed: set[bytes] = set()

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

    def stored(self, part: str = "") -> dict[bytes, int]:
        """Id and size in bytes of every block on the backend, readable or not; ``part``: two digits that ids begin with."""
        folder = f"blocks/{self.namespace}/{part}{'/' if part else ''}"
        found = ((_BLOCK_KEY.fullmatch(e.key), e.size_bytes) for e in self.backend.list(folder))
        return {bytes.fromhex(match.group(2)): size for match, size in found if match}

    def size_bytes(self) -> int:
        """Bytes of all blocks, as the catalog knows them, or as listed where asking it for all is far."""
        return self._ask(lambda catalog: sum((self.stored() if catalog.far else catalog.sizes("")).values()))

    # ---- the catalog ----

    def _ask(self, ask: Callable[[Catalog], T]) -> T:
        """An answer of the catalog, which is opened at first, made anew if it cannot be read, and else done without."""
        for make in (self._stored_catalog, self._stored_catalog, NoCatalog):
            catalog = self._catalog or make()
            try:
                if self._catalog is None:
                    for part in catalog.outdated():
                        self._compare(catalog, part)
                    self._catalog = catalog
                    self.flush()
                return ask(catalog)
            except CatalogError as error:
                LOG.info("the catalog of the store is made anew: %s", error)
                self._catalog = None
                catalog.reset()
        raise AssertionError("who knows nothing answers without an error")

    def _stored_catalog(self) -> Catalog:
        return self.backend.catalog(self.namespace)

    def _compare(self, catalog: Catalog, part: str) -> None:
        """Bring the lines of a part in line with the blocks that are stored; only headers of blocks without one are read."""
        sizes, known = self.stored(part), catalog.sizes(part)
        for block in known.keys() - sizes.keys():
            self._removed.add(block)
            self._drop(block)
        new = [block for block, size in sizes.items() if known.get(block) != size]
        for at in range(0, len(new), HEADERS_AT_ONCE):
            some = new[at : at + HEADERS_AT_ONCE]
            found = self.backend.get_many([self.key(block) for block in some], HEADER_READ_BYTES)
            for block, data in zip(some, found, strict=True):
                if data is not None:
                    self._admit(block, data, sizes[block])
            self._write(catalog)
        catalog.compared(part)

    def _drop(self, block: bytes) -> None:
        if block in self.trie.nodes:
            self.trie.remove(self.trie.nodes[block])

    def _write(self, catalog: Catalog) -> None:
        """Write lines that are waiting."""
        added, removed = self._added, self._removed
        self._added, self._removed = {}, set()
        try:
            catalog.write(added.values(), removed - added.keys())
        except CatalogError as error:
            LOG.info("the catalog of the store takes no lines: %s", error)

    def flush(self) -> None:
        """Write down what was put and removed; without it others find out when they list the store."""
        if self._catalog is not None:
            self._write(self._catalog)
        # a large rebuild leaves everything in memory, and the catalog tells it again
        if len(self.trie.nodes) > NODES_MAX and not isinstance(self._catalog, NoCatalog):
            self.trie = Trie()

    def _take(self, line: Line) -> Node | None:
        """The node of a line; None if the line is not what its id says."""
        node = self.trie.nodes.get(line.id)
        if node is not None:
            return node
        if line.id in self.refused or line.id in self._removed:
            return None
        node = Node(
            id=line.id, parent_id=line.parent_id, key=line.key, start=line.start, size_bytes=line.size_bytes, mode=line.mode
        )
        if self.salt is not None and self.id_of(node.parent_id, node.tokens) != node.id:
            return None
        node.last_used = node.accounted = self._opened_at
        return self.trie.add(node)

    def load(self) -> None:
        """Take in everything that is stored, and how it was used, for those who look after the store."""
        self._ask(lambda catalog: [self._take(line) for line in catalog.lines()])
        self._settle()
        total = ledger.load(self.backend, self.namespace)
        total.add(self._pending)
        self.reuse = ReuseModel(self.block_tokens, total.reuse, self._pending.reuse)
        for node in self.trie.nodes.values():
            self._counted.add(node.id)
            if usage := total.blocks.get(node.id):
                node.hits, node.reads = usage.hits, usage.reads
                node.last_used, node.edge_bits = usage.last_used, usage.edge_bits

    def refresh(self) -> None:
        """Take in everything as `load`, and compare all of it with what the backend lists."""

        def compare(catalog: Catalog) -> None:
            catalog.outdated()  # takes note of the folders' times before they are listed
            self._compare(catalog, "")
            self._write(catalog)

        self._ask(compare)
        self.load()

    def _admit(self, block: bytes, data: bytes, size_bytes: int) -> Node | None:
        """Take in a block by its header; None if it is not what its name says. ``data``: its first bytes."""
        if block in self.refused:
            return None
        for start in (data, None) if len(data) < size_bytes else (data,):
            whole = start if start is not None else self.backend.get(self.key(block))
            if whole is None:
                return None
            try:  # zeros stand for the tensors: their checksums are not looked at here, only the file's length is
                header = parse(whole.ljust(size_bytes, b"\0"))[1]
            except BitstreamError:
                continue
            known = block if self.salt is None else self.id_of(header.parent, header.tokens)
            if header.id == block == known and header.count:
                node = Node(
                    id=block, parent_id=header.parent, key=token_key(header.tokens), start=header.start,
                    size_bytes=size_bytes, mode=header.mode,
                )  # fmt: skip
                node.last_used = node.accounted = self.clock()
                self._added[block] = _line_of(node)
                there = self.trie.add(node)
                there.size_bytes, there.mode = node.size_bytes, node.mode  # another program may have replaced it
                return there
        return None

    def admit(self, block: bytes) -> Node | None:
        """Take in a block that may be stored though the catalog does not know it; None if it is not there."""
        data = None if block in self.refused else self.backend.get(self.key(block))
        return None if data is None else self._admit(block, data, len(data))

    def close(self) -> None:
        """Let go of open files, until they are needed again: a file system with one open to write cannot be unmounted."""
        if self._catalog is not None:
            self._catalog.close()

    # ---- looking up ----

    def match(self, tokens: np.ndarray) -> Match:
        """The longest stored prefix, and whole blocks after it that the catalog does not know, found by their id."""
        self.find(self.trie.root, tokens)
        while True:
            match = self.trie.match(tokens)
            block = self._next(match, tokens)
            if block is None or block in self.trie.nodes or (node := self.admit(block)) is None:
                return match
            self.find(node, tokens[node.end :])

    def find(self, first: Node, rest: np.ndarray) -> None:
        """Take in the blocks that follow ``first`` along the tokens after it, and those nearest to these."""
        self._ask(lambda catalog: self._find(catalog, first, rest))

    def _find(self, catalog: Catalog, first: Node, rest: np.ndarray) -> None:
        key, reach = token_key(rest), catalog.longest * TOKEN_BYTES
        places = [(first.id, 0), *(self._ahead(first, rest) if catalog.far and self.salt is not None else ())]
        asked = {parent for parent, _ in places}
        while reach and places:
            found = catalog.around([(parent, key[at : at + reach]) for parent, at in places])
            follow = []
            for lines, (_, at) in zip(found, places, strict=True):
                for line in lines:
                    if self._take(line) is not None and key.startswith(line.key, at) and line.id not in asked:
                        asked.add(line.id)
                        follow.append((line.id, at + len(line.key)))
            places = follow

    def _ahead(self, first: Node, rest: np.ndarray) -> Iterator[tuple[bytes, int]]:
        """Ids of the whole blocks that would come next, and the bytes of key before their ends."""
        parent, at = first.id, first.end
        for _ in range(AHEAD):
            end = self.boundary(at)
            if end - first.end > len(rest):
                return
            parent, at = self.id_of(parent, rest[at - first.end : end - first.end]), end
            yield parent, (at - first.end) * TOKEN_BYTES

    def find_marks(self, nodes: Sequence[Node], marks: Sequence[int]) -> None:
        """Take in the longest block of each mark that belongs to each of these blocks (`trie.MARK_MIN`)."""
        places = [(node.id, token_key(np.full(node.count, mark))) for node in nodes for mark in marks]
        self._ask(lambda catalog: [self._take(line) for lines in catalog.around(places) for line in lines])

    def leads_on(self, node: Node) -> bool:
        """Whether a block follows this one."""
        return bool(len(node.children)) or any(self._ask(lambda catalog: catalog.around([(node.id, b"")])))

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

    def trim(self) -> None:
        """Forget what the catalog tells again, where much was looked up. Nodes from before are of no use afterwards."""
        if len(self.trie.nodes) > NODES_MAX and not isinstance(self._catalog, NoCatalog):
            self._settle()
            self.trie, self._counted = Trie(), set()

    # ---- changing ----

    def write(self, node: Node, data: bytes) -> None:
        """Store a block's bytes; `add` or `changed` takes note of it."""
        with self._ask(lambda catalog: catalog.writing(node.id)):
            self.backend.put(self.key(node.id), data)

    def _delete(self, block: bytes) -> None:
        with self._ask(lambda catalog: catalog.writing(block)):
            self.backend.delete(self.key(block))

    def forget(self, node: Node, *, delete: bool, why: str = "it does not fit the others") -> None:
        """Take a block out of the trie, and off the backend, or else never into this process's trie again (``why``).

        Nor does one come back that cannot be deleted, e.g. of a store that may only be read.
        """
        self._drop(node.id)
        if delete:
            self._added.pop(node.id, None)
            self._removed.add(node.id)
            try:
                self._delete(node.id)
            except OSError as error:
                why = f"it is damaged, and cannot be deleted: {error}"
            else:
                return
        self.refused[node.id] = why

    def discard(self, block: bytes) -> None:
        """Delete a block that may or may not be in the trie.

        Raises:
            OSError: it cannot be deleted.
        """
        self._drop(block)
        self._added.pop(block, None)
        self._removed.add(block)
        self._delete(block)

    def add(self, node: Node) -> Node:
        """Take in a block that was just put, in place of one of its id whose header gave another position."""
        there = self.trie.nodes.get(node.id)
        if there is not None and there.start != node.start:
            self.trie.remove(there)
        node.last_used = node.accounted = self.clock()
        self._pending.of(node.id).add(ledger.Usage(0, node.last_used, node.edge_bits))
        self.refused.pop(node.id, None)
        node = self.trie.add(node)
        self.changed(node)
        return node

    def changed(self, node: Node) -> None:
        """Take note of a block's size and mode."""
        self._removed.discard(node.id)
        self._added[node.id] = _line_of(node)

    # ---- use ----

    def used(self, node: Node, *, read: bool) -> None:
        """Count a hit, by a read or by a put of the same tokens."""
        self._uses.append((node, self.clock(), read))
        if len(self._uses) > USES_MAX:
            self._settle()

    def _settle(self) -> None:
        """Count the uses that are waiting: how a block was used before weighs in, and is looked up for all at once."""
        new = {node.id: node for node, _, _ in self._uses if node.id not in self._counted}
        if new:
            before = ledger.load(self.backend, self.namespace, only=new.keys())
            before.add(self._pending)
            for block, node in new.items():
                if usage := before.blocks.get(block):
                    node.hits, node.reads, node.edge_bits = usage.hits, usage.reads, usage.edge_bits
                    node.last_used = usage.last_used
            self._counted |= new.keys()
        uses, self._uses = self._uses, []
        for node, now, read in uses:
            self.reuse.hit(node, now)
            node.hits, node.reads, node.last_used = node.hits + 1, node.reads + read, now
            self._pending.of(node.id).add(ledger.Usage(1, now, reads=int(read)))

    def save(self) -> None:
        """Write what was counted since the last save; without it other processes do not know of it.

        A hint: where nothing can be written, the counts wait for the next save.
        """
        self.flush()
        try:
            self._settle()
            ledger.save(self.backend, self.namespace, self._pending)
        except OSError as error:
            LOG.info("the use of blocks was not written down: %s", error)
            return
        self._pending = ledger.Account()
        self.reuse.gained = self._pending.reuse


def _line_of(node: Node) -> Line:
    return Line(node.id, node.parent_id, node.key, node.start, node.size_bytes, node.mode)
