"""``codec kv``: put caches into a prefix store, get them back, and look after the store.

STORE is a folder, ``redis://host:6379/0?prefix=name``, or any fsspec URL such as ``s3://bucket/folder``.
Nothing here imports torch before a command needs it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from ...entropy_models.errors import BitstreamError
from ..files import parse_size, show_size

if TYPE_CHECKING:
    from .store import PrefixStore

app = typer.Typer(
    help="Share language-model caches between prompts: one store, each common beginning kept once.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
errors = Console(stderr=True, highlight=False, soft_wrap=True)
out = Console(highlight=False, soft_wrap=True)

Store = Annotated[str, typer.Argument(metavar="STORE", help="Folder, redis://host/0?prefix=name, or an fsspec URL.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Model = Annotated[str | None, typer.Option(help="Folder of the transformers model that made the caches.")]
Name = Annotated[str | None, typer.Option("--fingerprint", help="32 hexadecimal digits in place of --model.")]
Salt = Annotated[str, typer.Option(envvar="RDCODEC_SALT", help="A tenant's; others do not find the blocks.")]
Tokens = Annotated[Path | None, typer.Option(help="Token ids: a JSON list, or numbers with spaces between.")]
Keys = Annotated[str | None, typer.Option(help="Pattern of tensor names, default 'layers.{i}.{k}' or '{i}.{k}' (mlx_lm).")]
MODE_NAMES = "quantized, lossless, fp8, turboquant, turboquant-ec; with --profile transform, predictive."
Quality = Annotated[
    int | None, typer.Option("--quality", "-q", min=0, max=100, help="0 (smallest) to 100, default 60; not of all modes.")
]
Bits = Annotated[int | None, typer.Option(min=1, max=5, help="Of the turboquant modes' codes, default 4.")]
ProfileFile = Annotated[
    Path | None, typer.Option("--profile", help="kv_profile.safetensors of the model, from `codec eval kv`.")
]
BlockTokens = Annotated[int, typer.Option(min=1, max=65536, help="Tokens per block; the same for all who share.")]


@contextmanager
def one_line() -> Iterator[None]:
    """Turn bad data and unreachable stores into one line on standard error and exit code 1."""
    try:
        yield
    except (BitstreamError, ValueError, TypeError, OSError, ImportError) as error:
        _fail(error)
        raise typer.Exit(1) from None


def _fail(error: Exception, where: str = "") -> None:
    """One line on standard error."""
    kind = f"{type(error).__name__.lower()}: " if isinstance(error, BitstreamError) else ""
    text = error.strerror if where and isinstance(error, OSError) and error.strerror else str(error)
    errors.print(f"codec kv: {where}{kind}{' '.join(text.split())}", markup=False)


@contextmanager
def bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on standard error that leaves nothing behind."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


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
    block_tokens: BlockTokens = 256,
    keys: Keys = None,
    as_json: AsJson = False,
) -> None:
    """Store caches; what the store already holds of their beginnings is shared, not written again."""
    with one_line():
        if tokens and len(caches) > 1:
            raise ValueError(f"--tokens is of one cache, here are {len(caches)}; put the ids into the files as 'tokens'")
        options = {"mode": mode, "quality": quality, "bits": bits, "profile": profile}
        opened, failed = None, list[Path]()
        for path in caches:
            cache = None
            with _go_on(path, failed):
                cache = _cache(path, tokens, keys)
            if cache is None:
                continue
            if opened is None:  # a store is made only when there is something to put into it
                opened = _opened(store, model, fingerprint, salt, block_tokens, options, create=True)
            with _go_on(path, failed):
                with bar(path.name) as progress:
                    stored = opened.put(cache[1], cache[0], progress=progress)
                opened.save()
                line = (
                    f"{path}: {stored.shared_tokens} tokens shared, {stored.new_tokens} new "
                    f"in {stored.new_blocks} blocks, {show_size(stored.new_bytes)}"
                )
                out.print(json.dumps({"file": str(path), **asdict(stored)}) if as_json else line, markup=False)
        if failed:
            raise typer.Exit(1)


@contextmanager
def _go_on(path: Path, failed: list[Path]) -> Iterator[None]:
    """Name a file that cannot be put, and leave it out."""
    try:
        yield
    except (BitstreamError, ValueError, TypeError, OSError) as error:
        failed.append(path)
        _fail(error, f"{path}: ")


def _cache(path: Path, tokens: Path | None, keys: str | None) -> tuple[Any, Any]:
    """Layers and ids of a file to put."""
    from .commands import read_tensors

    layers, held, notices = read_tensors(path.read_bytes(), keys)
    for notice in notices:
        errors.print(f"codec kv: {path}: note: {notice}", markup=False)
    return layers, _ids_of(held, tokens)


@app.command()
def get(
    store: Store,
    output: Annotated[Path, typer.Option("--output", "-o", help="safetensors to write.")],
    tokens: Annotated[Path, typer.Option(help="The prompt's ids: a JSON list, or numbers with spaces between.")],
    model: Model = None,
    fingerprint: Name = None,
    salt: Salt = "",
    layers: Annotated[str | None, typer.Option(help="Only these, first:last, e.g. 0:8.")] = None,
    profile: ProfileFile = None,
    block_tokens: BlockTokens = 256,
    force: Annotated[bool, typer.Option("--force", "-f", help="Overwrite the output.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write the cache of a prompt's longest stored beginning. Exits with 1 if nothing of it is stored."""
    with one_line():
        import torch
        from safetensors.torch import save

        from ..container import write_file

        if output.exists() and not force:
            raise ValueError(f"{output} exists; --force overwrites it")
        wanted, ids = _range(layers), _ids(tokens)
        with _opened(store, model, fingerprint, salt, block_tokens, {"profile": profile}) as opened:
            hit = opened.get(ids, layers=wanted)
        if hit is None:
            why = _why(opened, model)
            raise ValueError(f"no beginning of the {len(ids)} tokens is stored for this model and tenant{why}")
        if not hit.layers or not hit.layers[0][1].shape[-1]:
            what = "layer inputs" if hit.layers else "token ids only"
            raise ValueError(f"the blocks of these tokens hold {what}; the model must recompute keys and values")
        first = wanted.start if wanted else 0
        names = {f"layers.{first + i}.{n}": x for i, kv in enumerate(hit.layers) for n, x in zip("kv", kv, strict=True)}
        tensors = {name: x.contiguous() for name, x in names.items()}
        write_file(output, save({**tensors, "tokens": torch.tensor(ids[: hit.tokens])}))
        found = {"file": str(output), "tokens": hit.tokens, "asked_tokens": len(ids), "layers": len(hit.layers)}
        line = f"{output}: {hit.tokens} of {len(ids)} tokens, {len(hit.layers)} layers"
        out.print(json.dumps(found) if as_json else line, markup=False)


