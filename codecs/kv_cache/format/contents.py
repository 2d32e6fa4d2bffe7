"""Pictures, sounds and videos in a prompt: their token ids are all alike, so keys of their contents take the ids' place.

As serving engines do, ids of a span become numbers drawn from a hash of what the span stands for: 31 bits for each token,
at or above `CONTENT_ID_MIN`, where no vocabulary reaches. Prompts with other pictures then have other ids.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from operator import index
from typing import Any

import numpy as np

from ....entropy_models.errors import InputError, Unsupported

CONTENT_ID_MIN = 1 << 31
_SPAN_TOKENS_MIN = 4
"""124 bits: fewer would not tell contents apart for certain."""


def with_contents(tokens: Any, contents: Iterable[tuple[int, int, bytes]]) -> np.ndarray:
    """Token ids of a prompt with the contents of pictures, sounds and videos in place of their placeholders.

    Args:
        tokens: ids, shape (n,) or (1, n), below 2^31.
        contents: (first, end, key) of each span of placeholders: positions ``first`` to ``end - 1``, at least 4; a hash
            of the content as the model takes it, after whatever resizes it.

    Returns:
        int64, shape (n,): for `save_cache`, `load_cache` and every method of a store, all with the same keys.

    Raises:
        ValueError: spans that overlap, leave the prompt or are too short, an empty key, or no (first, end, key).
    """
    ids = np.array(tokens.tolist() if hasattr(tokens, "tolist") else tokens, np.int64).reshape(-1)
    if ids.size and ids.max() >= CONTENT_ID_MIN:
        raise InputError(f"token id {ids.max()}; those from 2^31 on stand for contents")
    end_before = 0
    for first, end, key in sorted(map(_span, contents), key=lambda span: span[:2]):
        if not end_before <= first < end <= len(ids):
            raise InputError(f"contents at tokens {first} to {end} of {len(ids)}; need spans one after another")
        if end - first < _SPAN_TOKENS_MIN or not isinstance(key, bytes) or not key:
            raise InputError(
                f"contents at tokens {first} to {end}: need at least {_SPAN_TOKENS_MIN} tokens and a key of bytes"
            )
        drawn = hashlib.shake_256((end - first).to_bytes(8, "little") + key).digest(4 * (end - first))
        ids[first:end] = CONTENT_ID_MIN | (np.frombuffer(drawn, "<u4").astype(np.int64) & (CONTENT_ID_MIN - 1))
        end_before = end
    return ids


def _span(given: Any) -> tuple[int, int, Any]:
    """A span as two plain integers and its key, which is checked with the prompt."""
    try:
        first, end, key = given
        return index(first), index(end), key
    except (TypeError, ValueError):
        raise InputError(f"contents {given!r}; need (first, end, key): two positions and bytes") from None


def whole_contents(ids: np.ndarray, count: int) -> int:
    """The first ``count`` of these ids, or so many fewer that no content is cut: its first tokens may look at its last."""
    is_content = ids >= CONTENT_ID_MIN
    if not 0 < count < len(ids) or not (is_content[count - 1] and is_content[count]):
        return count
    before = np.flatnonzero(~is_content[:count])
    return int(before[-1]) + 1 if len(before) else 0


def check_told_apart(ids: np.ndarray, placeholders: Collection[int]) -> None:
    """Refuse ids that stand for a picture, a sound or a video, and do not tell which.

    Raises:
        Unsupported: with the id and what to do.
    """
    if placeholders and (found := np.intersect1d(ids, np.array(sorted(placeholders)))).size:
        raise Unsupported(
            f"token id {found[0]} stands for a picture, a sound or a video, and does not tell which: give the ids as "
            "with_contents(tokens, [(first, end, hash of the content), ...]) returns them"
        )
