"""Parts that the commands of ``codec kv`` share: options, opening a store, and telling of errors. No torch here."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ....entropy_models.errors import InputError
from ...contract import Progress
from ...kv_cache.options import kv_settings, read_profile
from ...terminal.console import EXPECTED, bar, fail

PROGRAM = "codec kv"
BLOCK_TOKENS = 256
"""Tokens of a block, as `KvSettings` has them."""

if TYPE_CHECKING:
    from ...kv_cache.layout import Layout
    from ..store import PrefixStore

Store = Annotated[str, typer.Argument(metavar="STORE", help="Folder, redis://host/0?prefix=name, or an fsspec URL.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Model = Annotated[str | None, typer.Option(help="Folder of the transformers model that made the caches.")]
Name = Annotated[str | None, typer.Option("--fingerprint", help="32 hexadecimal digits in place of --model.")]
Salt = Annotated[str, typer.Option(envvar="RDCODEC_SALT", help="A tenant's; others do not find the blocks.")]
Dtype = Annotated[
    str | None, typer.Option(help="Element type that --model ran in, if not its files': bfloat16, float16, float32.")
]
BlockTokens = Annotated[int, typer.Option(min=1, max=65536, help="Tokens per block; the same for all who share.")]


@contextmanager
def reported() -> Iterator[None]:
    """Turn bad data and unreachable stores into one line on standard error and exit code 1."""
    try:
        yield
    except EXPECTED as error:
        fail(error, program=PROGRAM)
        raise typer.Exit(1) from None


@contextmanager
def counted(what: str) -> Iterator[Progress]:
    """A progress bar of its own for one piece of work, fed with (done, total)."""
    with bar() as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def open_store(
    store: str,
    model: str | None,
    fingerprint: str | None,
    salt: str,
    block_tokens: int,
    options: dict[str, Any],
    create: bool = False,
    made: Layout | None = None,
    dtype: str | None = None,
    profile: Path | None = None,
    limit_bytes: int | None = None,
    threads: int | None = None,
) -> PrefixStore:
    """The store of a model and a tenant.

    Args:
        options: mode, quality, bits and profile, as `kv_settings` takes them.
        create: a folder may be missing, and is made.
        made, dtype: of the caches; see `identity_of`.
        profile: of blocks to read, beside that of the options.
        limit_bytes, threads: see `PrefixStore`.

    Raises:
        ValueError: no store there, no such model, or settings that do not go together.
    """
    if not create:
        check_there(store)
    from ...kv_cache.hf.identity import identity_of
    from ..backends import open_backend
    from ..store import PrefixStore

    name: bytes
    rope = None
    if model:
        name, rope = identity_of(model, made, dtype)
    elif fingerprint and re.fullmatch("[0-9a-fA-F]{32}", fingerprint):
        name = bytes.fromhex(fingerprint)
    else:
        raise InputError("which model? Give --model FOLDER, or --fingerprint with 32 hexadecimal digits")
    settings = kv_settings(**{"mode": "quantized", **options}, block_tokens=block_tokens, rope=rope)
    profiles = [read] if (read := read_profile(profile)) else []
    backend, salt_bytes = open_backend(store), salt.encode()
    return PrefixStore(
        backend, fingerprint=name, salt=salt_bytes, settings=settings, profiles=profiles, limit_bytes=limit_bytes,
        threads=threads,
    )  # fmt: skip


def instead(opened: PrefixStore, model: str | None, dtype: str | None = None) -> str:
    """A hint at what the store holds instead, where it has not what was asked for."""
    from ...kv_cache.hf.identity import model_in
    from ..held_instead import held_instead

    index = opened.index
    load = partial(model_in, model) if model else None
    return held_instead(index.backend, index.namespace, load, dtype)


def check_there(store: str) -> None:
    """ValueError for a folder that is not there; a server answers for itself when it is opened."""
    if "://" not in store and not os.path.isdir(os.path.expanduser(store)):
        raise InputError(f"{store}: no store there")
