"""``codec info`` of a cache: what its headers say, and the bits per element of each layer. No torch here."""

from __future__ import annotations

import zlib
from typing import Any

from .. import container
from .header import BLOCK, BLOCKS, parse_sequence, width_text
from .header import parse as parse_block
from .modes import MODES


def describe_kv(data: bytes) -> dict[str, Any]:
    """Fields of a block or a sequence of blocks.

    Raises:
        BitstreamError: a header is damaged.
    """
    blocks, damaged = [bytes(data)], list[str]()
    if container.parse(data).signal[:1] != bytes([BLOCK]):
        whole, head = parse_sequence(data)
        if head.content != BLOCKS:
            return {"content": "token ids, coded with the model", "tokens": head.tokens}
        blocks = [bytes(data[e.offset : e.offset + e.length]) for e in whole.entries]  # their own headers are checked
        damaged = [str(i) for i, e in enumerate(whole.entries) if zlib.crc32(blocks[i]) != e.crc]
    heads = [parse_block(block)[1] for block in blocks]
    option = MODES[heads[0].mode].option
    first, tokens = heads[0], sum(head.count for head in heads)
    elements = tokens * first.heads * (first.key_dim + first.value_dim)
    by_layer = [sum(sum(head.chunk_bytes[i]) for head in heads) for i in range(len(first.chunk_bytes))]
    return {
        "mode": first.mode,
        **({option: getattr(first, option)} if option else {}),
        "element type": first.element_type,
        "blocks": len(blocks),
        "tokens": tokens,
        "layers": first.layers,
        "kv heads x width": f"{first.heads} x {width_text(first.key_dim, first.value_dim)}",
        "fingerprint": first.fingerprint.hex(),
        "bits per element": round(8 * len(data) / (elements * first.layers), 3),
        "by layer": " ".join(f"{8 * size / elements:.2f}" for size in by_layer),
        **({"damaged blocks": ", ".join(damaged)} if damaged else {}),
    }
