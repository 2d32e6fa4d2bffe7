"""The commands of ``codec kv`` that look after a store: ls, stats, evict, verify, transcode. No torch here."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE
from rich.segment import Segments
from rich.table import Table

from ....entropy_models.errors import InputError
from ...kv_cache.modes.table import MODE_NAMES, MODES
from ...kv_cache.options import Bits, ProfileFile, read_profile
from ...terminal.console import errors, out
from ...terminal.files import parse_size, show_size
from ...terminal.options import Quality
from .shared import (
    BLOCK_TOKENS,
    AsJson,
    BlockTokens,
    Dtype,
    Model,
    Name,
    Salt,
    Store,
    check_there,
    counted,
    instead,
    open_store,
    reported,
)

if TYPE_CHECKING:
    from ..index import BlockIndex
    from ..store import PrefixStore
    from ..upkeep import Evicted

WIDTH_MAX = 10_000
"""Columns of a table: more than any takes."""


def list_prompts(store: Store, as_json: AsJson = False) -> None:
    """List the prompts in a store: the longest of each that is kept, what it shares with others, how often it was read."""
    with reported():
        rows = []
        for name, index in _indexes(store):
            index.load()
            trie, through = index.trie, index.trie.prompts_through()
            ends = [node for node in trie.nodes.values() if node.ends_prompt]
            for leaf in sorted(ends, key=lambda node: -node.last_used):
                path = trie.path_to(leaf)
                begins = " ".join(str(token) for token in path[0].tokens[:6])
                begins = begins if trie.reachable(leaf) else f"unreachable: what comes before {begins} is lost"
                beside = [child for node in path for child in node.children if child.is_mark]  # windows, states
                size = sum(node.size_bytes for node in (*path, *beside))
                shared = max((node.end for node in path if through[node.id] > 1), default=0)
                row = {
                    "namespace": name,
                    "tokens": leaf.end,
                    "shared_tokens": shared,
                    "blocks": len(path),
                    "bytes": size,
                    "own_bytes": leaf.size_bytes,
                }
                rows.append({**row, "hits": leaf.reads, "mode": leaf.mode, "block": leaf.id.hex(), "begins": begins})
        _show(rows, as_json, store)


def stats(store: Store, as_json: AsJson = False) -> None:
    """Size, sharing and use, for each model and tenant."""
    with reported():
        from ..upkeep import stats as count

        rows = []
        for name, index in _indexes(store):
            fields = asdict(count(index))
            del fields["asked_tokens"], fields["found_tokens"]
            fields["sharing"] = round(fields["sharing"], 3)
            if fields["shared_bits"] is None:
                del fields["shared_bits"]
            rows.append({"namespace": name, **fields})
        _show(rows, as_json, store)


def evict(
    store: Store,
    budget: Annotated[str, typer.Option(help="Keep at most this many bytes of blocks, like 20GB, or 50% of them.")],
    policy: Annotated[str, typer.Option(help="worth (reuse x recompute cost / bytes) or recency (LRU).")] = "worth",
    as_json: AsJson = False,
) -> None:
    """Drop the blocks of least worth. Each model and tenant keeps the same share in whole blocks, a small one maybe none;
    what whole blocks leave over of it goes to those used last.
    """
    with reported():
        from ..upkeep import check_policy

        check_policy(policy)
        spaces = _indexes(store)
        for _, index in spaces:
            index.refresh()
        limit = _limit(budget, sum(map(_size, (index for _, index in spaces))))
        rows = []
        for name, evicted in _evict_all(spaces, limit, policy):
            fields = asdict(evicted)
            if not as_json:
                fields = {"evicted_blocks": evicted.blocks, "evicted": show_size(evicted.size_bytes)}
                fields["kept_bytes"] = evicted.kept_bytes
            rows.append({"namespace": name, **fields})
        _show(rows, as_json, store)


def _evict_all(spaces: list[tuple[str, BlockIndex]], limit: int, policy: Any) -> list[tuple[str, Evicted]]:
    """Evict in each namespace to its share of ``limit`` bytes; what its whole blocks leave of it goes on to the others.

    Shares, not one ranking: worth counts tokens, and a token of a large model is dearer than one of a small. The
    namespace used last has its turn last, for what is left over is best kept where it is likely to be read.
    """
    from ..eviction import RecomputeCost
    from ..upkeep import evict as drop

    sizes = {name: _size(index) for name, index in spaces}
    left, done = sum(sizes.values()), {}
    for name, index in sorted(spaces, key=lambda space: _last_used(space[1])):
        done[name] = drop(index, limit * sizes[name] // max(left, 1), policy, RecomputeCost())
        limit, left = limit - done[name].kept_bytes, left - sizes[name]
    return [(name, done[name]) for name in sizes]


def _size(index: BlockIndex) -> int:
    """Bytes of the blocks of a namespace that can be read."""
    return sum(node.size_bytes for node in index.trie.nodes.values())


def _last_used(index: BlockIndex) -> float:
    """When a block of a namespace was last used, in seconds; 0 where none can be read."""
    return max((node.last_used for node in index.trie.nodes.values()), default=0.0)


def _limit(budget: str, total: int) -> int:
    """Bytes of a budget: a size as `parse_size` takes it, or a percentage of the bytes that are stored.

    Raises:
        ValueError: neither.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%\s*", budget)
    if not match and "%" not in budget:
        return parse_size(budget)
    if not match or Decimal(match[1]) > 100:
        raise InputError(f"budget {budget!r}; need a size like 20GB, or 0% to 100% of what is stored")
    return int(total * Decimal(match[1]) / 100)


