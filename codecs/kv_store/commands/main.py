"""``codec kv``: put caches into a prefix store, get them back, and look after the store.

STORE is a folder, ``redis://host:6379/0?prefix=name``, or any fsspec URL such as ``s3://bucket/folder``.
Nothing here imports torch before a command needs it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ....entropy_models.errors import InputError
from ...kv_cache.ids_file import check_one_cache, held_or_given_ids, read_ids
from ...kv_cache.modes.table import MODE_NAMES, MODES
from ...kv_cache.options import Batch, Bits, Keys, ProfileFile, Tokens
from ...terminal.console import EXPECTED, errors, fail, out
from ...terminal.files import STDIO, Job, check_target, parse_size, show_size
from ...terminal.options import Force, Quality, Threads
from . import upkeep as cli_upkeep
from .shared import (
    BLOCK_TOKENS,
    PROGRAM,
    AsJson,
    BlockTokens,
    Dtype,
    Model,
    Name,
    Salt,
    Store,
    counted,
    instead,
    open_store,
    reported,
)

if TYPE_CHECKING:
    from ..store import Hit, PrefixStore

app = typer.Typer(
    help="Share language-model caches between prompts: one store, each common beginning kept once.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)


@app.command()
def put(
    store: Store,
    caches: Annotated[list[Path], typer.Argument(metavar="CACHE...", help="safetensors: layers.{i}.k, .v, tokens.")],
    tokens: Tokens = None,
    model: Model = None,
    fingerprint: Name = None,
    salt: Salt = "",
    mode: Annotated[str, typer.Option(help=MODE_NAMES)] = "quantized",
    quality: Quality = None,
    bits: Bits = None,
    profile: ProfileFile = None,
    block_tokens: BlockTokens = BLOCK_TOKENS,
    keys: Keys = None,
    limit: Annotated[
        str | None, typer.Option(help="Like 20GB: beyond it, evict blocks of this model and tenant by worth.")
    ] = None,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Store caches; what the store already holds of their beginnings is shared, not written again."""
    with reported():
        check_one_cache(tokens, len(caches))
        from ...kv_cache.face import ROPE_KEPT
        from ...kv_cache.layout import layout_of

        options = {"mode": mode, "quality": quality, "bits": bits, "profile": profile}
        limit_bytes = None if limit is None else parse_size(limit)
        stores, failed = dict[Any, Any](), list[Path]()
        for path in caches:
            with _go_on(path, failed):
                layers, ids = _cache(path, tokens, keys)
                layout = layout_of(layers)
                key = layout if model else None  # the model's fingerprint is of the element type that it ran in
                if key not in stores:  # a store is made only when there is something to put into it
                    stores[key] = open_store(
                        store, model, fingerprint, salt, block_tokens, dict(options), create=True, made=layout,
                        limit_bytes=limit_bytes, threads=threads,
                    )  # fmt: skip
                _put_one(stores[key], path, ids, layers, as_json)
        if len(failed) < len(caches) and not model and MODES[mode].option == "quality":
            errors.print(f"codec kv: note: {ROPE_KEPT}")
        if failed:
            raise typer.Exit(1)


def _put_one(opened: PrefixStore, path: Path, ids: Any, layers: Any, as_json: bool) -> None:
    """Store one cache, and say what was new."""
    with counted(path.name) as progress:
        stored = opened.put(ids, layers, progress=progress)
    opened.save()
    line = (
        f"{path}: {stored.shared_tokens} tokens shared, {stored.new_tokens} new "
        f"in {stored.new_blocks} blocks, {show_size(stored.new_bytes)}"
    )
    out.print(json.dumps({"file": str(path), **asdict(stored)}) if as_json else line)
    _note_other_modes(path, stored.shared_modes, opened.settings)
    put = stored.shared_tokens + stored.new_tokens
    if opened.limit_bytes is not None and (kept := opened.longest_prefix(ids)) < put:
        errors.print(f"codec kv: {path}: note: {kept} of its {put} tokens are kept: all take more than --limit")


def _note_other_modes(path: Path, shared: dict[str, int], settings: Any) -> None:
    """Shared blocks keep the mode that they were stored in, which may be less exact than the one asked for."""
    from ..sharing import mode_text

    if others := [f"{count} as {text}" for text, count in shared.items() if text != mode_text(settings)]:
        errors.print(
            f"codec kv: {path}: note: of its blocks are stored already: {', '.join(others)}; "
            "`codec kv transcode` changes them"
        )


