"""Files for training: sounds and videos below a folder."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path


def files_of(source: Path, suffixes: Collection[str], kind: str) -> list[Path]:
    """Files with one of the suffixes in a folder (recursive), or the one file; sorted.

    Args:
        kind: of the files, for the message: ``sound files``.

    Raises:
        FileNotFoundError: there is none.
    """
    found = [source] if source.is_file() else sorted(p for p in source.rglob("*") if p.suffix.lower() in suffixes)
    if not found:
        raise FileNotFoundError(f"{source}: no {kind} ({', '.join(sorted(suffixes))}) for training")
    return found
