"""Stretches of a text as a model's token ids: what a model is measured on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...entropy_models.errors import InputError, MissingPackage

TEXT_CHARACTERS = 2_000_000
"""Characters of a file that are read: enough for the contexts, and tokenised in seconds."""


def check_paths(model: Path, text: Path) -> None:
    """InputError where there is no model or no text."""
    if not (model / "config.json").is_file():
        raise InputError(f"{model}: no model there; need a folder with config.json, weights and tokenizer")
    if not text.is_file():
        raise InputError(f"{text}: no such text file")


def tokenizer_of(model: Path) -> Any:
    """The tokenizer in a model's folder; MissingPackage without transformers."""
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise MissingPackage(f"this needs transformers ({error}): pip install 'rdcodec[kv]'") from None
    return AutoTokenizer.from_pretrained(model, local_files_only=True)


def token_ids(tokenizer: Any, path: Path) -> tuple[list[int], list[int]]:
    """Ids that every context starts with, and ids of the text."""
    with path.open(encoding="utf-8", errors="replace") as file:
        ids = tokenizer(file.read(TEXT_CHARACTERS), add_special_tokens=False, verbose=False)["input_ids"]
    return [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id], ids


def spread(text: list[int], start: list[int], size: int, count: int) -> Tensor:
    """``count`` stretches of ``size`` after ``start``, evenly over the text, none overlapping; int64."""
    stride = len(text) // count
    return torch.tensor([start + text[i * stride : i * stride + size] for i in range(count)])


def contexts_of(model: Path, text: Path, count: int, length: int) -> Tensor:
    """Contexts of a text for a model, int64 (count, length).

    Raises:
        InputError: no model, no text, or too short a text.
        MissingPackage: transformers is not installed.
    """
    check_paths(model, text)
    start, ids = token_ids(tokenizer_of(model), text)
    size = length - len(start)
    if len(ids) < size * count:
        raise InputError(f"{text.name} has {len(ids)} tokens; {count} contexts of {length} need {size * count}")
    return spread(ids, start, size, count)
