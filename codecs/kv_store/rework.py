"""Looking after what a store's blocks hold: verify, and transcode."""

from __future__ import annotations

from dataclasses import dataclass, field

from ...entropy_models.errors import BitstreamError, Corrupt, Unsupported
from ..contract import Progress
from ..kv_cache.format.blocks import KvSettings, read_block_header, settings_for
from ..kv_cache.format.recode import recode_block, same_numbers
from ..kv_cache.modes.table import MODES
from .content import StoredBlocks
from .trie import Node


@dataclass(frozen=True, slots=True)
class Checked:
    """Blocks looked at, those that are damaged with the reason, and those that cannot be reached.

    ``unread``: blocks that cannot be judged here, with the reason: their profile is missing, or a newer program wrote them.
    """

    blocks: int
    damaged: dict[str, str]
    unreachable: list[str]
    unread: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Transcoded:
    """Bytes of all blocks before and after, blocks that stay as they were, and damaged ones that were deleted, with reasons.

    ``left``: blocks that cannot be decoded here: their profile is missing, or a newer program wrote them.
    """

    blocks: int
    before_bytes: int
    after_bytes: int
    left: dict[str, str] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)


def verify(index: StoredBlocks, *, repair: bool = False, progress: Progress | None = None) -> Checked:
    """Decode every block on the backend; ``repair`` deletes those that are damaged, never those it cannot judge."""
    index.refresh()
    damaged: dict[str, str] = {}
    unread: dict[str, str] = {}
    stored = index.stored()
    for done, block in enumerate(stored, 1):
        node, data = index.trie.nodes.get(block), index.backend.get(index.key(block))
        if data is None:  # evicted meanwhile
            continue
        try:
            if block in index.refused:
                raise Unsupported(index.refused[block])
            if node is None:
                raise Corrupt("its header is damaged, or it is not the block its name says")
            index.checked(node, data)
        except Unsupported as error:
            unread[block.hex()] = str(error)
        except BitstreamError as error:
            damaged[block.hex()] = str(error)
            if repair:
                index.discard(block)
        if progress:
            progress(done, len(stored))
    index.flush()
    return Checked(len(stored), damaged, [node.id.hex() for node in index.trie.orphans()], unread)


def transcode(index: StoredBlocks, settings: KvSettings, progress: Progress | None = None) -> Transcoded:
    """Encode every block again, e.g. lossless to quantized, but those that are so already.

    What a lossy mode lost stays lost, and another one loses on top of it; but between modes of the same numbers
    (`recode.same_numbers`), at the same quality, nothing changes except the bytes.
    """
    index.refresh()
    nodes = list(index.trie.nodes.values())
    before = sum(node.size_bytes for node in nodes)
    left: dict[str, str] = {}
    damaged: dict[str, str] = {}
    for done, node in enumerate(nodes, 1):
        stored = index.backend.get(index.key(node.id))
        if stored is None:  # evicted meanwhile
            index.forget(node, delete=False)
            continue
        try:
            data = _transcoded(index, node, stored, settings)
            if data != stored:
                index.write(node, data)
                node.size_bytes, node.mode = len(data), settings.mode
                index.changed(node)
        except Unsupported as error:
            left[node.id.hex()] = str(error)
        except BitstreamError as error:
            damaged[node.id.hex()] = str(error)
            index.discard(node.id)
        if progress:
            progress(done, len(nodes))
    index.flush()
    after = sum(node.size_bytes for node in index.trie.nodes.values())
    return Transcoded(len(nodes), before, after, left, damaged)


def _transcoded(index: StoredBlocks, node: Node, stored: bytes, settings: KvSettings) -> bytes:
    """A block's bytes in these settings; BitstreamError if it is damaged."""
    block, head = index.checked(node, stored), read_block_header(stored)
    settings = settings_for(block.layers, settings)
    rate = MODES[settings.mode].option
    same_rate = not rate or getattr(head, rate) == getattr(settings, rate)
    same_rate &= settings.profile is None or head.profile == settings.profile.hash
    if same_rate and head.mode == settings.mode:
        return stored
    if same_rate and same_numbers(head.mode, settings.mode):
        return recode_block(stored, settings.mode)
    return index.encode(node, block.layers, settings, node.end if not len(node.children) else None, block.states)
