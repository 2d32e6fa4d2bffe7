"""Files of token ids, for ``--tokens``: a JSON list (maybe in a list), or numbers with spaces between.

No torch here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ...entropy_models.errors import InputError


def read_ids(path: Path) -> list[int]:
    """The ids of a file.

    Raises:
        ValueError: not such a file, no id, or one below 0.
    """
    try:
        text = path.read_text().strip()
        ids = json.loads(text) if text.startswith("[") else [int(word) for word in text.split()]
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a list of token ids: {error}") from None
    if len(ids) == 1 and isinstance(ids[0], list):  # a batch of one, as tokenizers return it
        (ids,) = ids
    if not ids or not all(type(i) is int and i >= 0 for i in ids):
        raise InputError(f"{path}: need one or more token ids in one list, whole numbers of at least 0")
    return ids


def held_or_given_ids(held: Any, given: Path | None) -> Any:
    """The ids of a cache file, from its tensor 'tokens' or from ``given``; None without either.

    Raises:
        ValueError: both are there and differ.
    """
    if given is None:
        return held
    ids = read_ids(given)
    if held is not None and not (held.tolist() == ids[: len(held)] and len(ids) <= len(held) + 1):
        raise InputError(f"its 'tokens' ({len(held)}) are others than those of {given} ({len(ids)}); leave --tokens out")
    return ids


def check_one_cache(given: Path | None, caches: int) -> None:
    """ValueError where one file of ids is given for several caches."""
    if given and caches > 1:
        raise InputError(f"--tokens is of one cache, here are {caches}; put the ids into the files as 'tokens'")
