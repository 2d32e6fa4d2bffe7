"""Who made a cache: 16 bytes, and the fields that they are a hash of, so that a message can name the one that differs.

The bytes go into every block and header. A file has the fields too: its last chunk (kind metadata, after the blocks) is a
JSON object of texts by name. It explains, and is never believed unless it hashes to the header's 16 bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Self

from ....entropy_models.errors import InputError

RECORD_BYTES_MAX = 1 << 20
_DOMAIN = b"rdcodec kv identity 2\n"
"""Version 1 hashed a model's whole config and names of weights (`hf.fingerprint.earlier_fingerprint`)."""


class Fingerprint(bytes):
    """16 bytes of a model, with what is known of it. It compares, hashes and prints as its bytes do."""

    fields: Mapping[str, str] = {}
    """What the bytes are a hash of: fields of the config, hashes of weights and adapters."""
    placeholders: frozenset[int] = frozenset()
    """Token ids that stand for pictures, sounds or videos: they do not tell which."""
    no_prefix: str = ""
    """Why the beginning of one prompt's cache is not that of another's; empty: it is."""
    no_contents: str = ""
    """Why a cache with pictures, sounds or videos in it cannot be gone on from; empty: it can."""

    @classmethod
    def of(
        cls,
        fields: Mapping[str, str],
        *,
        placeholders: frozenset[int] = frozenset(),
        no_prefix: str = "",
        no_contents: str = "",
    ) -> Self:
        """The fingerprint of these fields."""
        made = cls(hashlib.sha256(_DOMAIN + _packed(fields)).digest()[:16])
        made.fields, made.placeholders = dict(fields), placeholders
        made.no_prefix, made.no_contents = no_prefix, no_contents
        return made

    def record(self) -> bytes:
        """The fields, as a file keeps them."""
        return _packed(self.fields)


def fields_in(record: bytes | None, fingerprint: bytes) -> dict[str, str] | None:
    """The fields of a record, if they are those of a fingerprint; None: there is none, or it is of something else."""
    if record is None or len(record) > RECORD_BYTES_MAX:
        return None
    try:
        fields = json.loads(record)
    except (ValueError, RecursionError):
        return None
    if not isinstance(fields, dict) or not all(isinstance(value, str) for value in fields.values()):
        return None
    return fields if Fingerprint.of(fields) == fingerprint else None


def differing(stored: Mapping[str, str], here: Mapping[str, str]) -> list[str]:
    """What differs between the fields of two fingerprints, a clause for each field."""
    names = sorted({*stored, *here}, key=lambda name: (name not in _SAID, name))
    return [_said(name, stored.get(name), here.get(name)) for name in names if stored.get(name) != here.get(name)]


_SAID = {
    "weights": "other weights (another revision, fine-tuned, merged or quantised)",
    "adapters": "other active adapters, or another scale of them",
    "extra key": "another extra key",
}  # fmt: skip
"""Fields that are hashes: their values tell people nothing."""


def _said(name: str, stored: str | None, here: str | None) -> str:
    if name == "adapters" and stored is None:
        return "it was made without adapters, here some are active"
    if name == "adapters" and here is None:
        return "it was made with adapters, here none are active"
    if name in _SAID:
        return _SAID[name]
    was, now = (value if value is not None else "the default" for value in (stored, here))
    return f"{name} was {was}, here it is {now}"


def _packed(fields: Mapping[str, str]) -> bytes:
    packed = json.dumps(dict(fields), sort_keys=True).encode()
    if len(packed) > RECORD_BYTES_MAX:
        raise InputError(f"the fields of a model's identity take {len(packed)} bytes; at most {RECORD_BYTES_MAX}")
    return packed
