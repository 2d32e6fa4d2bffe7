"""Who made a cache: fingerprint and RoPE of a transformers model in a folder, which need not run for it."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from ....entropy_models.errors import InputError, MissingPackage
from ..format.header import ELEMENT_TYPES
from ..format.identity import Fingerprint
from ..layout import Layout
from ..modes.place import type_name
from ..modes.rope import Rope
from .fingerprint import fingerprint
from .mismatch import check_fits
from .model import load_model, mapped_model, rope_of


def identity_of(folder: str, made: Layout | None = None, dtype: str | None = None) -> tuple[Fingerprint, Rope | None]:
    """Fingerprint and RoPE of the transformers model in a folder.

    Args:
        made: layout of a cache that it made; its element type is the one that the model ran in.
        dtype: that element type where there is no cache to tell; None: as the model's files say.

    Raises:
        ValueError: no model there, one whose caches cannot be stored, or one that cannot have made this cache
            (`Mismatch` names what differs).
        ImportError: transformers is not installed.
    """
    model = model_in(folder)
    if made is not None:
        check_fits(replace(made, dtype=model.dtype), model, "the cache")
        dtype = type_name(made.dtype)
    if dtype not in (None, *ELEMENT_TYPES.values()):
        raise InputError(f"element type {dtype!r}; need one of {', '.join(ELEMENT_TYPES.values())}")
    return fingerprint(model, dtype), rope_of(model)


@lru_cache(maxsize=2)
def model_in(folder: str) -> Any:
    """The transformers model in a folder, for its identity and not to run; kept, as files of one command share it.

    Its weights are not loaded where `mapped_model` can do without. Errors as `identity_of`.
    """
    if not (Path(folder) / "config.json").is_file():
        raise InputError(f"{folder}: no model there; need the folder of a transformers model, with config.json and weights")
    try:
        model = mapped_model(folder) or load_model(folder)
    except ImportError as error:
        raise MissingPackage(f"--model needs transformers ({error}): pip install 'rdcodec[kv]'") from None
    return model