@app.command("ls")
def list_prompts(store: Store, as_json: AsJson = False) -> None:
    """List the prompts in a store: the longest of each that is kept, and how often it was used."""
    with one_line():
        rows = []
        for name, opened in _all(store):
            trie = opened.index.trie
            for leaf in sorted(trie.leaves(), key=lambda node: -node.last_used):
                path = trie.path_to(leaf)
                begins = " ".join(str(token) for token in path[0].tokens[:6])
                size = sum(node.size_bytes for node in path)
                row = {
                    "namespace": name,
                    "tokens": leaf.end,
                    "blocks": len(path),
                    "bytes": size,
                    "own_bytes": leaf.size_bytes,
                }
                rows.append({**row, "hits": leaf.hits, "mode": leaf.mode, "begins": begins, "block": leaf.id.hex()})
        _show(rows, as_json, store)


@app.command()
def stats(store: Store, as_json: AsJson = False) -> None:
    """Size, sharing and use, for each model and tenant."""
    with one_line():
        rows = []
        for name, opened in _all(store):
            fields = asdict(opened.stats())
            del fields["asked_tokens"], fields["found_tokens"]
            fields["sharing"] = round(fields["sharing"], 3)
            rows.append({"namespace": name, **fields})
        _show(rows, as_json, store)