@contextmanager
def _go_on(path: Path, failed: list[Path]) -> Iterator[None]:
    """Name a file that cannot be put, and leave it out."""
    try:
        yield
    except EXPECTED as error:
        failed.append(path)
        fail(error, str(path), PROGRAM)


def _cache(path: Path, tokens: Path | None, keys: str | None) -> tuple[Any, Any]:
    """Layers and ids of a file to put."""
    from ...kv_cache.safetensors_file import read_tensors

    layers, held, notices = read_tensors(path.read_bytes(), keys)
    for notice in notices:
        errors.print(f"codec kv: {path}: note: {notice}")
    ids = held_or_given_ids(held, tokens)
    if ids is None:
        raise InputError("no tensor 'tokens'; give the ids with --tokens")
    return layers, ids


@app.command()
def get(
    store: Store,
    output: Annotated[Path, typer.Option("--output", "-o", help="safetensors to write; - is standard output.")],
    tokens: Annotated[Path, typer.Option(help="The prompt's ids: a JSON list, or numbers with spaces between.")],
    model: Model = None,
    fingerprint: Name = None,
    salt: Salt = "",
    layers: Annotated[str | None, typer.Option(help="Only these, first:last, e.g. 0:8.")] = None,
    keys: Keys = None,
    batch: Batch = False,
    dtype: Dtype = None,
    profile: ProfileFile = None,
    block_tokens: BlockTokens = BLOCK_TOKENS,
    threads: Threads = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Write the cache of a prompt's longest stored beginning. Exits with 1 if nothing of it is stored."""
    with reported():
        import numpy as np

        from ...kv_cache.safetensors_file import cache_file

        to_stdout = str(output) == STDIO
        if not to_stdout:
            check_target(None, output, force)
        if not output.parent.is_dir():
            raise InputError(f"{output.parent}: no such folder")
        wanted, ids = _range(layers), read_ids(tokens)
        options = {"profile": profile}
        with open_store(store, model, fingerprint, salt, block_tokens, options, dtype=dtype, threads=threads) as opened:
            hit = _hit(opened, ids, wanted, model, dtype)
        held = np.array(ids[: hit.tokens], np.int64)
        data = cache_file(held, hit.layers, wanted.start if wanted else 0, keys, batch)
        Job(None, None if to_stdout else output).write(data)
        found = {"file": str(output), "tokens": hit.tokens, "asked_tokens": len(ids), "layers": len(hit.layers)}
        line = f"{output}: {hit.tokens} of {len(ids)} tokens, {len(hit.layers)} layers"
        (errors if to_stdout else out).print(json.dumps(found) if as_json else line)


def _hit(opened: PrefixStore, ids: list[int], layers: range | None, model: str | None, dtype: str | None) -> Hit:
    """The longest stored beginning; ValueError where there is none, or none with keys and values, which says why."""
    known, unread = opened.longest_prefix(ids), opened.unread(ids)
    damaged = unread and f"a block of tokens {unread[0]} to {unread[-1]} is there, with a damaged header; put writes it anew"
    hit = opened.get(ids, layers=layers)
    if hit is None:
        why = f" in blocks that can be read ({known} tokens are {_unusable(opened)})" if known else ""
        why = why or (f"; {damaged}" if damaged else instead(opened, model, dtype))
        raise InputError(f"no beginning of the {len(ids)} tokens is stored for this model and tenant{why}")
    if not hit.layers or not hit.layers[0][1].shape[-1]:
        what = "layer inputs" if hit.layers else "token ids only"
        raise InputError(f"the blocks of these tokens hold {what}; the model must recompute keys and values")
    if hit.tokens < known:
        lost = f"tokens {hit.tokens} to {known - 1} were stored too, in blocks that are {_unusable(opened)}"
        errors.print(f"codec kv: note: {lost}")
    elif damaged:
        errors.print(f"codec kv: note: {damaged}")
    return hit


def _unusable(opened: PrefixStore) -> str:
    """Why blocks could not be read."""
    reasons = "; ".join(dict.fromkeys(opened.index.refused.values()))
    return f"not usable here: {reasons}" if reasons else "damaged or gone"


def _range(text: str | None) -> range | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d+):(\d+)", text)
    if not match or int(match[1]) >= int(match[2]):
        raise InputError(f"--layers {text}; need first:last, e.g. 0:8")
    return range(int(match[1]), int(match[2]))


app.command("ls")(cli_upkeep.list_prompts)
for command in (cli_upkeep.stats, cli_upkeep.evict, cli_upkeep.verify, cli_upkeep.transcode):
    app.command()(command)