def verify(
    store: Store,
    repair: Annotated[bool, typer.Option(help="Delete damaged blocks.")] = False,
    profile: ProfileFile = None,
    as_json: AsJson = False,
) -> None:
    """Decode every block. Exits with 1 if one is damaged or cannot be read here; 0 once --repair deleted the damaged."""
    with reported():
        rows, damaged, unread = [], 0, 0
        for name, opened in _all(store, profile):
            with counted(f"verify {_title(name)}") as progress:
                checked = opened.verify(repair=repair, progress=progress)
            rows.append({"namespace": name, "blocks": checked.blocks, "damaged": len(checked.damaged)})
            rows[-1]["unreachable"] = len(checked.unreachable)
            rows[-1]["unread"] = len(checked.unread)
            damaged, unread = damaged + len(checked.damaged), unread + len(checked.unread)
            if lost := len(checked.unreachable):
                errors.print(f"codec kv: {_title(name)}: {lost} blocks follow a lost one; a put of their prompts heals them")
            for block, reason in (checked.damaged | checked.unread).items():
                errors.print(f"codec kv: {block}: {reason}")
        _show(rows, as_json, store)
        if damaged and repair:
            errors.print(f"codec kv: repaired: {damaged} damaged blocks deleted; the next put of their prompts heals them")
        if unread or (damaged and not repair):
            raise typer.Exit(1)


def transcode(
    store: Store,
    mode: Annotated[str, typer.Option(help=MODE_NAMES)],
    quality: Quality = None,
    bits: Bits = None,
    profile: ProfileFile = None,
    model: Model = None,
    fingerprint: Name = None,
    salt: Salt = "",
    dtype: Dtype = None,
    block_tokens: BlockTokens = BLOCK_TOKENS,
    as_json: AsJson = False,
) -> None:
    """Encode every block of a model again, e.g. lossless to quantized, but those that are so already.

    What a lossy mode lost stays lost, and another one loses on top of it. Between quantized and quantized-small, at the
    same quality, nothing is lost: only the bytes change.

    --profile also reads the blocks that need it. Exits with 1 if blocks were damaged, or cannot be read here.
    """
    with reported():
        written = profile if mode not in MODES or MODES[mode].option == "quality" else None
        options = {"mode": mode, "quality": quality, "bits": bits, "profile": written}
        with open_store(store, model, fingerprint, salt, block_tokens, options, dtype=dtype, profile=profile) as opened:
            with counted("transcode") as progress:
                done = opened.transcode(opened.settings, progress)
            if not done.blocks:
                raise InputError(f"{store}: no block is stored for this model and tenant{instead(opened, model)}")
        line = f"{store}: {show_size(done.before_bytes)} -> {show_size(done.after_bytes)}"
        out.print(json.dumps(asdict(done)) if as_json else line)
        for blocks, what in ((done.left, "left as they are"), (done.damaged, "damaged and deleted")):
            if blocks:
                reasons = "; ".join(dict.fromkeys(blocks.values()))
                errors.print(f"codec kv: {len(blocks)} of {done.blocks} blocks {what}: {reasons}")
        if done.left or done.damaged:
            raise typer.Exit(1)


def _indexes(store: str) -> list[tuple[str, BlockIndex]]:
    """The index of every namespace of a store that is there, by name."""
    import time

    from ..backends import open_backend
    from ..index import BlockIndex, namespaces

    check_there(store)
    backend = open_backend(store)
    return [(name, BlockIndex(backend, name, None, BLOCK_TOKENS, time.time)) for name in namespaces(backend)]


def _all(store: str, profile: Path | None = None) -> list[tuple[str, PrefixStore]]:
    """Every namespace of a store that is there, by name, to look into its blocks."""
    from ..backends import open_backend
    from ..index import namespaces
    from ..store import PrefixStore

    check_there(store)
    backend, profiles = open_backend(store), [read] if (read := read_profile(profile)) else []
    return [(name, PrefixStore.of_namespace(backend, name, profiles=profiles)) for name in namespaces(backend)]


def _show(rows: list[dict[str, Any]], as_json: bool, title: str) -> None:
    """JSON, or a table for each namespace: fields below each other where it has one row."""
    if as_json:
        out.print(json.dumps(rows))
        return
    if not rows:
        out.print(f"{title}: empty")
        return
    out.print(title)
    for name in dict.fromkeys(row["namespace"] for row in rows):
        those = [{k: _shown(k, v) for k, v in row.items() if k != "namespace"} for row in rows if row["namespace"] == name]
        table = Table(box=SIMPLE, show_header=len(those) > 1)
        if len(those) == 1:
            for field, value in those[0].items():
                table.add_row(field.replace("_", " ").removesuffix(" bytes"), value)
        else:
            for field in those[0]:
                table.add_column(field.replace("_", " ").removesuffix(" bytes"))
            for row in those:
                table.add_row(*row.values())
        out.print(_title(name))
        # as wide as it needs: a pipe has no width, and a terminal wraps lines without losing any of them
        out.print(Segments(out.render(table, out.options.update(max_width=WIDTH_MAX))))


def _title(namespace: str) -> str:
    """Model and tenant for people: the beginning of a fingerprint, and the hash that stands for a salt in folders' names."""
    from ..index import namespace_of

    model, _, salt = namespace.partition("-")
    tenant = "no salt" if namespace == namespace_of(bytes.fromhex(model), b"") else f"tenant {salt}"
    return f"model {model[:8]}, {tenant}"


def _shown(field: str, value: Any) -> str:
    """A field for people."""
    if field.endswith("bytes"):
        return show_size(value)
    if isinstance(value, dict):
        return ", ".join(f"{count} {mode}" for mode, count in value.items())
    return str(value)[:8] if field == "block" else str(value)