@app.command()
def evict(
    store: Store,
    budget: Annotated[str, typer.Option(help="Keep at most this many bytes of blocks, like 20GB.")],
    policy: Annotated[str, typer.Option(help="worth (reuse x recompute cost / bytes) or recency (LRU).")] = "worth",
    as_json: AsJson = False,
) -> None:
    """Drop the blocks of least worth. Each model and tenant gives up the same share."""
    with one_line():
        if policy not in ("worth", "recency"):
            raise ValueError(f"no policy {policy!r}; there are worth and recency")
        limit, spaces = parse_size(budget), _all(store)
        total = sum(opened.stats().size_bytes for _, opened in spaces)
        rows = []
        for name, opened in spaces:
            share = opened.stats().size_bytes * limit // max(total, 1)
            evicted = opened.evict(share, policy)  # type: ignore[arg-type]
            fields = asdict(evicted)
            if not as_json:
                fields = {"evicted_blocks": evicted.blocks, "evicted": show_size(evicted.size_bytes)}
                fields["kept_bytes"] = evicted.kept_bytes
            rows.append({"namespace": name, **fields})
        _show(rows, as_json, store)


@app.command()
def verify(
    store: Store,
    repair: Annotated[bool, typer.Option(help="Delete damaged blocks.")] = False,
    profile: ProfileFile = None,
    as_json: AsJson = False,
) -> None:
    """Decode every block. Exits with 1 if one is damaged or cannot be read here; 0 once --repair deleted the damaged."""
    with one_line():
        if profile:
            from .profile import Profile

            Profile.read(profile)
        rows, damaged, unread = [], 0, 0
        for name, opened in _all(store):
            with bar(f"verify {name[:8]}") as progress:
                checked = opened.verify(repair=repair, progress=progress)
            rows.append({"namespace": name, "blocks": checked.blocks, "damaged": len(checked.damaged)})
            rows[-1]["unreachable"] = len(checked.unreachable)
            rows[-1]["unread"] = len(checked.unread)
            damaged, unread = damaged + len(checked.damaged), unread + len(checked.unread)
            for block, reason in (checked.damaged | checked.unread).items():
                errors.print(f"codec kv: {block}: {reason}", markup=False)
        _show(rows, as_json, store)
        if damaged and repair:
            errors.print(f"codec kv: repaired: {damaged} damaged blocks deleted; the next put of their prompts heals them")
        if unread or (damaged and not repair):
            raise typer.Exit(1)


@app.command()
def transcode(
    store: Store,
    mode: Annotated[str, typer.Option(help=MODE_NAMES)],
    quality: Quality = None,
    bits: Bits = None,
    profile: ProfileFile = None,
    model: Model = None,
    fingerprint: Name = None,
    salt: Salt = "",
    block_tokens: BlockTokens = 256,
) -> None:
    """Encode every block of a model again, e.g. lossless to quantized; what a lossy mode lost stays lost.

    --profile also reads the blocks that need it. Exits with 1 if blocks were damaged, or cannot be read here.
    """
    with one_line():
        options = {"mode": mode, "quality": quality, "bits": bits, "profile": _to_write(mode, profile)}
        with _opened(store, model, fingerprint, salt, block_tokens, options) as opened:
            with bar("transcode") as progress:
                done = opened.transcode(opened.settings, progress)
            if not done.blocks:
                raise ValueError(f"{store}: no block is stored for this model and tenant{_why(opened, model)}")
        out.print(f"{store}: {show_size(done.before_bytes)} -> {show_size(done.after_bytes)}", markup=False)
        for blocks, what in ((done.left, "left as they are"), (done.damaged, "damaged and deleted")):
            if blocks:
                reasons = "; ".join(dict.fromkeys(blocks.values()))
                errors.print(f"codec kv: {len(blocks)} of {done.blocks} blocks {what}: {reasons}", markup=False)
        if done.left or done.damaged:
            raise typer.Exit(1)


def _to_write(mode: str, profile: Path | None) -> Path | None:
    """Put a profile to use for reading; it is of the new blocks as well where their mode takes one."""
    from .modes import MODES
    from .profile import Profile

    if profile:
        Profile.read(profile)
    return profile if mode not in MODES or MODES[mode].option == "quality" else None


