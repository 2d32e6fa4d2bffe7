"""The ledger of what is known of blocks beside their content: hits, reads, last use, edge masses, and the reuse statistics.

None of it is needed to read a block; it only makes eviction wiser. So it lives apart from the blocks, in small
JSON files that are written once and never changed, each the increments one process counted: no locks, nothing to
tear. A reader adds all files up (hits and exposure are sums, the last use is a maximum). One that does not parse
is left out. `fold` replaces many files by their sum; `save` does so where there are many.

    usage/<namespace>/<random>.json
        {"version": 1, "blocks": {<id>: [hits, last used in seconds, edge bits or null]},
         "reuse": [[class, bucket, hits, exposure in seconds], ...],
         "reads": {<id>: how many of the hits were reads}}     only those above 0; absent: none
"""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Collection
from dataclasses import dataclass, field
from hashlib import blake2b

from ...entropy_models.errors import InputError
from .backends import Backend
from .eviction import BUCKETS, CLASSES, ReuseCounts

VERSION = 1
FILES_MAX = 32
"""Accounts of a namespace; more are folded."""


@dataclass(slots=True)
class Usage:
    """Use of one block: hits, last use in seconds, -log2 of its edge's mass in bits, None where not known, and reads."""

    hits: int = 0
    last_used: float = 0.0
    edge_bits: float | None = None
    reads: int = 0

    def add(self, other: Usage) -> None:
        """Join two processes' knowledge of a block."""
        self.hits += other.hits
        self.reads += other.reads
        self.last_used = max(self.last_used, other.last_used)
        self.edge_bits = other.edge_bits if self.edge_bits is None else self.edge_bits


@dataclass(slots=True)
class Account:
    """One file's content."""

    blocks: dict[bytes, Usage] = field(default_factory=dict)
    reuse: ReuseCounts = field(default_factory=ReuseCounts)

    def of(self, block: bytes) -> Usage:
        """The block's line, made if missing."""
        return self.blocks.setdefault(block, Usage())

    def add(self, other: Account) -> None:
        """Add another account's lines."""
        for block, usage in other.blocks.items():
            self.of(block).add(usage)
        self.reuse.add(other.reuse)

    def to_json(self) -> bytes:
        """The file's bytes."""
        blocks = {key.hex(): [u.hits, round(u.last_used, 3), u.edge_bits] for key, u in self.blocks.items()}
        counts = [
            [row, bucket, self.reuse.hits[row, bucket], round(self.reuse.exposure_s[row, bucket], 3)]
            for row in range(CLASSES)
            for bucket in range(BUCKETS)
            if self.reuse.hits[row, bucket] or self.reuse.exposure_s[row, bucket]
        ]
        reads = {key.hex(): u.reads for key, u in self.blocks.items() if u.reads}
        return json.dumps({"version": VERSION, "blocks": blocks, "reuse": counts, "reads": reads}).encode()


def parse(data: bytes, only: Collection[bytes] | None = None) -> Account:
    """Read a file's bytes; of the lines of blocks, those of ``only`` where given.

    Raises:
        ValueError: it is not an account of this version.
    """
    account = Account()
    try:
        content = json.loads(data)
        if content["version"] != VERSION:
            raise InputError(f"version {content['version']}, this program reads {VERSION}")
        blocks, reads_of = content["blocks"], content.get("reads", {})
        if only is not None:
            wanted = [block.hex() for block in only]
            blocks, reads_of = ({key: lines[key] for key in wanted if key in lines} for lines in (blocks, reads_of))
        for key, (hits, last_used, edge_bits) in blocks.items():
            usage = Usage(int(hits), float(last_used), None if edge_bits is None else float(edge_bits))
            if not (usage.hits >= 0 and math.isfinite(usage.last_used) and math.isfinite(usage.edge_bits or 0.0)):
                raise InputError(f"block {key}: {hits} hits, used at {last_used}, {edge_bits} bits: out of range")
            account.blocks[bytes.fromhex(key)] = usage
        for key, reads in reads_of.items():
            usage = account.blocks[bytes.fromhex(key)]
            if not 0 <= int(reads) <= usage.hits:
                raise InputError(f"block {key}: {reads} reads among {usage.hits} hits: out of range")
            usage.reads = int(reads)
        for row, bucket, hits, exposure_s in content["reuse"]:
            if not (row in range(CLASSES) and bucket in range(BUCKETS) and hits >= 0 and 0 <= exposure_s < math.inf):
                raise InputError(f"class {row}, bucket {bucket}: {hits} hits, {exposure_s} s: out of range")
            account.reuse.hits[row, bucket] += hits
            account.reuse.exposure_s[row, bucket] += exposure_s
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"not a usage account: {error!r}") from None
    return account


def folder(namespace: str) -> str:
    """Key prefix of a namespace's accounts."""
    return f"usage/{namespace}/"


def load(backend: Backend, namespace: str, only: Collection[bytes] | None = None) -> Account:
    """The sum of all accounts; ``only``: of blocks, no more than these."""
    return _sum(backend, [entry.key for entry in backend.list(folder(namespace))], only)


def _sum(backend: Backend, keys: list[str], only: Collection[bytes] | None = None) -> Account:
    total = Account()
    for data in backend.get_many(keys):
        try:
            total.add(parse(data or b"", only))
        except ValueError:
            continue  # a hint lost; the blocks are what matters
    return total


def save(backend: Backend, namespace: str, account: Account) -> None:
    """Store what was counted since the last save, as a file of its own; where there are many, they become one."""
    if not account.blocks and not account.reuse.exposure_s.any():
        return
    backend.put(f"{folder(namespace)}{uuid.uuid4().hex}.json", account.to_json())
    if len(keys := [entry.key for entry in backend.list(folder(namespace))]) > FILES_MAX:
        _replace(backend, namespace, keys, None)


def fold(backend: Backend, namespace: str, live: Collection[bytes]) -> None:
    """Replace all accounts by their sum, without the blocks that are gone.

    Two processes that fold at once may count some hits twice; none is lost, and no block is touched.
    """
    _replace(backend, namespace, [entry.key for entry in backend.list(folder(namespace))], live)


def _replace(backend: Backend, namespace: str, keys: list[str], live: Collection[bytes] | None) -> None:
    total = _sum(backend, keys)
    if live is not None:
        total.blocks = {block: usage for block, usage in total.blocks.items() if block in live}
    name = blake2b("".join(sorted(keys)).encode(), digest_size=16).hexdigest()  # two who fold the same make one file
    backend.put(f"{folder(namespace)}{name}.json", total.to_json())
    for key in keys:
        backend.delete(key)
