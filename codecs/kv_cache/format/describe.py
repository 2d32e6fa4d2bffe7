"""``codec info`` of a cache: what its headers say, and the bits per element of each layer. No torch here."""

from __future__ import annotations

import zlib
from collections import Counter
from typing import Any

from ... import container
from ..modes.table import MODES
from .header import BLOCK, BLOCKS, WHOLE, chunk_count, parse_sequence, width_text
from .header import parse as parse_block
from .manifest import layers_of


def describe_kv(stream: container.Stream) -> dict[str, Any]:
    """Fields of a block or a sequence of blocks, for scripts; `kv_rows` shows them to people.

    Raises:
        BitstreamError: a header is damaged.
    """
    data = stream.data
    blocks, damaged = [bytes(data[:])], list[int]()
    if stream.signal[:1] != bytes([BLOCK]):
        whole, head = parse_sequence(stream)
        if head.content == WHOLE:
            fields = {"content": "whole", "tokens": head.tokens, "fingerprint": head.fingerprint.hex()}
            return fields | {"layers": Counter(line["kind"] for line in layers_of(whole))}
        if head.content != BLOCKS:
            return {"content": "token_ids", "tokens": head.tokens, "fingerprint": head.fingerprint.hex()}
        entries = whole.entries[: chunk_count(whole)]
        blocks = [bytes(data[e.offset : e.offset + e.length]) for e in entries]  # their own headers are checked
        damaged = [i for i, e in enumerate(entries) if zlib.crc32(blocks[i]) != e.crc]
    heads = [parse_block(block)[1] for block in blocks]
    option = MODES[heads[0].mode].option
    first, tokens = heads[0], sum(head.count for head in heads)
    elements = tokens * first.heads * (first.key_dim + first.value_dim)
    by_layer = [sum(sum(head.chunk_bytes[i]) for head in heads) for i in range(len(first.chunk_bytes))]
    return {
        "content": "blocks",
        "mode": first.mode,
        **({option: getattr(first, option)} if option else {}),
        "element_type": first.element_type,
        "blocks": len(blocks),
        "tokens": tokens,
        "layers": first.layers,
        "kv_heads": first.heads,
        "key_width": first.key_dim,
        "value_width": first.value_dim,
        "fingerprint": first.fingerprint.hex(),
        "bits_per_element": round(8 * len(data) / (elements * first.layers), 3),
        "bits_per_element_by_layer": [round(8 * size / elements, 6) for size in by_layer],
        "damaged_blocks": damaged,
    }


def kv_rows(fields: dict[str, Any]) -> dict[str, Any]:
    """Rows for people of what `describe_kv` returned."""
    if fields["content"] == "token_ids":
        return {"content": "token ids, coded with the model", "tokens": fields["tokens"]}
    if fields["content"] == "whole":
        kinds = ", ".join(f"{count} {kind}" for kind, count in fields["layers"].items())
        return {"content": "a whole cache, not to be cut", "tokens": fields["tokens"], "layers": kinds}
    option, damaged = MODES[fields["mode"]].option, fields["damaged_blocks"]
    return {
        "mode": fields["mode"],
        **({option: fields[option]} if option else {}),
        "element type": fields["element_type"],
        "blocks": fields["blocks"],
        "tokens": fields["tokens"],
        "layers": fields["layers"],
        "kv heads x width": f"{fields['kv_heads']} x {width_text(fields['key_width'], fields['value_width'])}",
        "fingerprint": fields["fingerprint"],
        "bits per element": fields["bits_per_element"],
        "by layer": " ".join(f"{bits:.2f}" for bits in fields["bits_per_element_by_layer"]),
        **({"damaged blocks": ", ".join(map(str, damaged))} if damaged else {}),
    }