def _opened(
    store: str,
    model: str | None,
    fingerprint: str | None,
    salt: str,
    block_tokens: int,
    options: dict[str, Any],
    create: bool = False,
) -> PrefixStore:
    from .backends import open_backend
    if not create:
        _check_there(store)
    from .commands import identity_of, kv_settings
    from .store import PrefixStore

    rope = None
    if model:
        name, rope = identity_of(model)
    elif fingerprint and re.fullmatch("[0-9a-fA-F]{32}", fingerprint):
        name = bytes.fromhex(fingerprint)
    else:
        raise ValueError("which model? Give --model FOLDER, or --fingerprint with 32 hexadecimal digits")
    mode = _without_model(options.pop("mode", "quantized"))
    settings = kv_settings(mode, block_tokens=block_tokens, rope=rope, **options)
    return PrefixStore(open_backend(store), fingerprint=name, salt=salt.encode(), settings=settings)


def _why(opened: PrefixStore, model: str | None) -> str:
    """What the store holds instead, where it holds nothing of this model and tenant."""
    from .commands import model_in
    from .mismatch import elsewhere

    index = opened.index
    return "" if index.trie.nodes else elsewhere(index.backend, index.namespace, model_in(model) if model else None)


def _check_there(store: str) -> None:
    if "://" not in store and not Path(store).is_dir():
        raise ValueError(f"{store}: no store there")


def _all(store: str) -> list[tuple[str, PrefixStore]]:
    """Every namespace of a store that is there, by name."""
    from .backends import open_backend
    from .index import namespaces
    from .store import PrefixStore

    _check_there(store)
    backend = open_backend(store)
    return [(name, PrefixStore.of_namespace(backend, name)) for name in namespaces(backend)]


def _ids(path: Path) -> list[int]:
    text = path.read_text().strip()
    try:
        ids = json.loads(text) if text.startswith("[") else [int(word) for word in text.split()]
    except ValueError as error:
        raise ValueError(f"{path}: not a list of token ids: {error}") from None
    if not ids or not all(isinstance(i, int) and i >= 0 for i in ids):
        raise ValueError(f"{path}: need one or more token ids, each at least 0")
    return ids


def _ids_of(held: Any, given: Path | None) -> Any:
    """The ids of a cache file, from its tensor 'tokens' or from ``given``; both must say the same."""
    if held is None and given is None:
        raise ValueError("no tensor 'tokens'; give the ids with --tokens")
    if given is None:
        return held
    ids = _ids(given)
    if held is not None and held.tolist() != ids:
        raise ValueError(f"its 'tokens' ({len(held)}) are others than those of {given} ({len(ids)}); leave --tokens out")
    return ids


def _without_model(mode: str) -> str:
    """The mode, refused if it needs the running model, which a store does not have."""
    from .modes import MODES

    if mode in MODES and MODES[mode].needs_model:
        raise ValueError(f"mode {mode} needs the model to encode and decode; save_cache from Python has it, a store not")
    return mode


def _range(text: str | None) -> range | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d+):(\d+)", text)
    if not match or int(match[1]) >= int(match[2]):
        raise ValueError(f"layers {text!r}; need first:last, e.g. 0:8")
    return range(int(match[1]), int(match[2]))


def _show(rows: list[dict[str, Any]], as_json: bool, title: str) -> None:
    """JSON, or a table for each namespace: fields below each other where it has one row."""
    if as_json:
        out.print(json.dumps(rows), markup=False)
        return
    if not rows:
        out.print(f"{title}: empty", markup=False)
        return
    out.print(title, markup=False)
    for name in dict.fromkeys(row["namespace"] for row in rows):
        those = [{k: _shown(k, v) for k, v in row.items() if k != "namespace"} for row in rows if row["namespace"] == name]
        table = Table(title=f"model and tenant {name[:8]}", title_justify="left", box=SIMPLE, show_header=len(those) > 1)
        if len(those) == 1:
            for field, value in those[0].items():
                table.add_row(field.replace("_", " ").removesuffix(" bytes"), value)
        else:
            for field in those[0]:
                table.add_column(field.replace("_", " ").removesuffix(" bytes"), no_wrap=True, overflow="ellipsis")
            for row in those:
                table.add_row(*row.values())
        out.print(table, soft_wrap=False)


def _shown(field: str, value: Any) -> str:
    """A field for people."""
    if field.endswith("bytes"):
        return show_size(value)
    if isinstance(value, dict):
        return ", ".join(f"{count} {mode}" for mode, count in value.items())
    return str(value)[:8] if field == "block" else str(value)
